//! A simulator: clients and servers over a network that delays, cuts up, holds back and fails, with callers that give
//! up and try again, in virtual time. A seed determines a run wholly. The laws that hold for every run:
//!
//! 1. Every request has exactly one outcome; nothing comes after `Closed`, which comes once.
//! 2. Each response is that of its own request.
//! 3. What is said not to be delivered never is, and nothing runs twice that may not.
//! 4. Timers fire when they are due and not before, and everything comes to rest.
//! 5. Who closes in order loses nothing.
//! 6. Limits hold, exactly.
//! 7. Where nothing goes wrong, every request gets its response.
//!
//! `SIM_SEED=n` runs one seed and tells what happens (with `--nocapture`), `SIM_RUNS=n` so many seeds.

#![allow(
    clippy::disallowed_methods,
    reason = "one real time is the base of the virtual ones, and the rate is measured"
)]
#![allow(unreachable_pub, reason = "the modules of a test are its own")]

#[path = "simulator/driver.rs"]
mod driver;
#[path = "simulator/ends.rs"]
mod ends;
#[path = "simulator/ledger.rs"]
mod ledger;
#[path = "simulator/link.rs"]
mod link;
#[path = "simulator/messages.rs"]
mod messages;
#[path = "simulator/outbox.rs"]
mod outbox;
#[path = "simulator/random.rs"]
mod random;
#[path = "simulator/scenario.rs"]
mod scenario;
#[path = "simulator/verdict.rs"]
mod verdict;
#[path = "simulator/wire.rs"]
mod wire;
#[path = "simulator/world.rs"]
mod world;

use std::time::{Duration, Instant};

use ledger::Tally;

/// As many as take a few seconds without optimization.
const RUNS: u64 = 1_000;

/// What must have happened in a thousand runs for them to mean something.
const HAPPENS: [&str; 18] = [
    "client ends: abandoned-limit",
    "client ends: closed",
    "client ends: drain-timeout",
    "client ends: hello-timeout",
    "client ends: idle-timeout",
    "client ends: in order",
    "client ends: tls-refused",
    "client ends: transport",
    "client ends: truncated",
    "outcome Some(Cancelled)",
    "outcome Some(Failed)",
    "outcome Some(Refused)",
    "runs 2",
    "server ends: drain-timeout",
    "server ends: idle-timeout",
    "server ends: in order",
    "server ends: tls-required",
    "server ends: truncated",
];

#[test]
fn the_laws_hold_whatever_the_network_and_the_callers_do() {
    let mut tally = Tally::new();
    if let Some(seed) = number("SIM_SEED") {
        run(seed, true, &mut tally);
        println!("seed {seed}: {tally:#?}");
        return;
    }
    let (runs, start) = (number("SIM_RUNS").unwrap_or(RUNS), Instant::now());
    for seed in 0..runs {
        run(seed, false, &mut tally);
    }
    let rate = runs as f64 / start.elapsed().as_secs_f64();
    println!("{tally:#?}\n{runs} scenarios, {rate:.0} a second");
    for what in HAPPENS {
        assert!(runs < RUNS || tally.contains_key(what), "{what} did not happen");
    }
}

#[test]
fn a_seed_determines_a_run() {
    for seed in 0..30 {
        let mut tallies = [Tally::new(), Tally::new()];
        let [first, second] = tallies.each_mut().map(|tally| run(seed, false, tally));
        assert_eq!((first, &tallies[0]), (second, &tallies[1]), "seed {seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Runs one seed, and says which it was if a law is broken.
fn run(seed: u64, talks: bool, tally: &mut Tally) -> (u64, Duration) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let seed = self.0;
                eprintln!("seed {seed}; again: SIM_SEED={seed} cargo test --test simulator -- --nocapture");
            }
        }
    }
    let _named = Seed(seed);
    world::World::new(seed, Instant::now(), talks).run(tally)
}
