//! The client on smol.

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

use super::super::address::Address;
use super::super::client::{Callers, Lane, Step, dial_panicked};
use super::super::error::ClientError;
use super::super::mailbox::unharmed;
use super::super::options::{ClientOptions, Deadline};
use super::super::timed::Until;
use super::carry::carry;
use super::stream::{Dial, Stream, dial_to};
use super::wait::{Alarm, wait};
use crate::proto::Stats;

#[doc = include_str!("../client.md")]
///
/// Dropping the future of a request gives it up and frees its place. The tasks of the links run on the executor that the
/// client is made with.
#[derive(Clone, Debug)]
pub struct Client {
    callers: Arc<Callers>,
}

impl Client {
    /// A client of the server at `addr`: `HOST:PORT` or `unix:PATH`.
    pub fn new(executor: Arc<Executor<'static>>, addr: impl Into<Address>, options: ClientOptions) -> Self {
        let addr = addr.into();
        Self::on::<Timer>(executor, addr.to_string(), dial_to(addr), options)
    }

    /// A client that comes to its server by `dial`, which is called for each link. `name` stands for the server in
    /// errors.
    pub fn with_dial<F, S>(
        executor: Arc<Executor<'static>>,
        name: impl Into<String>,
        dial: impl Fn() -> F + Send + Sync + 'static,
        options: ClientOptions,
    ) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Stream,
    {
        Self::with_alarm::<Timer, F, S>(executor, name, dial, options)
    }

    /// As [`with_dial`](Self::with_dial), with timers of another kind.
    pub(crate) fn with_alarm<A, F, S>(
        executor: Arc<Executor<'static>>,
        name: impl Into<String>,
        dial: impl Fn() -> F + Send + Sync + 'static,
        options: ClientOptions,
    ) -> Self
    where
        A: Alarm,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: Stream,
    {
        let boxed = move || {
            let stream = unharmed(&dial);
            let stream = async move { stream.ok_or_else(dial_panicked)?.await.map(|stream| Box::new(stream) as _) };
            let stream = AssertUnwindSafe(stream).catch_unwind();
            async move { stream.await.unwrap_or_else(|_| Err(dial_panicked())) }.boxed()
        };
        Self::on::<A>(executor, name.into(), Arc::new(boxed), options)
    }

    fn on<A: Alarm>(executor: Arc<Executor<'static>>, name: String, dial: Dial, options: ClientOptions) -> Self {
        let start = move |lane| {
            executor.spawn(run::<A>(lane, dial.clone())).detach();
            Ok(())
        };
        Self { callers: Callers::new(name, options, start) }
    }

    /// Sends a request and waits for its response, until `deadline`: an [`Instant`], a
    /// [`Duration`](std::time::Duration) from now, or `None` for the [`timeout`](ClientOptions::timeout) of the options.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]: each says whether the request can have reached the server.
    pub async fn request(
        &self,
        request: Request<Bytes>,
        deadline: impl Into<Deadline>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.callers.send(request, deadline.into(), false).await
    }

    /// Sends a request that wants no response (R-id-oneway). Returns when it is on its way on a link that is up, and
    /// no one learns what becomes of it then.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but those about a response; it was not sent then.
    pub async fn oneway(&self, request: Request<Bytes>, deadline: impl Into<Deadline>) -> Result<(), ClientError> {
        self.callers.send(request, deadline.into(), true).await.map(drop)
    }

    /// How many requests wait for their outcome, or have one that their caller has not taken yet.
    pub fn pending_requests(&self) -> usize {
        self.callers.pending_requests()
    }

    /// Whether its first link pauses after a failure.
    #[cfg(feature = "httptp")]
    pub(crate) fn is_paused(&self) -> bool {
        self.callers.condition(Instant::now()).0
    }

    /// Whether its first link is up.
    #[cfg(feature = "httptp")]
    pub(crate) fn is_up(&self) -> bool {
        self.callers.condition(Instant::now()).1
    }

    /// What all links have carried, ended ones included.
    pub fn stats(&self) -> Stats {
        self.callers.stats()
    }

    /// Closes in order: no new requests; returns when those in flight have ended, at `deadline` at the latest: it counts
    /// instead of the [`drain_timeout`](ClientOptions::drain_timeout), and what is still in flight then fails.
    pub async fn close(&self, deadline: Instant) {
        self.close_with_alarm::<Timer>(deadline).await;
    }

    /// As [`close`](Self::close), with a timer of another kind.
    pub(crate) async fn close_with_alarm<A: Alarm>(&self, deadline: Instant) {
        wait::<A, _>(Until::new(deadline, pin!(self.callers.close(deadline)))).await;
    }
}

/// Carries a lane: one task, through many connections.
async fn run<A: Alarm>(mut lane: Lane, dial: Dial) {
    while wait::<A, _>(&mut lane).await == Step::Dial {
        match wait::<A, _>(lane.dial(Instant::now(), dial())).await {
            Ok(stream) => {
                let patience = lane.patience();
                let carry = carry::<A, _, _>(lane.begin(Instant::now()), stream, patience);
                // A stream that panics has failed, and whose requests were on it learns that they are lost.
                match AssertUnwindSafe(carry).catch_unwind().await {
                    Ok((session, error)) => session.finish(Instant::now(), error),
                    Err(_) => lane.note_panicked(Instant::now()),
                }
            }
            Err(error) => lane.handle_dial_error(Instant::now(), error),
        }
    }
}
