//! What is shared between threads here, by one name: `fuzz/tests/loom.rs` compiles its users with loom's in place of std's.

pub(super) use std::sync::{Arc, Mutex, MutexGuard};
