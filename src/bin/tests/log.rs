//! The log of the program, as JSON.

// Callers and origins are real sockets in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use common::origin;
use serde_json::Value;

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// The program itself, with its log as JSON.
struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_httptp"))
            .args(["--in=127.0.0.1:0", "--log-format=json"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The next line for which `wanted` has an answer.
    fn next<T>(&mut self, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the program has ended");
            let line: Value = serde_json::from_str(&line).expect("each line is an object");
            if let Some(found) = wanted(&line) {
                return found;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_cannot_be_written_harms_nothing_else() {
    let upstream = origin(NOT_FOUND);
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for log in [Stdio::from(full), Stdio::from(gone)] {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_httptp"))
            .args([&format!("--in={addr}"), "--out-type=http", &format!("--out={upstream}"), "--expvar-addr="])
            .args(["--access-log", "--log-level=debug"])
            .stderr(log)
            .spawn()
            .unwrap();
        let connect = || {
            for _ in 0..600 {
                if let Ok(stream) = TcpStream::connect(addr) {
                    return stream;
                }
                thread::sleep(std::time::Duration::from_millis(50));
            }
            panic!("it does not listen");
        };
        for _ in 0..20 {
            let mut stream = connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 404");
        }
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn what_the_proxy_refuses_is_told_once_or_each_time() {
    let upstream = origin(NOT_FOUND);
    for (all, told) in [("--log-all-errors=false", 1), ("--log-all-errors", 3)] {
        // Less than a connection takes.
        let to = format!("--out={upstream}");
        let mut program = Program::start(&["--out-type=http", &to, "--expvar-addr=", "--memory-budget=1000", all]);
        let addr: SocketAddr = program
            .next(|line| line["message"].as_str()?.strip_prefix("listening on ")?.split(' ').next()?.parse().ok());
        for _ in 0..3 {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        }
        Command::new("kill").arg(program.child.id().to_string()).status().unwrap();
        let mut warnings = 0;
        program.next(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            warnings += usize::from(line["level"] == "WARN" && message.starts_with("answered 503: the memory"));
            message.starts_with("stopping").then_some(())
        });
        assert_eq!(warnings, told, "{all}");
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let upstream = origin(NOT_FOUND);
    let mut program = Program::start(&[
        "--out-type=http",
        &format!("--out={upstream}"),
        "--expvar-addr=127.0.0.1:0",
        "--access-log",
        "--in-get-only",
    ]);
    let addr_in = |line: &Value, before: &str| {
        let message = line["message"].as_str()?.strip_prefix(before)?;
        message.split([' ', '/']).next()?.parse::<SocketAddr>().ok()
    };
    let addr = program.next(|line| addr_in(line, "listening on "));
    let figures = program.next(|line| addr_in(line, "figures at http://"));
    assert!(TcpStream::connect(figures).is_ok());

    let mut stream = TcpStream::connect(addr).unwrap();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for request in [
        format!("GET /missing?x=1 HTTP/1.1\r\nHost: h\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n"),
        "DELETE / HTTP/1.1\r\nHost: h\r\nX-Request-Id: 7f-\"3\r\n\r\n".to_owned(),
    ] {
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    let is_request = |line: &Value| (line["message"] == "request").then(|| line.clone());
    let line = program.next(is_request);
    assert_eq!((&line["method"], &line["target"]), (&"GET".into(), &"/missing?x=1".into()));
    assert_eq!((&line["status"], &line["bytes"], &line["trace"]), (&404.into(), &0.into(), &trace.into()));
    assert_eq!(line["upstream"], upstream.to_string());
    assert!(line["ms"].as_f64().unwrap() > 0.0 && line["reason"].is_null() && line["id"].is_null());
    assert_eq!(line["from"], stream.local_addr().unwrap().to_string());
    let line = program.next(is_request);
    assert_eq!((&line["status"], &line["upstream"]), (&405.into(), &Value::Null));
    assert_eq!(line["id"], "7f-\"3");
    assert!(line["reason"].as_str().unwrap().contains("--in-get-only"));

    // Such as nobody can read, too, with what can be told of them.
    for (request, method, target) in [
        ("PUT /two?x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "PUT", "/two?x"),
        ("GET /\u{1} HTTP/1.1\r\nHost: h\r\n\r\n", "GET", "*"),
        ("\u{16}\u{3}\u{1}", "-", "*"),
    ] {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let line = program.next(is_request);
        assert_eq!((&line["method"], &line["target"], &line["status"]), (&method.into(), &target.into(), &400.into()));
        assert!(line["reason"].is_string());
        assert_eq!(line["from"], stream.local_addr().unwrap().to_string());
    }
}

#[test]
fn figures_do_not_show_secrets_of_the_command_line() {
    for secret in [&["-inTLSSessionTicketKey=hush"][..], &["--in-tls-session-ticket-key", "hush"]] {
        let mut program = Program::start(&[&["--expvar-addr=127.0.0.1:0"], secret].concat());
        let addr = program.next(|line| {
            let rest = line["message"].as_str()?.strip_prefix("figures at http://")?;
            rest.strip_suffix('/')?.parse::<SocketAddr>().ok()
        });
        for path in ["/expvar", "/status", "/metrics", "/prometheus", "/"] {
            let mut stream = TcpStream::connect(addr).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("hush"), "{path}: {answer}");
            assert_eq!(answer.contains("icket"), path == "/expvar", "{path}: {answer}");
        }
    }
}

#[test]
fn what_is_cut_at_the_end_is_told() {
    let addr_in = |line: &Value| {
        let message = line["message"].as_str()?.strip_prefix("listening on ")?;
        message.split(' ').next()?.parse::<SocketAddr>().ok()
    };
    let cut = |line: &Value| {
        let text = line["message"].as_str()?;
        text.starts_with("cut ").then(|| text.to_owned())
    };
    for far_kind in ["teleport", "http"] {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let out = format!("--out={}", upstream.local_addr().unwrap());
        let kind = format!("--in-type={far_kind}");
        let slow = ["--expvar-addr=", "--out-timeout=1m"];
        let mut far = Program::start(&[&slow[..], &[&kind, "--drain-timeout=300ms", "--out-type=http", &out]].concat());
        let addr = far.next(addr_in);
        let mut near =
            Program::start(&[&slow[..], &[&format!("--out-type={far_kind}"), &format!("--out={addr}")]].concat());
        let near = near.next(addr_in);
        // Nobody answers these.
        let waiting = [0, 1].map(|_| {
            let mut caller = TcpStream::connect(near).unwrap();
            caller.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            (caller, upstream.accept().unwrap())
        });
        assert!(Command::new("kill").args(["-TERM", &far.child.id().to_string()]).status().unwrap().success());
        let connections = if far_kind == "http" { 2 } else { 1 };
        let told = far.next(cut);
        let wanted =
            format!("300ms (--drain-timeout): requests in hand: 2, connections that they came by: {connections}");
        assert!(told.contains(&wanted), "{told}");
        drop(waiting);
    }
}

#[test]
fn the_access_log_names_whom_a_proxy_header_names_and_at_a_link_the_near_proxy() {
    let upstream = origin(NOT_FOUND);
    let addr_in = |line: &Value| {
        let message = line["message"].as_str()?.strip_prefix("listening on ")?;
        message.split(' ').next()?.parse::<SocketAddr>().ok()
    };
    let out = format!("--out={upstream}");
    let mut far = Program::start(&["--in-type=teleport", "--out-type=http", &out, "--expvar-addr=", "--access-log"]);
    let out = format!("--out={}", far.next(addr_in));
    let mut near = Program::start(&[&out, "--expvar-addr=", "--access-log", "--in-proxy-protocol"]);
    let near_addr = near.next(addr_in);
    let mut stream = TcpStream::connect(near_addr).unwrap();
    // A balancer tells of 192.0.2.7:5000, which has connected to 192.0.2.1:80.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x13, 0x88, 0, 80]);
    stream.write_all(&header).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    let from = |line: &Value| (line["message"] == "request").then(|| line["from"].as_str().unwrap().to_owned());
    assert_eq!(near.next(from), "192.0.2.7:5000");
    assert!(far.next(from).starts_with("127.0.0.1:"));
    // The same client as an IPv6 address that stands for it.
    let mut stream = TcpStream::connect(near_addr).unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    for client in [[192, 0, 2, 7], [192, 0, 2, 1]] {
        header.extend([0; 10]);
        header.extend([0xff, 0xff]);
        header.extend(client);
    }
    header.extend([0x13, 0x88, 0, 80]);
    stream.write_all(&header).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    assert_eq!(near.next(from), "192.0.2.7:5000");
}

/// A directory of its own, removed when dropped.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_hangup_has_files_read_again_and_the_log_says_how_that_went() {
    let dir = Dir(std::env::temp_dir().join(format!("httptp-hangup-{}", std::process::id())));
    fs::create_dir_all(&dir.0).unwrap();
    let path = |name: &str| dir.0.join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["near.example".to_owned()]).unwrap();
    fs::write(path("near.pem"), made.cert.pem()).unwrap();
    fs::write(path("near.key"), made.signing_key.serialize_pem()).unwrap();
    let options = format!(
        "in-type = \"https\"\nin-tls-cert = {:?}\nin-tls-key = {:?}\nexpvar-addr = \"\"\n",
        path("near.pem"),
        path("near.key")
    );
    fs::write(path("near.toml"), &options).unwrap();
    let mut program = Program::start(&["--config", &path("near.toml")]);
    let says = |what: &'static str| {
        move |line: &Value| line["message"].as_str()?.contains(what).then(|| line["level"].as_str().unwrap().to_owned())
    };
    program.next(says("listening on"));
    let pid = program.child.id().to_string();
    let hang_up = || assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    hang_up();
    assert_eq!(program.next(says("TLS where requests come in were read again")), "INFO");
    fs::write(path("near.key"), "none").unwrap();
    fs::write(path("near.toml"), options + "# another\n").unwrap();
    hang_up();
    assert_eq!(program.next(says("nothing was changed about TLS where requests come in: --in-tls-key")), "WARN");
    assert_eq!(program.next(says("near.toml has changed, which counts after a restart")), "WARN");
}
