//! Compression 3 at the core: what a client that prefers it does until it knows that the server can read it, what a server
//! answers, levels that change under way, and dictionaries.

#![cfg(feature = "zstd")]
#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::time::{Duration, Instant};

use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Dictionary, ServerConfig, ServerConnection,
    ServerEvent, Timer,
};
use support::*;

const MS: Duration = Duration::from_millis(1);

fn auto() -> Config {
    Config { prefer_zstd: true, ..Config::default() }
}

/// A client that prefers zstd, has one request, and has read a hello with this compression.
fn trying(tls: bool, server: [u8; 2], now: Instant) -> ClientConnection {
    let mut client = ClientConnection::new(ClientConfig { config: auto(), tls }, now);
    client.send_request(now, &request("POST", "/a", "b"), None).unwrap();
    assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello(3, u8::from(tls)));
    assert_eq!(client.handle_input(now, &hello(server[0], server[1])), 15);
    client
}

fn hello(compression: u8, tls: u8) -> Vec<u8> {
    [b"httpteleport\0", &[compression, tls][..]].concat()
}

fn events(client: &mut ClientConnection) -> Vec<String> {
    std::iter::from_fn(|| client.poll_event()).map(|event| client_line(&event)).collect()
}

/// Whether the request leaves now.
fn leaves(client: &mut ClientConnection, now: Instant) -> bool {
    let out = transmit(|out| client.poll_transmit(now, out));
    assert!(out.is_empty() || frames(&decompressed(Compression::Zstd, &out)).len() == 1);
    !out.is_empty()
}

#[test]
fn a_server_that_answers_with_zstd_knows_it() {
    let now = Instant::now();
    let mut client = trying(false, [3, 0], now);
    assert!(leaves(&mut client, now));
    assert_eq!(events(&mut client), ["connected"]);
}

#[test]
fn to_any_other_server_nothing_is_sent_until_it_had_time_to_close() {
    // R-zstd-client
    let now = Instant::now();
    for code in 0..3 {
        let mut client = trying(false, [code, 0], now);
        assert!(!leaves(&mut client, now));
        assert_eq!(events(&mut client), [""; 0]);
        assert!(client.is_handshaking() && client.wants_read());
        assert_eq!(client.next_timer(), Some((Timer::Trial, now + 250 * MS)));
        let just_before = now + Duration::from_micros(249_999);
        client.handle_timeout(just_before);
        client.flush();
        assert!(!leaves(&mut client, just_before));
        client.handle_timeout(now + 250 * MS);
        assert!(leaves(&mut client, now + 250 * MS));
        assert_eq!(events(&mut client), ["connected"]);
        assert!(!client.is_handshaking());
        // An end is an end like any other after that.
        client.handle_eof(now + 250 * MS);
        assert_eq!(events(&mut client), ["failed 1 closed maybe", "closed closed"]);
    }
}

#[test]
fn a_byte_from_the_server_ends_the_wait() {
    let now = Instant::now();
    for joined in [false, true] {
        let mut client = ClientConnection::new(ClientConfig { config: auto(), tls: false }, now);
        client.send_request(now, &request("GET", "/a", ""), None).unwrap();
        transmit(|out| client.poll_transmit(now, out));
        let unmatched = frame(9, "HTTP/1.1 204 \r\n\r\n");
        if joined {
            client.handle_input(now, &[hello(1, 0), unmatched].concat());
        } else {
            client.handle_input(now, &hello(1, 0));
            assert!(!leaves(&mut client, now));
            client.handle_input(now, &unmatched);
        }
        assert!(leaves(&mut client, now));
        assert_eq!(events(&mut client), ["connected", "unmatched 9"]);
    }
}

#[test]
fn a_server_that_closes_then_does_not_know_it() {
    let now = Instant::now();
    for by_reset in [false, true] {
        let mut client = trying(false, [0, 0], now);
        if by_reset {
            client.handle_transport_error(now + 100 * MS);
        } else {
            client.handle_eof(now + 100 * MS);
        }
        assert_eq!(events(&mut client), ["failed 1 zstd-refused unsent", "closed zstd-refused"]);
    }
    // One that says nothing, or half a hello, has not answered at all.
    let mut client = ClientConnection::new(ClientConfig { config: auto(), tls: false }, now);
    client.handle_input(now, b"httpteleport");
    client.handle_eof(now);
    assert_eq!(events(&mut client), ["closed hello-truncated"]);
}

#[test]
fn with_tls_the_wait_begins_after_the_handshake() {
    let now = Instant::now();
    let mut client = trying(true, [0, 1], now);
    assert_eq!(events(&mut client), ["start-tls"]);
    assert_eq!(client.next_timer().map(|(timer, _)| timer), Some(Timer::Hello));
    client.handle_tls_established(now);
    assert_eq!(client.next_timer(), Some((Timer::Trial, now + 250 * MS)));
    assert!(!leaves(&mut client, now));
    client.handle_timeout(now + 250 * MS);
    assert!(leaves(&mut client, now + 250 * MS));
    // Deployed originals finish the handshake and then close.
    let mut client = trying(true, [0, 1], now);
    client.handle_tls_established(now);
    client.handle_eof(now);
    assert_eq!(events(&mut client), ["start-tls", "failed 1 zstd-refused unsent", "closed zstd-refused"]);
    for by_reset in [false, true] {
        let mut client = trying(true, [0, 1], now);
        if by_reset {
            client.handle_transport_error(now);
        } else {
            client.handle_eof(now);
        }
        assert_eq!(events(&mut client), ["start-tls", "failed 1 zstd-refused unsent", "closed zstd-refused"]);
    }
    // A server that answered with zstd knows it, and its TLS has failed.
    let mut client = trying(true, [3, 1], now);
    client.handle_eof(now);
    assert_eq!(events(&mut client), ["start-tls", "failed 1 transport unsent", "closed transport"]);
}

#[test]
fn the_hello_time_out_ends_the_wait_and_not_the_link() {
    let now = Instant::now();
    let config = Config { hello_timeout: 100 * MS, ..auto() };
    let mut client = ClientConnection::new(ClientConfig { config, tls: false }, now);
    client.send_request(now, &request("GET", "/a", ""), None).unwrap();
    transmit(|out| client.poll_transmit(now, out));
    client.handle_input(now + 40 * MS, &hello(0, 0));
    assert_eq!(client.next_timer(), Some((Timer::Trial, now + 100 * MS)));
    client.handle_timeout(now + 100 * MS);
    assert!(leaves(&mut client, now + 100 * MS));
    assert_eq!(events(&mut client), ["connected"]);
}

#[test]
fn a_request_can_time_out_and_be_given_up_meanwhile() {
    let now = Instant::now();
    let mut client = trying(false, [0, 0], now);
    client.send_request(now, &request("GET", "/b", ""), Some(now + 10 * MS)).unwrap();
    client.handle_timeout(now + 10 * MS);
    assert_eq!(events(&mut client), ["failed 2 timeout unsent"]);
    client.close(now + 20 * MS);
    client.handle_timeout(now + 250 * MS);
    assert!(leaves(&mut client, now + 250 * MS), "an orderly close sends what there is");
}

#[test]
fn a_server_answers_zstd_only_with_zstd() {
    // R-zstd-server
    let now = Instant::now();
    for code in 0..4 {
        for fallback in [Compression::Deflate, Compression::Snappy] {
            let config = ServerConfig { config: Config { compression: fallback, ..auto() }, ..ServerConfig::default() };
            let mut server = ServerConnection::new(config, now);
            server.handle_input(now, &hello(code, 0));
            let answer = if code == 3 { 3 } else { fallback.code() };
            assert_eq!(transmit(|out| server.poll_transmit(now, out)), hello(answer, 0));
            assert_eq!(server.level(), if code == 3 { Some(3) } else { fallback.default_level() });
        }
    }
}

#[test]
fn levels_change_between_batches_of_a_link() {
    let now = Instant::now();
    for compression in Compression::ALL {
        let config = Config { compression, level: Some(9), ..Config::default() };
        let mut client = ClientConnection::new(ClientConfig { config, tls: false }, now);
        let mut server = server(Compression::None, now);
        server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
        client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
        let mut count = 0;
        for level in [9, 1, 1, 200, 0, 5] {
            client.set_level(level);
            assert_eq!(client.level(), compression.default_level().map(|_| level.clamp(1, 9)));
            client.send_request(now, &request("POST", "/a", b"0123456789".repeat(1000)), None).unwrap();
            let out = transmit(|out| client.poll_transmit(now, out));
            count += feed_server(&mut server, now, &out, std::iter::repeat(7))
                .iter()
                .filter(|event| server_line(event).starts_with("request"))
                .count();
        }
        assert_eq!(count, 6, "{compression:?}");
    }
}

/// A dictionary for bids, and another one for each `seed`.
fn dictionary(seed: usize) -> Dictionary {
    let samples: Vec<_> = (seed * 10_000..).take(1_000).map(bid).collect();
    let sizes: Vec<_> = samples.iter().map(String::len).collect();
    let mut bytes = Vec::with_capacity(8 * 1024);
    zstd_safe::train_from_buffer(&mut bytes, samples.concat().as_bytes(), &sizes).unwrap();
    Dictionary::new(bytes).unwrap()
}

fn bid(n: usize) -> String {
    format!("{{\"id\":\"{:x}\",\"site\":{},\"banner\":{{\"w\":{}}}}}", n.wrapping_mul(0x9e37_79b9), n % 97, 300 + n % 3)
}

/// Both ends, with these dictionaries, after the hellos.
fn with_dictionaries(client: &[Dictionary], server: &[Dictionary]) -> (ClientConnection, ServerConnection) {
    let now = Instant::now();
    let config = |dictionaries: &[Dictionary]| Config {
        compression: Compression::Zstd,
        dictionaries: dictionaries.to_vec(),
        ..Config::default()
    };
    let mut client = ClientConnection::new(ClientConfig { config: config(client), tls: false }, now);
    let mut server = ServerConnection::new(ServerConfig { config: config(server), ..ServerConfig::default() }, now);
    server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    (client, server)
}

/// The id of the dictionary that the first frame of a stream names.
fn named(stream: &[u8]) -> Option<u32> {
    assert!(stream.starts_with(b"\x28\xb5\x2f\xfd"));
    (stream[4] & 3 == 3).then(|| u32::from_le_bytes(stream[6..10].try_into().unwrap()))
}

#[test]
fn a_server_answers_with_the_dictionary_of_its_client() {
    // R-zstd-dictionary, R-zstd-dictionary-agreed
    let now = Instant::now();
    let (ours, other) = (dictionary(1), dictionary(2));
    let both = [other.clone(), ours.clone()];
    for (has, used) in [(&[ours.clone(), other.clone()][..], Some(ours.id())), (&[], None)] {
        let (mut client, mut server) = with_dictionaries(has, &both);
        let mut wire = Vec::new();
        for n in 0..50 {
            client.send_request(now, &request("POST", "/bid", bid(n)), None).unwrap();
            let up = transmit(|out| client.poll_transmit(now, out));
            wire.extend_from_slice(&up);
            let events = feed_server(&mut server, now, &up, std::iter::repeat(5));
            for event in events {
                if let ServerEvent::Request { token, request } = event {
                    assert_eq!(request.body(), &bid(n));
                    server.send_response(now, token, &response(200, bid(n + 1))).unwrap();
                }
            }
            let down = transmit(|out| server.poll_transmit(now, out));
            if n == 0 {
                assert_eq!((named(&up), named(&down)), (used, used));
            }
            let events = feed_client(&mut client, now, &down, std::iter::repeat(3));
            let bodies = events.iter().filter(
                |event| matches!(event, ClientEvent::Response { response, .. } if *response.body() == bid(n + 1)),
            );
            assert_eq!(bodies.count(), 1);
        }
        // A library that is not ours reads it with the dictionary, and not without.
        let mut decoder = ruzstd::decoding::FrameDecoder::new();
        let ended = [&wire[..], b"\x01\0\0"].concat();
        let mut plain = Vec::with_capacity(1 << 20);
        if used.is_some() {
            assert!(decoder.decode_all_to_vec(&ended, &mut plain).is_err());
            decoder.add_dict(ruzstd::decoding::Dictionary::decode_dict(ours.as_bytes()).unwrap()).unwrap();
        }
        decoder.decode_all_to_vec(&ended, &mut plain).unwrap();
        assert_eq!(frames(&plain).len(), 50);
    }
}

#[test]
fn a_dictionary_that_the_server_has_not_ends_the_link_and_is_named() {
    // R-zstd-dictionary
    let now = Instant::now();
    let (ours, other) = (dictionary(1), dictionary(2));
    let (mut client, mut server) = with_dictionaries(std::slice::from_ref(&ours), &[other]);
    client.send_request(now, &request("POST", "/bid", "x"), None).unwrap();
    let up = transmit(|out| client.poll_transmit(now, out));
    let events = feed_server(&mut server, now, &up, std::iter::empty());
    let Some(ServerEvent::Closed { error: Some(error) }) = events.last() else { panic!("{events:?}") };
    assert_eq!(error.code(), "zstd-dictionary");
    assert!(error.to_string().contains(&format!("dictionary {}", ours.id())), "{error}");
}
