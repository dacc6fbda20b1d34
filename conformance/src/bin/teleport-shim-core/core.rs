//! This project's core as the suite drives it: one connection, virtual time, commands in, answers out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, RequestError, RequestId, ResponseToken, SendError, ServerConfig,
    ServerConnection, ServerEvent, ServerTls, Timer,
};
use serde::Deserialize;

pub(crate) use crate::common::{Event, Message, Setup, hex, unhex};
use crate::common::{config, fields, request, response};

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
    NextId {
        now: u64,
        id: u32,
    },
    HoldOutput {
        now: u64,
    },
    ReleaseOutput {
        now: u64,
    },
    Flush {
        now: u64,
    },
    Goodbye {
        now: u64,
    },
    Close {
        now: u64,
    },
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

/// One connection.
pub(crate) struct Core {
    base: Instant,
    end: End,
    /// The transport takes nothing.
    is_held: bool,
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
        Ok(Self { base, end, is_held: false })
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
            (Command::NextId { now, id }, End::Client(client)) => {
                time(*now);
                client.connection.set_next_id(*id);
            }
            (Command::HoldOutput { now }, _) => {
                time(*now);
                self.is_held = true;
            }
            (Command::ReleaseOutput { now }, _) => {
                time(*now);
                self.is_held = false;
            }
            (Command::Flush { now }, end) => {
                time(*now);
                either!(end, connection => connection.flush());
            }
            (Command::Goodbye { now }, End::Server(server)) => server.connection.say_goodbye(time(*now)),
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
            if !self.is_held {
                either!(&mut self.end, connection => connection.poll_transmit(now, &mut answer.out));
            }
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
            let is_due = either!(&self.end, connection => matches!(connection.next_timer(), Some((Timer::Input, _))));
            if is_due {
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
            ClientEvent::Goodbye => Event::Unmatched { id: 0 },
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
                let (ticket, id) = (self.last_ticket, Some(token.id()));
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

fn code(error: &SendError) -> String {
    error.code().into()
}
