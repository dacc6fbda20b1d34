//! A client and a server of the core, joined in memory.

use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::Channel;
use httpteleport::driver::tls::{TlsClient, TlsServer};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Limits, ResponseToken, ServerConfig,
    ServerConnection, ServerEvent, ServerTls,
};

/// Both ends of a link, and what is between them.
pub struct Pair {
    pub client: ClientConnection,
    pub server: ServerConnection,
    client_channel: Channel,
    server_channel: Channel,
    tls: Option<(TlsClient, TlsServer)>,
    up: Vec<u8>,
    down: Vec<u8>,
    pub now: Instant,
}

/// What a pair is configured with: as many requests as anybody wants.
pub fn config(compression: Compression) -> Config {
    let limits = Limits { pending_requests: 1 << 20, held_bytes: usize::MAX, ..Limits::default() };
    Config { compression, limits, ..Config::default() }
}

impl Pair {
    /// One whose hellos are through.
    pub fn new(compression: Compression, tls: Option<(TlsClient, TlsServer)>) -> Self {
        let now = Instant::now();
        let config = config(compression);
        let client = ClientConfig { config: config.clone(), tls: tls.is_some() };
        let server_tls = if tls.is_some() { ServerTls::Required } else { ServerTls::Off };
        let server = ServerConfig { config, tls: server_tls };
        let mut pair = Self {
            client: ClientConnection::new(client, now),
            server: ServerConnection::new(server, now),
            client_channel: Channel::default(),
            server_channel: Channel::default(),
            tls,
            up: Vec::new(),
            down: Vec::new(),
            now,
        };
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.turn(|_| unreachable!("no request was sent"), |_| ());
        }
        pair
    }

    /// Sends `requests` at once and takes the answers to all.
    pub fn exchange<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a Request<Bytes>>,
        handler: impl FnMut(Request<Bytes>) -> Response<Bytes>,
        answer: impl FnMut(Response<Bytes>),
    ) {
        self.exchange_until(None, requests, handler, answer);
    }

    /// The same, with a deadline for each request.
    pub fn exchange_until<'a>(
        &mut self,
        deadline: Option<Instant>,
        requests: impl Iterator<Item = &'a Request<Bytes>>,
        mut handler: impl FnMut(Request<Bytes>) -> Response<Bytes>,
        mut answer: impl FnMut(Response<Bytes>),
    ) {
        let mut waiting = 0u64;
        for request in requests {
            self.client.send_request(self.now, request, deadline).expect("the request can be sent");
            waiting += 1;
        }
        while waiting > 0 {
            self.turn(&mut handler, |response| {
                waiting -= 1;
                answer(response);
            });
        }
    }

    /// Sends so many requests that are left without an answer; returns what would answer them.
    pub fn leave(&mut self, request: &Request<Bytes>, count: usize, deadline: Option<Instant>) -> Vec<ResponseToken> {
        let now = self.now;
        let mut tokens = Vec::new();
        for _ in 0..count {
            self.client.send_request(now, request, deadline).expect("the request can be sent");
            self.up.clear();
            self.client.poll_transmit(now, &mut self.up);
            self.server.handle_input(now, &self.up);
            while let Some(event) = self.server.poll_event() {
                match event {
                    ServerEvent::Request { token, .. } => tokens.push(token),
                    ServerEvent::Connected { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        self.up.clear();
        tokens
    }

    /// What waits at either end goes over once.
    fn turn(
        &mut self,
        mut handler: impl FnMut(Request<Bytes>) -> Response<Bytes>,
        mut answer: impl FnMut(Response<Bytes>),
    ) {
        let Self { client, server, client_channel, server_channel, tls, up, down, now } = self;
        let now = *now;
        client_channel.poll_transmit(up, |out| client.poll_transmit(now, out));
        let taken = server_channel.handle_input(up, |plain| server.handle_input(now, plain));
        up.drain(..taken.expect("TLS works"));
        if server_channel.poll_established() {
            server.handle_tls_established(now);
        }
        // Input that was taken can wait for the events before it to be polled.
        if server.poll_timeout().is_some_and(|at| at <= now) {
            server.handle_timeout(now);
        }
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Request { token, request } => {
                    server.send_response(now, token, &handler(request)).expect("the response can be sent");
                }
                ServerEvent::StartTls => {
                    let (_, tls) = tls.as_ref().expect("TLS was asked for");
                    server_channel.start_server(tls).expect("the configuration is good");
                }
                ServerEvent::Connected { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        server_channel.poll_transmit(down, |out| server.poll_transmit(now, out));
        let taken = client_channel.handle_input(down, |plain| client.handle_input(now, plain));
        down.drain(..taken.expect("TLS works"));
        if client_channel.poll_established() {
            client.handle_tls_established(now);
        }
        if client.poll_timeout().is_some_and(|at| at <= now) {
            client.handle_timeout(now);
        }
        while let Some(event) = client.poll_event() {
            match event {
                ClientEvent::Response { response, .. } => answer(response),
                ClientEvent::StartTls => {
                    let (tls, _) = tls.as_ref().expect("TLS was asked for");
                    client_channel.start_client(tls).expect("the configuration is good");
                }
                ClientEvent::Connected { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }
}

/// TLS for both ends, with a certificate made for the occasion.
pub fn tls() -> (TlsClient, TlsServer) {
    use httpteleport::driver::tls::rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
    let key = rcgen::generate_simple_self_signed(["far.example".to_owned()]).expect("a certificate can be made");
    let certificate = key.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("the certificate is good");
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("the key is good");
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], private);
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = TlsClient::new(client, "far.example").expect("the name is one");
    (client, TlsServer::new(server.expect("key and certificate fit")))
}
