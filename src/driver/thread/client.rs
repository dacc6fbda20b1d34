//! The client on threads.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Request, Response};

use super::super::address::Address;
use super::super::client::{Callers, Lane, Outcome, Step, dial_panicked};
use super::super::error::ClientError;
use super::super::options::{ClientOptions, Deadline};
use super::super::timed::Until;
use super::carry::carry;
use super::stream::{Dial, Stream, dial_to};
use super::wait::wait;
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
        Self { callers: Callers::new(name, options, start) }
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
        Call(self.callers.send(request, deadline.into(), false))
    }

    /// Sends a request that wants no response (R-id-oneway). Returns when it is on its way on a link that is up, and
    /// no one learns what becomes of it then.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but those about a response; it was not sent then.
    pub fn oneway(&self, request: Request<Bytes>, deadline: impl Into<Deadline>) -> Result<(), ClientError> {
        wait(self.callers.send(request, deadline.into(), true)).map(drop)
    }

    /// How many requests wait for their outcome, or have one that their caller has not taken yet.
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
        wait(Until::new(deadline, pin!(self.callers.close(deadline))));
    }
}

/// A request under way. Dropping it gives the request up. It is a future, too, for whoever mixes both worlds.
#[derive(Debug)]
#[must_use = "dropping it gives the request up"]
pub struct Call(Outcome);

impl Call {
    /// Waits for the response.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]: each says whether the request can have reached the server.
    pub fn wait(self) -> Result<Response<Bytes>, ClientError> {
        wait(self.0)
    }
}

impl Future for Call {
    type Output = Result<Response<Bytes>, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Carries a lane: one thread, through many connections.
fn run(mut lane: Lane, dial: &Dial) {
    let mut outstanding = None;
    while wait(&mut lane) == Step::Dial {
        match connect(&mut lane, dial, &mut outstanding) {
            Ok(stream) => {
                let patience = lane.patience();
                let (session, error) = carry(lane.begin(Instant::now()), &*stream, patience);
                session.finish(Instant::now(), error);
            }
            Err(error) => lane.handle_dial_error(Instant::now(), error),
        }
    }
}

/// What a dial on another thread comes to.
type Dialled = oneshot::Receiver<io::Result<Box<dyn Stream>>>;

/// Dials on another thread. A dial that takes too long stays `outstanding`, and there is no other one until it has ended.
fn connect(lane: &mut Lane, dial: &Dial, outstanding: &mut Option<Dialled>) -> io::Result<Box<dyn Stream>> {
    // What nobody has waited for is no longer fresh.
    let mut dialled = match outstanding.take_if(|dialled| matches!(dialled.try_recv(), Ok(None))) {
        Some(dialled) => dialled,
        None => start_dial(dial.clone())?,
    };
    let stream = async { (&mut dialled).await.unwrap_or_else(|_| Err(dial_panicked())) };
    let stream = wait(lane.dial(Instant::now(), pin!(stream)));
    *outstanding = Some(dialled);
    stream
}

fn start_dial(dial: Dial) -> io::Result<Dialled> {
    let (sender, dialled) = oneshot::channel();
    let run = move || {
        // Nobody waits for it any more if that fails.
        let _ = sender.send(dial());
    };
    std::thread::Builder::new().name("teleport-dial".into()).spawn(run)?;
    Ok(dialled)
}
