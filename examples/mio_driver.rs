//! A driver that this crate does not ship: a server whose connections one thread carries, with one poll and no lock, on
//! nothing but `httpteleport::proto` and mio: `cargo run --example mio_driver -- serve 127.0.0.1:8043`. The guide `own_io`
//! tells the steps.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a driver is where time and sockets come from")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use http::Response;
use httpteleport::proto::{ServerConnection, ServerEvent};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// A connection and its socket.
struct Link {
    connection: ServerConnection,
    stream: TcpStream,
    /// What the connection has not taken.
    input: Vec<u8>,
    output: Vec<u8>,
    eof: bool,
    /// mio tells once that a socket is ready: until it says that it would block.
    readable: bool,
    writable: bool,
}

impl Link {
    fn new(stream: TcpStream) -> Self {
        let connection = ServerConnection::new(Default::default(), Instant::now());
        Self { connection, stream, input: vec![], output: vec![], eof: false, readable: false, writable: true }
    }

    /// Does all that can be done without waiting; false when the link is over.
    fn advance(&mut self) -> bool {
        loop {
            // 1. What is to be written; a new batch only when the last one has gone.
            if self.output.is_empty() {
                self.connection.poll_transmit(Instant::now(), &mut self.output);
            }
            let wrote = self.write();
            // 2. What has happened.
            let mut any = false;
            while let Some(event) = self.connection.poll_event() {
                any = true;
                self.deliver(event);
            }
            if self.connection.is_closed() && self.output.is_empty() {
                return false;
            }
            // 3. is the poll's; 4. what it did not take before, and what there is more.
            if !(any | wrote | self.read()) {
                return true;
            }
        }
    }

    fn write(&mut self) -> bool {
        if self.output.is_empty() || !self.writable {
            return false;
        }
        match self.stream.write(&self.output) {
            Ok(n) if n > 0 => drop(self.output.drain(..n)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            _ => {
                self.output.clear();
                self.connection.handle_transport_error(Instant::now());
            }
        }
        self.writable
    }

    fn read(&mut self) -> bool {
        if !self.connection.wants_read() {
            return false;
        }
        if !self.input.is_empty() {
            let taken = self.connection.handle_input(Instant::now(), &self.input);
            self.input.drain(..taken);
            return true;
        }
        if self.eof || !self.readable {
            return false;
        }
        self.input.resize(16 * 1024, 0);
        let read = self.stream.read(&mut self.input);
        self.input.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                self.eof = true;
                self.connection.handle_eof(Instant::now());
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.connection.handle_transport_error(Instant::now()),
        }
        self.readable
    }

    fn deliver(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Request { token, request } => {
                // A program that cares sends something else instead, or waits if the output is full.
                let body = format!("{} {} {:?}", request.method(), request.uri(), request.body());
                let sent = self.connection.send_response(Instant::now(), token, &Response::new(body.into()));
                sent.unwrap_or_else(|rejected| self.connection.discard(rejected.token));
            }
            // This driver offers no TLS.
            ServerEvent::StartTls => self.connection.handle_transport_error(Instant::now()),
            _ => {}
        }
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [_, addr] = &arguments[..] else { return Err(io::Error::other("usage: mio_driver serve IP:PORT")) };
    let addr = addr.parse().map_err(io::Error::other)?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let mut listener = TcpListener::bind(addr)?;
    println!("listening on {}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut links, mut last) = (BTreeMap::new(), LISTENER);
    loop {
        // The next timer of all. With very many links a heap finds it sooner.
        let next = links.values().filter_map(|link: &Link| link.connection.poll_timeout()).min();
        poll.poll(&mut events, next.map(|at| at.saturating_duration_since(Instant::now())))?;
        for event in &events {
            if let Some(link) = links.get_mut(&event.token()) {
                link.readable |= event.is_readable();
                link.writable |= event.is_writable();
            }
        }
        while let Ok((mut stream, _)) = listener.accept() {
            last = Token(last.0 + 1);
            poll.registry().register(&mut stream, last, Interest::READABLE | Interest::WRITABLE)?;
            links.insert(last, Link::new(stream));
        }
        let now = Instant::now();
        for link in links.values_mut().filter(|link| link.connection.poll_timeout().is_some_and(|at| at <= now)) {
            link.connection.handle_timeout(now);
        }
        links.retain(|_, link| link.advance());
    }
}
