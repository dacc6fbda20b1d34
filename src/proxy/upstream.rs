//! Where requests go: one interface over an HTTP server and a link, and one family of errors, each with the status that
//! the caller gets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tracing::{debug, info, warn};

use super::config::{Kind, ProxyConfig};
use super::http_out::Pool;
use crate::driver::smol::{Client, ClientError};
use crate::proto::{SendError, Stats};

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// It did not come in time.
    Timeout(&'static str),
    /// There is no connection to be had.
    Unreachable(String),
    /// The connection broke, or what came over it is no HTTP.
    Broken(String),
    /// A response came that is not passed on.
    Response(String),
    /// The request was not sent, by this side's own decision.
    NotSent(StatusCode, String),
}

impl UpstreamError {
    /// The status that the caller gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable(_) | Self::Broken(_) | Self::Response(_) => StatusCode::BAD_GATEWAY,
            Self::NotSent(status, _) => *status,
        }
    }

    /// Whether the next request is likely to meet the same.
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Broken(_))
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(what) => f.write_str(what),
            Self::Unreachable(why) => write!(f, "cannot connect: {why}"),
            Self::Broken(why) | Self::Response(why) | Self::NotSent(_, why) => f.write_str(why),
        }
    }
}

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
    pub(crate) fn new(executor: &Arc<smol::Executor<'static>>, config: &ProxyConfig) -> Self {
        let out = &config.outbound;
        let via = match out.kind {
            Kind::Http => Via::Http(Pool::new(executor.clone(), out)),
            Kind::Teleport => Via::Teleport(Client::new(executor.clone(), out.addr.clone(), config.client_options())),
        };
        Self {
            addr: out.addr.clone(),
            via,
            timeout: out.timeout,
            log_all_errors: config.log_all_errors,
            is_down: AtomicBool::new(false),
        }
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
            Via::Teleport(client) => client.request(request, deadline).await.map_err(from_client),
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

/// The driver's errors in the proxy's words.
fn from_client(error: ClientError) -> UpstreamError {
    match error {
        ClientError::Send(error) => UpstreamError::NotSent(send_status(&error), error.to_string()),
        ClientError::Timeout { .. } => UpstreamError::Timeout("no response in time (--out-timeout)"),
        ClientError::Connect { error, .. } => UpstreamError::Unreachable(error.to_string()),
        ClientError::Link { error, .. } => UpstreamError::Broken(format!("the link broke: {error}")),
        ClientError::Response(error) => UpstreamError::Response(format!("the response was refused: {error}")),
        ClientError::Closed => {
            UpstreamError::NotSent(StatusCode::SERVICE_UNAVAILABLE, "the proxy is shutting down".to_owned())
        }
    }
}

/// Whose fault it is that a request was not sent: the caller's for most.
fn send_status(error: &SendError) -> StatusCode {
    match error {
        SendError::Closing | SendError::PendingOverflow(_) | SendError::OutputFull(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        SendError::MethodConnect => StatusCode::NOT_IMPLEMENTED,
        SendError::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        SendError::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status() {
        let send = |error| from_client(ClientError::Send(error)).status().as_u16();
        assert_eq!(send(SendError::BodyNotAllowed), 400);
        assert_eq!(send(SendError::BodyTooLarge(1)), 413);
        assert_eq!(send(SendError::HeadTooLarge(1)), 431);
        assert_eq!(send(SendError::OutputFull(1)), 503);
        assert_eq!(from_client(ClientError::Timeout { maybe_delivered: true }).status().as_u16(), 504);
        assert_eq!(from_client(ClientError::Closed).status().as_u16(), 503);
    }
}
