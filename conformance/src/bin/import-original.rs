//! Writes cases/original/*.scn from conformance/original: the edge scripts and the recordings of the original, with
//! the outcome that the specification asks for.
//!
//! `cargo run -p teleport-conformance --bin import-original`; with `--check` it writes nothing, and fails if a file is
//! not as it would write it.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use teleport_conformance::http1::{Message, given_message};
use teleport_conformance::literal::{quote_all, unhex};
use teleport_conformance::recordings::Recording;
use teleport_conformance::writing::{fields, line, literal, method_and_target};

/// What a script leads to by the specification.
#[derive(Clone, Copy)]
enum Outcome {
    /// What the recording says.
    Same,
    /// Something else: the steps, one a line.
    Deviates(&'static str),
}
use Outcome::{Deviates, Same};

/// Name, rules, outcome, and the code with which the link ends.
type Row = (&'static str, &'static str, Outcome, Option<&'static str>);

const BOTH: &str = "event request 1 \"POST\" \"/a\" body \"abcd\"
event request 2 \"GET\" \"/a\" body \"\"
do respond 1 200 body \"one\"
send frame 1 \"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\none\"
do respond 2 200 body \"two\"
send frame 2 \"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\ntwo\"";
const REFUSED: &str = "send refusal 1 400";
const ONEWAY: &str = "event oneway \"GET\" \"/a\" body \"\"
event request 5 \"GET\" \"/a\" body \"\"
do respond 5 200 body \"five\"
send frame 5 \"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nfive\"";
const DRAINED: &str = "event request 1 \"GET\" \"/a\" body \"\"
do respond 1 200 body \"one\"
send frame 1 \"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\none\"";

#[rustfmt::skip]
const SERVER: [Row; 40] = [
    ("byte-by-byte", "R-cut-any", Same, None),
    ("two-frames-one-write", "R-cut-any R-frame-id-le", Same, None),
    ("bad-magic", "R-hello-magic R-hello-no-answer", Same, Some("hello-magic")),
    ("bad-magic-short", "R-hello-magic R-hello-no-answer", Same, Some("hello-magic")),
    ("bad-version", "R-hello-version R-hello-no-answer", Same, Some("hello-version")),
    ("unknown-compression", "R-hello-compression", Same, Some("hello-compression")),
    ("tls-asked-plain-server", "R-tls-unavailable", Same, Some("tls-unavailable")),
    ("tls-byte-2", "R-tls-byte-read R-tls-unavailable", Same, Some("tls-unavailable")),
    ("truncated-id", "R-eof-truncated", Same, Some("truncated")),
    ("truncated-head", "R-eof-truncated", Same, Some("truncated")),
    // The original wrote the oneway's response into the next one.
    ("id-zero", "R-id-oneway", Deviates(ONEWAY), None),
    ("id-reused-in-flight", "R-id-duplicate-request", Same, None),
    ("id-max", "R-id-opaque", Same, None),
    ("ids-descending", "R-id-opaque", Same, None),
    ("garbage-head", "R-read-unparsable", Same, Some("start-line")),
    ("http10", "R-read-lenient", Same, None),
    ("no-host", "R-read-lenient", Same, None),
    ("lf-only", "R-read-line-end", Same, None),
    ("leading-crlf", "R-read-empty-lines", Same, None),
    ("obs-fold", "R-read-refuse R-refuse-server", Deviates(REFUSED), None),
    ("space-before-colon", "R-read-refuse R-refuse-server", Deviates(REFUSED), None),
    ("connection-close", "R-read-connection-close", Same, None),
    ("get-with-body", "R-read-body-not-allowed", Deviates(""), Some("body-not-allowed")),
    ("expect-continue", "R-read-expect", Deviates(BOTH), None),
    ("post-no-length", "R-read-lenient R-frame-id-le", Same, None),
    ("post-chunked", "R-read-chunked", Same, None),
    ("post-cl-and-chunked", "R-read-length-and-chunked", Deviates(""), Some("length-and-chunked")),
    ("post-two-lengths", "R-read-length", Deviates(""), Some("content-length")),
    ("post-bad-length", "R-read-length", Deviates(""), Some("content-length")),
    ("post-negative-length", "R-read-length", Deviates(""), Some("content-length")),
    ("head-too-large", "R-limit-head", Same, Some("head-too-large")),
    ("flate-garbage", "R-deflate-read", Same, Some("deflate-corrupt")),
    // The original ran the request and lost its response; it is answered before the close.
    ("flate-final-block", "R-deflate-no-final R-server-drain", Deviates(DRAINED), Some("deflate-ended")),
    ("flate-stored", "R-deflate-read", Same, None),
    ("flate-none", "R-compression-independent", Same, None),
    ("snappy-no-stream-id", "R-snappy-stream-id", Same, Some("snappy-stream-id")),
    ("snappy-bad-crc", "R-snappy-checksum", Same, Some("snappy-checksum")),
    ("snappy-padding", "R-snappy-skip", Same, None),
    ("snappy-reserved-unskippable", "R-snappy-chunk-type", Same, Some("snappy-chunk-type")),
    ("snappy-frame-split", "R-cut-any", Same, None),
];

#[rustfmt::skip]
const CLIENT: [Row; 22] = [
    ("ok", "R-frame-id-le", Same, None),
    ("unknown-id-first", "R-response-unmatched", Same, None),
    ("reply-id-zero", "R-id-zero-response", Same, None),
    ("duplicate-response", "R-response-unmatched R-outcome-once", Same, None),
    ("bad-magic", "R-hello-magic R-fail-in-flight", Same, Some("hello-magic")),
    ("bad-version", "R-hello-version R-fail-in-flight", Same, Some("hello-version")),
    ("unknown-compression", "R-hello-compression R-fail-in-flight", Same, Some("hello-compression")),
    ("tls-byte-set-by-server", "R-tls-plain-ignores", Same, None),
    ("closed-after-hello", "R-eof-clean R-fail-in-flight", Same, Some("closed")),
    ("closed-inside-response", "R-eof-truncated R-fail-in-flight", Same, Some("truncated")),
    ("chunked-response", "R-read-chunked", Same, None),
    ("no-length-response", "R-read-no-length", Deviates("event failed 1 length-required delivered maybe"),
        Some("length-required")),
    ("100-then-200", "R-read-continue", Same, None),
    ("103-then-200", "R-read-refuse R-refuse-client", Deviates("event failed 1 interim-response delivered maybe"), None),
    ("204", "R-read-no-body", Same, None),
    ("304-with-length", "R-read-no-body", Same, None),
    ("head-with-body", "R-read-head-response", Deviates("event response 1 200 body \"\""), Some("head-ambiguous")),
    ("head-without-body", "R-read-head-response", Deviates("event response 1 200 body \"\""), Some("head-ambiguous")),
    ("garbage", "R-read-unparsable R-fail-in-flight", Same, Some("start-line")),
    ("server-flate", "R-deflate-read R-compression-independent", Same, None),
    ("server-snappy", "R-snappy-stream-id R-compression-independent", Same, None),
    // Queued at once, the request is registered before a byte of it leaves.
    ("unasked-early", "R-register-before-write R-response-match", Same, None),
];

fn main() -> Result<(), String> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR"));
    let original = suite.join("original");
    let cases = suite.join("cases/original");
    std::fs::create_dir_all(&cases).map_err(|error| error.to_string())?;
    let is_check = std::env::args().any(|argument| argument == "--check");
    let mut written = 0;
    let mut write = |id: &str, text: String| {
        written += 1;
        let path = cases.join(format!("{id}.scn"));
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        if !is_check {
            return std::fs::write(&path, text).map_err(wrong);
        }
        match std::fs::read_to_string(&path).map_err(wrong)? == text {
            true => Ok(()),
            false => Err(format!("{} is not as import-original writes it", path.display())),
        }
    };
    for (file, rows) in [("edge-server.json", &SERVER[..]), ("edge-client.json", &CLIENT[..])] {
        let scripts = std::fs::read(original.join(file)).map_err(|error| format!("{file}: {error}"))?;
        let scripts: Vec<Value> = serde_json::from_slice(&scripts).map_err(|error| format!("{file}: {error}"))?;
        if scripts.len() != rows.len() {
            return Err(format!("{file} has {} scripts, the table {}", scripts.len(), rows.len()));
        }
        for script in &scripts {
            let name = script["name"].as_str().unwrap_or_default();
            let row = rows.iter().find(|row| row.0 == name).ok_or_else(|| format!("{file}: no row for {name:?}"))?;
            let role = if file == "edge-server.json" { "server" } else { "client" };
            let id = format!("original-{role}-{name}");
            let text = if role == "server" { server(script, &id, *row) } else { client(script, &id, *row) };
            write(&id, text.map_err(|error| format!("{name}: {error}"))?)?;
        }
    }
    let folder = std::fs::read_dir(original.join("recordings")).map_err(|error| error.to_string())?;
    let mut paths: Vec<_> = folder.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let recording = Recording::read(&path)?;
        for role in ["server", "client"] {
            let id = format!("original-recording-{name}-{role}");
            let text = recorded(&recording, name, &id, role).map_err(|error| format!("{name}: {error}"))?;
            write(&id, text)?;
        }
    }
    let done = if is_check { "are as they should be in" } else { "written to" };
    println!("{written} cases {done} {}", cases.display());
    Ok(())
}

fn header(id: &str, title: &str, role: &str, rules: &str, compression: &str) -> String {
    let title = title.trim_end_matches('.').replace('\n', " ");
    let compression = if compression == "flate" { "deflate" } else { compression };
    format!(
        "# Written by import-original from conformance/original: change that program, not this file.\nid: {id}\ntitle: \
         {title}\narea: original\nrole: {role}\nlevel: must\nrules: {rules}\nconfig: compression={compression}\n\n"
    )
}

fn chunks(script: &Value, key: &str) -> Result<Vec<u8>, String> {
    let chunks = script[key].as_array().ok_or_else(|| format!("no {key}"))?;
    chunks
        .iter()
        .map(|chunk| unhex(chunk.as_str().unwrap_or_default()))
        .collect::<Result<Vec<_>, _>>()
        .map(|c| c.concat())
}

fn text_of<'v>(script: &'v Value, key: &str) -> Result<&'v str, String> {
    script[key].as_str().ok_or_else(|| format!("no {key}"))
}

fn end(text: &mut String, code: Option<&str>) {
    text.push_str(&code.map_or("@0 still open\n".into(), |code| format!("@0 closed {code}\n")));
}

/// A script against the original's server, whose handler answered `METHOD TARGET "BODY"`.
fn server(script: &Value, id: &str, (name, rules, outcome, code): Row) -> Result<String, String> {
    let mut text = header(id, text_of(script, "about")?, "server", rules, text_of(script, "server_compress")?);
    let mut fed = chunks(script, "client_chunks_hex")?;
    if name == "unknown-compression" && fed[13] == 3 {
        // It has been registered since; the next number is as unknown as it was then.
        fed[13] = 4;
    }
    let answered = unhex(text_of(script, "server_bytes_hex")?)?;
    // Most scripts begin with a hello; it stands alone, for the reader.
    let (hello, rest) = fed.split_at(fed.len().min(15));
    line(&mut text, "@0 feed wire", &[literal(hello)]);
    if !rest.is_empty() {
        line(&mut text, "@0 feed wire", &[literal(rest)]);
    }
    // The recording does not say where the client closed its direction; the names do.
    if name.starts_with("truncated-") {
        text.push_str("@0 feed eof\n");
    }
    if let Some(hello) = answered.get(..15) {
        let _ = writeln!(text, "@0 send hello tls={}", hello[14]);
    }
    if let Deviates(steps) = outcome {
        text.extend(steps.lines().map(|step| format!("@0 {step}\n")));
        end(&mut text, code);
        return Ok(text);
    }
    let reached = script["requests_that_reached_the_handler"].as_u64().ok_or("no count")?;
    let mut answers = answers(&answered)?;
    if answers.len() as u64 != reached {
        return Err(format!("{} answers, {reached} requests", answers.len()));
    }
    // The original's handlers ran side by side: the requests' own order is not recorded.
    let is_many = answers.len() > 1;
    text.push_str(if is_many { "@0 unordered\n" } else { "" });
    for (id, answer) in &answers {
        let (request, body) = answer.split_once(" \"").ok_or("an answer without a body")?;
        let (method, target) = request.split_once(' ').ok_or("an answer without a target")?;
        let _ = writeln!(text, "@0 event request {id} \"{method}\" \"{target}\" body \"{body}");
    }
    text.push_str(if is_many { "@0 end\n" } else { "" });
    for (id, answer) in answers.drain(..) {
        let (body, length) = (quote_all(answer.as_bytes()), answer.len());
        let _ = writeln!(text, "@0 do respond {id} 200 body {body}");
        let head = format!("\"HTTP/1.1 200 OK\\r\\nContent-Length: {length}\\r\\n\\r\\n\"");
        let _ = writeln!(text, "@0 send frame {id} {head} {body}");
    }
    end(&mut text, code);
    Ok(text)
}

/// The original's answers: ids and bodies.
fn answers(wire: &[u8]) -> Result<Vec<(u32, String)>, String> {
    use teleport_conformance::scenario::Role;
    use teleport_conformance::wire::{Reader, Sent};
    let mut answers = Vec::new();
    for sent in Reader::new(Role::Server).take(wire) {
        match sent {
            Sent::Hello(_) => {}
            Sent::Frame(frame) => answers.push((frame.id, String::from_utf8_lossy(&frame.message.body).into_owned())),
            Sent::Fault(fault) => return Err(fault.what),
        }
    }
    Ok(answers)
}

/// A script against the original's client, which has one request under way.
fn client(script: &Value, id: &str, (name, rules, outcome, code): Row) -> Result<String, String> {
    let mut text = header(id, text_of(script, "about")?, "client", rules, text_of(script, "client_compress")?);
    let fed = chunks(script, "server_chunks_hex")?;
    let method = text_of(script, "request_method")?;
    let (hello, rest) = fed.split_at(fed.len().min(15));
    let request = format!("@0 send frame 1 \"{method} /a HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n\"\n");
    let _ = writeln!(text, "@0 send hello\n@0 do request 1 \"{method}\" \"/a\"");
    if let Some(code) = code.filter(|code| code.starts_with("hello-")) {
        // A client should wait with its request for a good hello (R-hello-wait); one that does not is as good here.
        let mut feed = String::new();
        line(&mut feed, "@0 feed wire", &[literal(&fed)]);
        let failed = |mark: &str| format!("@0 event failed 1 {code} delivered {mark}\n");
        let (maybe, no) = (failed("maybe"), failed("no"));
        let _ = write!(text, "@0 either\n{request}{feed}{maybe}@0 or\n@0 quiet\n{feed}{no}@0 end\n");
        end(&mut text, Some(code));
        return Ok(text);
    }
    line(&mut text, "@0 feed wire", &[literal(hello)]);
    // The response that comes with the hello may be there before the request has left.
    let is_early = name == "unasked-early";
    text.push_str(if is_early { "" } else { &request });
    if !rest.is_empty() {
        line(&mut text, "@0 feed wire", &[literal(rest)]);
    }
    if script["server_closes_after"].as_bool() == Some(true) {
        text.push_str("@0 feed eof\n");
    }
    match outcome {
        Deviates(steps) => text.extend(steps.lines().map(|step| format!("@0 {step}\n"))),
        Same => {
            let told = script["outcome_of_each_call"][0].as_str().ok_or("no outcome")?;
            match (told.strip_prefix("status "), code) {
                (Some(told), _) => {
                    let _ = writeln!(text, "@0 event response 1 {told}");
                }
                // The original's error texts are its own; ours is the code with which the link ended.
                (None, Some(code)) => {
                    let _ = writeln!(text, "@0 event failed 1 {code} delivered maybe");
                }
                (None, None) => return Err("an error, and the link is open".into()),
            }
        }
    }
    text.push_str(if is_early { &request } else { "" });
    end(&mut text, code);
    Ok(text)
}

/// One side of a recorded connection.
fn recorded(recording: &Recording, name: &str, id: &str, role: &str) -> Result<String, String> {
    const NAMES: [&str; 3] = ["deflate", "none", "snappy"];
    let compression =
        |bytes: &[u8]| bytes.get(13).and_then(|code| NAMES.get(usize::from(*code))).copied().ok_or("no hello");
    let (ours, theirs, side) = match role {
        "server" => (&recording.server, &recording.client, "client"),
        _ => (&recording.client, &recording.server, "server"),
    };
    let title = format!("What a deployed original's {side} sent is read exactly (recording {name})");
    let rules = if role == "server" {
        "R-cut-any R-read-deliver R-id-opaque"
    } else {
        "R-cut-any R-read-deliver R-response-any-order"
    };
    let mut text = header(id, &title, role, rules, compression(ours)?);
    let requests: Vec<(u32, Message)> = messages(&recording.requests)?;
    if role == "server" {
        let _ = writeln!(text, "@0 feed wire recorded\"{name} client\"\n@0 send hello");
        for (number, (id, message)) in requests.iter().enumerate() {
            let (method, target) = method_and_target(message)?;
            let head = if *id == 0 { "event oneway".into() } else { format!("event request {id}") };
            let words = format!("@0 {head} {} {}", quote_all(method), quote_all(target));
            event(&mut text, &words, message, number, name, "request");
        }
        end(&mut text, None);
        return Ok(text);
    }
    let _ = writeln!(text, "@0 send hello\n@0 feed hello compression={}", compression(theirs)?);
    for (number, (id, message)) in requests.iter().enumerate() {
        let (method, target) = method_and_target(message)?;
        // The original's server wrote a body in answer to HEAD, so its frames are those of a GET.
        let method = if method == b"HEAD" { b"GET" } else { method };
        let (method, target) = (quote_all(method), quote_all(target));
        let host = message.values("host").first().copied().unwrap_or_default();
        let mut words = if *id == 0 { "@0 do oneway".into() } else { format!("@0 do request {id}") };
        let _ = write!(words, " {method} {target} host {}", quote_all(host));
        let given = |(name, _): &&(String, Vec<u8>)| {
            !["host", "content-length"].iter().any(|other| name.eq_ignore_ascii_case(other))
        };
        let fields = fields(message.fields.iter().filter(given));
        let mut parts = if fields.is_empty() { vec![] } else { vec![format!("fields {}", quote_all(&fields))] };
        if !message.body.is_empty() {
            parts.push(format!("body {}", body(&message.body, name, "request", number)));
        }
        line(&mut text, &words, &parts);
        let length = message
            .values("content-length")
            .first()
            .map_or(Vec::new(), |value| [b"Content-Length: ", *value, b"\r\n"].concat());
        let method_text = method.trim_matches('"');
        let head = format!("{method_text} {} HTTP/1.1\r\nHost: ", target.trim_matches('"'));
        let head = [head.as_bytes(), host, b"\r\n", &fields, &length, b"\r\n"].concat();
        let parts = [quote_all(&head), body(&message.body, name, "request", number)];
        line(&mut text, &format!("@0 send frame {id}"), &parts[..if message.body.is_empty() { 1 } else { 2 }]);
    }
    let _ = writeln!(text, "@0 feed wire recorded\"{name} server frames\"");
    for (number, (id, message)) in messages(&recording.responses)?.iter().enumerate() {
        let status = message.start.get(9..12).ok_or("no status")?;
        let words = format!("@0 event response {id} {}", String::from_utf8_lossy(status));
        event(&mut text, &words, message, number, name, "response");
    }
    end(&mut text, None);
    Ok(text)
}

fn messages(frames: &[(u32, Vec<u8>)]) -> Result<Vec<(u32, Message)>, String> {
    frames.iter().map(|(id, bytes)| Ok((*id, given_message(bytes)?))).collect()
}

fn event(text: &mut String, words: &str, message: &Message, number: usize, recording: &str, kind: &str) {
    // All have the same fields: those of the first are enough for a review.
    let mut parts = Vec::new();
    let shown = |(name, _): &&(String, Vec<u8>)| !name.eq_ignore_ascii_case("content-length");
    if number < 2 {
        parts.push(format!("fields {}", quote_all(&fields(message.fields.iter().filter(shown)))));
    }
    parts.push(format!("body {}", body(&message.body, recording, kind, number)));
    line(text, words, &parts);
}

fn body(bytes: &[u8], recording: &str, kind: &str, number: usize) -> String {
    if bytes.len() <= 200 { literal(bytes) } else { format!("recorded\"{recording} {kind} {} body\"", number + 1) }
}
