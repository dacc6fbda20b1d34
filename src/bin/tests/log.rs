//! The log of the program, as JSON.

// Callers and origins are real sockets in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use serde_json::Value;

/// An origin that has nothing.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                if line == "\r\n" {
                    stream.get_mut().write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
                line.clear();
            }
        }
    });
    addr
}

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
    fn next<T>(&mut self, wanted: impl Fn(&Value) -> Option<T>) -> T {
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
    let upstream = origin();
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
fn the_access_log_has_a_line_for_each_request() {
    let upstream = origin();
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
        "DELETE / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
    ] {
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    let is_request = |line: &Value| (line["message"] == "request").then(|| line.clone());
    let line = program.next(is_request);
    assert_eq!((&line["method"], &line["target"]), (&"GET".into(), &"/missing?x=1".into()));
    assert_eq!((&line["status"], &line["bytes"], &line["trace"]), (&404.into(), &0.into(), &trace.into()));
    assert_eq!(line["upstream"], upstream.to_string());
    assert!(line["ms"].as_f64().unwrap() > 0.0 && line["reason"].is_null());
    let line = program.next(is_request);
    assert_eq!((&line["status"], &line["upstream"]), (&405.into(), &Value::Null));
    assert!(line["reason"].as_str().unwrap().contains("--in-get-only"));
}
