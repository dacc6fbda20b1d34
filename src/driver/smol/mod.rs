//! Client and server on [smol](https://docs.rs/smol).
//!
//! One task carries a connection; the protocol is [`crate::proto`]'s. Both ends spawn their tasks on an executor that
//! the caller runs:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use httpteleport::driver::smol::{Client, Server};
//! use httpteleport::driver::{ClientOptions, ServerOptions};
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

mod carry;
mod client;
mod server;
mod stream;
mod wait;

pub use client::Client;
pub use server::Server;
pub use stream::{Listener, Stream};
#[cfg(feature = "httptp")]
pub(crate) use wait::Alarm;
