//! The server of a driver.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use httpteleport::driver::{Peer, ServerOptions, smol as smol_driver, thread};
use httpteleport::proto::ConnectionError;
use smol::Executor;
use smol::channel::{Receiver, Sender, bounded};

use crate::common::{self, Event, Setup};
use crate::{Driver, Teller, tls};

/// The same of either driver.
#[derive(Clone)]
enum Server {
    Smol(smol_driver::Server),
    Thread(thread::Server),
}

impl Server {
    async fn shutdown(self, deadline: Instant) {
        match self {
            Self::Smol(server) => server.shutdown(deadline).await,
            Self::Thread(server) => smol::unblock(move || server.shutdown(deadline)).await,
        }
    }
}

/// A server, and the requests that its handlers have.
pub(crate) struct ServerEnd {
    server: Server,
    executor: Arc<Executor<'static>>,
    drain_timeout: Duration,
    unanswered: Arc<Mutex<Unanswered>>,
    pub(crate) teller: Teller,
}

#[derive(Default)]
struct Unanswered {
    last_ticket: u64,
    answers: BTreeMap<u64, Sender<Response<Bytes>>>,
}

impl ServerEnd {
    /// A server on a port of its own.
    pub(crate) fn new(
        driver: Driver,
        executor: &Arc<Executor<'static>>,
        setup: &Setup,
    ) -> Result<(Self, SocketAddr), String> {
        // Cases in which a server closes are about what comes behind a goodbye.
        let mut options = ServerOptions::default().config(common::config(setup)?).goodbye(Duration::ZERO);
        if setup.tls != "off" {
            options = options.tls(tls::server()?).require_tls(setup.tls == "required");
        }
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let addr = listener.local_addr().map_err(|error| error.to_string())?;
        let (teller, unanswered) = (Teller::new(), Arc::new(Mutex::new(Unanswered::default())));
        let (up, down) = (teller.clone(), teller.clone());
        let on_start = move |_: &Peer, _| up.tell(&Event::Connected {});
        let on_end = move |_: &Peer, error: Option<&ConnectionError>, _: Option<&std::io::Error>| {
            down.tell(&Event::Closed { code: error.map(|error| error.code().into()) });
        };
        let (telling, asked) = (teller.clone(), Arc::clone(&unanswered));
        let ask = Arc::new(move |request: Request<Bytes>| ask(&request, &telling, &asked));
        // Nobody answers once the next connection has begun, and nobody waits for it.
        let gone =
            || Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(Bytes::new()).unwrap_or_default();
        let server = match driver {
            Driver::Smol => {
                let server = smol_driver::Server::new(Arc::clone(executor), options);
                server.on_link_start(on_start);
                server.on_link_end(on_end);
                let listener = smol::net::TcpListener::try_from(listener).map_err(|error| error.to_string())?;
                let handler = move |request, _| {
                    let answer = ask(request);
                    async move { answer.recv().await.unwrap_or_else(|_| gone()) }
                };
                let serving = server.clone();
                executor.spawn(async move { serving.serve(listener, handler).await }).detach();
                Server::Smol(server)
            }
            Driver::Thread => {
                let server = thread::Server::new(options);
                server.on_link_start(on_start);
                server.on_link_end(on_end);
                let handler = move |request, _| ask(request).recv_blocking().unwrap_or_else(|_| gone());
                let serving = server.clone();
                std::thread::spawn(move || serving.serve(listener, handler));
                Server::Thread(server)
            }
        };
        let drain_timeout = Duration::from_micros(setup.drain_timeout);
        let executor = Arc::clone(executor);
        Ok((Self { server, executor, drain_timeout, unanswered, teller }, addr))
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
