//! The server on smol.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::super::options::ServerOptions;
use super::super::server::{ACCEPT_PAUSE, Dispatch, LinkRefused, Peer, PeerAddr, Session, Shared, Work};
use super::super::timed::Until;
use super::carry::carry;
use super::stream::Listener;
use super::wait::{Alarm, wait};
use crate::proto::{Compression, ConnectionError, Stats};

#[doc = include_str!("../server.md")]
///
/// Links and handlers are tasks of the executor that the server is made with.
#[derive(Clone, Debug)]
pub struct Server {
    executor: Arc<Executor<'static>>,
    shared: Arc<Shared>,
}

impl Server {
    /// A server whose links and handlers run on `executor`.
    pub fn new(executor: Arc<Executor<'static>>, options: ServerOptions) -> Self {
        Self { executor, shared: Arc::new(Shared::new(options)) }
    }

    /// Accepts links until [`shutdown`](Self::shutdown), and gives each request to `handler` on a task of its own. May
    /// be called for several listeners: TCP, unix sockets, or any other [`Listener`].
    ///
    /// # Errors
    ///
    /// The options contradict each other. A failed accept is no error: it is tried again.
    pub async fn serve<L, H, F>(&self, listener: L, handler: H) -> io::Result<()>
    where
        L: Listener,
        H: Fn(Request<Bytes>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        self.serve_with_alarm::<Timer, L, H, F>(listener, handler).await
    }

    /// As [`serve`](Self::serve), with timers of another kind.
    pub(crate) async fn serve_with_alarm<A, L, H, F>(&self, listener: L, handler: H) -> io::Result<()>
    where
        A: Alarm,
        L: Listener,
        H: Fn(Request<Bytes>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        self.shared.options.check()?;
        let dispatch = self.dispatch(handler);
        loop {
            let accept = async { Some(listener.accept().await) };
            let stopped = async {
                self.shared.stopped().await;
                None
            };
            match stopped.or(accept).await {
                None => return Ok(()),
                Some(Ok((stream, addr))) => {
                    let Some(place) = self.shared.admit(addr) else { continue };
                    let session = Session::new(place, dispatch.clone(), Instant::now());
                    let patience = self.shared.patience();
                    let run = async move {
                        let carry = AssertUnwindSafe(carry::<A, _, _>(session, stream, patience));
                        if let Ok((session, error)) = carry.catch_unwind().await {
                            session.finish(error);
                        }
                    };
                    self.executor.spawn(run).detach();
                }
                Some(Err(_)) => {
                    let mut pause = A::never();
                    pause.set_at(Instant::now() + ACCEPT_PAUSE);
                    pause.await;
                }
            }
        }
    }

    fn dispatch<H, F>(&self, handler: H) -> Dispatch
    where
        H: Fn(Request<Bytes>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        // Its tasks hold the handler, and must not hold the executor that holds them.
        let (handler, executor) = (Arc::new(handler), Arc::downgrade(&self.executor));
        Arc::new(move |work| {
            let Some(executor) = executor.upgrade() else { return };
            let handler = handler.clone();
            // In boxes before they are handed on: what a handler holds can be large, and is moved several times until it runs.
            // A reply that is dropped says that the handler has panicked.
            match work {
                Work::One((request, peer, reply)) => {
                    let run = Box::pin(async move { reply.send(handler(request, peer).await) });
                    executor.spawn(AssertUnwindSafe(run).catch_unwind()).detach();
                }
                Work::Line(turn) => {
                    let run = Box::pin(async move {
                        for (request, peer, reply) in turn {
                            let handled = async { reply.send(handler(request, peer).await) };
                            let _ = AssertUnwindSafe(handled).catch_unwind().await;
                        }
                    });
                    executor.spawn(run).detach();
                }
            }
        })
    }

    /// Sets what is called when a link is up, for logs: with how the client compresses. Only the first call counts.
    pub fn on_link_start(&self, f: impl Fn(&Peer, Compression) + Send + Sync + 'static) {
        self.shared.set_on_link_start(f);
    }

    /// Sets what is called with each link's end, for logs: why it ended, `None` if in order, and what the transport
    /// failed with, if it did. Only the first call counts.
    pub fn on_link_end(&self, f: impl Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static) {
        self.shared.set_on_link_end(f);
    }

    /// Sets what is called with each link that is closed as soon as it is accepted, for logs: who wanted it, and why it was
    /// refused. Its client cannot learn that. Only the first call counts.
    pub fn on_link_refused(&self, f: impl Fn(&PeerAddr, LinkRefused) + Send + Sync + 'static) {
        self.shared.set_on_link_refused(f);
    }

    /// What all links have carried, ended ones included.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Stops accepting, says [goodbye](ServerOptions::goodbye) and drains: requests already read are answered, then each
    /// link closes. Returns when all have, at `deadline` at the latest: it counts instead of the
    /// [`drain_timeout`](ServerOptions::drain_timeout), and links that are still up then are cut.
    pub async fn shutdown(&self, deadline: Instant) {
        self.shutdown_with_alarm::<Timer>(deadline).await;
    }

    /// As [`shutdown`](Self::shutdown), with a timer of another kind.
    pub(crate) async fn shutdown_with_alarm<A: Alarm>(&self, deadline: Instant) {
        wait::<A, _>(Until::new(deadline, pin!(self.shared.shut_down(deadline)))).await;
    }
}
