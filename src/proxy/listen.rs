//! Where connections come in: TCP or a unix socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use smol::net::TcpListener;
use smol::net::unix::UnixListener;
use socket2::{Domain, Protocol, Type};

use super::StartError;
use super::config::Inbound;
use super::stream::Socket;
use crate::driver::PeerAddr;
use crate::driver::smol::Listener as LinkListener;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Where a proxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// On this address, with the port that the system has picked if it was to.
    Tcp(SocketAddr),
    /// On the unix socket of this path.
    Unix(PathBuf),
}

impl ListenAddr {
    /// The address, unless it is a path.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener of any kind.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Listening,
    addr: ListenAddr,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "it removes the file when dropped")] SocketFile),
}

impl Listener {
    /// Listens as `config` says.
    pub(crate) async fn bind(config: &Inbound) -> Result<Self, StartError> {
        let config = config.clone();
        smol::unblock(move || {
            let socket = if config.kind.is_unix() { listen_unix(&config.addr) } else { listen_tcp(&config) };
            socket.map_err(|error| StartError::Listen { addr: config.addr, error })
        })
        .await
    }

    pub(crate) fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// The next connection, and who made it.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                Ok((stream.into(), addr.into()))
            }
            Listening::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.into(), PeerAddr::Unix))
            }
        }
    }
}

impl LinkListener for Listener {
    type Stream = Socket;

    async fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        Self::accept(self).await
    }
}

/// Listens on `HOST:PORT` or, as in Go, on `:PORT` for all IPv4 addresses.
fn listen_tcp(config: &Inbound) -> io::Result<Listener> {
    let full = match config.addr.strip_prefix(':') {
        Some(port) => format!("{}:{port}", Ipv4Addr::UNSPECIFIED),
        None => config.addr.clone(),
    };
    let mut last = None;
    for addr in full.to_socket_addrs()? {
        match bind_tcp(addr, config.reuse_port) {
            Ok(listener) => {
                let local = listener.local_addr()?;
                return Ok(Listener { socket: Listening::Tcp(listener), addr: ListenAddr::Tcp(local) });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn bind_tcp(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // As the standard library does: what lingers of an earlier listener is in nobody's way.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::try_from(std::net::TcpListener::from(socket))
}

/// Listens on the unix socket of this path. One that a dead process has left behind is replaced.
fn listen_unix(path: &str) -> io::Result<Listener> {
    let path = Path::new(path);
    remove_stale(path)?;
    let listener = StdUnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    listener.set_nonblocking(true)?;
    let socket = Listening::Unix(UnixListener::try_from(listener)?, file);
    Ok(Listener { socket, addr: ListenAddr::Unix(path.to_owned()) })
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = "the file is there and is no socket; choose another path, or remove it";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// The file of a unix socket; removed when dropped, unless it is another's by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

/// What tells a file from a later one of the same name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // If it cannot be removed, the next listener will find out that nobody listens there.
            let _ = fs::remove_file(&self.path);
        }
    }
}
