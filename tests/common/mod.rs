//! What the proxy's tests share: a running proxy, an origin and a caller, the last two on plain sockets.

#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod certs;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use httpteleport::proxy::{
    Inbound, Kind, ListenAddr, Outbound, Proxy, ProxyConfig, ProxyStats, Reloader, StartError, StatsReader,
    UpstreamStats,
};
use smol::Executor;

const PATIENCE: Duration = Duration::from_secs(40);

pub fn http_config(upstream: SocketAddr) -> ProxyConfig {
    ProxyConfig {
        inbound: Inbound { addr: "127.0.0.1:0".into(), ..Inbound::default() },
        // Not a matter of how busy the machine is.
        outbound: Outbound {
            addr: upstream.to_string(),
            kind: Kind::Http,
            timeout: Some(Duration::from_secs(30)),
            ..Outbound::default()
        },
        ..ProxyConfig::default()
    }
}

pub fn http_proxy(upstream: SocketAddr) -> Running {
    Running::start(http_config(upstream))
}

/// A proxy that runs on threads of its own until dropped.
pub struct Running {
    addr: ListenAddr,
    metrics: Option<SocketAddr>,
    stats: StatsReader,
    reloader: Reloader,
    stop: Option<smol::channel::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub fn start(config: ProxyConfig) -> Self {
        Self::try_start(config).unwrap()
    }

    pub fn try_start(config: ProxyConfig) -> Result<Self, StartError> {
        let executor = Arc::new(Executor::new());
        let proxy = smol::block_on(Proxy::bind(config, executor.clone()))?;
        let (addr, metrics) = (proxy.local_addr().clone(), proxy.metrics_addr());
        let (stats, reloader) = (proxy.stats(), proxy.reloader());
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        let thread = thread::spawn(move || {
            let until_stopped = async move {
                let _ = stopped.recv().await;
            };
            let (over, all_over) = smol::channel::bounded::<()>(1);
            let helper = {
                let executor = executor.clone();
                thread::spawn(move || smol::block_on(executor.run(all_over.recv())))
            };
            smol::block_on(executor.run(proxy.run(until_stopped))).unwrap();
            drop(over);
            let _ = helper.join();
        });
        Ok(Self { addr, metrics, stats, reloader, stop: Some(stop), thread: Some(thread) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr.tcp().expect("a TCP listener")
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics.expect("a listener for figures")
    }

    pub fn listen_addr(&self) -> &ListenAddr {
        &self.addr
    }

    pub fn stats(&self) -> ProxyStats {
        self.stats.read()
    }

    pub fn reload(&self) -> bool {
        self.reloader.reload()
    }

    pub fn upstreams(&self) -> Vec<UpstreamStats> {
        self.stats.upstreams()
    }

    pub fn wait_for(&self, condition: impl Fn(ProxyStats) -> bool) {
        let start = Instant::now();
        while !condition(self.stats()) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.stats());
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn stop(mut self) {
        self.stop.take();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            if !thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}

/// A head and a body, of a request or a response.
#[derive(Clone, Debug)]
pub struct Message {
    pub start_line: String,
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    pub fn field(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        assert!(values.len() < 2, "{name}: {values:?}");
        values.first().map(|v| (*v).to_owned())
    }
}

/// Reads messages from a stream.
struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn head(&mut self) -> Option<Message> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if !self.more() {
                assert!(self.buffer.is_empty(), "cut: {:?}", String::from_utf8_lossy(&self.buffer));
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let start_line = lines.next().unwrap().to_owned();
        let fields = lines
            .map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let status = start_line.strip_prefix("HTTP/1.").map_or(0, |rest| rest[2..5].parse().unwrap());
        Some(Message { start_line, status, fields, body: String::new() })
    }

    fn message(&mut self, has_body: bool) -> Option<Message> {
        let mut message = self.head()?;
        assert_eq!(message.field("transfer-encoding"), None, "nothing is chunked here");
        let length: usize = match message.field("content-length") {
            Some(length) if has_body => length.parse().unwrap(),
            _ => 0,
        };
        while self.buffer.len() < length {
            assert!(self.more(), "the body is cut");
        }
        message.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        Some(message)
    }
}

/// One connection to a proxy.
pub struct Caller(Reader);

impl Caller {
    pub fn of(proxy: &Running) -> Self {
        Self(Reader::new(TcpStream::connect(proxy.addr()).unwrap()))
    }

    pub fn at(addr: SocketAddr) -> Self {
        Self(Reader::new(TcpStream::connect(addr).unwrap()))
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.stream.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, text: &str) {
        self.0.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next response, to a request of this method.
    pub fn read(&mut self, method: &str) -> Message {
        self.0.message(method != "HEAD").expect("a response")
    }

    pub fn read_head(&mut self) -> Message {
        self.0.head().expect("a response")
    }

    pub fn exchange(&mut self, request: &str) -> Message {
        self.send(request);
        self.read("GET")
    }

    pub fn half_close(&mut self) {
        self.0.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub fn is_closed(&mut self) -> bool {
        self.0.buffer.is_empty() && !self.0.more()
    }
}

/// An origin that answers each request as told, byte for byte.
pub struct Origin {
    addr: SocketAddr,
    seen: Mutex<Receiver<Message>>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    closes: Arc<AtomicBool>,
}

impl Origin {
    pub fn answering(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::channel();
        let requests = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let closes = Arc::new(AtomicBool::new(false));
        let origin = Self {
            addr,
            seen: Mutex::new(seen),
            requests: requests.clone(),
            connections: connections.clone(),
            closes: closes.clone(),
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                connections.fetch_add(1, Ordering::SeqCst);
                let (tell, answer) = (tell.clone(), answer.clone());
                let (requests, closes) = (requests.clone(), closes.clone());
                thread::spawn(move || {
                    let mut reader = Reader::new(stream.try_clone().unwrap());
                    reader.stream.set_read_timeout(None).unwrap();
                    while let Some(message) = reader.message(true) {
                        requests.fetch_add(1, Ordering::SeqCst);
                        let text = answer(&message);
                        let _ = tell.send(message);
                        if stream.write_all(text.as_bytes()).is_err() || closes.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                });
            }
        });
        origin
    }

    /// Closes each connection after its first response.
    pub fn closing(self) -> Self {
        self.closes.store(true, Ordering::SeqCst);
        self
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn next_request(&self) -> Message {
        self.seen.lock().unwrap().recv_timeout(PATIENCE).unwrap()
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
