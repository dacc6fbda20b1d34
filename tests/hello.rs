//! The hello (spec/02-hello.md): every outcome of it, in both roles, however its bytes arrive.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use httpteleport::proto::{
    ClientConfig, ClientConnection, Compression, Config, ServerConfig, ServerConnection, ServerTls, Timer,
};
use support::*;

const GET: &[u8] = b"\x01\x00\x00\x00GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &[u8] = b"\x01\x00\x00\x00HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
const TLS: [ServerTls; 3] = [ServerTls::Off, ServerTls::Optional, ServerTls::Required];

fn hello(compression: u8, tls: u8) -> Vec<u8> {
    [&b"httpteleport\0"[..], &[compression, tls]].concat()
}

fn plain() -> Config {
    Config { compression: Compression::None, ..Config::default() }
}

fn tls_server(tls: ServerTls, now: Instant) -> ServerConnection {
    ServerConnection::new(ServerConfig { config: plain(), tls }, now)
}

fn tls_client(tls: bool, now: Instant) -> ClientConnection {
    ClientConnection::new(ClientConfig { config: plain(), tls }, now)
}

/// What an endpoint did: bytes it sent, events in lines.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    sent: Vec<u8>,
    events: Vec<String>,
}

impl Seen {
    fn server(&mut self, server: &mut ServerConnection, now: Instant) {
        server.poll_transmit(now, &mut self.sent);
        self.events.extend(std::iter::from_fn(|| server.poll_event()).map(|e| server_line(&e)));
    }

    fn client(&mut self, client: &mut ClientConnection, now: Instant) {
        client.poll_transmit(now, &mut self.sent);
        self.events.extend(std::iter::from_fn(|| client.poll_event()).map(|e| client_line(&e)));
    }
}

/// A server that hears `bytes` in pieces of `cut`, and then perhaps EOF.
fn server_hears(tls: ServerTls, bytes: &[u8], cut: usize, eof: bool) -> Seen {
    let now = Instant::now();
    let (mut server, mut seen) = (tls_server(tls, now), Seen::default());
    for piece in bytes.chunks(cut) {
        server.handle_input(now, piece);
        seen.server(&mut server, now);
    }
    if eof {
        server.handle_eof(now);
        seen.server(&mut server, now);
    }
    seen
}

/// A client with a request queued, likewise.
fn client_hears(tls: bool, bytes: &[u8], cut: usize, eof: bool) -> Seen {
    let now = Instant::now();
    let (mut client, mut seen) = (tls_client(tls, now), Seen::default());
    client.send_request(now, &request("GET", "/a", ""), None).unwrap();
    seen.client(&mut client, now);
    for piece in bytes.chunks(cut) {
        client.handle_input(now, piece);
        seen.client(&mut client, now);
    }
    if eof {
        client.handle_eof(now);
        seen.client(&mut client, now);
    }
    assert_eq!(seen.sent[..15], hello(1, u8::from(tls)), "R-tls-byte-write, R-hello-first");
    seen
}

fn failed(code: &str) -> [String; 2] {
    [format!("failed 1 {code} unsent"), format!("closed {code}")]
}

#[test]
fn a_client_speaks_first_and_a_server_only_after_a_whole_good_hello() {
    // R-hello-client-speaks-first, R-hello-no-answer
    let now = Instant::now();
    let mut client = tls_client(false, now);
    assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello(1, 0));
    assert!(transmit(|out| client.poll_transmit(now, out)).is_empty(), "one hello (R-hello-first)");
    assert!(client.is_handshaking() && client.wants_read());

    let mut server = tls_server(ServerTls::Off, now);
    for byte in &hello(1, 0) {
        assert!(transmit(|out| server.poll_transmit(now, out)).is_empty());
        assert!(server.is_handshaking() && server.wants_read());
        assert_eq!(server.handle_input(now, &[*byte]), 1);
    }
    assert_eq!(transmit(|out| server.poll_transmit(now, out)), hello(1, 0));
    assert!(!server.is_handshaking());
}

#[test]
fn queued_requests_wait_for_a_good_hello() {
    // R-hello-wait
    let seen = client_hears(false, &hello(1, 0)[..14], 1, false);
    assert_eq!((seen.sent.len(), &seen.events[..]), (15, &[][..]));
    let seen = client_hears(false, &hello(1, 0), 1, false);
    assert_eq!(frames_after_hello(&seen.sent).len(), 1);
    assert_eq!(seen.events, ["connected"]);
}

#[test]
fn frames_in_the_segment_of_the_hello_are_taken() {
    // R-hello-early-frames; the client's half: a response right behind the server's hello.
    let early = [&hello(1, 0), GET].concat();
    for cut in [1, 14, 15, 16, usize::MAX] {
        let seen = server_hears(ServerTls::Off, &early, cut, false);
        assert_eq!(seen.events, ["connected", "request 1 GET /a \"\""], "cut {cut}");
        let seen = client_hears(false, &[&hello(1, 0), OK].concat(), cut, false);
        assert_eq!(seen.events, ["connected", "response 1 200 \"a\""], "cut {cut}");
    }
}

#[test]
fn a_link_that_ends_at_once_was_up_all_the_same_if_a_frame_came_before() {
    let oneway = &b"\0\0\0\0GET /a HTTP/1.1\r\nHost: h\r\n\r\n"[..];
    let input = [&hello(1, 0), oneway, b"\0\0\0\0no request\r\n\r\n"].concat();
    let by_byte = server_hears(ServerTls::Off, &input, 1, false);
    assert_eq!(by_byte.events.len(), 3, "{by_byte:?}");
    assert_eq!(server_hears(ServerTls::Off, &input, input.len(), false).events, by_byte.events);
}

#[test]
fn every_pair_of_compressions_is_valid_and_independent() {
    // R-compression-independent
    let now = Instant::now();
    for ours in Compression::ALL {
        for theirs in Compression::ALL {
            let mut client = client(ours, now);
            let mut server = server(theirs, now);
            client.send_request(now, &request("GET", "/a", ""), None).unwrap();
            let mut seen = (Seen::default(), Seen::default());
            for _ in 0..3 {
                let out = transmit(|out| client.poll_transmit(now, out));
                server.handle_input(now, &out);
                while let Some(event) = server.poll_event() {
                    seen.1.events.push(server_line(&event));
                    if let httpteleport::proto::ServerEvent::Request { token, .. } = event {
                        server.send_response(now, token, &response(200, "b")).unwrap();
                    }
                }
                let out = transmit(|out| server.poll_transmit(now, out));
                client.handle_input(now, &out);
                seen.0.client(&mut client, now);
                let sent = std::mem::take(&mut seen.0.sent);
                server.handle_input(now, &sent);
            }
            assert_eq!(seen.0.events, ["connected", "response 1 200 \"b\""], "{ours:?} {theirs:?}");
            assert_eq!(seen.1.events, ["connected", "request 1 GET /a \"\""]);
        }
    }
}

#[test]
fn each_bad_byte_is_judged_when_its_part_is_whole_and_not_before() {
    // R-hello-magic, R-hello-version, R-hello-compression: (position, code, bytes until the verdict)
    for at in 0..14 {
        let (code, due) = match at {
            0..=11 => ("hello-magic", 12),
            12 => ("hello-version", 13),
            _ => ("hello-compression", 15),
        };
        for wrong in [0x01u8, 0x20, 0x80, 0xff] {
            let mut bytes = hello(1, 0);
            bytes[at] ^= wrong;
            if at == 13 && bytes[13] <= 2 {
                continue;
            }
            bytes.extend_from_slice(GET);
            let early = server_hears(ServerTls::Off, &bytes[..due - 1], 1, false);
            assert_eq!(early, Seen::default(), "byte {at}: judged too early");
            for cut in [1, usize::MAX] {
                let seen = server_hears(ServerTls::Off, &bytes, cut, true);
                assert_eq!(seen.events, [format!("closed {code}")], "byte {at}");
                // R-hello-no-answer, and the first half of R-hello-compression
                let answer = if at == 13 { hello(1, 0) } else { Vec::new() };
                assert_eq!(seen.sent, answer, "byte {at}");
                let seen = client_hears(false, &bytes, cut, true);
                assert_eq!(seen.events, failed(code), "byte {at}");
                assert_eq!(seen.sent.len(), 15, "nothing more is sent");
            }
            let verdict = server_hears(ServerTls::Off, &bytes[..due], 1, false);
            assert_eq!(verdict.events, [format!("closed {code}")], "byte {at}: judged too late");
            let verdict = client_hears(false, &bytes[..due], 1, false);
            assert_eq!(verdict.events, failed(code), "byte {at}: judged too late");
        }
    }
}

#[test]
fn the_first_check_that_fails_decides() {
    // 2.3: magic, version, compression, TLS, in this order
    for (bytes, code) in [
        (&b"httpteleporX\x01\x09\x01"[..], "hello-magic"),
        (b"httpteleport\x01\x09\x01", "hello-version"),
        (b"httpteleport\x00\x09\x01", "hello-compression"),
        (b"httpteleport\x00\x01\x01", "tls-unavailable"),
    ] {
        for cut in [1, 15] {
            let seen = server_hears(ServerTls::Off, bytes, cut, false);
            assert_eq!(seen.events, [format!("closed {code}")]);
        }
    }
    // A client that asked for TLS: an unknown compression goes before a refusal of TLS.
    assert_eq!(client_hears(true, &hello(9, 0), 15, false).events, failed("hello-compression"));
}

#[test]
fn only_registered_compressions_are_taken() {
    // R-hello-compression, with the TLS byte that 2.5 gives; no handshake starts, no frame is looked at
    for code in 0..=255u8 {
        let bytes = [&hello(code, 0), &[0xff; 40][..]].concat();
        let seen = server_hears(ServerTls::Off, &bytes[..15], 15, false);
        let known = code <= 2 || (cfg!(feature = "zstd") && code == 3);
        assert_eq!(seen.events, [if known { "connected" } else { "closed hello-compression" }]);
        assert_eq!(seen.sent, hello(1, 0));
        if !known {
            assert_eq!(server_hears(ServerTls::Off, &bytes, 55, true), seen, "code {code}");
            for (tls, asked, answer) in [
                (ServerTls::Off, 1, 0),
                (ServerTls::Optional, 0, 0),
                (ServerTls::Optional, 1, 1),
                (ServerTls::Required, 0, 1),
                (ServerTls::Required, 1, 1),
            ] {
                let seen = server_hears(tls, &hello(code, asked), 15, false);
                assert_eq!(seen.events, ["closed hello-compression"], "{tls:?} {asked}");
                assert_eq!(seen.sent, hello(1, answer), "{tls:?} {asked}");
            }
            assert_eq!(client_hears(false, &bytes, 55, true).events, failed("hello-compression"));
        }
    }
}

#[test]
fn eof_at_each_position_is_a_truncated_hello() {
    // R-hello-truncated, R-hello-no-answer
    for at in 0..15 {
        let seen = server_hears(ServerTls::Optional, &hello(1, 0)[..at], 1, true);
        assert_eq!(seen.events, ["closed hello-truncated"], "EOF after {at} bytes");
        assert_eq!(seen.sent, b"", "EOF after {at} bytes");
        for tls in [false, true] {
            let seen = client_hears(tls, &hello(1, 1)[..at], 1, true);
            assert_eq!(seen.events, failed("hello-truncated"), "EOF after {at} bytes");
        }
    }
    // 2.3: a shorter wrong start that ends is `hello-truncated` too; a bad version that did arrive goes first.
    assert_eq!(server_hears(ServerTls::Off, b"GET / HTTP/", 3, true).events, ["closed hello-truncated"]);
    let version = b"httpteleport\x07";
    assert_eq!(server_hears(ServerTls::Off, version, 1, true).events, ["closed hello-version"]);
    assert_eq!(client_hears(false, version, 1, true).events, failed("hello-version"));
}

#[test]
fn eof_right_after_the_hello_is_a_clean_close() {
    // R-eof-clean; the server has answered the hello all the same
    let seen = server_hears(ServerTls::Off, &hello(1, 0), 15, true);
    assert_eq!(seen.events, ["connected", "closed -"]);
    assert_eq!(seen.sent, hello(1, 0));
    let now = Instant::now();
    let mut server = tls_server(ServerTls::Off, now);
    server.handle_input(now, &hello(1, 0));
    server.handle_eof(now);
    assert_eq!(transmit(|out| server.poll_transmit(now, out)), hello(1, 0), "in one go");
}

/// 2.5, the server's rows: setting, byte of the client, byte of the answer, what follows.
const SERVER_TLS: [(ServerTls, u8, u8, &str); 12] = [
    (ServerTls::Off, 0, 0, "connected"),
    (ServerTls::Off, 1, 0, "closed tls-unavailable"),
    (ServerTls::Off, 2, 0, "closed tls-unavailable"),
    (ServerTls::Off, 255, 0, "closed tls-unavailable"),
    (ServerTls::Optional, 0, 0, "connected"),
    (ServerTls::Optional, 1, 1, "start-tls"),
    (ServerTls::Optional, 2, 1, "start-tls"),
    (ServerTls::Optional, 255, 1, "start-tls"),
    (ServerTls::Required, 0, 1, "closed tls-required"),
    (ServerTls::Required, 1, 1, "start-tls"),
    (ServerTls::Required, 2, 1, "start-tls"),
    (ServerTls::Required, 255, 1, "start-tls"),
];

#[test]
fn a_server_meets_each_wish_for_tls_by_the_table() {
    // R-tls-echo, R-tls-unavailable, R-tls-required, R-tls-byte-read
    for (setting, asked, answer, then) in SERVER_TLS {
        for cut in [1, usize::MAX] {
            // What follows the hello would be a request: only a plain link reads it.
            let bytes = [&hello(1, asked), GET].concat();
            let seen = server_hears(setting, &bytes, cut, false);
            assert_eq!(seen.sent, hello(1, answer), "{setting:?} asked {asked}");
            let request = (then == "connected").then_some("request 1 GET /a \"\"");
            let expected: Vec<_> = std::iter::once(then).chain(request).collect();
            assert_eq!(seen.events, expected, "{setting:?} asked {asked}");
        }
    }
}

#[test]
fn a_client_meets_each_answer_about_tls_by_the_table() {
    // R-tls-refused, R-tls-plain-ignores, R-tls-byte-read: (asked, byte of the server, what follows)
    for (asked, byte, then) in [
        (false, 0, "connected"),
        (false, 1, "connected"),
        (false, 255, "connected"),
        (true, 0, "refused"),
        (true, 1, "start-tls"),
        (true, 2, "start-tls"),
        (true, 255, "start-tls"),
    ] {
        for cut in [1, usize::MAX] {
            let seen = client_hears(asked, &hello(1, byte), cut, false);
            let frames = frames_after_hello(&seen.sent).len();
            match then {
                "refused" => assert_eq!(seen.events, failed("tls-refused"), "never in clear"),
                then => assert_eq!(seen.events, [then], "asked {asked}, {byte}"),
            }
            assert_eq!(frames, usize::from(then == "connected"), "asked {asked}, {byte}");
        }
    }
}

#[test]
fn a_client_that_was_refused_tls_does_not_go_on_in_clear() {
    // R-tls-refused: no byte of the request leaves, whatever is asked of the connection later
    let now = Instant::now();
    let mut client = tls_client(true, now);
    client.send_request(now, &request("GET", "/secret", ""), None).unwrap();
    assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello(1, 1));
    client.handle_input(now, &[&hello(1, 0), OK].concat());
    client.handle_tls_established(now);
    client.flush();
    client.handle_timeout(now + Duration::from_secs(60));
    assert!(client.send_request(now, &request("GET", "/secret", ""), None).is_err());
    assert!(transmit(|out| client.poll_transmit(now, out)).is_empty());
    assert!(client.is_closed());
}

#[test]
fn start_tls_comes_only_once_the_own_hello_has_left() {
    let now = Instant::now();
    for setting in [ServerTls::Optional, ServerTls::Required] {
        let mut server = tls_server(setting, now);
        assert_eq!(server.handle_input(now, &hello(1, 1)), 15);
        assert!(server.poll_event().is_none(), "the hello is still here");
        server.handle_tls_established(now);
        assert!(server.poll_event().is_none() && server.is_handshaking(), "too early to count");
        assert_eq!(transmit(|out| server.poll_transmit(now, out)), hello(1, 1));
        assert_eq!(server.poll_event().map(|e| server_line(&e)).as_deref(), Some("start-tls"));
        assert!(server.poll_event().is_none());
    }
    // A client whose hello has not been taken yet (a peer that speaks too soon)
    let mut client = tls_client(true, now);
    client.handle_input(now, &hello(1, 1));
    assert!(client.poll_event().is_none());
    assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello(1, 1));
    assert_eq!(client.poll_event().map(|e| client_line(&e)).as_deref(), Some("start-tls"));
}

#[test]
fn nothing_is_consumed_or_sent_between_the_hello_and_tls() {
    // R-tls-boundary
    let now = Instant::now();
    let mut server = tls_server(ServerTls::Optional, now);
    let input = [&hello(1, 1), GET].concat();
    assert_eq!(server.handle_input(now, &input), 15, "exactly the hello");
    assert_eq!(transmit(|out| server.poll_transmit(now, out)), hello(1, 1));
    assert!(!server.wants_read() && server.is_handshaking());
    assert_eq!(server.handle_input(now, GET), 0, "not read as frames");
    server.handle_tls_established(now);
    assert!(server.wants_read() && !server.is_handshaking());
    // The compression streams start inside TLS.
    assert_eq!(server.handle_input(now, GET), GET.len());
    let events: Vec<_> = std::iter::from_fn(|| server.poll_event()).map(|e| server_line(&e)).collect();
    assert_eq!(events, ["start-tls", "connected", "request 1 GET /a \"\""]);

    let mut client = tls_client(true, now);
    client.send_request(now, &request("POST", "/a", "x"), None).unwrap();
    client.send_oneway(now, &request("GET", "/one", "")).unwrap();
    client.flush();
    assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello(1, 1));
    assert_eq!(client.handle_input(now, &[&hello(1, 1), OK].concat()), 15);
    client.flush();
    assert!(transmit(|out| client.poll_transmit(now, out)).is_empty());
    assert!(!client.wants_read());
    assert_eq!(client.handle_input(now, OK), 0);
    client.handle_tls_established(now);
    assert_eq!(frames(&transmit(|out| client.poll_transmit(now, out))).len(), 2);
    assert_eq!(client.handle_input(now, OK), OK.len());
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).map(|e| client_line(&e)).collect();
    assert_eq!(events, ["start-tls", "connected", "response 1 200 \"a\""]);
}

#[test]
fn a_tls_handshake_that_fails_or_ends_closes_and_never_goes_on_in_clear() {
    // R-tls-handshake-failed, 6.3: the TLS layer's error has no code of the text, but the request is known unsent.
    let now = Instant::now();
    for by_eof in [true, false] {
        let mut server = tls_server(ServerTls::Optional, now);
        let mut seen = Seen::default();
        server.handle_input(now, &hello(1, 1));
        seen.server(&mut server, now);
        if by_eof {
            server.handle_eof(now)
        } else {
            server.handle_transport_error(now)
        }
        server.handle_tls_established(now);
        seen.server(&mut server, now);
        assert_eq!(seen.events, ["start-tls", "closed transport"]);
        assert_eq!(seen.sent, hello(1, 1));

        let mut client = tls_client(true, now);
        let mut seen = Seen::default();
        client.send_request(now, &request("GET", "/a", ""), None).unwrap();
        seen.client(&mut client, now);
        client.handle_input(now, &hello(1, 1));
        if by_eof {
            client.handle_eof(now)
        } else {
            client.handle_transport_error(now)
        }
        client.handle_tls_established(now);
        seen.client(&mut client, now);
        assert_eq!(seen.events[1..], failed("transport"));
        assert_eq!(seen.sent, hello(1, 1));
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn the_hello_has_one_deadline_that_arriving_bytes_do_not_move() {
    // R-hello-timeout, R-deadline-fixed: default 3 s from the establishment, TLS included
    let base = Instant::now();
    for heard in 0..15 {
        let due = base + Duration::from_secs(3);
        let mut server = tls_server(ServerTls::Off, base);
        let mut client = tls_client(false, base);
        client.send_request(base, &request("GET", "/a", ""), None).unwrap();
        let mut seen = (Seen::default(), Seen::default());
        for (at, byte) in hello(1, 0)[..heard].iter().enumerate() {
            let now = base + 100 * MS * (at as u32 + 1);
            server.handle_input(now, &[*byte]);
            client.handle_input(now, &[*byte]);
            assert_eq!(server.next_timer(), Some((Timer::Hello, due)));
            assert_eq!(client.next_timer(), Some((Timer::Hello, due)));
        }
        for (now, over) in [(due - MS, false), (due, true), (due, true), (due + MS, true)] {
            server.handle_timeout(now);
            client.handle_timeout(now);
            seen.0.client(&mut client, now);
            seen.1.server(&mut server, now);
            assert_eq!((client.is_closed(), server.is_closed()), (over, over));
        }
        assert_eq!(seen.0.events, failed("hello-timeout"));
        assert_eq!(seen.1.events, ["closed hello-timeout"]);
        assert_eq!(seen.1.sent, b"", "R-hello-no-answer");
        assert_eq!((server.next_timer(), client.next_timer()), (None, None));
    }
}

#[test]
fn a_wrong_start_that_stalls_before_twelve_bytes_times_out() {
    // 2.3: magic is judged at 12 bytes and not before
    let base = Instant::now();
    let (mut server, mut seen) = (tls_server(ServerTls::Off, base), Seen::default());
    server.handle_input(base, b"GET / HTTP/");
    server.handle_timeout(base + Duration::from_secs(3));
    seen.server(&mut server, base + Duration::from_secs(3));
    assert_eq!(seen.events, ["closed hello-timeout"]);
}

#[test]
fn the_deadline_of_the_hello_covers_tls_and_then_goes() {
    let base = Instant::now();
    let timeout = 700 * MS;
    let config = Config { hello_timeout: timeout, ..plain() };
    for established in [false, true] {
        let mut server = ServerConnection::new(ServerConfig { config: config.clone(), tls: ServerTls::Optional }, base);
        let mut client = ClientConnection::new(ClientConfig { config: config.clone(), tls: true }, base);
        let mut seen = (Seen::default(), Seen::default());
        seen.0.client(&mut client, base);
        let then = base + 600 * MS;
        server.handle_input(then, &seen.0.sent);
        seen.1.server(&mut server, then);
        client.handle_input(then, &seen.1.sent);
        seen.0.client(&mut client, then);
        let hello = Some((Timer::Hello, base + timeout));
        assert_eq!((server.next_timer(), client.next_timer()), (hello, hello));
        if established {
            server.handle_tls_established(then);
            client.handle_tls_established(then);
            assert_eq!((server.next_timer(), client.next_timer()), (None, None));
        }
        server.handle_timeout(base + timeout);
        client.handle_timeout(base + timeout);
        seen.0.client(&mut client, base + timeout);
        seen.1.server(&mut server, base + timeout);
        let end = if established { "connected" } else { "closed hello-timeout" };
        assert_eq!(seen.0.events, ["start-tls", end]);
        assert_eq!(seen.1.events, ["start-tls", end]);
    }
}

#[test]
fn bytes_after_a_failed_hello_are_dropped() {
    // R-error-stop: taken and forgotten, so that a driver does not offer them for ever
    let now = Instant::now();
    for tls in TLS {
        let mut server = tls_server(tls, now);
        assert_eq!(server.handle_input(now, b"GET / HTTP/1.1\r\n\r\n"), 18);
        assert!(server.is_closed() && !server.wants_read() && !server.is_handshaking());
        assert_eq!(server.handle_input(now, &hello(1, 0)), 15);
        server.handle_eof(now);
        let events: Vec<_> = std::iter::from_fn(|| server.poll_event()).map(|e| server_line(&e)).collect();
        assert_eq!(events, ["closed hello-magic"], "one reason (R-error-once)");
    }
    let body = Bytes::from_static(b"x");
    let mut client = tls_client(false, now);
    client.handle_input(now, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(client.send_request(now, &request("POST", "/", body), None).is_err());
}
