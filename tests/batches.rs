//! When batches leave, and what is known of those that have not.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use httpteleport::proto::{Compression, Config, Limits, ServerEvent, Timer};
use support::*;

const MS: Duration = Duration::from_millis(1);

fn get() -> Request<Bytes> {
    request("GET", "/", "")
}

#[test]
fn a_batch_waits_for_its_delay_and_no_longer() {
    // R-batch-begin, R-batch-no-extend, R-batch-seal
    let (base, delay) = (Instant::now(), 10 * MS);
    let (mut client, mut server) = open(&Config { max_batch_delay: delay, ..plain() }, base);
    for begin in [base, base + 100 * MS, base + 103 * MS + delay] {
        client.send_request(begin, &get(), None).unwrap();
        client.send_oneway(begin + 9 * MS, &get()).unwrap();
        assert_eq!(client.next_timer(), Some((Timer::Flush, begin + delay)), "not extended");
        for early in [begin, begin + 5 * MS, begin + delay - Duration::from_nanos(1)] {
            client.handle_timeout(early);
            assert!(transmit(|out| client.poll_transmit(early, out)).is_empty());
        }
        let out = transmit(|out| client.poll_transmit(begin + delay, out));
        assert_eq!(frames(&out).len(), 2, "all of it, and without handle_timeout");
        assert_eq!(client.next_timer(), None);
        // The server's side of the same rule, by handle_timeout.
        server.handle_input(begin, &out);
        let Some(ServerEvent::Request { token, .. }) = server.poll_event() else { panic!() };
        assert!(matches!(server.poll_event(), Some(ServerEvent::Oneway { .. })));
        server.send_response(begin, token, &response(200, "")).unwrap();
        assert_eq!(server.next_timer(), Some((Timer::Flush, begin + delay)));
        assert!(transmit(|out| server.poll_transmit(begin, out)).is_empty());
        server.handle_timeout(begin + delay);
        assert_eq!(frames(&transmit(|out| server.poll_transmit(begin, out))).len(), 1);
    }
    assert_eq!(client.stats().batches_out, 3);
}

#[test]
fn a_batch_delay_counts_from_when_its_first_message_was_ready() {
    // R-batch-begin
    let (base, delay) = (Instant::now(), 10 * MS);
    let (mut client, mut server) = open(&Config { max_batch_delay: delay, ..plain() }, base);
    // Both know a later time by then.
    client.handle_timeout(base + 5 * MS);
    server.handle_timeout(base + 5 * MS);
    client.send_request(base + MS, &get(), None).unwrap();
    client.send_request(base + 2 * MS, &get(), None).unwrap();
    assert_eq!(client.next_timer(), Some((Timer::Flush, base + MS + delay)));
    let out = transmit(|out| client.poll_transmit(base + MS + delay, out));
    assert_eq!(frames(&out).len(), 2);
    server.handle_input(base + 5 * MS, &out);
    let Some(ServerEvent::Request { token, .. }) = server.poll_event() else { panic!() };
    server.send_response(base + 3 * MS, token, &response(200, "")).unwrap();
    assert_eq!(server.next_timer(), Some((Timer::Flush, base + 3 * MS + delay)));
    // One that has waited for longer than the delay waits no more.
    client.send_request(base, &get(), None).unwrap();
    assert_eq!(frames(&transmit(|out| client.poll_transmit(base + MS + delay, out))).len(), 1);
}

#[test]
fn a_batch_leaves_at_once_without_delay_or_when_flushed_or_full() {
    // R-batch-seal, R-batch-size
    let now = Instant::now();
    let (mut client, _) = open(&plain(), now);
    client.send_request(now, &get(), None).unwrap();
    assert_eq!(frames(&transmit(|out| client.poll_transmit(now, out))).len(), 1, "delay 0");

    let slow = Config { max_batch_delay: Duration::from_secs(1), ..plain() };
    let (mut client, _) = open(&slow, now);
    client.flush();
    client.send_request(now, &get(), None).unwrap();
    assert!(transmit(|out| client.poll_transmit(now, out)).is_empty(), "an empty flush seals nothing later");
    client.flush();
    assert_eq!(client.next_timer(), None);
    assert_eq!(frames(&transmit(|out| client.poll_transmit(now, out))).len(), 1, "flushed");

    let mut sealed = BTreeSet::new();
    for body in 65_440..65_490 {
        let (mut client, _) = open(&slow, now);
        client.send_request(now, &request("POST", "/", vec![b'x'; body]), None).unwrap();
        let out = transmit(|out| client.poll_transmit(now, out));
        client.flush();
        let leaves = !out.is_empty();
        let size = out.len() + transmit(|out| client.poll_transmit(now, out)).len();
        assert_eq!(leaves, size >= 65_536, "{size} bytes");
        sealed.insert(leaves);
    }
    assert_eq!(sealed.len(), 2, "the edge is within what was tried");

    let (mut client, _) = open(&Config { batch_bytes: 1, ..slow }, now);
    client.send_request(now, &get(), None).unwrap();
    assert_eq!(frames(&transmit(|out| client.poll_transmit(now, out))).len(), 1, "a limit of its own");
}

#[test]
fn a_long_batch_leaves_in_pieces_and_what_has_begun_is_not_taken_back() {
    // R-flush-boundary, R-fail-in-flight
    let now = Instant::now();
    for compression in Compression::ALL {
        let slow = Config { compression, max_batch_delay: Duration::from_secs(1), ..plain() };
        let (mut client, mut server) = open(&slow, now);
        let post = |size| request("POST", "/", vec![b'x'; size]);
        let sent: Vec<_> =
            [300_000, 300_000, 10].map(|size| client.send_request(now, &post(size), None).unwrap()).into();
        let mut piece = Vec::new();
        assert!(client.poll_transmit(now, &mut piece) > 0);
        // The first has left, the second has begun, the third has not.
        client.poll_transmit(now, &mut piece);
        for id in &sent {
            assert!(client.cancel(now, *id));
        }
        assert_eq!(client.abandoned_requests(), 2);
        piece.extend(transmit(|out| client.poll_transmit(now, out)));
        let events = feed_server(&mut server, now, &piece, std::iter::empty());
        assert_eq!(events.iter().map(server_line).count(), 2);
    }
}

#[test]
fn a_full_batch_does_not_wait_for_more() {
    let now = Instant::now();
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let (mut client, _) = open(&Config { max_batch_delay: Duration::MAX, limits, ..plain() }, now);
    while client.send_request(now, &get(), None).is_ok() {}
    assert!(client.poll_transmit(now, &mut Vec::new()) > 0);
    client.send_request(now, &get(), None).unwrap();
}

#[test]
fn of_what_has_not_left_the_oldest_is_known() {
    // R-limit-pending: one that prefers new requests gives it up
    let now = Instant::now();
    let (mut client, _) = open(&Config { max_batch_delay: MS, ..plain() }, now);
    client.set_next_id(u32::MAX - 1);
    assert_eq!(client.oldest_unsent(), None);
    client.send_request(now, &get(), None).unwrap();
    client.flush();
    client.poll_transmit(now, &mut Vec::new());
    assert_eq!(client.oldest_unsent(), None, "what has left cannot be taken back");
    // The second of these has the id 1: the counter wraps.
    let ids: Vec<_> = (0..3).map(|_| client.send_request(now, &get(), None).unwrap()).collect();
    for id in ids {
        assert_eq!(client.oldest_unsent(), Some(id));
        client.cancel(now, id);
    }
    assert_eq!(client.oldest_unsent(), None);
}

#[test]
fn the_oldest_is_found_as_soon_where_many_wait() {
    // By looking at each that is under way, this took minutes.
    const REQUESTS: usize = 200_000;
    let now = Instant::now();
    let limits = Limits { pending_requests: 2 * REQUESTS, output_bytes: usize::MAX, ..Limits::default() };
    let (mut client, _) = open(&Config { limits, ..plain() }, now);
    let sent: Vec<_> = (0..REQUESTS).map(|_| client.send_request(now, &get(), None).unwrap()).collect();
    while client.poll_transmit(now, &mut Vec::new()) > 0 {}
    let waiting: Vec<_> = (0..REQUESTS / 2).map(|_| client.send_request(now, &get(), None).unwrap()).collect();
    assert!(client.cancel(now, waiting[1]) && client.cancel(now, sent[0]));
    for id in waiting.into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, id)| id) {
        assert_eq!(client.oldest_unsent(), Some(id));
        assert!(client.cancel(now, id));
    }
    assert_eq!(client.oldest_unsent(), None);
}
