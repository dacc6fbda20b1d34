//! Client and server on [smol](https://docs.rs/smol) over TCP.
//!
//! One task carries a connection; the protocol is [`crate::proto`]'s. Both ends spawn their tasks on an executor that
//! the caller runs:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use httpteleport::driver::smol::{Client, ClientOptions, Server, ServerOptions};
//!
//! let executor = Arc::new(smol::Executor::new());
//! smol::block_on(executor.run(async {
//!     let listener = smol::net::TcpListener::bind("127.0.0.1:0").await?;
//!     let addr = listener.local_addr()?.to_string();
//!     let server = Server::new(executor.clone(), ServerOptions::default());
//!     let serving = server.clone();
//!     let hello = |request: Request<Bytes>, _peer| async move {
//!         Response::new(Bytes::from(format!("hello, {}", request.uri().path())))
//!     };
//!     executor.spawn(async move { serving.serve(listener, hello).await }).detach();
//!
//!     let client = Client::new(executor.clone(), addr, ClientOptions::default());
//!     let request = Request::get("http://example.com/world").body(Bytes::new())?;
//!     let response = client.request(request, None).await?;
//!     assert_eq!(response.body(), "hello, /world");
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! }))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(clippy::disallowed_methods, reason = "a driver is where time and sockets come from")]

mod client;
mod error;
mod inbox;
mod link;
mod patience;
mod server;
mod socket;

pub use client::{Client, ClientOptions};
pub use error::ClientError;
pub use server::{Peer, Server, ServerOptions};

#[cfg(feature = "httptp")]
pub(crate) use socket::set_up;

use crate::proto::Stats;

/// Adds to `total` what a connection has carried since `before`.
fn add_stats(total: &mut Stats, now: Stats, before: Stats) {
    total.wire_out += now.wire_out - before.wire_out;
    total.wire_in += now.wire_in - before.wire_in;
    total.plain_out += now.plain_out - before.plain_out;
    total.plain_in += now.plain_in - before.plain_in;
    total.frames_out += now.frames_out - before.frames_out;
    total.frames_in += now.frames_in - before.frames_in;
    total.batches_out += now.batches_out - before.batches_out;
}
