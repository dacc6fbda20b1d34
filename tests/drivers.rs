//! Clients and servers of both drivers over real sockets on loopback: each test is written once and run on smol and on
//! threads.

#![cfg(all(feature = "smol", feature = "thread", feature = "tls"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    unreachable_pub,
    reason = "drivers are tested with real time and sockets"
)]

#[path = "drivers/harness.rs"]
mod harness;

mod chaos;
#[path = "drivers/counted.rs"]
mod counted;
#[path = "drivers/exchanges.rs"]
mod exchanges;
#[path = "drivers/goodbye.rs"]
mod goodbye;
#[path = "drivers/limits.rs"]
mod limits;
#[path = "drivers/links.rs"]
mod links;
#[path = "drivers/through_chaos.rs"]
mod through_chaos;
#[path = "drivers/tls.rs"]
mod tls;
#[path = "drivers/wire.rs"]
mod wire;
#[path = "drivers/writes.rs"]
mod writes;
#[cfg(feature = "zstd")]
#[path = "drivers/zstd.rs"]
mod zstd;
