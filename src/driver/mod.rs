//! Shells around [`crate::proto`]: they own sockets, clocks, tasks and threads, and decide nothing about the protocol.
//!
//! Two drivers, `smol` for tasks and `thread` for plain threads, have the same client and server, with the same
//! options and errors; these are here. Only what waits is different: `request(..).await` here, `request(..)` there.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a driver is where time, sockets and threads come from"
)]

mod address;
mod carrier;
mod channel;
mod client;
mod crowd;
mod error;
mod mailbox;
mod options;
mod patience;
mod server;
mod socket;
mod sync;
mod throttle;

#[cfg(feature = "smol")]
pub mod smol;
#[cfg(feature = "thread")]
pub mod thread;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tower")]
pub mod tower;

pub use address::Address;
pub use channel::Channel;
pub use error::ClientError;
pub use options::{ClientOptions, Deadline, Overflow, ServerOptions, request_timeout};
pub use server::{Peer, PeerAddr};
#[cfg(feature = "httptp")]
pub(crate) use socket::set_up;
