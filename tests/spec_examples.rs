//! The specification checked against the core and against itself: its examples run, its index of rules is complete,
//! and its error codes are those of the code.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use httpteleport::proto::{ClientEvent, Compression, MessageError, ServerEvent};
use support::*;

/// One fenced example (README, "Examples that run").
struct Example {
    id: String,
    from_client: bool,
    compression: Compression,
    entries: BTreeMap<String, String>,
}

impl Example {
    fn entry(&self, name: &str) -> &str {
        self.entries.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.id))
    }

    /// The decompressed bytes; with compression `none` they are the wire bytes and not stated.
    fn plain(&self) -> Vec<u8> {
        let is_stated = self.compression != Compression::None;
        assert_eq!(self.entries.contains_key("plain"), is_stated, "{}", self.id);
        bytes_of(self.entry(if is_stated { "plain" } else { "wire" }))
    }

    /// Id and text of each frame, as written.
    fn frames(&self) -> Vec<(u32, Vec<u8>)> {
        let lines = self.entry("frames").lines().map(str::trim).filter(|line| !line.is_empty());
        let frame = |line: &str| {
            let (id, message) = line.split_once(" message=").unwrap();
            (id.strip_prefix("id=").unwrap().parse().unwrap(), bytes_of(message))
        };
        lines.map(frame).collect()
    }
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    for (file, text) in spec_files() {
        for block in text.split("\n```example ").skip(1) {
            let (block, _) = block.split_once("\n```").unwrap_or_else(|| panic!("{file}: no end"));
            let (header, body) = block.split_once('\n').unwrap();
            let header: BTreeMap<_, _> = header.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
            let mut entries: BTreeMap<String, String> = BTreeMap::new();
            let mut current = String::new();
            for line in body.lines().map(without_comment) {
                if let Some(more) = line.strip_prefix("  ") {
                    let entry = entries.get_mut(&current).expect("continues an entry");
                    entry.push_str(more);
                    entry.push('\n');
                } else if let Some((name, value)) = line.split_once(':') {
                    current = name.to_owned();
                    assert!(entries.insert(name.to_owned(), format!("{value}\n")).is_none());
                }
            }
            examples.push(Example {
                id: header["id"].to_owned(),
                from_client: match header["direction"] {
                    "client" => true,
                    "server" => false,
                    other => panic!("{other}"),
                },
                compression: match header["compression"] {
                    "none" => Compression::None,
                    "deflate" => Compression::Deflate,
                    "snappy" => Compression::Snappy,
                    #[cfg(feature = "zstd")]
                    "zstd" => Compression::Zstd,
                    #[cfg(not(feature = "zstd"))]
                    "zstd" => continue,
                    other => panic!("{other}"),
                },
                entries,
            });
        }
    }
    let ids: BTreeSet<_> = examples.iter().map(|example| example.id.clone()).collect();
    assert_eq!(ids.len(), examples.len(), "ids are unique");
    assert!(examples.len() >= 30, "the blocks are found: {}", examples.len());
    examples
}

fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, char) in line.char_indices() {
        match char {
            '#' if !quoted => return &line[..at],
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = char == '\\' && !escaped;
    }
    line
}

/// A sequence of hex bytes and quoted texts, joined.
fn bytes_of(text: &str) -> Vec<u8> {
    let (mut bytes, mut chars) = (Vec::new(), text.chars());
    while let Some(char) = chars.next() {
        match char {
            char if char.is_whitespace() => {}
            '"' => loop {
                match chars.next().expect("a quote ends") {
                    '"' => break,
                    '\\' => match chars.next().unwrap() {
                        'r' => bytes.push(b'\r'),
                        'n' => bytes.push(b'\n'),
                        'x' => bytes.push(hex_byte(chars.next(), chars.next())),
                        char @ ('"' | '\\') => bytes.push(char as u8),
                        other => panic!("escape {other}"),
                    },
                    char => bytes.push(u8::try_from(char).unwrap()),
                }
            },
            char => bytes.push(hex_byte(Some(char), chars.next())),
        }
    }
    bytes
}

fn hex_byte(high: Option<char>, low: Option<char>) -> u8 {
    let digit = |char: Option<char>| char.and_then(|char| char.to_digit(16)).expect("hex") as u8;
    digit(high) << 4 | digit(low)
}

/// The message of a frame as its reader should see it (R-read-chunked, R-read-continue, R-read-head-response).
fn seen(mut text: &[u8]) -> Message {
    if text.starts_with(b"HTTP/1.1 100") {
        let end = text.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        text = &text[end + 4..];
    }
    let mut message = message(text);
    if message.field("transfer-encoding").is_some() {
        message = message.without("transfer-encoding");
        let (mut body, mut rest) = (Vec::new(), &message.body[..]);
        loop {
            let line = rest.windows(2).position(|w| w == b"\r\n").unwrap();
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            rest = &rest[line + 4 + size..];
            if size == 0 {
                break;
            }
        }
        assert!(rest.is_empty());
        message.body = Bytes::from(body);
    }
    if let Some(length) = message.field("teleport-head-length").map(<[u8]>::to_vec) {
        message = message.without("teleport-head-length").without("content-length");
        if length != b"none" {
            message.fields.push(("content-length".into(), length));
            message.fields.sort();
        }
    }
    if message.start.starts_with("HTTP/") { without_reason(message) } else { message }
}

/// Whole, byte by byte, and in pieces that a small generator gives.
fn cuts(seed: usize) -> Vec<Box<dyn Iterator<Item = usize>>> {
    let mut state = seed as u64 + 1;
    let random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % 23 + 1
    };
    vec![Box::new(std::iter::empty()), Box::new(std::iter::repeat(1)), Box::new(std::iter::repeat_with(random))]
}

#[test]
fn examples_of_hellos_are_hellos() {
    let now = Instant::now();
    for example in examples().iter().filter(|example| example.entries.contains_key("hello")) {
        assert_eq!(example.entries.len(), 1, "{}", example.id);
        let hello = bytes_of(example.entry("hello"));
        assert_eq!(hello.len(), 15, "{}", example.id);
        let tls = hello[14] == 1;
        let compression = Compression::from_code(hello[13]).unwrap();
        let expected = if tls { "start-tls" } else { "connected" };
        for cut in cuts(0) {
            let line = if example.from_client {
                let config = httpteleport::proto::ServerConfig {
                    tls: httpteleport::proto::ServerTls::Optional,
                    ..Default::default()
                };
                let mut server = httpteleport::proto::ServerConnection::new(config, now);
                assert!(feed_server(&mut server, now, &hello[..14], cut).is_empty());
                assert_eq!(server.handle_input(now, &hello[14..]), 1);
                transmit(|out| server.poll_transmit(now, out));
                server_line(&server.poll_event().unwrap())
            } else {
                let config = httpteleport::proto::ClientConfig { tls, ..Default::default() };
                let mut client = httpteleport::proto::ClientConnection::new(config, now);
                transmit(|out| client.poll_transmit(now, out));
                client_line(feed_client(&mut client, now, &hello, cut).first().unwrap())
            };
            assert_eq!(line, expected, "{}", example.id);
        }
        // The core's own hello with these settings is the example.
        let config = httpteleport::proto::ClientConfig { config: config(compression), tls };
        let mut client = httpteleport::proto::ClientConnection::new(config, now);
        assert_eq!(transmit(|out| client.poll_transmit(now, out)), hello, "{}", example.id);
    }
}

#[test]
fn examples_of_streams_decompress_to_their_plain_bytes_and_these_are_their_frames() {
    for example in examples().iter().filter(|example| !example.entries.contains_key("hello")) {
        let (wire, plain) = (bytes_of(example.entry("wire")), example.plain());
        assert!(decompressed(example.compression, &wire) == plain, "{}: plain", example.id);
        let frames: Vec<u8> = example.frames().iter().flat_map(|(id, m)| frame(*id, m)).collect();
        assert!(frames == plain, "{}: frames", example.id);
    }
}

#[test]
fn examples_of_streams_are_delivered_as_their_frames_however_they_are_cut() {
    let now = Instant::now();
    for (seed, example) in examples().iter().enumerate() {
        if example.entries.contains_key("hello") {
            continue;
        }
        let mut bytes = b"httpteleport\0".to_vec();
        bytes.extend_from_slice(&[example.compression.code(), 0]);
        bytes.extend(bytes_of(example.entry("wire")));
        let frames = example.frames().into_iter().filter(|(id, _)| example.from_client || *id != 0);
        let expected: Vec<_> = frames.map(|(id, text)| (id, seen(&text))).collect();
        for cut in cuts(seed) {
            let (delivered, end) = if example.from_client {
                deliver_requests(now, &bytes, cut)
            } else {
                deliver_responses(now, &example.frames(), &bytes, cut)
            };
            assert_eq!(delivered, expected, "{}", example.id);
            assert_eq!(end, "closed -", "{} ends at a frame boundary", example.id);
        }
    }
}

type Delivered = (Vec<(u32, Message)>, String);

fn deliver_requests(now: Instant, bytes: &[u8], cut: impl Iterator<Item = usize>) -> Delivered {
    let mut server = server(Compression::None, now);
    let events = feed_server(&mut server, now, bytes, cut);
    let (mut delivered, mut tokens) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            ServerEvent::Connected { .. } => {}
            ServerEvent::Request { token, request } => {
                delivered.push((token.id(), request_message(&request)));
                tokens.push(token);
            }
            ServerEvent::Oneway { request } => delivered.push((0, request_message(&request))),
            other => panic!("{other:?}"),
        }
    }
    server.handle_eof(now);
    for token in tokens {
        server.discard(token);
    }
    (delivered, std::iter::from_fn(|| server.poll_event()).map(|e| server_line(&e)).collect())
}

fn deliver_responses(
    now: Instant,
    frames: &[(u32, Vec<u8>)],
    bytes: &[u8],
    cut: impl Iterator<Item = usize>,
) -> Delivered {
    let mut client = client(Compression::None, now);
    // A response with id 0 answers nobody.
    for (id, text) in frames.iter().filter(|(id, _)| *id != 0) {
        // Only answers to HEAD carry the field (R-head-length-only).
        let to_head = text.windows(22).any(|w| w == b"\r\nTeleport-Head-Length");
        client.set_next_id(*id);
        let request = request(if to_head { "HEAD" } else { "GET" }, "/", "");
        assert_eq!(client.send_request(now, &request, None).unwrap().get(), *id);
    }
    transmit(|out| client.poll_transmit(now, out));
    let (mut delivered, mut end) = (Vec::new(), String::new());
    for event in feed_client(&mut client, now, bytes, cut) {
        match event {
            ClientEvent::Connected { .. } => {}
            ClientEvent::Response { id, response } => delivered.push((id.get(), response_message(&response))),
            ClientEvent::Goodbye => assert!(frames.iter().any(|(id, _)| *id == 0)),
            // It is done after a goodbye.
            ClientEvent::Closed { .. } => end = client_line(&event),
            other => panic!("{other:?}"),
        }
    }
    client.handle_eof(now);
    end.extend(std::iter::from_fn(|| client.poll_event()).map(|e| client_line(&e)));
    (delivered, end)
}

/// Id, level, who and file of a rule.
type Rule = (String, String, String, String);

/// All rules, in the order of the files.
fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (file, text) in spec_files() {
        for rule in text.split("\n- **R-").skip(1) {
            let (id, rest) = rule.split_once("** (").unwrap();
            if !id.starts_with("slug") {
                let (level, rest) = rest.split_once(", ").unwrap();
                let (who, rest) = rest.split_once("):").unwrap();
                // A rule may hold a list of its own; it ends at the latest at a title.
                let text = rest.split("\n#").next().unwrap();
                assert!(text.contains("Reaction:"), "R-{id} says what follows");
                rules.push((format!("R-{id}"), level.into(), who.into(), file.clone()));
            }
        }
    }
    rules
}

#[test]
fn the_index_lists_exactly_the_rules_of_the_text() {
    let rules = rules();
    let ids: BTreeSet<_> = rules.iter().map(|rule| &rule.0).collect();
    assert_eq!(ids.len(), rules.len(), "ids are unique");
    let conformance = spec("08-conformance.md");
    let index: Vec<_> = conformance.lines().filter(|line| line.starts_with("| R-")).collect();
    assert!(conformance.contains(&format!("There are {} rules", rules.len())), "{}", rules.len());
    let rows: Vec<_> = index
        .iter()
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let (_, link) = cells[4].split_once("](").unwrap();
            // A link within 08-conformance.md itself names that file too.
            let file = link.split(['#', ')']).next().unwrap();
            (cells[1].to_owned(), cells[2].to_owned(), cells[3].to_owned(), file.to_owned())
        })
        .collect();
    let difference =
        |a: &[Rule], b: &[Rule]| -> Vec<Rule> { a.iter().filter(|rule| !b.contains(rule)).cloned().collect() };
    assert_eq!(difference(&rules, &rows), [], "rules that are not in the index, or not so");
    assert_eq!(difference(&rows, &rules), [], "rows of the index that are no rules");
    assert_eq!(rows, rules, "in the order of the text");
}

/// The ids that occur in a text: `R-` and lower-case words joined by hyphens.
fn cited_in(text: &str) -> BTreeSet<String> {
    let is_start = |at: usize| at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric();
    let starts = text.match_indices("R-").map(|(at, _)| at).filter(|at| is_start(*at));
    let ids = starts.map(|at| {
        let end = text[at + 2..].find(|c: char| !c.is_ascii_lowercase() && c != '-');
        text[at..end.map_or(text.len(), |end| at + 2 + end)].trim_end_matches('-').to_owned()
    });
    // `R-write-*` and the like speak of many; `R-slug` is the form of an id.
    ids.filter(|id| id.len() > 2 && id != "R-slug" && id != "R-write").collect()
}

#[test]
fn every_rule_that_is_cited_exists() {
    let rules: BTreeSet<_> = rules().into_iter().map(|rule| rule.0).collect();
    for (file, text) in spec_files() {
        for id in cited_in(&text) {
            assert!(rules.contains(&id), "spec/{file} cites {id}");
        }
    }
}

fn sources(dir: &std::path::Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_rule_that_the_code_cites_exists() {
    let rules: BTreeSet<_> = rules().into_iter().map(|rule| rule.0).collect();
    let mut files = Vec::new();
    for dir in ["src", "tests"] {
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut files);
    }
    let mut wrong = Vec::new();
    for (file, text) in files {
        wrong.extend(cited_in(&text).difference(&rules).map(|id| format!("{file}: {id}")));
    }
    wrong.sort();
    assert_eq!(wrong, [""; 0], "citations of rules that do not exist");
}

/// The codes of an enum in src/proto/error.rs, read as text: `Variant = "code", ...`.
fn codes_of(name: &str) -> BTreeSet<String> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proto/error.rs");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, block) = text.split_once(&format!("    {name} {{\n")).expect("the enum");
    let (block, _) = block.split_once("\n    }\n}").unwrap();
    let code = |line: &str| Some(line.split_once(" = \"")?.1.split_once('"')?.0.to_owned());
    let lines = block.lines().filter(|line| !line.trim_start().starts_with("///"));
    let codes: BTreeSet<_> = lines.filter_map(code).collect();
    assert!(codes.len() > 5, "{name}: {codes:?}");
    codes
}

/// The codes of one table of errors.md.
fn codes_under(title: &str) -> BTreeSet<String> {
    rows_under("errors.md", title).into_keys().collect()
}

/// The rows whose first cell is a code, in the section with this title.
fn rows_under(file: &str, title: &str) -> BTreeMap<String, Vec<String>> {
    let text = spec(file);
    let (_, section) = text.split_once(&format!("\n## {title}")).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let code = cells[1].strip_prefix('`')?.strip_suffix('`')?.to_owned();
        Some((code, cells))
    };
    section.lines().filter(|line| line.starts_with("| `")).filter_map(row).collect()
}

#[test]
fn link_errors_of_the_code_and_of_the_text_are_the_same() {
    assert_eq!(codes_of("ErrorKind"), codes_under("Link errors"));
}

#[test]
fn refusals_of_the_code_and_of_the_text_are_the_same_with_the_same_statuses() {
    use MessageError::*;
    assert_eq!(codes_of("MessageError"), codes_under("Message refusals"));
    let all =
        [Version, Method, MethodConnect, Target, Status, Field, TooManyFields, BodyTooLarge, InterimResponse, Overload];
    assert_eq!(all.iter().map(|e| e.code().to_owned()).collect::<BTreeSet<_>>(), codes_of("MessageError"));
    let table = rows_under("05-messages.md", "5.3 Refusing a message");
    let errors = rows_under("errors.md", "Message refusals");
    assert_eq!(table.len(), all.len());
    for error in all {
        let code = error.code();
        let status = error.status().as_u16().to_string();
        // A response is answered by nobody: its cell is empty.
        let stated = &table[code][4];
        assert!(*stated == status || stated.is_empty(), "5.3: {code}");
        assert!(errors[code][6] == status || errors[code][6] == "–", "errors.md: {code}");
        assert_eq!(stated.is_empty(), errors[code][6] == "–", "{code}");
    }
}

#[test]
fn local_errors_of_the_code_are_listed_in_the_text() {
    // src/proto/error.rs: "Each has a stable code, listed in `spec/errors.md`". The rules bind no peer here, so any
    // mention of the code in that file will do.
    let text = spec("errors.md");
    let missing: Vec<_> = codes_of("SendError").into_iter().filter(|c| !text.contains(&format!("`{c}`"))).collect();
    assert_eq!(missing, [""; 0], "codes of SendError that errors.md does not list");
}
