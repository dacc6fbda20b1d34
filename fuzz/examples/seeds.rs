//! Writes seed corpora, made from the cases of the conformance suite and, for the proxy's door, from rows of the table of
//! spec/07-limits-and-security.md, into `corpus/TARGET/`, or into `TARGET/` of the folder that is its argument: run it in
//! `fuzz/`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use teleport_conformance::scenario::{Compression, Role, Scenario, read_all};
use teleport_conformance::step::{Feed, StepKind};
use teleport_conformance::wire::{Encoder, hello};

/// Longer ones are of limits that the targets set lower.
const MOST_BYTES: usize = 16 * 1024;

/// What callers send to an HTTP listener.
const ASKED: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "\r\nHEAD /a?b HTTP/1.1\r\nHost: h\r\n\r\nGET http://h:1/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS * HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length:\t3 \r\n\r\nabcGET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n03\r\na\nc\r\n00\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\nx",
    "POST / HTTP/1.1\r\nX: y\r\n Content-Length: 1\r\n\r\nx",
    "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nX: y\n\r\n",
    "GET /a b HTTP/1.1\r\n\r\n",
    "GET /<\"`>?\u{e4} HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "GET / HTTP/1.2\r\n\r\n",
    "GET /\r\n\r\n",
    "httpteleport\0\u{1}\0",
];

fn main() -> io::Result<()> {
    let corpora = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    let (scenarios, errors) = read_all(Path::new("../conformance/cases"))?;
    assert!(errors.is_empty(), "{errors:?}");
    let mut seeds = BTreeSet::new();
    let mut add = |target: &'static str, prefix: &[u8], bytes: &[u8]| {
        if bytes.len() <= MOST_BYTES {
            seeds.insert((target, [prefix, bytes].concat()));
        }
    };
    for scenario in &scenarios {
        let (wire, plain, compression) = fed(scenario);
        let role = scenario.role.name();
        add(role, &[0x80], &wire);
        add(role, &[0x01], &wire);
        add(role, &[0xd0], &plain);
        add("hello", &[1], &wire[..wire.len().min(64)]);
        if let Some(message) = plain.get(4..) {
            match scenario.role {
                Role::Server => {
                    add("message", &[0], message);
                    add("http_in", &[0, 1], message);
                }
                Role::Client => {
                    add("message", &[1], message);
                    add("message", &[2], message);
                }
            }
        }
        if let (Some(compression), Some(stream)) = (compression, wire.get(15..)) {
            let who = if scenario.role == Role::Server { 0 } else { 4 };
            add("decompress", &[compression | who], stream);
        }
        let text = std::fs::read(&scenario.path)?;
        if text.len() <= 4096 {
            add("scenario", &[], &text);
        }
        if scenario.role == Role::Client {
            add("shim", &[7], &wire);
        } else {
            add("shim", &[3], &wire);
        }
    }
    for line in [
        r#"{"consumed":1,"out":"00","events":[],"timer":null,"reads":true}"#,
        r#"{"consumed":0,"out":"","events":[{"event":"connected"}],"timer":5,"reads":false,"error":"closing"}"#,
    ] {
        add("shim", &[0], line.as_bytes());
    }
    add("shim", &[1], br#"{"event":"response","tag":1,"status":200,"fields":[["a","b"]],"body":"61"}"#);
    add("shim", &[2], br#"{"name":"n","version":"1","profile":"core","can":["client","none"]}"#);
    for asked in ASKED {
        add("http_in", &[0, 0], asked.as_bytes());
        add("http_in", &[4, 2], asked.as_bytes());
    }
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        let folder = Path::new(&corpora).join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number:04}")), bytes)?;
    }
    println!("{} seeds of {} cases", seeds.len(), scenarios.len());
    Ok(())
}

/// What the suite feeds in a case: as it is on the wire, before compression, and with which code.
fn fed(scenario: &Scenario) -> (Vec<u8>, Vec<u8>, Option<u8>) {
    let (mut wire, mut plain, mut code) = (Vec::new(), Vec::new(), None);
    let mut encoder = None;
    for step in &scenario.steps {
        match &step.kind {
            StepKind::Feed(Feed::Hello { compression, tls, version }) => {
                wire.extend_from_slice(&hello(*version, *compression, *tls));
                code = Some(*compression).filter(|code| *code < 4);
                encoder = Compression::from_code(*compression).map(Encoder::new);
            }
            StepKind::Feed(Feed::Wire(bytes) | Feed::EofIn(bytes)) => wire.extend_from_slice(bytes),
            StepKind::Feed(Feed::Plain(bytes)) => {
                plain.extend_from_slice(bytes);
                if let Some(bytes) = encoder.as_mut().and_then(|encoder| encoder.encode(bytes).ok()) {
                    wire.extend_from_slice(&bytes);
                }
            }
            _ => {}
        }
    }
    (wire, plain, code)
}
