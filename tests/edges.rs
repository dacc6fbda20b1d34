//! Each limit and timer of a connection at its exact edge, under virtual time.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use httpteleport::proto::{
    ClientConnection, Compression, Config, Limits, ResponseToken, ServerConnection, ServerEvent, Timer,
};
use support::*;

const MS: Duration = Duration::from_millis(1);

fn limited(limits: Limits) -> Config {
    Config { limits, ..plain() }
}

/// Carries what the client has to the server, and returns the requests.
fn ask(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
    now: Instant,
) -> Vec<(ResponseToken, Request<Bytes>)> {
    client.flush();
    let bytes = transmit(|out| client.poll_transmit(now, out));
    assert_eq!(server.handle_input(now, &bytes), bytes.len());
    let events = std::iter::from_fn(|| server.poll_event());
    let requests = events.filter_map(|event| match event {
        ServerEvent::Request { token, request } => Some((token, request)),
        ServerEvent::Oneway { .. } => None,
        other => panic!("{other:?}"),
    });
    requests.collect()
}

/// Carries what the server has to the client.
fn tell(server: &mut ServerConnection, client: &mut ClientConnection, now: Instant) -> Vec<String> {
    server.flush();
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    client_lines(client)
}

fn client_lines(client: &mut ClientConnection) -> Vec<String> {
    std::iter::from_fn(|| client.poll_event()).map(|event| client_line(&event)).collect()
}

fn server_lines(server: &mut ServerConnection) -> Vec<String> {
    std::iter::from_fn(|| server.poll_event()).map(|event| server_line(&event)).collect()
}

fn get() -> Request<Bytes> {
    request("GET", "/", "")
}

#[test]
fn a_request_that_timed_out_before_it_left_is_taken_out_of_the_batch() {
    // R-fail-in-flight, 4.2 ("can be taken out of the queue"): during the hello, and in a batch that waits
    let now = Instant::now();
    let mut client = client(Compression::None, now);
    client.send_request(now, &get(), Some(now + MS)).unwrap();
    transmit(|out| client.poll_transmit(now, out));
    client.handle_timeout(now + MS);
    assert_eq!(client_lines(&mut client), ["failed 1 timeout unsent"]);
    client.handle_input(now + 2 * MS, HELLO);
    assert_eq!(transmit(|out| client.poll_transmit(now + 2 * MS, out)), b"", "during the hello");

    let (mut client, _) = open(&Config { max_batch_delay: 9 * MS, ..plain() }, now);
    client.send_request(now, &get(), Some(now + MS)).unwrap();
    client.handle_timeout(now + MS);
    assert_eq!(client_lines(&mut client), ["failed 1 timeout unsent"]);
    assert_eq!(transmit(|out| client.poll_transmit(now + 9 * MS, out)), b"", "in a batch");
}

#[test]
fn a_failed_request_is_maybe_delivered_from_the_first_byte_handed_over() {
    // R-fail-in-flight: the same for each way to fail
    let now = Instant::now();
    for handed_over in [false, true] {
        let word = if handed_over { "maybe" } else { "unsent" };
        for (way, code) in ["timeout", "closed", "truncated", "transport"].into_iter().enumerate() {
            let (mut client, _) = open(&plain(), now);
            client.send_request(now, &get(), (way == 0).then_some(now + MS)).unwrap();
            if handed_over {
                assert!(!transmit(|out| client.poll_transmit(now, out)).is_empty());
            }
            match way {
                0 => client.handle_timeout(now + MS),
                1 => client.handle_eof(now),
                2 => {
                    client.handle_input(now, &[1, 0]);
                    client.handle_eof(now);
                }
                _ => client.handle_transport_error(now),
            }
            assert_eq!(client_lines(&mut client)[0], format!("failed 1 {code} {word}"));
        }
    }
}

#[test]
fn ids_wrap_past_zero_and_past_all_that_are_reserved() {
    // R-id-order, R-id-nonzero, R-id-unique, R-response-abandoned (H7)
    let now = Instant::now();
    let (mut client, mut server) = open(&plain(), now);
    let send = |client: &mut ClientConnection| client.send_request(now, &get(), None).unwrap();
    let [_, second, third] = [1, 2, 3].map(|id| {
        let sent = send(&mut client);
        assert_eq!(sent.get(), id);
        sent
    });
    let mut tokens: Vec<_> = ask(&mut client, &mut server, now).into_iter().map(|(token, _)| token).collect();
    assert!(client.cancel(now, second) && !client.cancel(now, second), "once");
    client.set_next_id(u32::MAX);
    // 1 and 3 are in flight, 2 is abandoned.
    assert_eq!([send(&mut client).get(), send(&mut client).get()], [u32::MAX, 4]);
    server.send_response(now, tokens.remove(1), &response(200, "late")).unwrap();
    assert_eq!(tell(&mut server, &mut client, now), ["unmatched 2"]);
    server.send_response(now, tokens.remove(1), &response(200, "c")).unwrap();
    assert_eq!(tell(&mut server, &mut client, now), ["response 3 200 \"c\""]);
    assert!(!client.cancel(now, third), "answered");
    client.set_next_id(u32::MAX);
    assert_eq!([send(&mut client).get(), send(&mut client).get(), send(&mut client).get()], [2, 3, 5]);
}

#[test]
fn ids_begin_anew_when_there_were_four_times_as_many_as_are_reserved() {
    // R-id-span
    for (reserved, span) in [(0, 256), (64, 256), (65, 512), (128, 512), (129, 1024)] {
        let now = Instant::now();
        let (mut client, mut server) = open(&plain(), now);
        let send = |client: &mut ClientConnection| client.send_request(now, &get(), None).unwrap().get();
        let unanswered: Vec<_> = (0..reserved).map(|_| send(&mut client)).collect();
        let held = ask(&mut client, &mut server, now);
        let mut seen = Vec::new();
        for _ in 0..2 * span {
            seen.push(send(&mut client));
            let (token, _) = ask(&mut client, &mut server, now).remove(0);
            server.send_response(now, token, &response(200, "")).unwrap();
            assert_eq!(tell(&mut server, &mut client, now), [format!("response {} 200 \"\"", seen.last().unwrap())]);
        }
        let free: Vec<_> = (1..span).filter(|id| !unanswered.contains(id)).collect();
        assert!(seen.iter().eq(free.iter().cycle().take(seen.len())), "{reserved} reserved: {seen:?}");
        drop(held);
    }
}

#[test]
fn an_id_whose_outcome_was_not_polled_is_passed_over() {
    // R-id-span
    let now = Instant::now();
    let (mut client, mut server) = open(&plain(), now);
    let send = |client: &mut ClientConnection| client.send_request(now, &get(), None).unwrap().get();
    assert_eq!(send(&mut client), 1);
    let (held, _) = ask(&mut client, &mut server, now).remove(0);
    for id in 2..=255 {
        assert_eq!(send(&mut client), id);
        let (token, _) = ask(&mut client, &mut server, now).remove(0);
        server.send_response(now, token, &response(200, "")).unwrap();
        tell(&mut server, &mut client, now);
    }
    server.send_response(now, held, &response(200, "")).unwrap();
    server.flush();
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    assert_eq!((client.pending_requests(), send(&mut client)), (0, 2));
    assert_eq!(client_lines(&mut client), ["response 1 200 \"\""]);
}

#[test]
fn an_answered_id_rests_until_128_others_were_answered() {
    // R-id-rest: also the id of a slow request, which would come back at once
    let now = Instant::now();
    let (mut client, mut server) = open(&plain(), now);
    let send = |client: &mut ClientConnection| client.send_request(now, &get(), None).unwrap().get();
    assert_eq!(send(&mut client), 1);
    let (slow, _) = ask(&mut client, &mut server, now).remove(0);
    let mut exchange = |client: &mut ClientConnection, slow: Option<ResponseToken>| {
        let id = send(client);
        let (token, _) = ask(client, &mut server, now).remove(0);
        for token in slow.into_iter().chain([token]) {
            server.send_response(now, token, &response(200, "")).unwrap();
        }
        tell(&mut server, client, now);
        id
    };
    assert!((2..=254).all(|id| exchange(&mut client, None) == id));
    assert_eq!(exchange(&mut client, Some(slow)), 255);
    assert!((2..=255).all(|id| exchange(&mut client, None) == id), "1 and what came before it rest");
    assert_eq!(exchange(&mut client, None), 1, "has rested");
}

#[test]
fn an_id_is_not_given_again_before_its_outcome_was_polled() {
    // R-id-unique, R-id-span: or else events of two requests have the same id, and nobody knows whose answer is whose
    let now = Instant::now();
    let (mut client, mut server) = open(&plain(), now);
    let send = |client: &mut ClientConnection| client.send_request(now, &get(), Some(now + MS)).unwrap().get();
    let late = send(&mut client);
    let held = ask(&mut client, &mut server, now);
    client.handle_timeout(now + MS);
    let withdrawn = send(&mut client);
    client.handle_timeout(now + MS);
    let mut sent = vec![late, withdrawn];
    for (token, _) in held {
        server.send_response(now, token, &response(200, "late")).unwrap();
    }
    // As many as there can be before input waits.
    for _ in 0..252 {
        sent.push(client.send_request(now, &get(), None).unwrap().get());
        for (token, _) in ask(&mut client, &mut server, now) {
            server.send_response(now, token, &response(200, "")).unwrap();
        }
        client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    }
    assert_eq!((client.pending_requests(), client.abandoned_requests()), (0, 0));
    sent.extend([send(&mut client), send(&mut client)]);
    assert!(sent.iter().copied().eq(1..=256), "{sent:?}");
    let lines = client_lines(&mut client);
    assert_eq!(lines[..3], ["failed 1 timeout maybe", "failed 2 timeout unsent", "unmatched 1"]);
    assert_eq!(lines.len(), 255);
    assert!(lines[3..].iter().zip(3..).all(|(line, id)| *line == format!("response {id} 200 \"\"")), "{lines:?}");
    client.set_next_id(1);
    assert_eq!(send(&mut client), 1, "and then it may");
}

#[test]
fn a_late_response_is_unmatched_and_frees_its_id() {
    // R-deadline, R-response-abandoned: also a late answer to HEAD, which is framed as one
    let now = Instant::now();
    for method in ["GET", "HEAD"] {
        let (mut client, mut server) = open(&plain(), now);
        client.send_request(now, &request(method, "/", ""), Some(now + 5 * MS)).unwrap();
        let (token, _) = ask(&mut client, &mut server, now).remove(0);
        assert_eq!(client.next_timer(), Some((Timer::Request, now + 5 * MS)));
        client.handle_timeout(now + 4 * MS);
        assert!(client.poll_event().is_none(), "not yet");
        client.handle_timeout(now + 5 * MS);
        assert_eq!(client_lines(&mut client), ["failed 1 timeout maybe"]);
        assert_eq!((client.pending_requests(), client.next_timer()), (0, None));
        client.set_next_id(1);
        assert_eq!(client.send_request(now, &get(), None).unwrap().get(), 2, "1 is abandoned");
        server.send_response(now, token, &response(200, "late")).unwrap();
        let (token, _) = ask(&mut client, &mut server, now).remove(0);
        server.send_response(now, token, &response(200, "b")).unwrap();
        assert_eq!(tell(&mut server, &mut client, now), ["unmatched 1", "response 2 200 \"b\""]);
        client.set_next_id(1);
        assert_eq!(client.send_request(now, &get(), None).unwrap().get(), 1);
    }
}

#[test]
fn a_late_response_to_head_is_framed_as_one_though_nobody_waits() {
    // R-response-abandoned, R-read-head-response: where a GET's body would end, nobody knows of a HEAD's
    let now = Instant::now();
    for (method, lines) in [
        ("GET", &["unmatched 1", "response 2 200 \"b\""][..]),
        ("HEAD", &["unmatched 1", "failed 2 head-ambiguous maybe", "closed head-ambiguous"]),
    ] {
        let (mut client, mut server) = open(&plain(), now);
        let id = client.send_request(now, &request(method, "/", ""), None).unwrap();
        client.send_request(now, &get(), None).unwrap();
        drop(ask(&mut client, &mut server, now));
        assert!(client.cancel(now, id));
        let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        client.handle_input(now, &[frame(1, ok("late")), frame(2, ok("b"))].concat());
        assert_eq!(client_lines(&mut client), lines, "{method}");
    }
}

#[test]
fn pending_requests_have_a_limit() {
    // R-limit-pending: oneways do not count; any outcome makes room
    let now = Instant::now();
    let (mut client, mut server) = open(&limited(Limits { pending_requests: 2, ..Limits::default() }), now);
    client.send_request(now, &get(), Some(now + MS)).unwrap();
    let second = client.send_request(now, &get(), None).unwrap();
    client.send_oneway(now, &get()).unwrap();
    let full = |client: &mut ClientConnection| {
        assert_eq!(client.send_request(now, &get(), None).unwrap_err().code(), "pending-overflow");
        assert_eq!(client.pending_requests(), 2);
    };
    full(&mut client);
    client.handle_timeout(now + MS);
    client.send_request(now, &get(), None).unwrap();
    full(&mut client);
    client.cancel(now, second);
    client.send_request(now, &get(), None).unwrap();
    full(&mut client);
    // This server, with the same limit, takes two at a time.
    for (token, _) in ask(&mut client, &mut server, now) {
        server.send_response(now, token, &response(200, "")).unwrap();
    }
    for event in std::iter::from_fn(|| server.poll_event()).collect::<Vec<_>>() {
        if let ServerEvent::Request { token, .. } = event {
            server.send_response(now, token, &response(200, "")).unwrap();
        }
    }
    tell(&mut server, &mut client, now);
    client.send_request(now, &get(), None).unwrap();
}

#[test]
fn waiting_output_has_a_limit() {
    // R-limit-output, R-backpressure: a client refuses what comes after, a server reads no further
    let now = Instant::now();
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let slow = Config { max_batch_delay: Duration::from_secs(1), ..limited(limits) };
    let (mut client, mut server) = open(&slow, now);
    let size = frame(1, "GET / HTTP/1.1\r\nhost: h.example\r\n\r\n").len();
    let (mut taken, mut waiting) = (0, 0);
    while waiting < 1000 {
        client.send_request(now, &get(), None).unwrap();
        taken += 1;
        waiting += size;
        if waiting < 1000 {
            client.send_oneway(now, &get()).unwrap();
            waiting += size;
        }
    }
    assert_eq!(client.send_request(now, &get(), None).unwrap_err().code(), "output-full");
    assert_eq!(client.send_oneway(now, &get()).unwrap_err().code(), "output-full");
    let mut tokens = ask(&mut client, &mut server, now);
    assert_eq!(tokens.len(), taken);
    client.send_request(now, &get(), None).unwrap();
    let size = frame(1, "HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n").len() + 90;
    for waiting in (size..).step_by(size) {
        let (token, _) = tokens.pop().unwrap();
        server.send_response(now, token, &response(200, vec![b'x'; 90])).unwrap();
        assert_eq!(server.wants_read(), waiting < 1000);
        if waiting >= 1000 {
            break;
        }
    }
    assert_eq!(server.handle_input(now, &frame(99, "GET / HTTP/1.1\r\n\r\n")), 0);
    server.flush();
    transmit(|out| server.poll_transmit(now, out));
    assert!(server.wants_read(), "what waited has left");
}

#[test]
fn abandoned_requests_have_a_limit() {
    // R-abandoned-limit: one more than the limit ends the link; a late response makes room
    let now = Instant::now();
    for by_deadline in [false, true] {
        let limits = Limits { abandoned_requests: 2, ..Limits::default() };
        let (mut client, mut server) = open(&limited(limits), now);
        let mut abandon = |client: &mut ClientConnection| {
            let deadline = by_deadline.then_some(now + MS);
            let id = client.send_request(now, &get(), deadline).unwrap();
            let mut token = ask(client, &mut server, now);
            if by_deadline {
                client.handle_timeout(now + MS)
            } else {
                assert!(client.cancel(now, id))
            }
            (token.remove(0).0, client_lines(client))
        };
        let (first, _) = abandon(&mut client);
        drop(abandon(&mut client));
        assert!(!client.is_closed(), "the limit itself is allowed");
        client.handle_input(now, &frame(first.id(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        drop(abandon(&mut client));
        assert!(!client.is_closed(), "the late response made room");
        client.send_request(now, &get(), None).unwrap();
        let (_, lines) = abandon(&mut client);
        assert_eq!(lines[lines.len() - 2..], ["failed 4 abandoned-limit maybe", "closed abandoned-limit"]);
    }
}

#[test]
fn a_server_takes_no_more_requests_than_its_limit_until_one_is_answered() {
    // R-backpressure: consumed < len and no wish to read, then on from where it stopped
    let now = Instant::now();
    let (_, mut server) = open(&limited(Limits { pending_requests: 2, ..Limits::default() }), now);
    let padding = "x".repeat(30_000);
    let request = |id: u32| frame(id, format!("GET /{id} HTTP/1.1\r\nX: {padding}\r\n\r\n"));
    let oneway = frame(0, "GET /0 HTTP/1.1\r\n\r\n");
    let bytes: Vec<u8> = std::iter::once(oneway).chain((1..=40).map(request)).flatten().collect();
    let mut taken = server.handle_input(now, &bytes);
    assert!(taken < bytes.len() && !server.wants_read());
    assert_eq!(server.handle_input(now, &bytes[taken..]), 0, "nothing while full");
    assert!(matches!(server.poll_event(), Some(ServerEvent::Oneway { .. })), "oneways do not count");
    let mut tokens = VecDeque::new();
    for answered in 1..=40 {
        while let Some(event) = server.poll_event() {
            let ServerEvent::Request { token, .. } = event else { panic!("{event:?}") };
            tokens.push_back(token);
        }
        let expected = 2.min(41 - answered);
        assert_eq!((tokens.len(), server.pending_requests()), (expected, expected));
        assert_eq!(server.wants_read(), expected < 2);
        let token = tokens.pop_front().unwrap();
        assert_eq!(token.id(), answered as u32);
        // Answered and discarded alike make room, without new input.
        if answered % 2 == 0 {
            server.discard(token)
        } else {
            server.send_response(now, token, &response(204, "")).unwrap()
        }
        assert!(server.wants_read());
        taken += server.handle_input(now, &bytes[taken..]);
    }
    assert_eq!(taken, bytes.len());
}

#[test]
fn a_server_at_the_end_of_its_input_answers_what_it_took_and_closes() {
    // R-server-drain, R-deadline-fixed: (how the input ends, the reason that remains)
    let base = Instant::now();
    let drain = Duration::from_secs(5);
    for (end, reason) in [("eof", "closed -"), ("close", "closed -"), ("fault", "closed start-line")] {
        for in_time in [true, false] {
            let (mut client, mut server) = open(&plain(), base);
            client.send_request(base, &get(), None).unwrap();
            client.send_request(base, &get(), None).unwrap();
            let mut tokens = ask(&mut client, &mut server, base);
            match end {
                "eof" => server.handle_eof(base),
                "close" => server.close(base),
                _ => _ = server.handle_input(base, &frame(3, "garbage\r\n\r\n")),
            }
            assert!(!server.wants_read() && !server.is_closed() && server.poll_event().is_none());
            let late = frame(9, "GET / HTTP/1.1\r\n\r\n");
            assert_eq!(server.handle_input(base, &late), late.len(), "R-error-stop: dropped");
            let then = base + 2 * MS;
            server.send_response(then, tokens.pop().unwrap().0, &response(200, "b")).unwrap();
            assert_eq!(tell(&mut server, &mut client, then), ["response 2 200 \"b\""]);
            assert_eq!(server.next_timer(), Some((Timer::Drain, base + drain)), "not moved");
            if in_time {
                server.send_response(then, tokens.pop().unwrap().0, &response(200, "a")).unwrap();
                assert!(!server.is_closed(), "the answer is still here");
                assert_eq!(tell(&mut server, &mut client, then), ["response 1 200 \"a\""]);
                assert_eq!(server_lines(&mut server), [reason]);
            } else {
                server.handle_timeout(base + drain - MS);
                assert!(!server.is_closed());
                server.handle_timeout(base + drain);
                // R-error-once: what began the drain remains the reason; without one, it is the time-out.
                let reason = if end == "fault" { reason } else { "closed drain-timeout" };
                assert_eq!(server_lines(&mut server), [reason]);
                let rejected = server.send_response(base + drain, tokens.pop().unwrap().0, &response(200, "a"));
                assert_eq!(rejected.unwrap_err().error.code(), "closing");
            }
            assert_eq!(server.next_timer(), None);
        }
    }
}

#[test]
fn a_transport_that_fails_in_a_drain_does_not_replace_what_began_the_drain() {
    // R-error-once; a drain without an error has no reason until then (R-transport-failed)
    let base = Instant::now();
    for (began, reason) in [("fault", "closed start-line"), ("close", "closed transport"), ("eof", "closed transport")]
    {
        let (_, mut server) = open(&plain(), base);
        server.handle_input(base, &frame(1, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        let Some(ServerEvent::Request { token, .. }) = server.poll_event() else { panic!() };
        match began {
            "fault" => _ = server.handle_input(base, &frame(2, "garbage\r\n\r\n")),
            "close" => server.close(base),
            _ => server.handle_eof(base),
        }
        assert!(!server.is_closed());
        server.handle_transport_error(base + MS);
        assert_eq!(server_lines(&mut server), [reason], "{began}");
        server.discard(token);
    }
}

#[test]
fn a_client_that_closes_takes_nothing_new_and_waits_for_what_is_in_flight() {
    // R-close-graceful: flush, wait, close; each request waits at most for its own deadline
    let base = Instant::now();
    for answered in [true, false] {
        let (mut client, mut server) = open(&Config { max_batch_delay: 9 * MS, ..plain() }, base);
        client.send_request(base, &get(), Some(base + 20 * MS)).unwrap();
        client.close(base);
        assert_eq!(client.send_request(base, &get(), None).unwrap_err().code(), "closing");
        assert_eq!(client.send_oneway(base, &get()).unwrap_err().code(), "closing");
        let bytes = transmit(|out| client.poll_transmit(base, out));
        assert_eq!(frames(&bytes).len(), 1, "flushed");
        server.handle_input(base, &bytes);
        let Some(ServerEvent::Request { token, .. }) = server.poll_event() else { panic!() };
        if answered {
            server.send_response(base, token, &response(200, "a")).unwrap();
            assert_eq!(tell(&mut server, &mut client, base), ["response 1 200 \"a\"", "closed -"]);
        } else {
            client.handle_timeout(base + 20 * MS);
            assert_eq!(client_lines(&mut client), ["failed 1 timeout maybe", "closed -"]);
        }
    }
    let (mut client, _) = open(&plain(), base);
    client.close(base);
    assert_eq!(client_lines(&mut client), ["closed -"], "at once with nothing in flight");
}

#[test]
fn an_idle_link_closes_after_its_time_and_any_byte_begins_it_anew() {
    // R-idle: at the hello's end, and at each wire byte sent or received
    let base = Instant::now();
    let (mut client, mut server) = open(&Config { idle_timeout: Some(100 * MS), ..plain() }, base);
    assert_eq!(client.next_timer(), Some((Timer::Idle, base + 100 * MS)));
    client.send_oneway(base + 60 * MS, &get()).unwrap();
    assert_eq!(client.next_timer(), Some((Timer::Idle, base + 100 * MS)), "no byte has left");
    let bytes = transmit(|out| client.poll_transmit(base + 60 * MS, out));
    assert_eq!(client.next_timer(), Some((Timer::Idle, base + 160 * MS)), "sent");
    server.handle_input(base + 70 * MS, &bytes[..1]);
    assert_eq!(server.next_timer(), Some((Timer::Idle, base + 170 * MS)), "received");
    server.handle_input(base + 80 * MS, &bytes[1..]);
    assert_eq!(server.next_timer(), Some((Timer::Idle, base + 180 * MS)), "received");
    client.send_request(base + 110 * MS, &get(), None).unwrap();
    transmit(|out| client.poll_transmit(base + 110 * MS, out));
    for (ms, over) in [(160, false), (209, false), (210, true)] {
        client.handle_timeout(base + ms * MS);
        assert_eq!(client.is_closed(), over);
    }
    assert_eq!(client_lines(&mut client), ["failed 1 idle-timeout maybe", "closed idle-timeout"]);
    server.handle_timeout(base + 180 * MS);
    assert_eq!(server_lines(&mut server)[1..], ["closed idle-timeout"]);
}

/// What a driver does that follows the contract to the letter, until the connection has nothing more to say.
fn drain(
    server: &mut ServerConnection,
    now: Instant,
    mut handle: impl FnMut(&mut ServerConnection, ServerEvent),
) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        while server.poll_transmit(now, &mut out) > 0 {}
        let mut any = false;
        while let Some(event) = server.poll_event() {
            any = true;
            handle(server, event);
        }
        if server.poll_timeout().is_some_and(|at| at <= now) {
            server.handle_timeout(now);
        } else if !any {
            return out;
        }
    }
}

#[test]
fn nothing_is_lost_when_more_arrives_than_is_polled_at_once() {
    // R-refuse-server: every second request is refused, every other one answered
    let now = Instant::now();
    let (_, mut server) = open(&plain(), now);
    let wire: Vec<u8> = (1..=2000)
        .flat_map(|id| frame(id, if id % 2 == 0 { "GET / HTTP/1.1\r\n\r\n" } else { "GET bad HTTP/1.1\r\n\r\n" }))
        .collect();
    let mut rest = &wire[..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let taken = server.handle_input(now, rest);
        rest = &rest[taken..];
        assert!(taken > 0 || !server.wants_read(), "a connection that reads takes something");
        out.extend(drain(&mut server, now, |server, event| {
            if let ServerEvent::Request { token, .. } = event {
                server.send_response(now, token, &response(200, "")).unwrap();
            }
        }));
    }
    let answers = frames(&out);
    assert_eq!(answers.len(), 2000);
    for (id, answer) in answers {
        assert_eq!(answer.start.contains(" 200 "), id % 2 == 0, "{id}: {}", answer.start);
    }
}

#[test]
fn input_waits_for_a_caller_that_does_not_poll() {
    let now = Instant::now();
    let (_, mut server) = open(&plain(), now);
    let wire: Vec<u8> = (0..10_000).flat_map(|_| frame(0, "GET / HTTP/1.1\r\n\r\n")).collect();
    let taken = server.handle_input(now, &wire);
    assert!(taken < wire.len() && !server.wants_read());
    assert_eq!(server.next_timer(), None, "there is nothing to do before events are polled");
    let mut oneways = std::iter::from_fn(|| server.poll_event()).count();
    assert!(oneways < 1000, "{oneways} events were queued");
    assert_eq!(server.next_timer(), Some((Timer::Input, now)), "what was taken goes on");
    let count = |_: &mut ServerConnection, _| oneways += 1;
    drain(&mut server, now, count);
    assert!(server.wants_read());
    drain(&mut server, now, |_, _| panic!("all was polled"));
    let whole = taken / frame(0, "GET / HTTP/1.1\r\n\r\n").len();
    assert_eq!(oneways, whole);
}

#[test]
fn requests_in_handlers_hold_a_limited_amount() {
    // R-limit-held
    let now = Instant::now();
    let limits = Limits { held_bytes: 10_000, pending_requests: 1000, ..Limits::default() };
    let (_, mut server) = open(&limited(limits), now);
    let post = |id| frame(id, format!("POST / HTTP/1.1\r\nContent-Length: 4000\r\n\r\n{}", "x".repeat(4000)));
    let wire: Vec<u8> = (1..=9).flat_map(post).collect();
    let mut events = feed_server(&mut server, now, &wire, std::iter::empty());
    assert_eq!(events.len(), 3, "the third one passes the limit, and is the last");
    assert!(!server.wants_read());
    let Some(ServerEvent::Request { token, .. }) = events.pop() else { panic!() };
    server.send_response(now, token, &response(200, "")).unwrap();
    server.handle_timeout(now);
    assert_eq!(server_lines(&mut server).len(), 1, "one place, one request");

    let (_, mut server) = open(&limited(Limits { held_bytes: 10_000, ..Limits::default() }), now);
    let many_fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(60));
    let wire: Vec<u8> = (1..=9).flat_map(|id| frame(id, &many_fields)).collect();
    let events = feed_server(&mut server, now, &wire, std::iter::empty());
    assert_eq!(events.len(), 2, "a field costs more than its bytes");
}

#[test]
fn bodies_that_find_no_memory_are_dropped_and_refused_and_nothing_else() {
    // R-limit-memory
    let now = Instant::now();
    let heads = ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186a0\r\n"];
    for (head, end) in heads.into_iter().zip(["", "\r\n0\r\n\r\n"]) {
        let (mut client, mut server) = open(&plain(), now);
        let begun = server.buffered_bytes();
        // Begun before memory is used up, or after.
        for sheds_before in [false, true] {
            let long = frame(5, format!("POST /long HTTP/1.1\r\n{head}{}{end}", "x".repeat(100_000)));
            let (first, rest) = long.split_at(if sheds_before { 0 } else { 60_000 });
            server.handle_input(now, first);
            assert!(sheds_before || server.buffered_bytes() > begun + 50_000);
            server.shed(true);
            for piece in rest.chunks(1000) {
                server.handle_input(now, piece);
                assert!(server.buffered_bytes() < begun + 200_000);
            }
            // What is whole takes no more memory.
            server.handle_input(now, &frame(6, "POST /short HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"));
            server.shed(false);
            let lines = server_lines(&mut server);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(lines[0].contains("overload") && lines[1].contains("/short"), "{lines:?}");
            let answer = transmit(|out| server.poll_transmit(now, out));
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.contains("HTTP/1.1 503") && answer.to_ascii_lowercase().contains("retry-after: 1"),
                "{answer}"
            );
        }
        // A client refuses the response likewise, and its link goes on.
        for shed in [true, false] {
            client.send_request(now, &get(), None).unwrap();
            let (token, _) = ask(&mut client, &mut server, now).remove(0);
            server.send_response(now, token, &response(200, vec![b'x'; 100_000])).unwrap();
            server.flush();
            client.shed(shed);
            let bytes = transmit(|out| server.poll_transmit(now, out));
            for piece in bytes.chunks(1000) {
                client.handle_input(now, piece);
            }
            let lines = client_lines(&mut client);
            assert_eq!(lines.last().unwrap().contains("overload"), shed, "{shed}");
        }
    }
}

#[test]
fn a_response_without_room_comes_back_with_its_token() {
    // R-limit-output
    let now = Instant::now();
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let slow = Config { max_batch_delay: Duration::from_secs(1), ..limited(limits) };
    let (mut client, mut server) = open(&slow, now);
    client.send_request(now, &get(), None).unwrap();
    client.send_request(now, &get(), None).unwrap();
    let mut tokens = ask(&mut client, &mut server, now);
    let (first, second) = (tokens.remove(0).0, tokens.remove(0).0);
    server.send_response(now, first, &response(200, vec![b'x'; 5000])).unwrap();
    let rejected = server.send_response(now, second, &response(200, "late")).unwrap_err();
    assert_eq!(rejected.error.code(), "output-full");
    assert_eq!(server.pending_requests(), 1);
    assert_eq!(tell(&mut server, &mut client, now).len(), 1);
    server.send_response(now, rejected.token, &response(200, "late")).unwrap();
    assert_eq!(tell(&mut server, &mut client, now), ["response 2 200 \"late\""]);
}

#[test]
fn time_does_not_run_backwards() {
    let base = Instant::now();
    let idle = Config { idle_timeout: Some(Duration::from_secs(1)), ..plain() };
    let (mut client, mut server) = open(&idle, base);
    client.handle_timeout(base + 500 * MS);
    client.send_request(base, &get(), None).unwrap();
    let bytes = transmit(|out| client.poll_transmit(base, out));
    assert_eq!(client.next_timer(), Some((Timer::Idle, base + 1500 * MS)));
    server.handle_timeout(base + 500 * MS);
    server.handle_input(base, &bytes);
    assert_eq!(server.next_timer(), Some((Timer::Idle, base + 1500 * MS)));
}

#[test]
fn what_was_taken_counts_though_its_caller_is_late() {
    // R-error-after-good: answers that came whole before a deadline or an end are answers
    let base = Instant::now();
    for compression in Compression::ALL {
        for end in ["transport", "deadline", "drain"] {
            let limits = Limits { pending_requests: 1000, ..Limits::default() };
            let config = Config { compression, ..limited(limits) };
            let (mut client, mut server) = open(&config, base);
            for _ in 0..900 {
                client.send_request(base, &get(), Some(base + 100 * MS)).unwrap();
            }
            if end == "drain" {
                client.close(base);
            }
            let asked = transmit(|out| client.poll_transmit(base, out));
            for event in feed_server(&mut server, base, &asked, std::iter::empty()) {
                if let ServerEvent::Request { token, .. } = event {
                    server.send_response(base, token, &response(200, "")).unwrap();
                }
            }
            let told = transmit(|out| server.poll_transmit(base, out));
            let (mut rest, mut lines) = (&told[..], Vec::new());
            loop {
                let taken = client.handle_input(base + MS, rest);
                rest = &rest[taken..];
                if rest.is_empty() {
                    break;
                }
                lines.extend(client_lines(&mut client));
            }
            match end {
                "transport" => client.handle_transport_error(base + MS),
                "deadline" => client.handle_timeout(base + 100 * MS),
                _ => client.handle_timeout(base + Duration::from_secs(5)),
            }
            lines.extend(client_lines(&mut client));
            assert_eq!(lines.iter().filter(|line| line.starts_with("response")).count(), 900, "{compression:?} {end}");
        }
    }
}
