//! The callers of the demo: each sends one bid request after another over a connection of its own and checks every
//! response. Written by hand on the socket, since it shares the cores with what it measures.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Executor, Task};

use super::bids::{self, Bids};
use crate::proxy::reactor::Timer;
use crate::proxy::stream::Socket;

/// The pause of a caller after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// How long the last requests may take once the load ends: longer than the proxies' own timeout.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Latencies are kept in microseconds up to this.
const MOST_MICROS: u64 = 60_000_000;

/// What the callers have seen.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) done: u64,
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
    /// Latencies in microseconds.
    pub(super) latency: Histogram<u64>,
}

/// Callers at work.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    callers: Vec<Task<()>>,
}

#[derive(Debug)]
struct Shared {
    near: SocketAddr,
    is_over: AtomicBool,
    figures: Mutex<Figures>,
}

impl Load {
    /// Starts `callers` callers of the proxy at `near`.
    pub(super) fn start(
        executor: &Executor<'static>,
        near: SocketAddr,
        callers: usize,
        seed: u64,
    ) -> Result<Self, String> {
        let latency = Histogram::new_with_bounds(1, MOST_MICROS, 3).map_err(|error| error.to_string())?;
        let figures = Mutex::new(Figures { done: 0, errors: 0, last_error: None, latency });
        let shared = Arc::new(Shared { near, is_over: AtomicBool::new(false), figures });
        let call = |number: usize| {
            let (shared, seed) = (shared.clone(), seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
            executor.spawn(async move { shared.call(Bids::new(seed)).await })
        };
        let callers = (0..callers).map(call).collect();
        Ok(Self { shared, callers })
    }

    /// Reads the figures.
    pub(super) fn figures<T>(&self, read: impl FnOnce(&Figures) -> T) -> T {
        read(&self.shared.figures())
    }

    /// Lets each caller end its request, and returns all figures.
    pub(super) async fn finish(self) -> Figures {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + LAST_REQUESTS;
        for caller in self.callers {
            let over = async {
                caller.await;
                true
            };
            let late = async {
                Timer::at(deadline).await;
                false
            };
            if !over.or(late).await {
                self.shared.count_error("a request was never answered".to_owned());
            }
        }
        self.shared.figures().clone()
    }
}

impl Shared {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_error(&self, error: String) {
        let mut figures = self.figures();
        figures.errors += 1;
        figures.last_error = Some(error);
    }

    async fn call(&self, mut bids: Bids) {
        let mut connection = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let result = match connection.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(self.near).await,
            };
            let result = match result {
                Ok(mut opened) => opened.exchange(&mut bids).await.map(|micros| (opened, micros)),
                Err(error) => Err(error),
            };
            match result {
                Ok((opened, micros)) => {
                    connection = Some(opened);
                    let mut figures = self.figures();
                    figures.done += 1;
                    figures.latency.saturating_record(micros);
                }
                Err(error) => {
                    self.count_error(error.to_string());
                    Timer::after(ERROR_PAUSE).await;
                }
            }
        }
    }
}

/// One keep-alive connection to the near proxy.
struct Connection {
    stream: Socket,
    host: SocketAddr,
    body: String,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl Connection {
    async fn open(near: SocketAddr) -> io::Result<Self> {
        let stream = Socket::connect(near).await?;
        Ok(Self { stream, host: near, body: String::new(), output: Vec::new(), input: Vec::new() })
    }

    /// Sends the next request and checks its response. Returns how many microseconds it took.
    async fn exchange(&mut self, bids: &mut Bids) -> io::Result<u64> {
        let id = bids.next(&mut self.body);
        self.output.clear();
        let head = format!(
            "POST /bid?exchange=demo HTTP/1.1\r\nHost: {}\r\nUser-Agent: httptp-demo\r\nContent-Type: application/json\r\n\
             X-OpenRTB-Version: 2.5\r\nContent-Length: {}\r\n\r\n",
            self.host,
            self.body.len()
        );
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(self.body.as_bytes());
        let start = Instant::now();
        self.stream.write_all(&self.output).await?;
        let response = self.read_response().await?;
        let micros = start.elapsed().as_micros() as u64;
        if !bids::is_answer(&response, &id, self.body.as_bytes()) {
            return Err(io::Error::other("a response that does not belong to its request"));
        }
        Ok(micros)
    }

    /// The body of a response with status 200 and a `Content-Length`: the only kind that there should be.
    async fn read_response(&mut self) -> io::Result<Vec<u8>> {
        self.input.clear();
        let (head, status, length) = loop {
            self.read_more().await?;
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut fields);
            let Ok(httparse::Status::Complete(head)) = response.parse(&self.input) else {
                continue;
            };
            let length = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("content-length"))
                .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok())
                .ok_or_else(|| io::Error::other("a response without a Content-Length"))?;
            break (head, response.code.unwrap_or(0), length);
        };
        while self.input.len() < head + length {
            self.read_more().await?;
        }
        let body = self.input.split_off(head);
        if status != 200 {
            let text = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!("status {status}: {}", text.trim_end())));
        }
        Ok(body)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer).await?;
        if n == 0 {
            return Err(io::Error::other("the near proxy closed the connection"));
        }
        self.input.extend_from_slice(&buffer[..n]);
        Ok(())
    }
}
