//! The client of a driver.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{ClientError, ClientOptions, smol as smol_driver, thread};
use smol::{Executor, Task};

use crate::common::{self, Event, Message, Setup};
use crate::{Driver, Teller, tls};

/// The same of either driver.
#[derive(Clone)]
enum Client {
    Smol(smol_driver::Client),
    Thread(thread::Client),
}

type Outcome<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

impl Client {
    fn request(&self, request: Request<Bytes>, deadline: Option<Instant>) -> Outcome<Response<Bytes>> {
        match self.clone() {
            Self::Smol(client) => Box::pin(async move { client.request(request, deadline).await }),
            Self::Thread(client) => Box::pin(client.start(request, deadline)),
        }
    }

    fn oneway(&self, request: Request<Bytes>) -> Outcome<()> {
        match self.clone() {
            Self::Smol(client) => Box::pin(async move { client.oneway(request, None).await }),
            Self::Thread(client) => Box::pin(smol::unblock(move || client.oneway(request, None))),
        }
    }

    async fn close(self, deadline: Instant) {
        match self {
            Self::Smol(client) => client.close(deadline).await,
            Self::Thread(client) => smol::unblock(move || client.close(deadline)).await,
        }
    }
}

/// A client, and what it was asked for.
pub(crate) struct ClientEnd {
    client: Client,
    executor: Arc<Executor<'static>>,
    drain_timeout: Duration,
    /// Requests that wait for their outcome; dropping one gives it up.
    waiting: BTreeMap<u64, Task<()>>,
    pub(crate) teller: Teller,
}

impl ClientEnd {
    /// A client that dials at once.
    pub(crate) fn new(
        driver: Driver,
        executor: &Arc<Executor<'static>>,
        addr: String,
        setup: &Setup,
    ) -> Result<Self, String> {
        let mut options = ClientOptions::default().config(common::config(setup)?);
        if setup.tls == true {
            options = options.tls(tls::client()?);
        }
        let client = match driver {
            Driver::Smol => Client::Smol(smol_driver::Client::new(Arc::clone(executor), addr, options)),
            Driver::Thread => Client::Thread(thread::Client::new(addr, options)),
        };
        // The driver dials for a request, even for one that the link then refuses, of which nothing is sent.
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = http::Method::CONNECT;
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("h"));
        executor.spawn(client.request(request, None)).detach();
        Ok(Self {
            client,
            executor: Arc::clone(executor),
            drain_timeout: Duration::from_micros(setup.drain_timeout),
            waiting: BTreeMap::new(),
            teller: Teller::new(),
        })
    }

    /// Sends a request; returns the code with which it failed at once.
    pub(crate) async fn request(
        &mut self,
        tag: u64,
        message: &Message,
        after: Option<u64>,
    ) -> Result<Option<String>, String> {
        let request = match common::request(message)? {
            Ok(request) => request,
            Err(code) => return Ok(Some(code)),
        };
        let deadline = after.map(|after| Instant::now() + Duration::from_micros(after));
        let mut outcome = self.client.request(request, deadline);
        // Now, and not when its task has its turn: requests leave in the order of the commands.
        match smol::future::poll_once(&mut outcome).await {
            Some(Err(error)) => Ok(Some(failure(&error).0)),
            Some(Ok(response)) => {
                self.teller.tell(&event(tag, Ok(response)));
                Ok(None)
            }
            None => {
                let teller = self.teller.clone();
                let task = self.executor.spawn(async move { teller.tell(&event(tag, outcome.await)) });
                self.waiting.insert(tag, task);
                Ok(None)
            }
        }
    }

    /// Sends a request that wants no response; returns the code with which it failed at once.
    pub(crate) async fn oneway(&self, message: &Message) -> Result<Option<String>, String> {
        let request = match common::request(message)? {
            Ok(request) => request,
            Err(code) => return Ok(Some(code)),
        };
        let mut outcome = self.client.oneway(request);
        // A link that is up takes or refuses it in no time, even on a busy machine; before the hello it waits.
        let soon = async {
            smol::Timer::after(Duration::from_secs(1)).await;
            None
        };
        match smol::future::or(async { Some((&mut outcome).await) }, soon).await {
            Some(Err(error)) => Ok(Some(failure(&error).0)),
            Some(Ok(())) => Ok(None),
            None => {
                self.executor.spawn(async move { drop(outcome.await) }).detach();
                Ok(None)
            }
        }
    }

    /// Gives a request up; what is asked for next comes after that.
    pub(crate) async fn cancel(&mut self, tag: u64) {
        if let Some(task) = self.waiting.remove(&tag) {
            task.cancel().await;
        }
    }

    pub(crate) fn close(&self) {
        let (client, deadline) = (self.client.clone(), Instant::now() + self.drain_timeout);
        self.executor.spawn(async move { client.close(deadline).await }).detach();
    }
}

fn event(tag: u64, outcome: Result<Response<Bytes>, ClientError>) -> Event {
    match outcome {
        Ok(response) => Event::Response {
            tag,
            status: response.status().as_u16(),
            fields: common::fields(response.headers()),
            body: common::hex(response.body()),
        },
        Err(error) => {
            let (code, maybe_delivered) = failure(&error);
            Event::Failed { tag, code, maybe_delivered }
        }
    }
}

/// The code of a failure, and whether the request may have been delivered.
fn failure(error: &ClientError) -> (String, bool) {
    let code = match error {
        ClientError::Send(error) => error.code(),
        ClientError::Timeout { .. } => "timeout",
        ClientError::Link { error, .. } => error.code(),
        ClientError::Response(error) => error.code(),
        ClientError::Closed => "closing",
        // A dial that failed has no code of its own.
        _ => "transport",
    };
    (code.into(), error.maybe_delivered())
}
