//! httpteleport teleports HTTP between servers: many requests and responses, batched and compressed together, out of
//! order, over one connection.
//!
//! The wire is specified in words in the repository's `spec/`, and it is that of the original Go implementation:
//! deployed peers keep working. This crate is made of layers, and arrows point one way:
//!
//! | layer | what it is |
//! |---|---|
//! | [`proto`] | the protocol as a pure state machine: for whoever brings their own I/O; below is its run loop |
#![cfg_attr(feature = "smol", doc = "| [`driver::smol`] | client and server as tasks, on smol |")]
#![cfg_attr(feature = "thread", doc = "| [`driver::thread`] | the same on plain threads |")]
#![cfg_attr(
    all(feature = "smol", feature = "thread", feature = "tls"),
    doc = "| [`guide`] | pages to read, and where to begin for a client or a server: getting started, compression, failure, security, your own I/O |"
)]
#![cfg_attr(feature = "httptp", doc = "| [`proxy`] | what the program `httptp` is made of |")]
//!
//! # The run loop, in memory
//!
//! A connection takes bytes and the time, and gives bytes, events and its next deadline. Here a client and a server
//! talk without any I/O:
//!
//! ```
//! use std::time::Instant;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use httpteleport::proto::{ClientConnection, ClientEvent, ServerConnection, ServerEvent};
//!
//! let now = Instant::now();
//! let mut client = ClientConnection::new(Default::default(), now);
//! let mut server = ServerConnection::new(Default::default(), now);
//!
//! let request = Request::get("http://example.com/world").body(Bytes::new())?;
//! let sent = client.send_request(now, &request, None)?;
//!
//! let (mut up, mut down) = (Vec::new(), Vec::new());
//! let answer = 'run: loop {
//!     client.poll_transmit(now, &mut up);
//!     let taken = server.handle_input(now, &up);
//!     up.drain(..taken);
//!     while let Some(event) = server.poll_event() {
//!         if let ServerEvent::Request { token, request } = event {
//!             let response = Response::new(Bytes::from(format!("hello, {}", request.uri())));
//!             server.send_response(now, token, &response)?;
//!         }
//!     }
//!     server.poll_transmit(now, &mut down);
//!     let taken = client.handle_input(now, &down);
//!     down.drain(..taken);
//!     while let Some(event) = client.poll_event() {
//!         match event {
//!             ClientEvent::Response { id, response } if id == sent => break 'run response,
//!             event => println!("{event:?}"),
//!         }
//!     }
//! };
//! assert_eq!(answer.body(), "hello, /world");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A driver does the same with a socket and a clock in the middle; [`proto`] gives the contract.
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | (none) | [`proto`] alone |
//! | `smol` (default) | client and server on smol |
//! | `thread` (default) | client and server on plain threads |
//! | `tls` (default) | TLS for both, by rustls |
//! | `zstd` | compression 3, which deployed originals do not know |
//! | `tower` | `tower::Service` for the client on smol, and a handler from a service for its server |
//! | `httptp` | the proxy, as a library; the program around it is a package of its own |
//! | `preflate` | `httptp`, with recipes for what other programs have gzipped (`--recompress`); brings a crate under the LGPL 3 |
//!
//! # Versions
//!
//! Versions follow [Semantic Versioning](https://semver.org): until 1.0 a change that can break a build raises the minor
//! number, and so does a newer oldest Rust, which is 1.95 now. The repository's `.ci/api.txt` lists the whole public
//! interface; its checks build with the oldest Rust, and fail where the interface is not what is listed. The protocol has a
//! version of its own, 0, which the hello tells.

#[cfg(any(feature = "smol", feature = "thread"))]
pub mod driver;
#[cfg(all(feature = "smol", feature = "thread", feature = "tls"))]
pub mod guide;
pub mod proto;
#[cfg(feature = "httptp")]
pub mod proxy;

#[cfg(all(doctest, feature = "thread"))]
#[doc = include_str!("../README.md")]
mod readme {}
