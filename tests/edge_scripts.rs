//! The edge scripts of the original (40 against its server, 22 against its client) run against the core. Where the
//! core does as the original did, the recording itself is the expectation; where the specification deviates on
//! purpose, the row names the requirement and the hazard.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use httpteleport::proto::{ClientEvent, ServerEvent};
use serde_json::Value;
use support::*;

/// How the link stands when the script is over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Open,
    Closed(&'static str),
}
use End::{Closed, Open};

/// What the script leads to.
#[derive(Clone, Copy)]
enum Expected {
    /// What the recording says.
    Same,
    /// The requirement because of which it is not; the requests that reach the handler (or, of a client, the outcomes
    /// of the request); the responses written, as `ID STATUS BODY`.
    Deviates(&'static str, &'static [&'static str], &'static [&'static str]),
}
use Expected::{Deviates, Same};

const GET: &str = "GET /a \"\"";
const POST_ABCD: &str = "POST /a \"abcd\"";

#[rustfmt::skip]
const SERVER: [(&str, Expected, End); 40] = [
    ("byte-by-byte", Same, Open),
    ("two-frames-one-write", Same, Open),
    ("bad-magic", Same, Closed("hello-magic")),
    ("bad-magic-short", Same, Closed("hello-magic")),
    ("bad-version", Same, Closed("hello-version")),
    ("unknown-compression", Same, Closed("hello-compression")),
    ("tls-asked-plain-server", Same, Closed("tls-unavailable")),
    ("tls-byte-2", Same, Closed("tls-unavailable")),
    ("truncated-id", Same, Closed("truncated")),
    ("truncated-head", Same, Closed("truncated")),
    // The original wrote the oneway's response into the next one.
    ("id-zero", Deviates("R-id-oneway", &[GET, GET], &["5 200 GET /a \"\""]), Open),
    ("id-reused-in-flight", Same, Open),
    ("id-max", Same, Open),
    ("ids-descending", Same, Open),
    ("garbage-head", Same, Closed("start-line")),
    ("http10", Same, Open),
    ("no-host", Same, Open),
    ("lf-only", Same, Open),
    ("leading-crlf", Same, Open),
    ("obs-fold", Deviates("R-read-refuse R-refuse-server", &[], &["1 400"]), Open),
    ("space-before-colon", Deviates("R-read-refuse R-refuse-server", &[], &["1 400"]), Open),
    ("connection-close", Same, Open),
    ("get-with-body", Deviates("R-read-body-not-allowed (H1)", &[], &[]), Closed("body-not-allowed")),
    ("expect-continue", Deviates("R-read-expect (H2)", &[POST_ABCD, GET],
        &["1 200 POST /a \"abcd\"", "2 200 GET /a \"\""]), Open),
    ("post-no-length", Same, Open),
    ("post-chunked", Same, Open),
    ("post-cl-and-chunked", Deviates("R-read-length-and-chunked (H4)", &[], &[]), Closed("length-and-chunked")),
    ("post-two-lengths", Deviates("R-read-length (H4)", &[], &[]), Closed("content-length")),
    ("post-bad-length", Deviates("R-read-length (H4)", &[], &[]), Closed("content-length")),
    ("post-negative-length", Deviates("R-read-length (H4)", &[], &[]), Closed("content-length")),
    ("head-too-large", Same, Closed("head-too-large")),
    ("flate-garbage", Same, Closed("deflate-corrupt")),
    // The original ran the request and lost its response; ours is answered before the close.
    ("flate-final-block", Deviates("R-deflate-no-final R-server-drain (H11)", &[GET], &["1 200 GET /a \"\""]),
        Closed("deflate-ended")),
    ("flate-stored", Same, Open),
    ("flate-none", Same, Open),
    ("snappy-no-stream-id", Same, Closed("snappy-stream-id")),
    ("snappy-bad-crc", Same, Closed("snappy-checksum")),
    ("snappy-padding", Same, Open),
    ("snappy-reserved-unskippable", Same, Closed("snappy-chunk-type")),
    ("snappy-frame-split", Same, Open),
];

#[rustfmt::skip]
const CLIENT: [(&str, Expected, End); 22] = [
    ("ok", Same, Open),
    ("unknown-id-first", Same, Open),
    ("reply-id-zero", Same, Open),
    ("duplicate-response", Same, Open),
    ("bad-magic", Same, Closed("hello-magic")),
    ("bad-version", Same, Closed("hello-version")),
    ("unknown-compression", Same, Closed("hello-compression")),
    ("tls-byte-set-by-server", Same, Open),
    ("closed-after-hello", Same, Closed("closed")),
    ("closed-inside-response", Same, Closed("truncated")),
    ("chunked-response", Same, Open),
    ("no-length-response", Deviates("R-read-no-length (H5)", &["error: length-required"], &[]),
        Closed("length-required")),
    ("100-then-200", Same, Open),
    ("103-then-200", Deviates("R-read-refuse R-refuse-client", &["error: refused interim-response"], &[]), Open),
    ("204", Same, Open),
    ("304-with-length", Same, Open),
    ("head-with-body", Deviates("R-read-head-response (H3)", &["status 200 body \"\""], &[]), Closed("head-ambiguous")),
    ("head-without-body", Deviates("R-read-head-response (H3)", &["status 200 body \"\""], &[]),
        Closed("head-ambiguous")),
    ("garbage", Same, Closed("start-line")),
    ("server-flate", Same, Open),
    ("server-snappy", Same, Open),
    // Queued at once, the request is registered before a byte of it leaves (R-register-before-write).
    ("unasked-early", Same, Open),
];

fn scripts(file: &str, table: &[(&str, Expected, End)]) -> Vec<Value> {
    let Value::Array(scripts) = json(&data(file)) else { panic!("{file} is no list") };
    let recorded: BTreeSet<_> = scripts.iter().map(|s| s["name"].as_str().unwrap()).collect();
    let expected: BTreeSet<_> = table.iter().map(|row| row.0).collect();
    assert_eq!(recorded, expected, "{file} and the table have the same scripts");
    assert_eq!((scripts.len(), table.len()), (expected.len(), expected.len()), "no name twice");
    scripts
}

fn row<'t>(table: &'t [(&str, Expected, End)], script: &Value) -> (&'t str, Expected, End) {
    *table.iter().find(|row| script["name"] == row.0).unwrap()
}

fn chunks(script: &Value, key: &str) -> Vec<Vec<u8>> {
    let mut chunks: Vec<_> = script[key].as_array().unwrap().iter().map(unhex).collect();
    if script["name"] == "unknown-compression" && chunks[0][13] == 3 {
        // It has been registered since.
        chunks[0][13] = 4;
    }
    chunks
}

/// The same bytes, one by one.
fn singly(chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
    chunks.iter().flatten().map(|byte| vec![*byte]).collect()
}

fn compression(name: &Value) -> httpteleport::proto::Compression {
    use httpteleport::proto::Compression;
    match name.as_str().unwrap() {
        "none" => Compression::None,
        "flate" => Compression::Deflate,
        "snappy" => Compression::Snappy,
        other => panic!("{other}"),
    }
}

#[derive(Debug, PartialEq)]
struct Served {
    requests: Vec<String>,
    bytes: Vec<u8>,
    end: End,
}

/// Feeds a script to a server whose handler answers at once, as the original's did.
fn serve(script: &Value, chunks: &[Vec<u8>], eof: bool) -> Served {
    let now = Instant::now();
    let mut server = server(compression(&script["server_compress"]), now);
    let mut served = Served { requests: Vec::new(), bytes: Vec::new(), end: Open };
    let feeds = chunks.iter().map(|chunk| &chunk[..]).map(Some).chain(eof.then_some(None));
    for feed in feeds {
        match feed {
            Some(chunk) => assert_eq!(server.handle_input(now, chunk), chunk.len()),
            None => server.handle_eof(now),
        }
        loop {
            server.poll_transmit(now, &mut served.bytes);
            let Some(event) = server.poll_event() else {
                break;
            };
            assert_eq!(served.end, Open, "nothing follows the close");
            match event {
                ServerEvent::Request { token, request } => {
                    let answer = request_line(&request);
                    served.requests.push(answer.clone());
                    server.send_response(now, token, &response(200, answer)).unwrap();
                }
                ServerEvent::Oneway { request } => served.requests.push(request_line(&request)),
                ServerEvent::Closed { error } => {
                    served.end = Closed(error.map_or("no error", |error| error.kind().code()));
                }
                ServerEvent::Connected { .. } | ServerEvent::Refused { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    served
}

/// `ID STATUS BODY` of what a server wrote; of refusals, whose bodies are free, only `ID STATUS`.
fn answers(bytes: &[u8]) -> Vec<String> {
    let answer = |(id, message): (u32, Message)| {
        let (status, body) = (&message.start[9..12], String::from_utf8_lossy(&message.body));
        if status == "200" { format!("{id} {status} {body}") } else { format!("{id} {status}") }
    };
    let mut answers: Vec<_> = frames_after_hello(bytes).into_iter().map(answer).collect();
    answers.sort();
    answers
}

#[test]
fn server_scripts_end_as_recorded_or_as_the_requirement_says() {
    for script in scripts("edge-server.json", &SERVER) {
        let (name, expected, end) = row(&SERVER, &script);
        let chunks = chunks(&script, "client_chunks_hex");
        // The recording does not say where the client closed its direction; the names do.
        let eof = name.starts_with("truncated-");
        let served = serve(&script, &chunks, eof);
        assert_eq!(served.end, end, "{name}");
        let recorded = unhex(&script["server_bytes_hex"]);
        // Bad magic and version get no hello (R-hello-no-answer); everyone else gets the same one.
        assert_eq!(served.bytes.get(..15), recorded.get(..15), "{name}: hello");
        match expected {
            Same => {
                let reached = script["requests_that_reached_the_handler"].as_u64().unwrap();
                assert_eq!(served.requests.len() as u64, reached, "{name}");
                assert_eq!(answers(&served.bytes), answers(&recorded), "{name}");
                assert_eq!(script["server_closed_connection"], end != Open, "{name}");
            }
            Deviates(rule, requests, responses) => {
                assert_cited(rule);
                assert_eq!(served.requests, requests, "{name}: {rule}");
                assert_eq!(answers(&served.bytes), responses, "{name}: {rule}");
                let reached = script["requests_that_reached_the_handler"].as_u64().unwrap();
                let same = reached as usize == requests.len()
                    && answers(&recorded) == responses
                    && script["server_closed_connection"] == (end != Open);
                assert!(!same, "{name} is as the original: say so in the table");
            }
        }
        let singly = serve(&script, &singly(&chunks), eof);
        assert_eq!(singly.requests, served.requests, "{name} byte by byte (R-cut-any)");
        assert_eq!(answers(&singly.bytes), answers(&served.bytes), "{name} byte by byte");
        assert_eq!(singly.end, served.end, "{name} byte by byte (R-cut-any)");
    }
}

#[derive(Debug, PartialEq)]
struct Asked {
    /// As the recording has it: `status 200 body "a"`, or `error: ` and why.
    outcomes: Vec<String>,
    bytes: Vec<u8>,
    end: End,
}

/// Feeds a script to a client that has one request under way.
fn ask(script: &Value, chunks: &[Vec<u8>]) -> Asked {
    let now = Instant::now();
    let mut client = client(compression(&script["client_compress"]), now);
    let method = script["request_method"].as_str().unwrap();
    let id = client.send_request(now, &request(method, "/a", Bytes::new()), None).unwrap();
    assert_eq!(id.get(), 1, "the scripts answer id 1");
    let mut asked = Asked { outcomes: Vec::new(), bytes: Vec::new(), end: Open };
    let eof = script["server_closes_after"].as_bool().unwrap();
    client.poll_transmit(now, &mut asked.bytes);
    let feeds = chunks.iter().map(|chunk| &chunk[..]).map(Some).chain(eof.then_some(None));
    for feed in feeds {
        match feed {
            Some(chunk) => assert_eq!(client.handle_input(now, chunk), chunk.len()),
            None => client.handle_eof(now),
        }
        client.poll_transmit(now, &mut asked.bytes);
        while let Some(event) = client.poll_event() {
            assert_eq!(asked.end, Open, "nothing follows the close");
            match event {
                ClientEvent::Response { id: of, response } => {
                    assert_eq!(of, id);
                    asked.outcomes.push(outcome(&response));
                }
                ClientEvent::Failed { id: of, error } => {
                    assert_eq!(of, id);
                    let failure = failure(&error);
                    let code = failure.trim_end_matches(" maybe").trim_end_matches(" unsent");
                    asked.outcomes.push(format!("error: {code}"));
                }
                ClientEvent::Closed { error } => {
                    asked.end = Closed(error.map_or("no error", |error| error.kind().code()));
                }
                ClientEvent::Connected { .. } | ClientEvent::Unmatched { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    asked
}

fn outcome(response: &Response<Bytes>) -> String {
    let body = String::from_utf8_lossy(response.body());
    format!("status {} body {body:?}", response.status().as_u16())
}

#[test]
fn client_scripts_end_as_recorded_or_as_the_requirement_says() {
    for script in scripts("edge-client.json", &CLIENT) {
        let (name, expected, end) = row(&CLIENT, &script);
        let chunks = chunks(&script, "server_chunks_hex");
        let asked = ask(&script, &chunks);
        assert_eq!(asked.end, end, "{name}");
        assert_eq!(asked.bytes[..15], unhex(&script["client_bytes_hex"])[..15], "{name}: hello");
        let recorded: Vec<_> = script["outcome_of_each_call"].as_array().unwrap().to_vec();
        let recorded: Vec<_> = recorded.iter().map(|outcome| outcome.as_str().unwrap()).collect();
        match expected {
            Same if recorded[0].starts_with("error: ") => {
                // The original's error texts are its own; ours is the code with which the link ended.
                let Closed(code) = end else { panic!("{name}: an error, and the link is open") };
                assert_eq!(asked.outcomes, [format!("error: {code}")], "{name}");
            }
            Same => assert_eq!(asked.outcomes, recorded, "{name}"),
            Deviates(rule, outcomes, written) => {
                assert_cited(rule);
                assert!(written.is_empty(), "a client's table has no responses");
                assert_eq!(asked.outcomes, outcomes, "{name}: {rule}");
                assert_ne!(outcomes, recorded, "{name} is as the original: say so in the table");
            }
        }
        // The request, where a good hello let it leave (R-hello-wait), has the original's start line and Host.
        let sent = frames_after_hello(&asked.bytes);
        let sent: Vec<_> = sent.iter().map(|(id, m)| (*id, &m.start, m.field("host"))).collect();
        let theirs = frames_after_hello(&unhex(&script["client_bytes_hex"]));
        let theirs: Vec<_> = theirs.iter().map(|(id, m)| (*id, &m.start, m.field("host"))).collect();
        let hello_alone = ["closed-after-hello", "unasked-early"];
        if hello_alone.contains(&name) {
            // What left depends on who was faster.
            assert!(theirs.is_empty(), "{name}");
        } else if asked.end == Open {
            assert_eq!(sent, theirs, "{name}");
        }
        assert_eq!(ask(&script, &singly(&chunks)).outcomes, asked.outcomes, "{name} byte by byte");
        assert_eq!(ask(&script, &singly(&chunks)).end, asked.end, "{name} byte by byte");
    }
}
