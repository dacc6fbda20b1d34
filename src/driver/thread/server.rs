//! The server on threads.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};

use super::super::mailbox::unharmed;
use super::super::options::ServerOptions;
use super::super::pool::Pool;
use super::super::server::{ACCEPT_PAUSE, Dispatch, LinkRefused, Peer, PeerAddr, Session, Shared, Work};
use super::super::timed::Until;
use super::carry::carry;
use super::stream::{Listener, Stream};
use super::wait::wait;
use crate::proto::{Compression, ConnectionError, Stats};

#[doc = include_str!("../server.md")]
///
/// Two threads carry each link, and [`ServerOptions::workers`] threads run handlers.
#[derive(Clone)]
pub struct Server {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}

impl Server {
    /// A server.
    pub fn new(options: ServerOptions) -> Self {
        Self { pool: Arc::new(Pool::new(options.workers)), shared: Arc::new(Shared::new(options)) }
    }

    /// Accepts links until [`shutdown`](Self::shutdown), and gives each request to `handler` on a worker. May be called
    /// for several listeners: TCP, unix sockets, or any other [`Listener`].
    ///
    /// # Errors
    ///
    /// The options contradict each other. A failed accept is no error: it is tried again.
    pub fn serve<L, H>(&self, listener: L, handler: H) -> io::Result<()>
    where
        L: Listener,
        H: Fn(Request<Bytes>, Peer) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.shared.options.check()?;
        let dispatch = self.dispatch(handler);
        std::thread::scope(|scope| {
            std::thread::Builder::new().name("teleport-stop".into()).spawn_scoped(scope, || {
                wait(Until::new(None, pin!(self.shared.stopped())));
                listener.wake();
            })?;
            while !self.shared.has_stopped() {
                let begin = Instant::now();
                let started = listener.accept().and_then(|(stream, addr)| match self.shared.admit(addr) {
                    Some(place) => self.start_link(stream, Session::new(place, dispatch.clone(), Instant::now())),
                    None => Ok(()),
                });
                // One that has waited in vain has paused already.
                if started.is_err() && !self.shared.has_stopped() && begin.elapsed() < ACCEPT_PAUSE {
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
            Ok(())
        })
    }

    fn start_link(&self, stream: impl Stream, session: Session) -> io::Result<()> {
        let patience = self.shared.patience();
        let run = move || {
            let (session, error) = carry(session, &stream, patience);
            session.finish(error);
        };
        std::thread::Builder::new().name("teleport-link".into()).spawn(run).map(drop)
    }

    fn dispatch<H>(&self, handler: H) -> Dispatch
    where
        H: Fn(Request<Bytes>, Peer) -> Response<Bytes> + Send + Sync + 'static,
    {
        let (handler, pool) = (Arc::new(handler), self.pool.clone());
        Arc::new(move |work| {
            let handler = handler.clone();
            match work {
                Work::One((request, peer, reply)) => pool.run(move || reply.send(handler(request, peer))),
                Work::Line(turn) => pool.run(move || {
                    for (request, peer, reply) in turn {
                        // A handler that panics is answered for where its reply is dropped.
                        let _ = unharmed(|| reply.send(handler(request, peer)));
                    }
                }),
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
    pub fn shutdown(&self, deadline: Instant) {
        wait(Until::new(deadline, pin!(self.shared.shut_down(deadline))));
    }
}
