//! Client and server on plain threads, with the same options, errors and promises as those on tasks.
//!
//! Two threads carry a link, one that reads and one that writes; a bounded pool of workers runs handlers. Nothing else
//! is needed: no runtime, no executor.
//!
//! ```
//! use std::net::TcpListener;
//! use std::time::{Duration, Instant};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use httpteleport::driver::thread::{Client, Server};
//! use httpteleport::driver::{ClientOptions, ServerOptions};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//! let server = Server::new(ServerOptions::default());
//! let serving = server.clone();
//! let hello = |request: Request<Bytes>, _peer| {
//!     Response::new(Bytes::from(format!("hello, {}", request.uri().path())))
//! };
//! let thread = std::thread::spawn(move || serving.serve(listener, hello));
//!
//! let client = Client::new(addr, ClientOptions::default());
//! let request = Request::get("http://example.com/world").body(Bytes::new())?;
//! let response = client.request(request, Duration::from_secs(3))?;
//! assert_eq!(response.body(), "hello, /world");
//!
//! let soon = Instant::now() + Duration::from_secs(3);
//! client.close(soon);
//! server.shutdown(soon);
//! thread.join().expect("no panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod carry;
mod client;
mod server;
mod stream;
mod wait;

pub use client::{Call, Client};
pub use server::Server;
pub use stream::{Listener, Stream};
