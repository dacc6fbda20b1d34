//! The conformance suite of the teleport protocol, version 0.
//!
//! A scenario (`cases/AREA/ID.scn`, FORMAT.md) tells what one end of a link is fed
//! and what it must do; a shim (SHIM.md) makes an implementation answer. [`run`] brings the two together.
//!
//! Nothing in this library uses the project's own core: the codecs, the HTTP reader and the id bookkeeping here are
//! the suite's own, so that a fault of the core cannot hide itself.

mod alike;
pub mod check;
pub mod core_profile;
pub mod http1;
pub mod known;
pub mod literal;
pub mod matching;
pub mod mutants;
mod parser;
mod process;
pub mod record;
pub mod recordings;
pub mod report;
pub mod run;
pub mod scenario;
pub mod shim;
mod show;
pub mod snappy;
pub mod spec;
pub mod step;
pub mod suite;
pub mod tcp;
pub mod wire;
pub mod writing;
pub mod zstd;
