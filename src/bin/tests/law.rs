//! The law of the tunnel, over real processes that are killed, stopped and cut off at random: each request has exactly one
//! outcome, every answer belongs to its question, what must not run twice runs at most once, and in the end memory and
//! descriptors are what they were.
//!
//! ```sh
//! LAW_REQUESTS=1000000 cargo test --release -p httptp --test law -- --ignored --nocapture the_law
//! ```
//!
//! `LAW_SEED` is the seed of callers, faults and relay (1), `LAW_CALLERS` how many call at once (48).

// Processes in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, unreachable_pub)]

#[path = "../../../tests/chaos/mod.rs"]
mod chaos;
#[path = "law/mod.rs"]
mod law;

use law::{Law, origin};

/// Not a test: the origin as a process of its own, which the law starts.
#[test]
#[ignore = "it is the origin of the law's, and serves for ever"]
fn origin_process() {
    origin::serve();
}

#[test]
fn a_short_law() {
    Law { requests: 1_500, seed: 7, callers: 16 }.judge();
}

#[test]
#[ignore = "it takes as long as LAW_REQUESTS says"]
fn the_law() {
    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().expect("a number"));
    Law {
        requests: number("LAW_REQUESTS", 20_000),
        seed: number("LAW_SEED", 1),
        callers: number("LAW_CALLERS", 48) as usize,
    }
    .judge();
}
