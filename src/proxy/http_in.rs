//! The HTTP listener: hyper's server on each connection, and an orderly end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_rustls::{TlsAcceptor, TlsStream};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Executor, Timer};
use smol_hyper::rt::FuturesIo;
use tracing::{debug, warn};

use super::activity::{Activity, Busy, Patience};
use super::body::Reply;
use super::config::{Inbound, MAX_HEADER_COUNT};
use super::counted::{Counted, Counts};
use super::handler::Handler;
use super::listen::Listener;
use super::stranger::Strangers;
use super::stream::{Socket, Stream};
use super::tls::ServerTls;
use crate::driver::PeerAddr;

/// The pause after a failed accept, which mostly means that there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a closed connection is read on, so that the last answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The smallest buffer that hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;

/// An HTTP listener.
pub(crate) struct HttpIn {
    listener: Listener,
    connection: Arc<Shared>,
    executor: Arc<Executor<'static>>,
}

/// What all connections share.
struct Shared {
    tls: Option<TlsAcceptor>,
    http: Builder,
    idle_timeout: Duration,
    handler: Arc<Handler>,
    strangers: Strangers,
}

/// What a connection listens to besides its peer. Each is said by closing the channel.
#[derive(Clone)]
struct Signals {
    /// End after the request in hand.
    finish: Receiver<()>,
    /// End now.
    abort: Receiver<()>,
    /// Dropped when the connection is over.
    _open: Sender<()>,
}

impl HttpIn {
    pub(crate) fn new(
        listener: Listener,
        tls: Option<&ServerTls>,
        config: &Inbound,
        handler: Arc<Handler>,
        executor: Arc<Executor<'static>>,
    ) -> Self {
        let mut http = Builder::new();
        http.half_close(true)
            .max_buf_size(config.max_head_bytes.max(MIN_BUFFER))
            .max_header_size(config.max_head_bytes)
            .max_headers(MAX_HEADER_COUNT);
        let shared = Shared {
            tls: tls.map(|tls| TlsAcceptor::from(tls.config.clone())),
            http,
            idle_timeout: config.idle_timeout,
            handler,
            strangers: Strangers::default(),
        };
        Self { listener, connection: Arc::new(shared), executor }
    }

    /// Accepts until `stop` ends; then the requests in hand have `drain` to end.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>, drain: Duration) {
        let (finish_tx, finish) = smol::channel::bounded(1);
        let (abort_tx, abort) = smol::channel::bounded(1);
        let (open, all_closed) = smol::channel::bounded::<()>(1);
        let signals = Signals { finish, abort, _open: open };
        self.accept(&signals).or(stop).await;
        drop(self.listener);
        drop(signals);
        drop(finish_tx);
        let deadline = Instant::now() + drain;
        async {
            let _ = all_closed.recv().await;
        }
        .or(async {
            Timer::at(deadline).await;
        })
        .await;
        drop(abort_tx);
    }

    async fn accept(&self, signals: &Signals) {
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    let (shared, signals) = (self.connection.clone(), signals.clone());
                    shared.handler.counters.connections.fetch_add(1, Ordering::Relaxed);
                    let run = async move {
                        if let Some(stream) = shared.open(socket, &peer, &signals).await {
                            shared.serve(stream, peer, signals).await;
                        }
                    };
                    self.executor.spawn(run).detach();
                }
                // The peer gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!("cannot accept a connection: {error} (out of file descriptors? see ulimit -n)");
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Shared {
    /// What HTTP is spoken on: the connection itself, or TLS on it.
    async fn open(&self, socket: Socket, peer: &PeerAddr, signals: &Signals) -> Option<Stream> {
        let Some(acceptor) = &self.tls else { return Some(Stream::Plain(socket)) };
        let stopped = async {
            // Nobody has asked for anything yet.
            let _ = signals.finish.recv().await;
            None
        };
        let limit = async {
            Timer::after(HANDSHAKE_TIMEOUT.min(self.idle_timeout)).await;
            Some(Err(io::Error::new(io::ErrorKind::TimedOut, "it did not come in time")))
        };
        let handshake = async { Some(acceptor.accept(socket).await) };
        match handshake.or(limit).or(stopped).await? {
            Ok(stream) => Some(Stream::Tls(Box::new(TlsStream::Server(stream)))),
            Err(error) => {
                self.strangers.note_on_https(peer, &error);
                None
            }
        }
    }

    async fn serve(&self, stream: Stream, peer: PeerAddr, signals: Signals) {
        let counts = Arc::new(Counts::default());
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request| async {
            let busy = Busy::begin(&activity);
            let (response, slot) = self.handler.handle(request).await;
            Ok::<_, Infallible>(Reply::to_http(response, (slot, busy.answered())))
        });
        let mut connection = self.http.serve_connection(FuturesIo::new(Counted::new(stream, counts.clone())), service);
        let mut finish = pin!(signals.finish.recv());
        let mut abort = pin!(signals.abort.recv());
        let mut tick = Timer::after(self.idle_timeout);
        let mut is_finishing = false;
        let mut patience = Patience::new(self.idle_timeout);
        let end = poll_fn(|cx| {
            if !is_finishing && finish.as_mut().poll(cx).is_ready() {
                is_finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(End::Over(result));
            }
            if is_finishing && abort.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            if Pin::new(&mut tick).poll(cx).is_ready() {
                // A new timer, not an interval: after a pause of the whole process a caller has its time again.
                tick.set_after(self.idle_timeout);
                let _ = Pin::new(&mut tick).poll(cx);
                if patience.ends(&activity, counts.sent()) {
                    return Poll::Ready(End::Cut);
                }
            }
            Poll::Pending
        })
        .await;
        if let End::Over(result) = end {
            let parts = connection.into_parts();
            if let Err(error) = result {
                debug!("caller {peer}: {error}");
                self.strangers.note_on_http(&peer, &parts.read_buf);
            }
            linger(parts.io.into_inner().into_inner()).await;
        }
    }
}

/// How a connection ended.
enum End {
    /// By itself: what hyper says.
    Over(hyper::Result<()>),
    /// It was idle, or the proxy stops.
    Cut,
}

/// Ends a connection so that the peer gets what was sent last: closing a socket with unread input resets it, and a reset
/// can overtake the answer (RFC 9112, section 9.6).
async fn linger(mut stream: Stream) {
    let mut sink = [0; 4096];
    let read_on = async {
        if stream.close().await.is_ok() {
            while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
        }
    };
    read_on
        .or(async {
            Timer::after(LINGER).await;
        })
        .await;
}
