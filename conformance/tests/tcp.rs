//! The suite over real sockets: this project's driver behind its shim, servers of which only the address is known, and
//! what is wrong with others.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::ServerOptions;
use httpteleport::driver::smol::Server;
use httpteleport::driver::tls::TlsServer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use teleport_conformance::report::Report;
use teleport_conformance::scenario::{Role, Scenario, parse, read_all};
use teleport_conformance::spec::Spec;
use teleport_conformance::suite::{Options, Outcome, Target, Verdict, run_all};
use teleport_conformance::tcp::{ServerTls, Tls};

fn suite() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn scenarios() -> Vec<Scenario> {
    let (scenarios, errors) = read_all(&suite().join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    scenarios
}

fn shim(driver: &str) -> String {
    format!("'{}' {driver}", env!("CARGO_BIN_EXE_teleport-shim-driver"))
}

/// Runs scenarios; returns the report for people and the one for programs, and what is said of each.
fn report<'s>(scenarios: &[&'s Scenario], options: &Options) -> (String, serde_json::Value, String, Vec<Outcome<'s>>) {
    let (description, outcomes) = run_all(scenarios, options).unwrap();
    let spec = Spec::read(&suite().join("../spec")).unwrap();
    let report = Report {
        description: &description,
        outcomes: &outcomes,
        spec: &spec,
        target: &options.target,
        arguments: "",
        is_partial: false,
    };
    let (text, json, junit) = (report.text(true), report.json(), report.junit());
    (text, json, junit, outcomes)
}

#[test]
fn the_smol_driver_passes_every_case_that_it_claims() {
    passes_every_case_that_it_claims("smol");
}

#[test]
fn the_thread_driver_passes_every_case_that_it_claims() {
    passes_every_case_that_it_claims("thread");
}

fn passes_every_case_that_it_claims(driver: &str) {
    let scenarios = scenarios();
    let all: Vec<&Scenario> = scenarios.iter().collect();
    let (text, json, junit, outcomes) = report(&all, &Options::of_shim(shim(driver)));
    // A log is short of room: what failed is all that it must hold.
    let was_run = |line: &&str| !line.starts_with("unimplemented") && !line.starts_with("skipped");
    let short: Vec<&str> = text.lines().filter(was_run).collect();
    let short = short.join("\n");
    assert_eq!((json["counts"]["fail"].as_u64(), json["exit_code"].as_u64()), (Some(0), Some(3)), "\n{short}");
    assert!(json["counts"]["pass"].as_u64().unwrap() >= 200, "\n{short}");
    // Whatever was not run is named, with the reason, in all forms.
    for outcome in &outcomes {
        let why = match &outcome.verdict {
            Verdict::Skipped(why) => why.clone(),
            Verdict::Unimplemented(missing) => format!("needs {}", missing.join(", ")),
            _ => continue,
        };
        let line = format!("{}: {why}\n", outcome.scenario.id);
        assert!(text.contains(&line) && junit.contains(&line), "{line}");
    }
}

/// A client in a few lines, with a fault where `FAULT` stands; `-` is none.
const CLIENT: &str = r#"
import socket, ssl, sys
host, port = sys.argv[1].rsplit(":", 1)
fault, ca = sys.argv[2], sys.argv[3] if sys.argv[3:] and sys.argv[3] != "-" else None
link = socket.create_connection((host, int(port)))
asks = b"\1" if ca else b"\0"
link.sendall((b"httpteleporT\0\1" if fault == "magic" else b"httpteleport\0\1") + asks)
hello = b""
while len(hello) < 15:
    piece = link.recv(15 - len(hello))
    if not piece: sys.exit()
    hello += piece
    is_wrong = not b"httpteleport\0".startswith(hello[:13]) or len(hello) > 13 and hello[13] > 2
    if is_wrong and fault != "takes-any-hello": sys.exit()
if ca and fault != "clear":
    if hello[14] == 0: sys.exit()
    link = ssl.create_default_context(cafile=ca).wrap_socket(link, server_hostname="localhost")
field = b"Connection: close\r\n" if fault == "hop" else b""
host = b"" if fault == "no-host" else b"Host: h\r\n"
request = b"GET / HTTP/1.1\r\n" + host + field + b"\r\n"
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1
link.sendall(b"".join(bytes([0, 0, at, 7]) + request for at in range(count)))
while link.recv(65536): pass
"#;

#[test]
fn a_client_needs_no_shim() {
    let file = std::env::temp_dir().join(format!("teleport-client-{}.py", std::process::id()));
    std::fs::write(&file, CLIENT).unwrap();
    let run = |fault: &str, case: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let ca = if case.starts_with("tls-") { "{ca}" } else { "" };
        let (fault, requests) = if fault == "many" { ("-", "- {requests}") } else { (fault, "") };
        let client = format!("python3 '{}' {{addr}} {fault} {ca} {requests}", file.display());
        command.args(["run", "--slack", "300", "--client", &client, "--id", case]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let exchange = "messages-client-both";
    let table = [
        ("-", "tls-client-agreed", 0, "every required case that was chosen passes"),
        ("-", "tls-client-deflate-inside", 3, "cannot be told how many requests to send"),
        ("-", "tls-client-not-asked-1", 3, "the client asks for TLS"),
        ("clear", "tls-client-agreed", 1, "R-tls-boundary"),
        ("-", "tls-client-refused", 0, "every required case that was chosen passes"),
        ("-", "ids-client-two-answers-other-order", 3, "cannot be told how many requests to send"),
        ("many", "ids-client-two-answers-other-order", 0, "every required case that was chosen passes"),
        ("-", "hello-client-magic-last-byte", 0, "every required case that was chosen passes"),
        ("magic", exchange, 1, "layer     hello"),
        ("takes-any-hello", "hello-client-version-255", 1, "R-hello-version"),
        ("no-host", exchange, 1, "R-write-host"),
        ("hop", exchange, 1, "R-write-no-hop-by-hop"),
        ("-", "hello-client-version-255", 0, "every required case that was chosen passes"),
        // It goes on after what cannot be read.
        ("-", exchange, 1, "the connection is open"),
    ];
    for (fault, case, code, said) in table {
        let (status, text) = run(fault, case);
        assert!(status == Some(code) && text.contains(said), "{fault}: {said}: {text}");
        assert!(code != 1 || text.contains("run --client 'python3 "), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    let (status, text) = run("-", exchange);
    assert!(status == Some(1) && text.contains("ended without a connection"), "{text}");
}

/// Short ones, whose steps look at all that the faults below change.
const ANSWERS_AFTER_EOF: &str = r#"id: a
title: A server still answers what it took before the end of file
area: closing
role: server
level: must
rules: R-server-drain R-eof-clean

@0 feed hello
@0 send hello
@0 feed frame 1 "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
@0 feed eof
@0 event request 1 "GET" "/a"
@0 quiet
@100ms do respond 1 200 body "a"
@100ms send frame 1 "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
@100ms closed clean
"#;
const WAITS_TO_CLOSE: &str = r#"id: a
title: A client that closes waits for what is in flight
area: closing
role: client
level: must
rules: R-close-graceful

@0 send hello
@0 feed hello
@0 do request 1 "GET" "/a"
@0 send frame 1 "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
@0 do close
@0 quiet
@0 do request 2 "GET" "/b"
refused-locally closing
@100ms feed frame 1 "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
@100ms event response 1 200 body "a"
@100ms closed clean
"#;

#[test]
fn faults_are_caught_over_sockets() {
    let text = |role| match role {
        Role::Server => ANSWERS_AFTER_EOF,
        Role::Client => WAITS_TO_CLOSE,
    };
    let table = [
        // The server sends another status than its program said.
        (Role::Server, format!(r#"sed -u 's/"status":200/"status":202/' | {}"#, shim("smol")), "message"),
        // The client tells another status than came.
        (Role::Client, format!(r#"{} | sed -u 's/"status":200/"status":202/'"#, shim("smol")), "message"),
        // The server says another reason for its end than it should.
        (Role::Server, format!(r#"{} | sed -u 's/"code":null/"code":"truncated"/'"#, shim("smol")), "frame"),
        // The program never learns of a request.
        (Role::Server, format!(r#"{} | sed -u '/"event":"request"/d'"#, shim("smol")), "message"),
    ];
    for (role, command, layer) in table {
        let mut options = Options::of_shim(&command);
        options.time.slack = std::time::Duration::from_millis(200);
        let chosen = parse(Path::new("cases/closing/a.scn"), text(role)).unwrap();
        let chosen = [&chosen];
        let (text, _, _, outcomes) = report(&chosen, &options);
        for outcome in &outcomes {
            let failure = outcome.verdict.failure().unwrap_or_else(|| panic!("{command}\n{text}"));
            assert_eq!(failure.mismatch.layer, layer, "{command}\n{text}");
        }
    }
}

/// Two requests that no program can tell apart, answered in two ways.
const ALIKE: &str = r#"id: a
title: Two equal requests are both answered
area: closing
role: server
level: must
rules: R-id-copy

@0 feed hello
@0 send hello
@0 feed frame 1 "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
@0 feed frame 2 "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
@0 event request 1 "GET" "/a"
@0 event request 2 "GET" "/a"
@0 do respond 1 200 body "one"
@0 send frame 1 "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
@0 do respond 2 200 body "two"
@0 send frame 2 "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
"#;

/// Gives the first answer of a link to its second handler, and the second to its first.
const SWAP: &str = r#"sed -u 's/"ticket":1,/"ticket":T,/; s/"ticket":2,/"ticket":1,/; s/"ticket":T,/"ticket":2,/'"#;

#[test]
fn handlers_may_run_in_any_order() {
    let scenarios = scenarios();
    let of_original = ["two-frames-one-write", "connection-close", "flate-stored", "id-reused-in-flight", "id-zero"];
    let of_original = of_original.map(|name| format!("original-server-{name}"));
    let alike = parse(Path::new("cases/closing/a.scn"), ALIKE).unwrap();
    let mut chosen: Vec<&Scenario> = scenarios.iter().filter(|case| of_original.contains(&case.id)).collect();
    chosen.push(&alike);
    assert_eq!(chosen.len(), 6);
    for command in [shim("smol"), format!("{SWAP} | {}", shim("smol"))] {
        let (text, _, _, outcomes) = report(&chosen, &Options::of_shim(&command));
        assert!(outcomes.iter().all(|outcome| matches!(outcome.verdict, Verdict::Pass)), "{command}\n{text}");
    }
    // An answer under an id that is of none of the two is still wrong, and so is the same id twice.
    for (from, to) in [(r"\r\ntwo", r"\r\none"), ("send frame 2", "send frame 3")] {
        let wrong = parse(Path::new("cases/closing/a.scn"), &ALIKE.replace(from, to)).unwrap();
        let mut options = Options::of_shim(format!("{SWAP} | {}", shim("smol")));
        options.time.slack = std::time::Duration::from_millis(100);
        let (text, _, _, outcomes) = report(&[&wrong], &options);
        assert!(outcomes[0].verdict.failure().is_some(), "{from}: {text}");
    }
}

/// The cases that are run against a server of which only the address is known.
fn server_cases(scenarios: &[Scenario]) -> Vec<&Scenario> {
    scenarios.iter().filter(|scenario| scenario.role == Role::Server).collect()
}

fn options_of(addr: SocketAddr) -> Options {
    Options { target: Target::Server(addr), ..Options::of_shim("") }
}

#[test]
fn a_server_needs_no_shim() {
    let addr = a_server(ServerOptions::default());
    let scenarios = scenarios();
    let (text, json, ..) = report(&server_cases(&scenarios), &options_of(addr));
    assert_eq!((json["counts"]["fail"].as_u64(), json["exit_code"].as_u64()), (Some(0), Some(3)), "\n{text}");
    assert!(json["counts"]["pass"].as_u64().unwrap() >= 100, "\n{text}");
}

/// A server that answers at once.
fn a_server(options: ServerOptions) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let executor = Arc::new(smol::Executor::new());
        let server = Server::new(Arc::clone(&executor), options);
        let listener = smol::net::TcpListener::try_from(listener).unwrap();
        let handler = |_: Request<Bytes>, _| async { Response::new(Bytes::from_static(b"anything")) };
        smol::block_on(executor.run(server.serve(listener, handler)))
    });
    addr
}

#[test]
fn a_server_with_tls_needs_no_shim() {
    // Its certificate is one that the suite has made; the suite is told only the authority.
    let tls = Tls::new().unwrap();
    let files: BTreeMap<&str, PathBuf> = tls.environment().into_iter().collect();
    let certificates =
        CertificateDer::pem_file_iter(&files["TELEPORT_TLS_CERT"]).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files["TELEPORT_TLS_KEY"]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    let addr = a_server(ServerOptions::default().tls(TlsServer::new(config)));
    let (scenarios, ca) = (scenarios(), files["TELEPORT_TLS_CA"].clone());
    let chosen: Vec<&Scenario> =
        server_cases(&scenarios).into_iter().filter(|case| ["tls", "hello"].contains(&case.area.as_str())).collect();
    let run = |name: &str| {
        let server_tls = Some(ServerTls { ca: ca.clone(), name: name.into() });
        let mut options = Options { server_tls, ..options_of(addr) };
        options.time.slack = std::time::Duration::from_millis(300);
        let (text, _, _, outcomes) = report(&chosen, &options);
        let of = |id: &str| outcomes.iter().find(|outcome| outcome.scenario.id == id).unwrap().verdict.name();
        (text.clone(), [of("tls-server-agrees-1"), of("tls-server-snappy-inside"), of("tls-server-unavailable")])
    };
    let (text, verdicts) = run("localhost");
    assert_eq!(verdicts, ["pass", "pass", "skipped"], "{text}");
    assert!(text.contains("tls-server-unavailable: the server has TLS") && !text.contains("\nfail"), "{text}");
    let (text, verdicts) = run("example.org");
    assert_eq!(verdicts[0], "fail", "{text}");
    assert!(text.contains("the suite's TLS says: invalid peer certificate"), "{text}");
}

/// Answers the first frame of each connection, with what `answer` makes of its id.
fn tiny_server(answer: fn(u32) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = move |mut stream: TcpStream| {
        let mut hello = [0; 15];
        stream.read_exact(&mut hello)?;
        stream.write_all(b"httpteleport\0\x01\0")?;
        let mut id = [0; 4];
        stream.read_exact(&mut id)?;
        stream.write_all(&answer(u32::from_le_bytes(id)))?;
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

fn frame(id: u32, message: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], message].concat()
}

#[test]
fn a_faulty_server_fails() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    type Row = (fn(u32) -> Vec<u8>, i32, &'static str);
    let table: [Row; 4] = [
        (|id| frame(id, OK), 0, "every required case that was chosen passes"),
        (|id| frame(id + 1, OK), 1, "layer     frame"),
        (|id| frame(id, b"HTTP/1.1 200 OK\r\n\r\n"), 1, "R-write-length"),
        (|id| frame(id, b"HTTP/1.1 100 Continue\r\n\r\n"), 1, "R-write-no-interim"),
    ];
    for (answer, code, said) in table {
        let addr = tiny_server(answer).to_string();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let case = "original-server-http10";
        let output = command.args(["run", "--slack", "200", "--server", &addr, "--id", case]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}: {text}");
        assert!(text.contains(said), "{said}: {text}");
        let again = format!("run --server {addr} --id {case}");
        assert!(code == 0 || text.contains(&again), "{text}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
    let output = command.args(["run", "--server", &nobody]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nobody listens");
}
