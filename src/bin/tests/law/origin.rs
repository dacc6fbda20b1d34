//! The origin: it writes down each request that runs before it answers, so that what it did is known though it be killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// The environment of the origin: where it listens, and what it writes to.
pub const ADDR: &str = "LAW_ORIGIN_ADDR";
pub const EXECUTED: &str = "LAW_ORIGIN_EXECUTED";

/// Serves until killed, if it is told to; else there is nothing to do.
pub fn serve() {
    let (Ok(addr), Ok(path)) = (std::env::var(ADDR), std::env::var(EXECUTED)) else { return };
    let executed = Arc::new(OpenOptions::new().create(true).append(true).open(path).unwrap());
    let listener = listen(addr.parse().unwrap());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let executed = executed.clone();
        thread::spawn(move || {
            let _ = answer_all(&stream, &executed);
        });
    }
}

/// The one that was killed had the same port.
fn listen(addr: SocketAddr) -> TcpListener {
    // The standard library lets the port be used again.
    TcpListener::bind(addr).unwrap()
}

fn answer_all(stream: &TcpStream, mut executed: &File) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let (mut number, mut length) = (None, 0);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            if let Some(at) = text.find("/law/") {
                number = text[at + 5..].split(' ').next().and_then(|n| n.parse::<u64>().ok());
            } else if let Some(n) = text.strip_prefix("content-length: ") {
                length = n.parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let number = number.ok_or(std::io::ErrorKind::InvalidData)?;
        let is_get = body.is_empty();
        let answer = if is_get || body == body_of(number) { answer_to(number) } else { b"another's body".to_vec() };
        // One write: a record is there or not.
        executed.write_all(&number.to_le_bytes())?;
        let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        response.extend_from_slice(&answer);
        (&*stream).write_all(&response)?;
    }
}

/// How often each number ran.
pub fn executions(path: &Path, requests: u64) -> Vec<u32> {
    let mut runs = vec![0; requests as usize];
    for record in std::fs::read(path).unwrap().as_chunks::<8>().0 {
        // Whatever else it was asked came after the law.
        if let Some(runs) = runs.get_mut(u64::from_le_bytes(*record) as usize) {
            *runs += 1;
        }
    }
    runs
}

/// The body of a request: no other has the same.
pub fn body_of(number: u64) -> Vec<u8> {
    sized(format!("{{\"question\":{number}}}"), number, 3)
}

/// What answers it: no other does.
pub fn answer_to(number: u64) -> Vec<u8> {
    sized(format!("{{\"answer\":{number}}}"), number, 5)
}

/// The text, again and again: mostly some hundred bytes, now and then 100,000.
fn sized(text: String, number: u64, factor: u64) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(factor) >> 32;
    let bytes = if mixed.is_multiple_of(500) { 100_000 } else { mixed % 700 };
    text.repeat(bytes as usize / text.len() + 1).into_bytes()
}
