//! This project's core as the suite drives it: one connection, virtual time, commands in, answers out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Limits, RequestError, RequestId, ResponseToken,
    SendError, ServerConfig, ServerConnection, ServerEvent, ServerTls, Timer,
};
use serde::{Deserialize, Serialize};

/// A command of the suite (SHIM.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Command {
    Describe {},
    New {
        role: String,
        config: Setup,
    },
    Input {
        now: u64,
        hex: String,
    },
    Eof {
        now: u64,
    },
    Timeout {
        now: u64,
    },
    TlsEstablished {
        now: u64,
    },
    Request {
        now: u64,
        tag: u64,
        #[serde(flatten)]
        message: Message,
        deadline: Option<u64>,
    },
    Oneway {
        now: u64,
        #[serde(flatten)]
        message: Message,
    },
    Cancel {
        now: u64,
        tag: u64,
    },
    Respond {
        now: u64,
        ticket: u64,
        status: u64,
        fields: Vec<(String, String)>,
        body: String,
    },
    Discard {
        now: u64,
        ticket: u64,
    },
    Flush {
        now: u64,
    },
    Close {
        now: u64,
    },
}

/// How a connection is set up.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Setup {
    pub(crate) compression: String,
    pub(crate) tls: serde_json::Value,
    pub(crate) max_batch_delay: u64,
    pub(crate) hello_timeout: u64,
    pub(crate) idle_timeout: Option<u64>,
    pub(crate) drain_timeout: u64,
    pub(crate) limits: SetupLimits,
    pub(crate) next_id: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SetupLimits {
    pub(crate) head: usize,
    pub(crate) fields: usize,
    pub(crate) body: usize,
    pub(crate) message: u64,
    pub(crate) pending: usize,
    pub(crate) abandoned: usize,
    pub(crate) output: usize,
}

/// A request that the program sends.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What a command led to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) consumed: usize,
    pub(crate) out: Vec<u8>,
    pub(crate) events: Vec<Event>,
    pub(crate) timer: Option<u64>,
    pub(crate) reads: bool,
    pub(crate) error: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    Connected {},
    StartTls {},
    Request { ticket: u64, id: u32, method: String, target: String, fields: Vec<(String, String)>, body: String },
    Oneway { method: String, target: String, fields: Vec<(String, String)>, body: String },
    Refused { id: u32, code: String },
    Response { tag: u64, status: u16, fields: Vec<(String, String)>, body: String },
    Failed { tag: u64, code: String, maybe_delivered: bool },
    Unmatched { id: u32 },
    Closed { code: Option<String> },
}

/// One connection.
pub(crate) struct Core {
    base: Instant,
    end: End,
}

enum End {
    Client(ClientEnd),
    Server(ServerEnd),
}

struct ClientEnd {
    connection: ClientConnection,
    /// The ids of all requests, by tag, so that a second outcome would be told.
    requests: BTreeMap<u64, RequestId>,
}

struct ServerEnd {
    connection: ServerConnection,
    tickets: BTreeMap<u64, ResponseToken>,
    last_ticket: u64,
}

/// Calls the same method of either end.
macro_rules! either {
    ($end:expr, $connection:ident => $call:expr) => {
        match $end {
            End::Client(ClientEnd { connection: $connection, .. }) => $call,
            End::Server(ServerEnd { connection: $connection, .. }) => $call,
        }
    };
}

impl Core {
    /// A connection that is established at 0.
    pub(crate) fn new(role: &str, setup: &Setup) -> Result<Self, String> {
        let base = Instant::now();
        let tls = (setup.tls.as_bool(), setup.tls.as_str());
        let config = config(setup)?;
        let end = match (role, tls) {
            ("client", (Some(tls), _)) => {
                let mut connection = ClientConnection::new(ClientConfig { config, tls }, base);
                connection.set_next_id(setup.next_id);
                End::Client(ClientEnd { connection, requests: BTreeMap::new() })
            }
            ("server", (_, Some(tls))) => {
                let tls = match tls {
                    "off" => ServerTls::Off,
                    "optional" => ServerTls::Optional,
                    "required" => ServerTls::Required,
                    other => return Err(format!("no TLS {other:?}")),
                };
                let connection = ServerConnection::new(ServerConfig { config, tls }, base);
                End::Server(ServerEnd { connection, tickets: BTreeMap::new(), last_ticket: 0 })
            }
            _ => return Err(format!("no role {role:?} with TLS {}", setup.tls)),
        };
        Ok(Self { base, end })
    }

    /// Carries a command out and drains the outputs.
    pub(crate) fn carry_out(&mut self, command: &Command) -> Result<Answer, String> {
        let mut answer = Answer::default();
        let mut last = 0;
        self.act(command, &mut answer, &mut last)?;
        self.drain(self.at(last), &mut answer);
        Ok(answer)
    }

    fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    fn act(&mut self, command: &Command, answer: &mut Answer, last: &mut u64) -> Result<(), String> {
        let base = self.base;
        let at = |micros: u64| base + Duration::from_micros(micros);
        let mut time = |now: u64| {
            *last = now;
            at(now)
        };
        match (command, &mut self.end) {
            (Command::Describe {} | Command::New { .. }, _) => {}
            (Command::Input { now, hex }, end) => {
                let (now, data) = (time(*now), unhex(hex)?);
                answer.consumed = either!(end, connection => connection.handle_input(now, &data));
            }
            (Command::Eof { now }, end) => either!(end, connection => connection.handle_eof(time(*now))),
            (Command::Timeout { now }, end) => either!(end, connection => connection.handle_timeout(time(*now))),
            (Command::TlsEstablished { now }, end) => {
                either!(end, connection => connection.handle_tls_established(time(*now)));
            }
            (Command::Flush { now }, end) => {
                time(*now);
                either!(end, connection => connection.flush());
            }
            (Command::Close { now }, end) => either!(end, connection => connection.close(time(*now))),
            (Command::Request { now, tag, message, deadline }, End::Client(client)) => {
                let now = time(*now);
                let sent = request(message)?.and_then(|request| {
                    let sent = client.connection.send_request(now, &request, deadline.map(at));
                    sent.map_err(|error| code(&error))
                });
                match sent {
                    Ok(id) => {
                        client.requests.retain(|_, known| *known != id);
                        client.requests.insert(*tag, id);
                    }
                    Err(code) => answer.error = Some(code),
                }
            }
            (Command::Oneway { now, message }, End::Client(client)) => {
                let now = time(*now);
                let sent = request(message)?
                    .and_then(|request| client.connection.send_oneway(now, &request).map_err(|error| code(&error)));
                answer.error = sent.err();
            }
            (Command::Cancel { now, tag }, End::Client(client)) => {
                let now = time(*now);
                if let Some(id) = client.requests.get(tag) {
                    client.connection.cancel(now, *id);
                }
            }
            (Command::Respond { now, ticket, status, fields, body }, End::Server(server)) => {
                let now = time(*now);
                let token = server.tickets.remove(ticket).ok_or("no such ticket")?;
                let rejected = match response(*status, fields, body)? {
                    Ok(response) => match server.connection.send_response(now, token, &response) {
                        Ok(()) => None,
                        Err(rejected) => Some((rejected.token, code(&rejected.error))),
                    },
                    Err(code) => Some((token, code)),
                };
                if let Some((token, code)) = rejected {
                    server.tickets.insert(*ticket, token);
                    answer.error = Some(code);
                }
            }
            (Command::Discard { now, ticket }, End::Server(server)) => {
                time(*now);
                server.connection.discard(server.tickets.remove(ticket).ok_or("no such ticket")?);
            }
            _ => return Err("not for this role".into()),
        }
        Ok(())
    }

    fn drain(&mut self, now: Instant, answer: &mut Answer) {
        loop {
            let before = (answer.out.len(), answer.events.len());
            either!(&mut self.end, connection => connection.poll_transmit(now, &mut answer.out));
            match &mut self.end {
                End::Client(client) => {
                    while let Some(event) = client.connection.poll_event() {
                        answer.events.extend(client.tell(event));
                    }
                }
                End::Server(server) => {
                    while let Some(event) = server.connection.poll_event() {
                        answer.events.extend(server.tell(event));
                    }
                }
            }
            if either!(&self.end, connection => matches!(connection.next_timer(), Some((Timer::Input, _)))) {
                either!(&mut self.end, connection => connection.handle_timeout(now));
            } else if before == (answer.out.len(), answer.events.len()) {
                break;
            }
        }
        let timer = either!(&self.end, connection => connection.poll_timeout());
        answer.timer = timer.map(|at| at.saturating_duration_since(self.base).as_micros() as u64);
        answer.reads = either!(&self.end, connection => connection.wants_read());
    }
}

impl ClientEnd {
    fn tell(&self, event: ClientEvent) -> Option<Event> {
        Some(match event {
            ClientEvent::Connected { .. } => Event::Connected {},
            ClientEvent::StartTls => Event::StartTls {},
            ClientEvent::Response { id, response } => Event::Response {
                tag: self.tag(id)?,
                status: response.status().as_u16(),
                fields: fields(response.headers()),
                body: hex(response.body()),
            },
            ClientEvent::Failed { id, error } => {
                let (code, maybe_delivered) = match &error {
                    RequestError::Timeout { maybe_delivered } => ("timeout", *maybe_delivered),
                    RequestError::Refused(error) => (error.code(), true),
                    RequestError::Link { error, maybe_delivered } => (error.code(), *maybe_delivered),
                    _ => ("unknown", true),
                };
                Event::Failed { tag: self.tag(id)?, code: code.into(), maybe_delivered }
            }
            ClientEvent::Unmatched { id } => Event::Unmatched { id },
            ClientEvent::Closed { error } => Event::Closed { code: error.map(|error| error.code().into()) },
        })
    }

    fn tag(&self, id: RequestId) -> Option<u64> {
        self.requests.iter().find(|(_, known)| **known == id).map(|(tag, _)| *tag)
    }
}

impl ServerEnd {
    fn tell(&mut self, event: ServerEvent) -> Option<Event> {
        Some(match event {
            ServerEvent::Connected { .. } => Event::Connected {},
            ServerEvent::StartTls => Event::StartTls {},
            ServerEvent::Request { token, request } => {
                self.last_ticket += 1;
                let (ticket, id) = (self.last_ticket, token.id());
                self.tickets.insert(ticket, token);
                let (method, target) = (request.method().to_string(), request.uri().to_string());
                Event::Request {
                    ticket,
                    id,
                    method,
                    target,
                    fields: fields(request.headers()),
                    body: hex(request.body()),
                }
            }
            ServerEvent::Oneway { request } => Event::Oneway {
                method: request.method().to_string(),
                target: request.uri().to_string(),
                fields: fields(request.headers()),
                body: hex(request.body()),
            },
            ServerEvent::Refused { id, error } => Event::Refused { id, code: error.code().into() },
            ServerEvent::Closed { error } => Event::Closed { code: error.map(|error| error.code().into()) },
        })
    }
}

fn config(setup: &Setup) -> Result<Config, String> {
    let compression = match setup.compression.as_str() {
        "none" => Compression::None,
        "deflate" => Compression::Deflate,
        "snappy" => Compression::Snappy,
        other => return Err(format!("no compression {other:?}")),
    };
    let limits = &setup.limits;
    Ok(Config {
        compression,
        max_batch_delay: Duration::from_micros(setup.max_batch_delay),
        hello_timeout: Duration::from_micros(setup.hello_timeout),
        idle_timeout: setup.idle_timeout.map(Duration::from_micros),
        drain_timeout: Duration::from_micros(setup.drain_timeout),
        limits: Limits {
            head_bytes: limits.head,
            header_count: limits.fields,
            body_bytes: limits.body,
            message_bytes: limits.message,
            pending_requests: limits.pending,
            abandoned_requests: limits.abandoned,
            output_bytes: limits.output,
            // The suite has no setting for it.
            held_bytes: Limits::default().held_bytes,
        },
    })
}

fn code(error: &SendError) -> String {
    error.code().into()
}

/// A request from what the suite gives; inside, the code of what the core's types already do not take.
fn request(message: &Message) -> Result<Result<Request<Bytes>, String>, String> {
    let body = unhex(&message.body)?;
    let Ok(method) = Method::from_bytes(&latin1(&message.method)?) else { return Ok(Err("method".into())) };
    let target = latin1(&message.target)?;
    let Ok(uri) = Uri::try_from(&target[..]) else {
        let is_connect = method == Method::CONNECT;
        return Ok(Err(if is_connect { "method-connect" } else { "target" }.into()));
    };
    let Some(headers) = headers(&message.fields)? else {
        let is_host = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("host") && !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c))
        };
        return Ok(Err(if message.fields.iter().any(is_host) { "host" } else { "field" }.into()));
    };
    let mut request = Request::new(Bytes::from(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    Ok(Ok(request))
}

fn response(status: u64, fields: &[(String, String)], body: &str) -> Result<Result<Response<Bytes>, String>, String> {
    let mut response = Response::new(Bytes::from(unhex(body)?));
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else { return Ok(Err("status".into())) };
    let Some(headers) = headers(fields)? else { return Ok(Err("field".into())) };
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(Ok(response))
}

/// Fields as the core's types have them; `None` if one is not valid there.
fn headers(fields: &[(String, String)]) -> Result<Option<HeaderMap>, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let (name, value) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(&latin1(value)?));
        let (Ok(name), Ok(value)) = (name, value) else { return Ok(None) };
        headers.append(name, value);
    }
    Ok(Some(headers))
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

fn latin1(text: &str) -> Result<Vec<u8>, String> {
    text.chars().map(|c| u8::try_from(c).map_err(|_| format!("{c:?} is no byte"))).collect()
}

pub(crate) use teleport_conformance::literal::{hex, unhex};
