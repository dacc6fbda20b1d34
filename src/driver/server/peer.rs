//! Who sent a request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[cfg(feature = "tls")]
use super::super::tls::TlsIdentity;
use crate::proto::Compression;

/// Who sent a request. Cheap to clone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// The address of the other end of the link.
    pub addr: PeerAddr,
    /// How it compresses what it sends.
    pub compression: Compression,
    /// What TLS says of the peer, if the link is inside TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<TlsIdentity>>,
}

impl Peer {
    pub(super) fn new(addr: PeerAddr) -> Self {
        Self {
            addr,
            compression: Compression::None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// The address of the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// Of a TCP connection.
    Ip(SocketAddr),
    /// Of a unix socket, where clients have no address as a rule.
    Unix,
    /// Whatever a listener of the caller's own says.
    Other(Arc<str>),
}

impl PeerAddr {
    /// The IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Unix | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix socket"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Why a server closes a link as soon as it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkRefused {
    /// There are so many, which is the limit: [`ServerOptions::links`](crate::driver::ServerOptions::links).
    TooMany(usize),
    /// Compression of those that there are takes what it may of the [`MemoryBudget`](crate::driver::MemoryBudget).
    NoMemory,
}

impl fmt::Display for LinkRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(links) => write!(f, "{links} links are up, which is the limit"),
            Self::NoMemory => f.write_str("the links that are up take half of the memory budget for compression"),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}
