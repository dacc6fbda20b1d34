//! Shells around [`crate::proto`]: they own sockets, clocks and tasks, and decide nothing about the protocol.

#[cfg(feature = "smol")]
pub mod smol;
