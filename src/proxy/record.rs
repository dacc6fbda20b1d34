//! `--record`: the traffic that a proxy carries, as JSON lines in a file, for `httptp estimate` and for people.
//!
//! One line for each exchange that the upstream has answered, written when it is over:
//!
//! ```json
//! {"at_us":1764212706000123,"took_us":2210,
//!  "request":{"method":"POST","target":"/bid","fields":[["host","h"]],"head_bytes":48,"body_bytes":2,"text":"{}"},
//!  "response":{"status":200,"fields":[],"head_bytes":38,"body_bytes":3,"base64":"AP8H"}}
//! ```
//!
//! `at_us` is when the request's head had come, in microseconds since 1970, `took_us` how long the answer took. The fields
//! are those that are passed on, each byte of a value above 0x7F as the Latin-1 character of that number. `head_bytes` is the
//! length of the head as HTTP/1.1 with CRLF, without Content-Length. A body is `text` if it is UTF-8 and else `base64`.
//!
//! Lines are made and written by a thread of its own. What it cannot keep up with is lost, and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::HeaderMap;
use http::{Request, Response};
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender};
use tracing::{info, warn};

/// How many exchanges may wait to be written, and how many bytes of bodies.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Nobody but the owner: what is recorded holds whatever callers send, passwords and cookies included.
const OWNER_ALONE: u32 = 0o600;
/// Others than the owner.
const OTHERS: u32 = 0o077;

/// Where traffic is recorded, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file. It is made for its owner alone, and appended to if it is there.
    pub path: PathBuf,
    /// How long it may get, in bytes; what comes after that is not recorded. Default 256 MiB.
    pub limit: u64,
}

impl Recording {
    /// The default of `limit`.
    pub const LIMIT: u64 = 256 * 1024 * 1024;
}

/// One exchange, whole.
#[derive(Debug)]
struct Exchange {
    at: SystemTime,
    took: Duration,
    request: Request<Bytes>,
    response: Response<Bytes>,
}

/// Takes exchanges down.
#[derive(Debug)]
pub(crate) struct Recorder {
    exchanges: Sender<Exchange>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// It cannot be written, or others can read it.
    pub(crate) fn start(recording: &Recording) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().append(true).create(true).mode(OWNER_ALONE).open(&recording.path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.mode() & OTHERS != 0 {
            let why = "others may read or write it, and a recording holds secrets: chmod 600 it, or name another file";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let (exchanges, incoming) = smol::channel::bounded(MAX_WAITING);
        let waiting_bytes = Arc::<AtomicUsize>::default();
        let writer = Writer {
            file: BufWriter::new(file),
            left: recording.limit.saturating_sub(metadata.len()),
            path: recording.path.clone(),
            waiting_bytes: waiting_bytes.clone(),
        };
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || writer.run(&incoming))?;
        Ok(Arc::new(Self { exchanges, waiting_bytes, lost: Arc::default(), thread: Mutex::new(Some(thread)) }))
    }

    /// Keeps the head and the body of a request until there is an answer.
    pub(crate) fn begin(&self, request: &Request<Bytes>) -> Request<Bytes> {
        let mut copy = request.clone();
        copy.extensions_mut().clear();
        copy
    }

    /// Takes down what was answered.
    pub(crate) fn end(&self, took: Duration, request: Request<Bytes>, response: &Response<Bytes>) {
        let at = SystemTime::now().checked_sub(took).unwrap_or(UNIX_EPOCH);
        let mut copy = Response::new(response.body().clone());
        (*copy.status_mut(), *copy.headers_mut()) = (response.status(), response.headers().clone());
        let bytes = request.body().len() + response.body().len();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let exchange = Exchange { at, took, request, response: copy };
        if self.exchanges.is_closed() {
            return;
        }
        if waiting.saturating_add(bytes) > MAX_WAITING_BYTES || self.exchanges.try_send(exchange).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what waits, and ends.
    pub(crate) fn finish(&self) {
        self.exchanges.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panic would have been told.
            let _ = thread.join();
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            warn!("{lost} exchanges were not recorded: writing did not keep up");
        }
    }
}

struct Writer {
    file: BufWriter<File>,
    /// How many bytes the file may still take.
    left: u64,
    path: PathBuf,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Writer {
    fn run(mut self, incoming: &Receiver<Exchange>) {
        let path = self.path.display().to_string();
        match self.write_all(incoming) {
            Ok(true) => info!("the recording {path} has reached its limit (--record-limit): nothing more is recorded"),
            Ok(false) => {}
            Err(error) => warn!("cannot write the recording {path}: {error}; nothing more is recorded"),
        }
        incoming.close();
    }

    /// Whether the limit was reached.
    fn write_all(&mut self, incoming: &Receiver<Exchange>) -> io::Result<bool> {
        while let Ok(exchange) = incoming.recv_blocking() {
            let bytes = exchange.request.body().len() + exchange.response.body().len();
            let line = format!("{}\n", exchange.to_json());
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if line.len() as u64 > self.left {
                self.file.flush()?;
                return Ok(true);
            }
            self.left -= line.len() as u64;
            self.file.write_all(line.as_bytes())?;
            if incoming.is_empty() {
                self.file.flush()?;
            }
        }
        self.file.flush()?;
        Ok(false)
    }
}

impl Exchange {
    fn to_json(&self) -> Value {
        let Self { at, took, request, response } = self;
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (method, target) = (request.method().as_str(), request.uri().to_string());
        let status = response.status();
        let start = format!("{method} {target} HTTP/1.1\r\n");
        let mut asked = message(request.headers(), request.body(), start.len());
        asked["method"] = method.into();
        asked["target"] = target.into();
        let start = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
        let mut answered = message(response.headers(), response.body(), start.len());
        answered["status"] = status.as_u16().into();
        json!({
            "at_us": at.as_micros() as u64,
            "took_us": took.as_micros() as u64,
            "request": asked,
            "response": answered,
        })
    }
}

fn message(headers: &HeaderMap, body: &Bytes, start_bytes: usize) -> Value {
    let fields: Vec<[String; 2]> = headers
        .iter()
        .filter(|(name, _)| **name != http::header::CONTENT_LENGTH)
        .map(|(name, value)| [name.as_str().to_owned(), value.as_bytes().iter().copied().map(char::from).collect()])
        .collect();
    let length = |[name, value]: &[String; 2]| name.len() + value.chars().count() + ": \r\n".len();
    let head_bytes = start_bytes + fields.iter().map(length).sum::<usize>() + "\r\n".len();
    let mut message = json!({ "fields": fields, "head_bytes": head_bytes, "body_bytes": body.len() });
    match std::str::from_utf8(body) {
        Ok(text) => message["text"] = text.into(),
        Err(_) => message["base64"] = BASE64.encode(body).into(),
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(recorder: &Recorder, body: &'static [u8]) {
        let request =
            Request::post("/x?y").header("host", "h").header("x-own", "1").body(Bytes::from_static(b"{}")).unwrap();
        let response =
            Response::builder().status(201).header("content-length", "9").body(Bytes::from_static(body)).unwrap();
        let kept = recorder.begin(&request);
        recorder.end(Duration::from_micros(1_500), kept, &response);
    }

    #[test]
    fn lines_say_what_was_carried_up_to_the_limit() {
        let path = std::env::temp_dir().join(format!("httptp-recording-{}", fastrand::u64(..)));
        let recorder = Recorder::start(&Recording { path: path.clone(), limit: 600 }).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        exchange(&recorder, b"text");
        exchange(&recorder, b"\xff\0");
        exchange(&recorder, b"no room for this one");
        recorder.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() == 2 && text.len() <= 600, "{text}");
        assert_eq!(lines[0]["took_us"], 1_500);
        let expected = json!({
            "method": "POST", "target": "/x?y", "fields": [["host", "h"], ["x-own", "1"]],
            "head_bytes": "POST /x?y HTTP/1.1\r\nhost: h\r\nx-own: 1\r\n\r\n".len(), "body_bytes": 2, "text": "{}",
        });
        assert_eq!(lines[0]["request"], expected);
        let bytes = "HTTP/1.1 201 Created\r\n\r\n".len();
        let expected = json!({ "status": 201, "fields": [], "head_bytes": bytes, "body_bytes": 4, "text": "text" });
        assert_eq!(lines[0]["response"], expected);
        assert_eq!(lines[1]["response"]["base64"], "/wA=");
        // Another run goes on behind what is there, within the same limit; but not where others can read.
        let recorder = Recorder::start(&Recording { path: path.clone(), limit: 900 }).unwrap();
        exchange(&recorder, b"again");
        recorder.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let refused = Recorder::start(&Recording { path: path.clone(), limit: 900 }).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        std::fs::remove_file(&path).unwrap();
    }
}
