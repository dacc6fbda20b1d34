//! Shells around [`crate::proto`]: they own sockets, clocks, tasks and threads, and decide nothing about the protocol.
//!
//! Two drivers, `smol` for tasks and `thread` for plain threads, have the same client and server, with the same
//! options and errors; these are here. Only what waits is different: `request(..).await` here, `request(..)` there.

// A shell stays at about 400 lines of code, without comments: `cat src/driver/thread/*.rs | grep -vcE '^\s*(//|$)'`.

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
mod memory;
mod options;
mod patience;
#[cfg(feature = "thread")]
mod pool;
mod server;
mod socket;
mod sync;
mod throttle;
mod timed;

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
#[cfg(feature = "httptp")]
pub(crate) use memory::Charge;
pub use memory::MemoryBudget;
pub use options::{ClientOptions, Deadline, Overflow, ServerOptions, request_timeout};
pub use server::{LinkRefused, Peer, PeerAddr};
#[cfg(feature = "httptp")]
pub(crate) use socket::set_up;
