//! TLS by [rustls], which is itself sans-IO: one adapter, [`Channel`](super::Channel), serves every driver.
//!
//! Certificates, versions and verification are set in rustls's own configuration:
//!
//! ```
//! use std::sync::Arc;
//!
//! use httpteleport::driver::tls::rustls::{ClientConfig, RootCertStore};
//! use httpteleport::driver::tls::TlsClient;
//! use httpteleport::driver::ClientOptions;
//!
//! # fn roots() -> RootCertStore { RootCertStore::empty() }
//! let config = ClientConfig::builder().with_root_certificates(roots()).with_no_client_auth();
//! let options = ClientOptions::default().tls(TlsClient::new(config, "far.example")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session is resumed when a link is made again, as long as the configuration is the same one: keep the
//! [`TlsClient`]. Early data is never used: it could be replayed.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
pub use rustls;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, Connection, HandshakeKind, ServerConfig};

/// Memory that is kept for the next batch.
const KEPT_BYTES: usize = 64 * 1024;

/// Gives a configuration for each connection.
type Source<T> = Arc<dyn Fn() -> Arc<T> + Send + Sync>;

/// How a client asks for TLS.
#[derive(Clone)]
pub struct TlsClient {
    config: Source<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsClient {
    /// TLS with this configuration to the server of this name, which the server's certificate must be for, and which it
    /// is told (SNI). An IP address is a name, too.
    ///
    /// # Errors
    ///
    /// The name is neither a DNS name nor an IP address.
    pub fn new(config: impl Into<Arc<ClientConfig>>, name: &str) -> Result<Self, InvalidDnsNameError> {
        Ok(Self::with_name(config, ServerName::try_from(name.to_owned())?))
    }

    /// As [`new`](Self::new), to the server of a name that is known to be one.
    pub fn with_name(config: impl Into<Arc<ClientConfig>>, name: ServerName<'static>) -> Self {
        let config = config.into();
        Self::with_source(move || config.clone(), name)
    }

    /// As [`with_name`](Self::with_name), with the configuration that `source` gives at each connection: it can change
    /// while the client runs. Connections that are there stay as they are.
    pub fn with_source(
        source: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
        name: ServerName<'static>,
    ) -> Self {
        let config = move || {
            let mut config = source();
            if config.enable_early_data {
                Arc::make_mut(&mut config).enable_early_data = false;
            }
            config
        };
        Self { config: Arc::new(config), name }
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a server speaks TLS.
#[derive(Clone)]
pub struct TlsServer {
    config: Source<ServerConfig>,
}

impl TlsServer {
    /// TLS with this configuration. Whether clients need a certificate is part of it, and several certificates that are
    /// chosen by name are, too.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> Self {
        let config = config.into();
        Self::with_source(move || config.clone())
    }

    /// As [`new`](Self::new), with the configuration that `source` gives at each connection: certificates, and whom to
    /// believe, can change while the server runs. Connections that are there stay as they are.
    pub fn with_source(source: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        let config = move || {
            let mut config = source();
            if config.max_early_data_size > 0 {
                Arc::make_mut(&mut config).max_early_data_size = 0;
            }
            config
        };
        Self { config: Arc::new(config) }
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

/// What TLS says of the peer of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsIdentity {
    /// The certificates that the peer has shown and that were verified, in DER, its own first. Empty if it has none.
    pub certificates: Vec<Bytes>,
    /// At a server: the name of the server that the client asked for (SNI).
    pub server_name: Option<String>,
    /// Whether the session of an earlier connection was resumed.
    pub is_resumed: bool,
}

/// TLS under way on a connection.
pub(super) struct Secured {
    connection: Connection,
    /// Plain text that has come.
    plain: Vec<u8>,
    /// How much of `plain` was taken.
    taken: usize,
    /// Plain text on its way out.
    outgoing: Vec<u8>,
    was_announced: bool,
    has_failed: bool,
    peer_has_closed: bool,
}

impl Secured {
    pub(super) fn client(tls: &TlsClient) -> io::Result<Self> {
        let connection = rustls::ClientConnection::new((tls.config)(), tls.name.clone()).map_err(as_io)?;
        Ok(Self::new(connection.into()))
    }

    pub(super) fn server(tls: &TlsServer) -> io::Result<Self> {
        Ok(Self::new(rustls::ServerConnection::new((tls.config)()).map_err(as_io)?.into()))
    }

    fn new(mut connection: Connection) -> Self {
        // The core limits how much waits to leave.
        connection.set_buffer_limit(None);
        Self {
            connection,
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            was_announced: false,
            has_failed: false,
            peer_has_closed: false,
        }
    }

    pub(super) fn handle_input(&mut self, data: &[u8], mut take: impl FnMut(&[u8]) -> usize) -> io::Result<usize> {
        let mut rest = data;
        loop {
            // Nothing is for the connection before it knows that TLS is there.
            while self.was_announced && self.has_input() {
                let taken = take(&self.plain[self.taken..]);
                if taken == 0 {
                    return Ok(data.len() - rest.len());
                }
                self.taken += taken;
            }
            if self.is_news() || self.has_input() {
                return Ok(data.len() - rest.len());
            }
            if rest.is_empty() || self.peer_has_closed || self.has_failed {
                // What comes after the end is nobody's.
                return Ok(data.len());
            }
            self.decrypt(&mut rest)?;
        }
    }

    /// Has TLS take of the ciphertext, and keeps what it yields.
    fn decrypt(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        self.plain.clear();
        self.taken = 0;
        self.connection.read_tls(rest)?;
        let state = self.connection.process_new_packets().map_err(|error| {
            self.has_failed = true;
            as_io(error)
        })?;
        self.peer_has_closed = state.peer_has_closed();
        self.plain.resize(state.plaintext_bytes_to_read(), 0);
        self.connection.reader().read_exact(&mut self.plain)
    }

    pub(super) fn poll_transmit(&mut self, out: &mut Vec<u8>, make: impl FnOnce(&mut Vec<u8>) -> usize) -> usize {
        let before = out.len();
        if self.was_announced && !self.has_failed {
            self.outgoing.clear();
            make(&mut self.outgoing);
            // Memory takes all of it.
            let _ = self.connection.writer().write_all(&self.outgoing);
            self.outgoing.shrink_to(KEPT_BYTES);
        }
        self.encrypt(out);
        out.len() - before
    }

    fn encrypt(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Memory takes all of it.
            let _ = self.connection.write_tls(out);
        }
    }

    fn is_news(&self) -> bool {
        !self.was_announced && !self.connection.is_handshaking()
    }

    pub(super) fn poll_established(&mut self) -> bool {
        let is_news = self.is_news();
        self.was_announced |= is_news;
        is_news
    }

    pub(super) fn wants_read(&self, connection: bool) -> bool {
        let is_over = self.peer_has_closed || self.has_failed;
        !is_over && !self.has_input() && (connection || !self.was_announced)
    }

    pub(super) fn has_input(&self) -> bool {
        self.taken < self.plain.len()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.peer_has_closed && !self.has_input()
    }

    #[cfg(any(feature = "smol", feature = "thread"))]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.plain.capacity() + self.outgoing.capacity()
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if !self.has_failed {
            self.connection.send_close_notify();
        }
        self.encrypt(out);
    }

    pub(super) fn identity(&self) -> TlsIdentity {
        let certificates = self.connection.peer_certificates().unwrap_or_default();
        let server_name = match &self.connection {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        };
        TlsIdentity {
            certificates: certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
            server_name,
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

fn as_io(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}
