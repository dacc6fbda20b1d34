//! The program at SIGTERM, with callers that it has not seen yet.

// Callers and origins are real sockets in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::origin;

/// How many callers wait.
const CALLERS: usize = 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// Where it listens, once it does.
fn wait_until_listening(child: &mut Child) -> SocketAddr {
    let mut log = BufReader::new(child.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it has ended");
        if let Some((_, rest)) = line.split_once("listening on ") {
            return rest.split(' ').next().unwrap().parse().unwrap();
        }
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Asks over this connection; whether it can be used again.
fn ask(stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    stream.get_mut().write_all(GET)?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    Ok(!head.contains("connection: close"))
}

#[test]
fn restarts_by_hand_over_lose_nothing() {
    let upstream = origin(NOT_FOUND);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let start = || {
        let handed = OwnedFd::from(socket.try_clone().unwrap());
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_httptp"))
            .args(["--in=systemd", "--out-type=http", &format!("--out={upstream}"), "--expvar-addr="])
            .stdin(handed)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_listening(&mut child);
        child
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = |keeps: bool| {
            let is_over = &is_over;
            move || {
                let (mut asked, mut kept) = (0, None::<BufReader<TcpStream>>);
                while !is_over.load(Ordering::Relaxed) {
                    let mut stream = kept.take().unwrap_or_else(|| {
                        let stream = TcpStream::connect(addr).unwrap();
                        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                        BufReader::new(stream)
                    });
                    let is_kept = ask(&mut stream).unwrap_or_else(|error| panic!("after {asked} requests: {error}"));
                    kept = Some(stream).filter(|_| keeps && is_kept);
                    asked += 1;
                }
                asked
            }
        };
        let callers: Vec<_> = (0..6).map(|number| scope.spawn(load(number % 2 == 0))).collect();
        for _ in 0..4 {
            let mut child = start();
            thread::sleep(Duration::from_millis(300));
            signal(&child, "-TERM");
            assert!(child.wait().unwrap().success());
        }
        is_over.store(true, Ordering::Relaxed);
        // For those who wait.
        let mut last = start();
        for caller in callers {
            assert!(caller.join().unwrap() > 0);
        }
        last.kill().unwrap();
        last.wait().unwrap();
    });
}

#[test]
fn requests_that_wait_to_be_accepted_are_answered() {
    let upstream = origin(NOT_FOUND);
    for option in ["", "--reuse-port"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_httptp"))
            .args(["--in=127.0.0.1:0", "--out-type=http", &format!("--out={upstream}"), "--expvar-addr="])
            .args(Some(option).filter(|option| !option.is_empty()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let addr = wait_until_listening(&mut child);
        let signal = |name: &str| signal(&child, name);
        // While it stands still they can only wait.
        signal("-STOP");
        let mut callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.write_all(GET).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream
            })
            .collect();
        signal("-TERM");
        signal("-CONT");
        let mut answered = 0;
        for caller in &mut callers {
            let mut status = [0; 12];
            answered += usize::from(caller.read_exact(&mut status).is_ok() && &status == b"HTTP/1.1 404");
        }
        assert_eq!(answered, CALLERS, "{option}");
        drop(callers);
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn without_file_descriptors_it_ends_in_order() {
    // It never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = silent.local_addr().unwrap();
    for kinds in [["--in-type=http", "--out-type=teleport"], ["--in-type=teleport", "--out-type=http"]] {
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_httptp"))
            .args([
                "--in=127.0.0.1:0",
                &format!("--out={upstream}"),
                "--expvar-addr=",
                "--drain-timeout=1s",
                "--threads=2",
            ])
            .args(kinds)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let addr =
            log.find_map(|line| Some(line.split_once("listening on ")?.1.split(' ').next()?.to_owned())).unwrap();
        let callers: Vec<_> = (0..2 * CALLERS).map(|_| TcpStream::connect(&addr).unwrap()).collect();
        let _ = (&callers[0]).write_all(GET);
        log.find(|line| line.contains("out of file descriptors?")).unwrap();
        signal(&child, "-TERM");
        let rest: Vec<_> = log.collect();
        assert!(child.wait().unwrap().success(), "{rest:#?}");
        drop(callers);
    }
}
