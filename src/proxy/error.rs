//! Why a request got no response from upstream: one family of errors, each with the status that the caller gets.

use std::fmt;

use http::StatusCode;

use crate::driver::ClientError;
use crate::proto::{ErrorKind, MessageError, SendError, Stranger};

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// It did not come in time.
    Timeout { what: &'static str, delivered: Delivered },
    /// There is no connection to be had.
    Unreachable(String),
    /// The connection broke, or what came over it is no HTTP.
    Broken { why: String, delivered: Delivered },
    /// A response came that is not passed on.
    Response(String),
    /// There was no memory for the response.
    NoMemory,
    /// The request was not sent, by this side's own decision.
    NotSent(StatusCode, String),
}

/// How far a request came that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// It surely did not reach the upstream.
    No,
    /// It may have, and nothing of a response has come.
    Maybe,
    /// A response had begun.
    Answered,
}

impl From<bool> for Delivered {
    fn from(maybe: bool) -> Self {
        if maybe { Self::Maybe } else { Self::No }
    }
}

impl UpstreamError {
    /// The status that the caller gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable(_) | Self::Broken { .. } | Self::Response(_) => StatusCode::BAD_GATEWAY,
            Self::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotSent(status, _) => *status,
        }
    }

    /// Whether the next request is likely to meet the same. A response that is none is that response's fault.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Broken { delivered: Delivered::No | Delivered::Maybe, .. })
    }

    /// How far the request came.
    pub(crate) fn delivered(&self) -> Delivered {
        match self {
            Self::Timeout { delivered, .. } | Self::Broken { delivered, .. } => *delivered,
            Self::Unreachable(_) | Self::NotSent(..) => Delivered::No,
            Self::Response(_) | Self::NoMemory => Delivered::Answered,
        }
    }

    /// Whether any upstream would get the same request no better.
    pub(crate) fn is_callers_fault(&self) -> bool {
        matches!(self, Self::NotSent(status, _) if *status != StatusCode::SERVICE_UNAVAILABLE)
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { what, .. } => f.write_str(what),
            Self::Unreachable(why) => {
                write!(f, "cannot connect: {why}; see that it runs and that --out has its address")
            }
            Self::NoMemory => {
                f.write_str("the memory for messages is used up (--memory-budget), and its response with it")
            }
            Self::Broken { why, .. } | Self::Response(why) | Self::NotSent(_, why) => f.write_str(why),
        }
    }
}

impl From<ClientError> for UpstreamError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Send(error) => Self::NotSent(send_status(&error), error.to_string()),
            ClientError::Timeout { maybe_delivered } => {
                Self::Timeout { what: "no response in time (--out-timeout)", delivered: maybe_delivered.into() }
            }
            ClientError::Connect { error, .. } => Self::Unreachable(error.to_string()),
            ClientError::Link { error: ref link, .. } if *link.kind() == ErrorKind::HelloMagic(Stranger::Http) => {
                let delivered = error.maybe_delivered().into();
                Self::Broken { why: format!("{error}; to send it plain HTTP use --out-type http"), delivered }
            }
            ClientError::Link { error: ref link, .. } => {
                let delivered = error.maybe_delivered().into();
                let advice = match link.kind() {
                    // As of a peer that hangs up on whoever it does not want, for a reason that only its log tells.
                    ErrorKind::HelloTruncated => {
                        "; is this proxy in its --in-allow-ip, and has it room (--in-max-conns, --memory-budget)? its log says why"
                    }
                    ErrorKind::TlsRefused => "; give it --in-type teleports, or this proxy --out-type teleport",
                    ErrorKind::Closed => {
                        "; was it stopped? else its log says why, as of a dictionary that it has not, or TLS that it wants"
                    }
                    _ => "",
                };
                Self::Broken { why: certified(format!("the link broke: {error}{advice}")), delivered }
            }
            ClientError::Response(MessageError::Overload) => Self::NoMemory,
            ClientError::Response(_) => Self::Response(error.to_string()),
            ClientError::Closed => {
                Self::NotSent(StatusCode::SERVICE_UNAVAILABLE, "the proxy is shutting down".to_owned())
            }
        }
    }
}

/// What went wrong with a connection, with advice if it is about the certificate of the upstream. Of what rustls says, the
/// text alone gets this far.
pub(crate) fn certified(text: String) -> String {
    // The latter where the authority that is believed has the name of the right one.
    let of_authority = ["UnknownIssuer", "BadSignature"].map(|why| format!("invalid peer certificate: {why}"));
    if of_authority.iter().any(|why| text.contains(why)) {
        return format!("{text}; if its certificate is by an authority of your own, name that with --out-tls-ca");
    }
    if text.contains("fatal alert: CertificateRequired") {
        return format!("{text}; give this proxy a certificate for it: --out-tls-cert and --out-tls-key");
    }
    if text.contains("not valid for name") {
        return format!("{text}; if it is another name that is to be believed, say so with --out-tls-server-name");
    }
    text
}

/// Whose fault it is that a request was not sent: the caller's for most.
fn send_status(error: &SendError) -> StatusCode {
    match error {
        SendError::Closing | SendError::PendingOverflow(_) | SendError::OutputFull(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        SendError::MethodConnect => StatusCode::NOT_IMPLEMENTED,
        SendError::HeadTooLarge(_) | SendError::TooManyFields(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        SendError::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::proto::ConnectionError;

    #[test]
    fn each_error_has_its_status() {
        let send = |error| UpstreamError::from(ClientError::Send(error)).status().as_u16();
        assert_eq!(send(SendError::BodyNotAllowed), 400);
        assert_eq!(send(SendError::BodyTooLarge(1)), 413);
        assert_eq!(send(SendError::HeadTooLarge(1)), 431);
        assert_eq!(send(SendError::OutputFull(1)), 503);
        assert_eq!(UpstreamError::from(ClientError::Timeout { maybe_delivered: true }).status().as_u16(), 504);
        assert_eq!(UpstreamError::from(ClientError::Closed).status().as_u16(), 503);
    }

    #[test]
    fn options_that_may_help_are_named() {
        let link = |kind, transport: Option<&str>| {
            let transport = transport.map(|why| Arc::new(io::Error::other(why)));
            let error = ConnectionError::nowhere(kind);
            UpstreamError::from(ClientError::Link { error, transport, maybe_delivered: false }).to_string()
        };
        assert!(link(ErrorKind::HelloTruncated, None).contains("--in-allow-ip"));
        assert!(link(ErrorKind::TlsRefused, None).contains("--in-type teleports"));
        assert!(link(ErrorKind::Closed, None).contains("was it stopped?"));
        let required = "TLS: received fatal alert: CertificateRequired";
        assert!(link(ErrorKind::Transport, Some(required)).ends_with("--out-tls-cert and --out-tls-key"));
        let unknown = "TLS: invalid peer certificate: UnknownIssuer";
        assert!(link(ErrorKind::Transport, Some(unknown)).ends_with("--out-tls-ca"));
        assert!(!link(ErrorKind::Transport, Some("TLS: no cipher suites in common")).contains("--"));
        assert!(certified("certificate not valid for name \"a\"".into()).ends_with("--out-tls-server-name"));
    }
}
