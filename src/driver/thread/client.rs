//! The client on threads.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};

use super::super::address::Address;
use super::super::client::{Callers, Lane, Outcome, Step, dial_panicked};
use super::super::error::ClientError;
use super::super::mailbox::{lock, unharmed};
use super::super::options::{ClientOptions, Deadline};
use super::carry::carry;
use super::stream::{Dial, Stream, dial_to};
use super::wait::{park_until, wait, waker};
use crate::proto::Stats;

#[doc = include_str!("../client.md")]
///
/// Two threads carry each link; they are started by the first request and end with the last clone of the client.
#[derive(Clone, Debug)]
pub struct Client {
    callers: Arc<Callers>,
}

impl Client {
    /// A client of the server at `addr`: `HOST:PORT` or `unix:PATH`.
    pub fn new(addr: impl Into<Address>, options: ClientOptions) -> Self {
        let addr = addr.into();
        Self::on(addr.to_string(), dial_to(addr, options.connect_timeout), options)
    }

    /// A client that comes to its server by `dial`, which is called for each link, on a thread of its own. `name` stands
    /// for the server in errors.
    pub fn with_dial<S: Stream>(
        name: impl Into<String>,
        dial: impl Fn() -> io::Result<S> + Send + Sync + 'static,
        options: ClientOptions,
    ) -> Self {
        Self::on(name.into(), Arc::new(move || Ok(Box::new(dial()?) as Box<dyn Stream>)), options)
    }

    fn on(name: String, dial: Dial, options: ClientOptions) -> Self {
        let start = move |lane| {
            let dial = dial.clone();
            std::thread::Builder::new().name("teleport-link".into()).spawn(move || run(lane, &dial)).map(drop)
        };
        Self { callers: Arc::new(Callers::new(name, options, start)) }
    }

    /// Sends a request and waits for its response, until `deadline`: an [`Instant`], a
    /// [`Duration`](std::time::Duration) from now, or `None` for the [`timeout`](ClientOptions::timeout) of the options.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]: each says whether the request can have reached the server.
    pub fn request(
        &self,
        request: Request<Bytes>,
        deadline: impl Into<Deadline>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.start(request, deadline).wait()
    }

    /// Sends a request, whose response can be waited for later: one thread can have many under way.
    pub fn start(&self, request: Request<Bytes>, deadline: impl Into<Deadline>) -> Call {
        Call { outcome: self.callers.send(request, deadline.into(), false).map_err(Some) }
    }

    /// Sends a request that wants no response (R-id-oneway). Returns when it is on its way on a link that is up, and
    /// no one learns what becomes of it then.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but those about a response; it was not sent then.
    pub fn oneway(&self, request: Request<Bytes>, deadline: impl Into<Deadline>) -> Result<(), ClientError> {
        wait(self.callers.send(request, deadline.into(), true)?, None).unwrap_or(Err(ClientError::Closed)).map(drop)
    }

    /// How many requests wait for their outcome.
    pub fn pending_requests(&self) -> usize {
        self.callers.pending_requests()
    }

    /// What all links have carried, ended ones included.
    pub fn stats(&self) -> Stats {
        self.callers.stats()
    }

    /// Closes in order: no new requests; returns when those in flight have ended, at `deadline` at the latest: it counts
    /// instead of the [`drain_timeout`](ClientOptions::drain_timeout), and what is still in flight then fails.
    pub fn close(&self, deadline: Instant) {
        wait(self.callers.close(deadline), Some(deadline));
    }
}

/// A request under way. Dropping it gives the request up. It is a future, too, for whoever mixes both worlds.
#[must_use = "dropping it gives the request up"]
pub struct Call {
    /// What was refused is known from the start.
    outcome: Result<Outcome, Option<ClientError>>,
}

impl Call {
    /// Waits for the response.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]: each says whether the request can have reached the server.
    pub fn wait(self) -> Result<Response<Bytes>, ClientError> {
        wait(self, None).unwrap_or(Err(ClientError::Closed))
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl Future for Call {
    type Output = Result<Response<Bytes>, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.outcome {
            Ok(outcome) => Pin::new(outcome).poll(context),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(ClientError::Closed))),
        }
    }
}

/// Carries a lane: one thread, through many connections.
fn run(mut lane: Lane, dial: &Dial) {
    let waker = waker();
    let mut context = Context::from_waker(&waker);
    let mut outstanding = None;
    loop {
        match lane.step(Instant::now()) {
            Step::End => return,
            Step::Wait => {
                while lane.poll(&mut context).is_pending() {
                    park_until(None);
                }
            }
            Step::Pause(until) => {
                if lane.poll(&mut context).is_pending() {
                    park_until(lane.poll_timeout().into_iter().chain([until]).min());
                }
            }
            Step::Dial => match connect(&mut lane, dial, &mut outstanding, &mut context) {
                Ok(stream) => {
                    let patience = lane.patience();
                    let (session, error) = carry(lane.begin(Instant::now()), &*stream, patience, false);
                    session.finish(Instant::now(), error);
                }
                Err(error) => lane.handle_dial_error(Instant::now(), error),
            },
        }
    }
}

/// What a dial on another thread came to: none while it is under way.
type Dialled = Arc<Mutex<Option<io::Result<Box<dyn Stream>>>>>;

/// Dials on another thread, while requests come, are given up and expire. A dial that takes too long stays
/// `outstanding`, and there is no other one until it has ended.
fn connect(
    lane: &mut Lane,
    dial: &Dial,
    outstanding: &mut Option<Dialled>,
    context: &mut Context<'_>,
) -> io::Result<Box<dyn Stream>> {
    let limit = Instant::now().checked_add(lane.options().connect_timeout);
    // What nobody has waited for is no longer fresh.
    let under_way = outstanding.take().filter(|dialled| lock(dialled).is_none());
    let dialled = match under_way {
        Some(dialled) => dialled,
        None => start_dial(dial.clone(), context.waker().clone())?,
    };
    loop {
        let _ = lane.poll(context);
        let now = Instant::now();
        lane.handle_timeout(now);
        if let Some(stream) = lock(&dialled).take() {
            return stream;
        }
        if lane.is_done() || limit.is_some_and(|at| at <= now) {
            *outstanding = Some(dialled);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the dial in time"));
        }
        park_until(lane.poll_timeout().into_iter().chain(limit).min());
    }
}

fn start_dial(dial: Dial, waker: Waker) -> io::Result<Dialled> {
    let dialled = Dialled::default();
    let result = dialled.clone();
    std::thread::Builder::new().name("teleport-dial".into()).spawn(move || {
        let stream = unharmed(|| dial()).unwrap_or_else(|| Err(dial_panicked()));
        *lock(&result) = Some(stream);
        waker.wake();
    })?;
    Ok(dialled)
}
