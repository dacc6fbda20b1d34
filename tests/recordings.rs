//! The 36 recorded connections of the original, against the core: what it sent is read exactly, and what the core
//! writes for the same messages is read by decoders that share no code with it.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::time::Instant;

use http::Method;
use httpteleport::proto::{ClientEvent, Compression, ServerEvent};
use proptest::prelude::*;
use support::*;

fn requests_of(events: Vec<ServerEvent>) -> Vec<(u32, Message)> {
    let mut events = events.into_iter();
    assert!(matches!(events.next(), Some(ServerEvent::Connected { .. })));
    events
        .map(|event| match event {
            ServerEvent::Request { token, request } => (token.id(), request_message(&request)),
            ServerEvent::Oneway { request } => (0, request_message(&request)),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn requests_of_the_original_are_read_exactly() {
    let now = Instant::now();
    for recording in recordings() {
        let mut server = server(recording.server_compression, now);
        let events = feed_server(&mut server, now, &recording.client_bytes, std::iter::empty());
        assert!(requests_of(events) == recording.requests, "{}", recording.name);
        assert_eq!(server.pending_requests(), recording.requests.iter().filter(|(id, _)| *id != 0).count());
    }
}

/// A client that has sent the recorded requests and has not yet seen a byte of the server.
fn client_of(recording: &Recording, now: Instant, head_as: &Method) -> httpteleport::proto::ClientConnection {
    let mut client = client(recording.client_compression, now);
    for (id, message) in &recording.requests {
        let mut request = message.request();
        if request.method() == Method::HEAD {
            *request.method_mut() = head_as.clone();
        }
        if *id == 0 {
            client.send_oneway(now, &request).unwrap();
        } else {
            assert_eq!(client.send_request(now, &request, None).unwrap().get(), *id);
        }
    }
    transmit(|out| client.poll_transmit(now, out));
    client
}

fn responses_of(events: Vec<ClientEvent>) -> Vec<(u32, Message)> {
    let mut events = events.into_iter();
    assert!(matches!(events.next(), Some(ClientEvent::Connected { .. })));
    events
        .map(|event| match event {
            ClientEvent::Response { id, response } => (id.get(), response_message(&response)),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn responses_of_the_original_are_read_exactly() {
    let now = Instant::now();
    for recording in recordings() {
        // The original writes a body in answers to HEAD (H3), so its frames are those of a GET. What a client does
        // that did send HEAD is tested below.
        let mut client = client_of(&recording, now, &Method::GET);
        let events = feed_client(&mut client, now, &recording.server_bytes, std::iter::empty());
        let expected: Vec<_> =
            recording.responses.iter().map(|(id, message)| (*id, without_reason(message.clone()))).collect();
        assert!(responses_of(events) == expected, "{}", recording.name);
        assert_eq!(client.pending_requests(), 0, "{}", recording.name);
    }
}

#[test]
fn an_answer_to_head_with_a_length_ends_the_link() {
    // R-read-head-response (H3): nobody can know whether the original's body follows. The head is delivered, the
    // requests behind it fail, and no byte after it is believed.
    let now = Instant::now();
    for recording in recordings().iter().filter(|recording| recording.name.starts_with("methods-")) {
        let mut client = client_of(recording, now, &Method::HEAD);
        let mut events = feed_client(&mut client, now, &recording.server_bytes, std::iter::empty());
        let Some(ClientEvent::Closed { error: Some(error) }) = events.pop() else { panic!() };
        assert_eq!(error.code(), "head-ambiguous");
        let answered: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                ClientEvent::Response { id, response } => Some((id.get(), response)),
                _ => None,
            })
            .collect();
        let head = recording.requests.iter().position(|(_, m)| m.start.starts_with("HEAD")).unwrap();
        assert_eq!(answered.len(), head + 1);
        let (_, response) = answered[head];
        assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
        assert_eq!(response.headers()["content-length"], "13");
        let failed = events.iter().filter(|event| matches!(event, ClientEvent::Failed { .. })).count();
        assert_eq!(answered.len() + failed, recording.requests.len());
    }
}

#[test]
fn independent_decoders_read_what_the_core_writes() {
    let now = Instant::now();
    for recording in recordings() {
        for compression in Compression::ALL {
            let mut client = client(compression, now);
            let mut wire = transmit(|out| client.poll_transmit(now, out));
            client.handle_input(now, b"httpteleport\x00\x01\x00");
            let mut server = server(compression, now);
            let requests = feed_server(&mut server, now, &recording.client_bytes, std::iter::empty());
            let mut tokens = Vec::new();
            for event in requests {
                match event {
                    ServerEvent::Request { token, .. } => tokens.push(token),
                    ServerEvent::Connected { .. } | ServerEvent::Oneway { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let mut answers = transmit(|out| server.poll_transmit(now, out));

            for (id, message) in &recording.requests {
                let request = message.request();
                match id {
                    0 => client.send_oneway(now, &request).unwrap(),
                    _ => drop(client.send_request(now, &request, None).unwrap()),
                }
                client.poll_transmit(now, &mut wire);
            }
            let written = frames(&decompressed(compression, &wire[15..]));
            assert!(written == recording.requests, "{} {compression:?}", recording.name);

            let heads: Vec<u32> = recording
                .requests
                .iter()
                .filter(|(_, message)| message.start.starts_with("HEAD"))
                .map(|(id, _)| *id)
                .collect();
            for (id, message) in &recording.responses {
                let token = tokens.swap_remove(tokens.iter().position(|token| token.id() == *id).unwrap());
                server.send_response(now, token, &message.response()).unwrap();
                server.poll_transmit(now, &mut answers);
            }
            let written: Vec<_> = frames(&decompressed(compression, &answers[15..]))
                .into_iter()
                .map(|(id, message)| (id, without_reason(message)))
                .collect();
            let expected: Vec<_> = recording
                .responses
                .iter()
                .map(|(id, message)| (*id, without_reason(message.clone())))
                .map(|(id, message)| if heads.contains(&id) { (id, to_head(message)) } else { (id, message) })
                .collect();
            assert!(written == expected, "{} {compression:?}", recording.name);
        }
    }
}

/// What the core writes in answer to HEAD for what the original wrote (R-head-response).
fn to_head(message: Message) -> Message {
    let length = message.field("content-length").unwrap().to_vec();
    let mut message = message.without("content-length");
    message.fields.push(("content-length".into(), b"0".to_vec()));
    message.fields.push(("teleport-head-length".into(), length));
    message.fields.sort();
    message.body = bytes::Bytes::new();
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn any_cut_gives_the_same_events(
        cuts in proptest::collection::vec(prop_oneof![4 => 1usize..40, 4 => 1usize..3000, 1 => 1usize..100_000], 1..400),
    ) {
        // R-cut-any
        let now = Instant::now();
        for recording in recordings() {
            let cut = feed_server(&mut server(Compression::None, now), now, &recording.client_bytes, cuts.iter().copied());
            prop_assert!(requests_of(cut) == recording.requests, "{}", recording.name);

            let whole = feed_client(
                &mut client_of(&recording, now, &Method::HEAD), now, &recording.server_bytes, std::iter::empty());
            let cut = feed_client(
                &mut client_of(&recording, now, &Method::HEAD), now, &recording.server_bytes, cuts.iter().copied());
            prop_assert!(format!("{whole:?}") == format!("{cut:?}"), "{}", recording.name);
        }
    }
}

#[test]
fn byte_by_byte_gives_the_same_events() {
    // R-cut-any, at its finest; the recordings with bodies of 200 KB are left to the random cuts.
    let now = Instant::now();
    for recording in recordings().iter().filter(|recording| recording.client_bytes.len() < 60_000) {
        let ones = || std::iter::repeat(1);
        let cut = feed_server(&mut server(Compression::None, now), now, &recording.client_bytes, ones());
        assert!(requests_of(cut) == recording.requests, "{}", recording.name);
        let mut client = client_of(recording, now, &Method::GET);
        let cut = feed_client(&mut client, now, &recording.server_bytes, ones());
        assert_eq!(responses_of(cut).len(), recording.responses.len(), "{}", recording.name);
    }
}
