//! Messages, read by the core and by the reader of [`crate::reference`]: both must come to the same.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, RequestError, ServerConfig, ServerConnection,
    ServerEvent,
};

use crate::links::{HELLO_BYTES, hello, small_limits};
use crate::reference::{self, End, Limits, Message, Outcome, Role};

/// The first byte says who reads: a server; or a client, whose first request, which has id 1, was HEAD or GET. Then come
/// frames; of the first one only the message.
pub fn check(input: &[u8]) {
    let Some((who, rest)) = input.split_first() else { return };
    let plain = [&1u32.to_le_bytes()[..], rest].concat();
    let limits = small_limits(64);
    let known = Limits {
        head: limits.head_bytes,
        fields: limits.header_count,
        body: limits.body_bytes as u64,
        message: limits.message_bytes,
    };
    let config = || Config { compression: Compression::None, limits: small_limits(64), ..Config::default() };
    let (seen, core_end, (judged, end)) = match who % 3 {
        0 => {
            let (seen, end) = read_requests(config(), &plain);
            (seen, end, reference::read(&plain, |_, _| Role::Server, known))
        }
        to_head => {
            let to_head = to_head == 2;
            let (seen, end) = read_responses(config(), &plain, to_head);
            // Only the first answers the request.
            let role = |id, before| Role::Client { to_head: to_head && id == 1 && before == 0 };
            let (mut judged, mut end_judged) = reference::read(&plain, role, known);
            if let Some(last) = last_before_goodbye(&judged) {
                judged.truncate(last + 1);
                end_judged = End::Boundary;
            }
            judged = only_first(judged);
            (seen, end, (judged, end_judged))
        }
    };
    assert_eq!(seen.len(), judged.len(), "core {seen:?}, reference {judged:?}");
    for (seen, judged) in seen.iter().zip(&judged) {
        assert_same(seen, judged);
    }
    match end {
        End::Boundary => assert_eq!(core_end, None),
        End::Inside => assert_eq!(core_end, Some("truncated")),
        End::InsideOf(code) => {
            // Which of them is found first depends on when the start line is looked at.
            let all = [Some(code), Some("truncated"), Some("head-too-large")];
            assert!(all.contains(&core_end), "{core_end:?}, {code}");
        }
        End::Error(code) => assert_eq!(core_end, Some(code)),
    }
}

/// Where a client closes that has read a goodbye: there, or where its one request is answered (R-goodbye-heed).
fn last_before_goodbye(judged: &[(u32, Outcome)]) -> Option<usize> {
    let is_close = |value: &[u8]| value.split(|b| *b == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"close"));
    let is_goodbye = |outcome: &Outcome| match outcome {
        Outcome::Delivered(message) => {
            let mut fields = message.fields.iter();
            message.first == b"503" && fields.any(|(name, value)| name == "connection" && is_close(value))
        }
        _ => false,
    };
    let goodbye = judged.iter().position(|(id, outcome)| *id == 0 && is_goodbye(outcome))?;
    let answer = judged.iter().position(|(id, _)| *id == 1)?;
    Some(goodbye.max(answer))
}

/// What answers nobody is not shown.
fn only_first(judged: Vec<(u32, Outcome)>) -> Vec<(u32, Outcome)> {
    let at = judged.iter().position(|(id, _)| *id == 1);
    judged.into_iter().enumerate().filter(|(n, _)| at == Some(*n)).map(|(_, outcome)| outcome).collect()
}

fn assert_same(seen: &(u32, Outcome), judged: &(u32, Outcome)) {
    match (seen, judged) {
        ((id, Outcome::Delivered(seen)), (id_judged, Outcome::Delivered(judged))) => {
            assert_eq!(id, id_judged);
            assert_eq!(seen.first, judged.first);
            assert_eq!(seen.fields, judged.fields);
            assert_eq!(seen.body, judged.body);
            // R-read-target leaves the form of these free.
            if !judged.target.iter().any(|b| b"\"<>`#".contains(b)) {
                assert_eq!(seen.target, judged.target);
            }
        }
        _ => assert_eq!(seen, judged),
    }
}

/// The error of a link ends it in silence here, since an end of file follows that then says nothing.
type Reading = (Vec<(u32, Outcome)>, Option<&'static str>);

fn read_requests(config: Config, plain: &[u8]) -> Reading {
    let now = Instant::now();
    let mut server = ServerConnection::new(ServerConfig { config, ..ServerConfig::default() }, now);
    let wire = [&hello(1)[..], plain].concat();
    let (mut seen, mut end) = (Vec::new(), None);
    let mut at = 0;
    let mut eof = false;
    loop {
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Request { token, request } => {
                    seen.push((token.id(), Outcome::Delivered(of_request(request))));
                    server.discard(token);
                }
                ServerEvent::Oneway { request } => seen.push((0, Outcome::Delivered(of_request(request)))),
                ServerEvent::Refused { id, error } => seen.push((id, Outcome::Refused(error.code()))),
                ServerEvent::Closed { error } => end = error.map(|error| error.code()),
                _ => {}
            }
        }
        server.poll_transmit(now, &mut Vec::new());
        if server.is_closed() && server.next_timer().is_none() && eof {
            while let Some(event) = server.poll_event() {
                if let ServerEvent::Closed { error } = event {
                    end = error.map(|error| error.code());
                }
            }
            return (seen, end);
        }
        if at < wire.len() {
            at += server.handle_input(now, &wire[at..]);
        } else {
            server.handle_eof(now);
            eof = true;
        }
    }
}

fn read_responses(config: Config, plain: &[u8], to_head: bool) -> Reading {
    let now = Instant::now();
    let mut client = ClientConnection::new(ClientConfig { config, tls: false }, now);
    let method = if to_head { "HEAD" } else { "GET" };
    let request = Request::builder().method(method).uri("http://h/").body(Bytes::new()).expect("well-formed");
    let asked = client.send_request(now, &request, None).expect("there is room");
    assert_eq!(asked.get(), 1);
    let wire = [&hello(1)[..], plain].concat();
    let (mut seen, mut end) = (Vec::new(), None);
    let (mut at, mut eof) = (0, false);
    loop {
        client.poll_transmit(now, &mut Vec::new());
        while let Some(event) = client.poll_event() {
            match event {
                ClientEvent::Response { id, response } => {
                    seen.push((id.get(), Outcome::Delivered(of_response(response))));
                }
                ClientEvent::Failed { id, error: RequestError::Refused(error) } => {
                    seen.push((id.get(), Outcome::Refused(error.code())));
                }
                // `closed` says that the request was still open.
                ClientEvent::Closed { error } => end = error.map(|error| error.code()).filter(|code| *code != "closed"),
                _ => {}
            }
        }
        if eof {
            return (seen, end);
        }
        if at < wire.len() {
            // The hello alone first, so that the request has left before it is answered: until then its id stays taken
            // (R-response-match).
            let end = if at < HELLO_BYTES { HELLO_BYTES } else { wire.len() };
            at += client.handle_input(now, &wire[at..end]);
        } else {
            client.handle_eof(now);
            eof = true;
        }
    }
}

fn of_request(request: Request<Bytes>) -> Message {
    let first = request.method().as_str().as_bytes().to_vec();
    let target = request.uri().to_string().into_bytes();
    Message { first, target, fields: fields(request.headers()), body: request.into_body().to_vec() }
}

fn of_response(response: Response<Bytes>) -> Message {
    let first = response.status().as_str().as_bytes().to_vec();
    Message { first, target: Vec::new(), fields: fields(response.headers()), body: response.into_body().to_vec() }
}

fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}
