//! What the fuzz targets check, as functions of bytes: each target of `fuzz_targets/` calls the `check` of its name, and so
//! does `replay`, which needs neither nightly nor libFuzzer. See README.md.
//!
//! A check panics when a promise is broken; it has no other outcome.

// Where sources of the proxy that are compiled in here look for it.
use httpteleport::proto;

pub mod client;
pub mod decompress;
pub mod hello;
pub mod http_in;
pub mod links;
pub mod memory;
pub mod message;
pub mod narrow;
pub mod pair;
pub mod proxy_fields;
pub mod recompress;
pub mod reference;
pub mod requests;
pub mod round_trip;
#[cfg(feature = "suite")]
pub mod scenario;
pub mod script;
pub mod server;
#[cfg(feature = "suite")]
pub mod shim;

/// A target's check.
pub type Check = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Check)] = &[
    ("client", client::check),
    ("decompress", decompress::check),
    ("hello", hello::check),
    ("http_in", http_in::check),
    ("message", message::check),
    ("pair", pair::check),
    ("proxy_fields", proxy_fields::check),
    ("recompress", recompress::check),
    ("round_trip", round_trip::check),
    #[cfg(feature = "suite")]
    ("scenario", scenario::check),
    ("server", server::check),
    #[cfg(feature = "suite")]
    ("shim", shim::check),
];
