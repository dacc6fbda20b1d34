//! A caller: one connection at a time, one request after another, each asked once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::ledger::{Ledger, Outcome, method};
use super::origin::{answer_to, body_of};

pub struct Caller {
    near: SocketAddr,
    stream: Option<TcpStream>,
    seed: u64,
}

impl Caller {
    pub fn new(near: SocketAddr, seed: u64) -> Self {
        Self { near, stream: None, seed }
    }

    /// Takes the next number, and asks, until all were taken.
    pub fn call_all(mut self, ledger: &Ledger, next: &AtomicU64) {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= ledger.requests() {
                return;
            }
            ledger.note(number, self.call(number));
        }
    }

    fn call(&mut self, number: u64) -> Outcome {
        if self.stream.is_none() {
            self.connect();
        }
        let Some(stream) = &mut self.stream else { return Outcome::Broken };
        match exchange(stream, number) {
            Ok(Answer { status: 200, body, .. }) => {
                assert!(
                    body == answer_to(number),
                    "the answer to {number} is another's: {}",
                    String::from_utf8_lossy(&body)
                );
                Outcome::Answered
            }
            Ok(Answer { status, body, closes }) => {
                let body = String::from_utf8_lossy(&body);
                let is_ours = body.starts_with("httptp: ") || status == 429 || status == 503;
                assert!(matches!(status, 429 | 502 | 503 | 504) && is_ours, "{number}: {status} {body}");
                if closes {
                    self.stream = None;
                }
                Outcome::Refused
            }
            Err(_) => {
                self.stream = None;
                Outcome::Broken
            }
        }
    }

    /// The near proxy may be about to start.
    fn connect(&mut self) {
        for _ in 0..40 {
            if let Ok(stream) = TcpStream::connect(self.near) {
                let _ = stream.set_nodelay(true);
                // Longer than any time that a proxy has.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                self.stream = Some(stream);
                return;
            }
            thread::sleep(Duration::from_millis(10 + self.seed % 20));
        }
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    closes: bool,
}

fn exchange(stream: &mut TcpStream, number: u64) -> std::io::Result<Answer> {
    let method = method(number);
    let body = if method == "GET" { Vec::new() } else { body_of(number) };
    let mut request = format!("{method} /law/{number} HTTP/1.1\r\nHost: law\r\n").into_bytes();
    if method != "GET" {
        request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(&body);
    stream.write_all(&request)?;
    let mut received = Vec::new();
    let mut piece = [0; 16 * 1024];
    let mut read = |received: &mut Vec<u8>| match stream.read(&mut piece)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        n => {
            received.extend_from_slice(&piece[..n]);
            Ok::<(), std::io::Error>(())
        }
    };
    let end = loop {
        match received.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => read(&mut received)?,
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|n| n.parse().ok());
    let length: usize = length.expect("each answer has a length");
    while received.len() < end + length {
        read(&mut received)?;
    }
    assert_eq!(received.len(), end + length, "nothing comes behind an answer");
    let closes = head.contains("connection: close");
    Ok(Answer { status, body: received.split_off(end), closes })
}
