//! Where a server is.

use std::fmt;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;

/// Where a server is. `From<&str>` takes `HOST:PORT`, where the host is a name or an IP address (`[::1]:8043`), and
/// `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// `HOST:PORT`. A name is looked up at each dial.
    Tcp(String),
    /// The path of a unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::Unix(path.into());
        }
        Self::Tcp(text.to_owned())
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => f.write_str(addr),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
