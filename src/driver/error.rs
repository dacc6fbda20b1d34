//! How a request of a client can end without a response.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::proto::{ConnectionError, MessageError, SendError};

/// Why a request got no response.
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

impl std::error::Error for ClientError {}
