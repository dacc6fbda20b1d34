//! The way to an upstream: TCP or a unix socket, and TLS for `https` and `teleports`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::{TlsConnector, TlsStream};
use rustls::pki_types::ServerName;
use smol::Executor;

use super::StartError;
use super::config::{Kind, Outbound};
use super::metrics::IoCounters;
use super::reactor::Timer;
use super::stream::{Socket, Stream};
use super::tls::ClientTls;
use crate::driver::smol::Client;
use crate::driver::tls::TlsClient;
use crate::driver::{ClientOptions, MemoryBudget};

/// What all ways to the upstreams of one proxy have in common.
#[derive(Clone, Debug)]
pub(crate) struct Dialing {
    kind: Kind,
    /// Counts their connections.
    counters: Arc<IoCounters>,
    tls: Option<ClientTls>,
    memory: MemoryBudget,
}

impl Dialing {
    /// Reads the files that TLS needs, if it is spoken.
    pub(crate) fn new(out: &Outbound, counters: Arc<IoCounters>, memory: MemoryBudget) -> Result<Self, StartError> {
        // An original far proxy knows of no protocols inside TLS.
        let protocols: &[&[u8]] = if out.kind == Kind::Https { &[b"http/1.1"] } else { &[] };
        let tls = out.kind.is_tls().then(|| ClientTls::load(&out.tls, protocols)).transpose();
        Ok(Self { kind: out.kind, counters, memory, tls: tls.map_err(StartError::Tls)? })
    }

    /// TLS to them, if it is spoken.
    pub(crate) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// The way to this address: `HOST:PORT`, or a path for [`Kind::Unix`].
    pub(crate) fn to(&self, addr: &str) -> Result<Dialer, StartError> {
        let tls = match &self.tls {
            None => None,
            Some(tls) => Some((tls.clone(), server_name(tls, addr)?)),
        };
        let (counters, memory) = (self.counters.clone(), self.memory.clone());
        Ok(Dialer { kind: self.kind, addr: addr.into(), ip: None, tls, counters, memory })
    }
}

/// The name that the certificate of the upstream at this address must be for.
pub(super) fn server_name(tls: &ClientTls, addr: &str) -> Result<ServerName<'static>, StartError> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| {
        StartError::Tls(format!(
            "{name:?} in --out is no name that a certificate could be for: name one with --out-tls-server-name"
        ))
    })
}

/// The way to one upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    kind: Kind,
    addr: Arc<str>,
    /// Where the address was found to be, if somebody has looked.
    ip: Option<SocketAddr>,
    tls: Option<(ClientTls, ServerName<'static>)>,
    counters: Arc<IoCounters>,
    memory: MemoryBudget,
}

impl Dialer {
    /// The way to the same upstream, at this one of the addresses that its name has.
    pub(crate) fn at(&self, ip: SocketAddr) -> Self {
        Self { ip: Some(ip), ..self.clone() }
    }

    /// What messages from there are counted in.
    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// A connection to speak HTTP on.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let socket = self.socket().await?;
        match &self.tls {
            None => Ok(Stream::Plain(socket)),
            Some((tls, name)) => {
                let connector = TlsConnector::from(tls.config());
                let stream = connector.connect(name.clone(), socket).await?;
                Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
            }
        }
    }

    /// A client that speaks teleport. Its links agree on TLS in their hellos. `on_dial` is told of each before it begins.
    pub(crate) fn client(
        &self,
        executor: Arc<Executor<'static>>,
        options: ClientOptions,
        on_dial: impl Fn() + Send + Sync + 'static,
    ) -> Client {
        let options = options.memory_budget(self.memory.clone());
        let options = match &self.tls {
            None => options,
            Some((tls, name)) => {
                let tls = tls.clone();
                options.tls(TlsClient::with_source(move || tls.config(), name.clone()))
            }
        };
        let dialer = self.clone();
        let dial = move || {
            on_dial();
            let dialer = dialer.clone();
            async move { dialer.socket().await }
        };
        Client::with_alarm::<Timer, _, _>(executor, &*self.addr, dial, options)
    }

    async fn socket(&self) -> io::Result<Socket> {
        let socket = self.counters.count_error(self.dial().await)?;
        Ok(socket.counted(self.counters.count_open()))
    }

    async fn dial(&self) -> io::Result<Socket> {
        match (self.kind, self.ip) {
            (Kind::Unix, _) => Socket::connect_unix(Path::new(&*self.addr)).await,
            (_, Some(ip)) => Socket::connect(ip).await,
            (_, None) => Socket::connect_to(&*self.addr).await,
        }
    }
}
