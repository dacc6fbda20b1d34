//! How a request of a client can end without a response.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::proto::{ConnectionError, ErrorKind, MessageError, SendError};

/// Why a request got no response.
///
/// A request that was sent again, as [`retry_if`](super::ClientOptions::retry_if) allows, may have been delivered by any
/// of its links. Where the repetition was not sent, it ends with [`Link`](Self::Link): with the error of the link that may
/// have delivered it, and as `transport` what came of sending it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The request was refused on this side and not sent.
    Send(SendError),
    /// No response before the deadline.
    Timeout {
        /// Whether the request can have reached the server.
        maybe_delivered: bool,
    },
    /// No connection to the address; nothing was sent.
    Connect {
        /// The address.
        addr: String,
        /// Why.
        error: Arc<io::Error>,
    },
    /// The link ended.
    Link {
        /// Why.
        error: ConnectionError,
        /// What the transport failed with, if that is why.
        transport: Option<Arc<io::Error>>,
        /// Whether the request can have reached the server.
        maybe_delivered: bool,
    },
    /// The response was refused.
    Response(MessageError),
    /// The client was closed; nothing was sent.
    Closed,
}

impl ClientError {
    /// Whether the request can have reached the server, and so have run.
    pub fn maybe_delivered(&self) -> bool {
        match self {
            Self::Timeout { maybe_delivered } | Self::Link { maybe_delivered, .. } => *maybe_delivered,
            Self::Response(_) => true,
            Self::Send(_) | Self::Connect { .. } | Self::Closed => false,
        }
    }

    /// The same for a request that an `earlier` link may have delivered.
    pub(super) fn after(mut self, earlier: Self) -> Self {
        match &mut self {
            Self::Timeout { maybe_delivered } | Self::Link { maybe_delivered, .. } => *maybe_delivered = true,
            Self::Response(_) => {}
            Self::Send(_) | Self::Connect { .. } | Self::Closed => {
                if let Self::Link { error, .. } = earlier {
                    let transport = Some(Arc::new(io::Error::other(format!("it was not sent again: {self}"))));
                    return Self::Link { error, transport, maybe_delivered: true };
                }
            }
        }
        self
    }

    /// Whatever carried the request is gone, and did not say what became of it.
    pub(super) fn lost() -> Self {
        Self::Link {
            error: ConnectionError::nowhere(ErrorKind::Transport),
            transport: Some(Arc::new(io::Error::other("what carried the link has panicked or was dropped"))),
            maybe_delivered: true,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => write!(f, "{error} [{}]", error.code()),
            Self::Timeout { maybe_delivered: true } => f.write_str("no response before the deadline"),
            Self::Timeout { maybe_delivered: false } => {
                f.write_str("the deadline passed before the request could be sent")
            }
            Self::Connect { addr, error } => write!(f, "cannot connect to {addr}: {error}"),
            Self::Link { error, transport, maybe_delivered } => {
                error.fmt(f)?;
                if let Some(transport) = transport {
                    write!(f, ": {transport}")?;
                }
                let delivered = if *maybe_delivered { "may have reached the server" } else { "was not sent" };
                write!(f, " (the request {delivered})")
            }
            Self::Response(error) => {
                write!(f, "the response was refused: {error} [{}]", error.code())
            }
            Self::Closed => f.write_str("the client is closed"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Send(error) => Some(error),
            Self::Response(error) => Some(error),
            Self::Connect { error, .. } => Some(&**error),
            Self::Link { transport: Some(transport), .. } => Some(&**transport),
            Self::Link { error, .. } => Some(error),
            Self::Timeout { .. } | Self::Closed => None,
        }
    }
}
