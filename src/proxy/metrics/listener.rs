//! The listener for those who look: `/` is the page, `/metrics`, `/prometheus`, `/expvar` and `/status` are figures.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use smol::future::FutureExt;
use smol::{Executor, Task};
use tracing::debug;

use super::super::hyper_io::HyperIo;
use super::{Identity, Snapshot, openmetrics, original, status};
use crate::proxy::StatsReader;
use crate::proxy::reactor::Timer;
use crate::proxy::stream::{Socket, TcpListener};

/// The page, which brings all that it needs.
const PAGE: &str = include_str!("page.html");
/// Whoever keeps a connection for longer can make a new one.
const LONGEST: Duration = Duration::from_secs(60);
/// Most connections at once; the oldest ends when there is one more. They must not take what callers need.
const MOST: usize = 64;
/// The largest head.
const HEAD_BYTES: usize = 16 * 1024;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers those who look.
#[derive(Debug)]
pub(crate) struct MetricsListener {
    listener: TcpListener,
    addr: SocketAddr,
}

impl MetricsListener {
    /// Listens on `HOST:PORT`, or on `:PORT` for all IPv4 addresses. `localhost` is 127.0.0.1, as for the original: where
    /// that is busy, ::1 in its place would be a surprise.
    pub(crate) async fn bind(addr: &str) -> io::Result<Self> {
        let full = match addr.rsplit_once(':') {
            Some(("", port)) => format!("{}:{port}", Ipv4Addr::UNSPECIFIED),
            Some(("localhost", port)) => format!("{}:{port}", Ipv4Addr::LOCALHOST),
            _ => addr.to_owned(),
        };
        let listener = TcpListener::bind(full).await?;
        Ok(Self { addr: listener.local_addr()?, listener })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers for ever.
    pub(crate) async fn run(self, reader: StatsReader, identity: Arc<Identity>) {
        let open = Executor::new();
        let mut tasks: VecDeque<Task<()>> = VecDeque::new();
        let accept = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        tasks.retain(|task| !task.is_finished());
                        if tasks.len() >= MOST {
                            tasks.pop_front();
                        }
                        tasks.push_back(open.spawn(serve(stream, reader.clone(), identity.clone())));
                    }
                    Err(_) => Timer::after(ACCEPT_PAUSE).await,
                }
            }
        };
        // Its connections end with it.
        open.run(accept).await;
    }
}

async fn serve(stream: Socket, reader: StatsReader, identity: Arc<Identity>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &reader, &identity);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = Builder::new().max_buf_size(HEAD_BYTES).serve_connection(HyperIo::new(stream), service);
    let limit = async {
        Timer::after(LONGEST).await;
        Ok(())
    };
    if let Err(error) = connection.or(limit).await {
        debug!("metrics: {error}");
    }
}

fn answer<B>(request: &Request<B>, reader: &StatsReader, identity: &Arc<Identity>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered here\n");
    }
    let snapshot = || Snapshot::take(reader, identity);
    let ok = StatusCode::OK;
    match request.uri().path() {
        "/" => text(ok, "text/html; charset=utf-8", PAGE),
        "/metrics" => match openmetrics::text(snapshot()) {
            Ok(page) => text(ok, "application/openmetrics-text; version=1.0.0; charset=utf-8", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        "/prometheus" => text(ok, "text/plain; version=0.0.4; charset=utf-8", original::prometheus(&snapshot())),
        "/expvar" => text(ok, "application/json; charset=utf-8", original::expvar(&snapshot())),
        "/healthz" => text(ok, "text/plain", "alive\n"),
        "/readyz" if reader.is_stopping() => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "stopping\n"),
        "/readyz" => text(ok, "text/plain", "ready\n"),
        "/status" => text(ok, "application/json; charset=utf-8", status::json(&snapshot())),
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain",
            "there is / (a page for people), /metrics, /prometheus, /expvar, /status, /healthz and /readyz\n",
        ),
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
