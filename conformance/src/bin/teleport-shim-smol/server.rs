//! The driver's server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use httpteleport::driver::ServerOptions;
use httpteleport::driver::smol::Server;
use smol::channel::{Receiver, Sender, bounded};
use smol::net::TcpListener;
use smol::{Executor, Task};

use crate::Teller;
use crate::common::{self, Event, Setup};

/// A server, and the requests that its handlers have.
pub(crate) struct ServerEnd {
    server: Server,
    executor: Arc<Executor<'static>>,
    drain_timeout: Duration,
    unanswered: Arc<Mutex<Unanswered>>,
    _serving: Task<()>,
    pub(crate) teller: Teller,
}

#[derive(Default)]
struct Unanswered {
    last_ticket: u64,
    answers: BTreeMap<u64, Sender<Response<Bytes>>>,
}

impl ServerEnd {
    /// A server on a port of its own.
    pub(crate) async fn new(executor: &Arc<Executor<'static>>, setup: &Setup) -> Result<(Self, SocketAddr), String> {
        let options = ServerOptions::default().config(common::config(setup)?);
        let server = Server::new(Arc::clone(executor), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        let (teller, unanswered) = (Teller::new(), Arc::new(Mutex::new(Unanswered::default())));
        let telling = teller.clone();
        server.on_link_start(move |_, _| telling.tell(&Event::Connected {}));
        let telling = teller.clone();
        server.on_link_end(move |_, error, _| {
            telling.tell(&Event::Closed { code: error.map(|error| error.code().into()) });
        });
        let (serving, telling, asked) = (server.clone(), teller.clone(), Arc::clone(&unanswered));
        let handler = move |request: Request<Bytes>, _| {
            let (telling, asked) = (telling.clone(), Arc::clone(&asked));
            async move {
                let answer = ask(&request, &telling, &asked);
                // Nobody answers once the next connection has begun, and nobody waits for it.
                let gone = || Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Bytes::new());
                answer.recv().await.or_else(|_| gone()).unwrap_or_default()
            }
        };
        let serving = executor.spawn(async move { drop(serving.serve(listener, handler).await) });
        let drain_timeout = Duration::from_micros(setup.drain_timeout);
        let executor = Arc::clone(executor);
        Ok((Self { server, executor, drain_timeout, unanswered, _serving: serving, teller }, addr))
    }

    /// Answers a request; returns the code of what cannot even be said to the driver.
    pub(crate) fn respond(
        &self,
        ticket: u64,
        response: Result<Response<Bytes>, String>,
    ) -> Result<Option<String>, String> {
        let response = match response {
            Ok(response) => response,
            Err(code) => return Ok(Some(code)),
        };
        let answer = lock(&self.unanswered).answers.remove(&ticket).ok_or("no such ticket")?;
        // A handler that has ended wants no answer.
        let _ = answer.try_send(response);
        Ok(None)
    }

    pub(crate) fn close(&self) {
        let (server, deadline) = (self.server.clone(), Instant::now() + self.drain_timeout);
        self.executor.spawn(async move { server.shutdown(deadline).await }).detach();
    }
}

/// Tells the suite of a request; its answer will come. The driver tells its handlers neither the wire's id nor whether
/// a response is wanted.
fn ask(request: &Request<Bytes>, teller: &Teller, unanswered: &Mutex<Unanswered>) -> Receiver<Response<Bytes>> {
    let (sender, answer) = bounded(1);
    let mut unanswered = lock(unanswered);
    unanswered.last_ticket += 1;
    let ticket = unanswered.last_ticket;
    unanswered.answers.insert(ticket, sender);
    teller.tell(&Event::Request {
        ticket,
        id: None,
        method: request.method().to_string(),
        target: request.uri().to_string(),
        fields: common::fields(request.headers()),
        body: common::hex(request.body()),
    });
    answer
}

fn lock(unanswered: &Mutex<Unanswered>) -> MutexGuard<'_, Unanswered> {
    unanswered.lock().unwrap_or_else(PoisonError::into_inner)
}
