//! Where requests go: one interface over an HTTP server and a link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use tracing::{debug, info, warn};

use super::StartError;
use super::config::ProxyConfig;
use super::dial::Dialing;
use super::error::UpstreamError;
use super::http_out::Pool;
use crate::driver::smol::Client;
use crate::proto::Stats;

/// Where requests go. It connects when a request needs it, so that a proxy starts before its upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    addr: String,
    via: Via,
    timeout: Option<Duration>,
    log_all_errors: bool,
    /// The last thing heard was an outage: the next one is no news, the next success is.
    is_down: AtomicBool,
}

#[derive(Debug)]
enum Via {
    Http(Pool),
    Teleport(Client),
}

impl Upstream {
    pub(crate) fn new(executor: &Arc<smol::Executor<'static>>, config: &ProxyConfig) -> Result<Self, StartError> {
        let out = &config.outbound;
        let dialer = Dialing::new(out)?.to(&out.addr)?;
        let via = if out.kind.is_link() {
            Via::Teleport(dialer.client(executor.clone(), config.client_options()))
        } else {
            Via::Http(Pool::new(executor.clone(), dialer, out))
        };
        Ok(Self {
            addr: out.addr.clone(),
            via,
            timeout: out.timeout,
            log_all_errors: config.log_all_errors,
            is_down: AtomicBool::new(false),
        })
    }

    /// `HOST:PORT`, as configured.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends `request`, which is in origin-form with one `Host`, and waits for the whole response.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, UpstreamError> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let result = match &self.via {
            Via::Http(pool) => pool.send(request, deadline).await,
            Via::Teleport(client) => client.request(request, deadline).await.map_err(UpstreamError::from),
        };
        self.note(result.as_ref().err());
        result
    }

    /// What the links have carried, for a teleport upstream.
    pub(crate) fn link_stats(&self) -> Option<Stats> {
        match &self.via {
            Via::Http(_) => None,
            Via::Teleport(client) => Some(client.stats()),
        }
    }

    /// Ends connections in order, at the latest at `deadline`.
    pub(crate) async fn close(&self, deadline: Instant) {
        match &self.via {
            Via::Http(pool) => pool.close(),
            Via::Teleport(client) => client.close(deadline).await,
        }
    }

    /// One line when an outage begins and one when it ends; every error only if asked for.
    fn note(&self, error: Option<&UpstreamError>) {
        let addr = &self.addr;
        match error {
            None => {
                if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
                    info!("upstream {addr}: answers again");
                }
            }
            Some(error) if error.is_outage() && !self.is_down.swap(true, Ordering::Relaxed) => {
                warn!("upstream {addr}: {error} (requests are answered 502 until it is back; said once)");
            }
            Some(error) if self.log_all_errors => warn!("upstream {addr}: {error}"),
            Some(error) => debug!("upstream {addr}: {error}"),
        }
    }
}
