//! Where connections come in: TCP or a unix socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use mio::net::UnixListener;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::{Executor, Task};
use socket2::{Domain, Protocol, Type};
use tracing::warn;

use super::StartError;
use super::access::Gate;
use super::config::{Inbound, Kind};
use super::metrics::IoCounters;
use super::proxy_header::{self, HeaderError};
use super::reactor::{Timer, Watched, Way};
use super::stream::{Socket, TcpListener};
use crate::driver::PeerAddr;
use crate::driver::smol::Listener as LinkListener;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a header of the PROXY protocol may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections may wait to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

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

/// A socket that listens already. It goes on to, whoever serves it: what comes during a restart waits for the next process.
#[derive(Clone, Debug)]
pub enum Opened {
    /// On TCP.
    Tcp(Arc<StdTcpListener>),
    /// On a unix socket, whose file is not removed.
    Unix(Arc<StdUnixListener>),
}

impl Opened {
    /// The one socket that a service manager has handed to this process (`LISTEN_FDS`), for this kind of listener. Changes
    /// the environment: to be called before there are threads.
    ///
    /// # Errors
    ///
    /// None was handed over, or several, or one of another kind.
    pub fn from_env(kind: Kind) -> io::Result<Self> {
        let mut handed = ListenFd::from_env();
        if handed.len() != 1 {
            let count = handed.len();
            let message =
                format!("a service manager is to hand over one socket (LISTEN_FDS), and has handed over {count}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let wrong = |_| {
            let other = if kind.is_unix() {
                "a TCP socket goes with --in-type http"
            } else {
                "a unix socket goes with --in-type unix"
            };
            let message = format!("the socket that was handed over is not one that {kind} listens on: {other}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        Ok(match kind.is_unix() {
            true => Self::Unix(Arc::new(handed.take_unix_listener(0).map_err(wrong)?.ok_or_else(gone)?)),
            false => Self::Tcp(Arc::new(handed.take_tcp_listener(0).map_err(wrong)?.ok_or_else(gone)?)),
        })
    }

    fn listen(&self) -> io::Result<(Listening, ListenAddr)> {
        match self {
            Self::Tcp(listener) => {
                let listener = TcpListener::new(listener.try_clone()?)?;
                let addr = listener.local_addr()?;
                Ok((Listening::Tcp(listener), ListenAddr::Tcp(addr)))
            }
            Self::Unix(listener) => {
                let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
                Ok((Listening::unix(listener.try_clone()?, None)?, ListenAddr::Unix(path)))
            }
        }
    }
}

/// A listener of any kind.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Listening,
    addr: ListenAddr,
    gate: Arc<Gate>,
    has_headers: bool,
    /// Counts its connections.
    counters: Arc<IoCounters>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    /// The file is there unless it is somebody else's.
    Unix(Watched<UnixListener>, #[expect(dead_code, reason = "it removes the file when dropped")] Option<SocketFile>),
}

impl Listening {
    fn unix(listener: StdUnixListener, file: Option<SocketFile>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(Watched::new(UnixListener::from_std(listener))?, file))
    }
}

impl Listener {
    /// Listens as `config` says.
    pub(crate) async fn bind(config: &Inbound, counters: Arc<IoCounters>) -> Result<Self, StartError> {
        let config = config.clone();
        smol::unblock(move || {
            let bound = match &config.opened {
                Some(opened) => opened.listen(),
                None if config.kind.is_unix() => listen_unix(&config.addr),
                None => listen_tcp(&config),
            };
            let (socket, addr) = bound.map_err(|error| StartError::Listen { addr: config.addr.clone(), error })?;
            let gate = Arc::new(Gate::new(&config));
            Ok(Self { socket, addr, gate, has_headers: config.proxy_protocol, counters })
        })
        .await
    }

    pub(crate) fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The next connection that may be.
    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        loop {
            let (socket, peer) = self.counters.count_error(self.accept_any().await)?;
            if let Some(place) = self.gate.admit(&peer) {
                let gate = self.has_headers.then(|| self.gate.clone());
                let socket = socket.with_place(place).counted(self.counters.count_open());
                return Ok(Arrival { socket, peer, gate });
            }
        }
    }

    async fn accept_any(&self) -> io::Result<(Socket, PeerAddr)> {
        Ok(match &self.socket {
            Listening::Tcp(listener) => {
                let (socket, addr) = listener.accept().await?;
                (socket, canonical(addr).into())
            }
            Listening::Unix(listener, _) => {
                let (stream, _) = listener.with(Way::In, |listener| listener.accept()).await?;
                (Socket::unix(stream)?, PeerAddr::Unix)
            }
        })
    }

    /// What teleport's server accepts from. Where connections begin with headers, those are awaited by tasks of
    /// `executor`, so that nobody waits for a slow one.
    pub(crate) fn into_links(self, executor: &Executor<'static>) -> Links {
        if !self.has_headers {
            return Links::Direct(self);
        }
        let (ready, arrived) = smol::channel::bounded(1);
        // Its tasks must not hold the executor that holds them.
        let tasks = Arc::new(Executor::new());
        let accept = {
            let tasks = tasks.clone();
            async move {
                loop {
                    match self.accept().await {
                        Ok(arrival) => {
                            let ready = ready.clone();
                            let open = async move {
                                if let Some(link) = arrival.open().await {
                                    // If nobody takes it any more, it is closed.
                                    let _ = ready.send(link).await;
                                }
                            };
                            tasks.spawn(open).detach();
                        }
                        Err(error) => pause(&error).await,
                    }
                }
            }
        };
        let run = async move { tasks.run(accept).await };
        Links::Announced { arrived, _task: executor.spawn(run) }
    }
}

/// Waits after a failed accept, which mostly means that there are no more file descriptors.
pub(crate) async fn pause(error: &io::Error) {
    // That peer gave up before it was accepted.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        warn!("cannot accept a connection: {error} (out of file descriptors? see ulimit -n, and --in-max-conns)");
        Timer::after(ACCEPT_PAUSE).await;
    }
}

/// A connection that was accepted and of which nothing was read.
#[derive(Debug)]
pub(crate) struct Arrival {
    socket: Socket,
    peer: PeerAddr,
    /// Set if a header comes first.
    gate: Option<Arc<Gate>>,
}

impl Arrival {
    /// Who connected, as the system tells.
    pub(crate) fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    /// The connection, past its header if it has one, and who is at its far end. None if it was closed for want of one.
    pub(crate) async fn open(mut self) -> Option<(Socket, PeerAddr)> {
        let Some(gate) = self.gate else { return Some((self.socket, self.peer)) };
        let limit = async {
            Timer::after(HEADER_TIMEOUT).await;
            Err(HeaderError::Io(io::Error::new(io::ErrorKind::TimedOut, "it took too long")))
        };
        match proxy_header::read(&mut self.socket).or(limit).await {
            Ok(Some(client)) => Some((self.socket, canonical(client).into())),
            Ok(None) => Some((self.socket, self.peer)),
            Err(error) => {
                gate.note_headerless(&self.peer, &error);
                None
            }
        }
    }
}

/// A listener as teleport's server wants it.
pub(crate) enum Links {
    Direct(Listener),
    Announced { arrived: Receiver<(Socket, PeerAddr)>, _task: Task<()> },
}

impl LinkListener for Links {
    type Stream = Socket;

    async fn accept(&self) -> io::Result<(Socket, PeerAddr)> {
        match self {
            Self::Direct(listener) => loop {
                match listener.accept().await {
                    Ok(Arrival { socket, peer, .. }) => return Ok((socket, peer)),
                    Err(error) => pause(&error).await,
                }
            },
            Self::Announced { arrived, .. } => {
                arrived.recv().await.map_err(|_| io::Error::other("the listener is gone"))
            }
        }
    }
}

/// An IPv4 client of a socket that takes both has an IPv6 address that stands for its own, which is the one to tell.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Listens on `HOST:PORT` or, as in Go, on `:PORT` for all IPv4 addresses.
fn listen_tcp(config: &Inbound) -> io::Result<(Listening, ListenAddr)> {
    let full = match config.addr.strip_prefix(':') {
        Some(port) => format!("{}:{port}", Ipv4Addr::UNSPECIFIED),
        None => config.addr.clone(),
    };
    let mut last = None;
    for addr in full.to_socket_addrs()? {
        match bind_tcp(addr, config.reuse_port) {
            Ok(listener) => {
                let local = listener.local_addr()?;
                return Ok((Listening::Tcp(listener), ListenAddr::Tcp(local)));
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
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::new(socket.into())
}

/// Listens on the unix socket of this path. One that a dead process has left behind is replaced.
fn listen_unix(path: &str) -> io::Result<(Listening, ListenAddr)> {
    let path = Path::new(path);
    remove_stale(path)?;
    let listener = StdUnixListener::bind(path)?;
    let file = SocketFile::of(path)?;
    Ok((Listening::unix(listener, Some(file))?, ListenAddr::Unix(path.to_owned())))
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
        Ok(_) => {
            let message = "the path is in use; stop what listens there, or choose another";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
        }
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
