//! Callers, processes and the schedule of faults; and what they are judged by.

mod caller;
mod ledger;
pub mod origin;
mod process;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::chaos::{Chaos, Harm, Random, Relay, eventually};
use caller::Caller;
use ledger::{Ledger, Outcome};
use process::Process;

/// What a connection of the relay may meet. Most requests should have an answer, so that there is something to mix up.
const HARMS: [Harm; 12] = [
    Harm::Nothing,
    Harm::Nothing,
    Harm::Cut,
    Harm::Cut,
    Harm::Cut,
    Harm::Reset,
    Harm::Reset,
    Harm::Reset,
    Harm::HalfOpen,
    Harm::Delay(2),
    Harm::Throttle(2000),
    Harm::Duplicate,
];

/// How much more a proxy may hold in the end than after its first thousand requests, in MiB: what an allocator keeps.
const MORE_MIB: u64 = 48;

/// One run.
pub struct Law {
    pub requests: u64,
    pub seed: u64,
    pub callers: usize,
}

impl Law {
    /// Runs it.
    ///
    /// # Panics
    ///
    /// The law is broken.
    pub fn judge(&self) {
        let folder = std::env::temp_dir().join(format!("law-{}-{}", std::process::id(), self.seed));
        std::fs::create_dir_all(&folder).unwrap();
        let executed = folder.join("executed");
        let origin = Process::origin(&executed);
        let far = Process::far(origin.addr());
        let relay = Relay::start(far.addr(), Chaos { seed: self.seed, harms: HARMS.to_vec(), within: 300_000 });
        let near = Process::near(relay.addr());
        let processes = [near, far, origin];

        let ledger = Ledger::new(self.requests);
        let next = AtomicU64::new(0);
        let is_over = AtomicBool::new(false);
        let start = Instant::now();
        let (faults, before) = thread::scope(|scope| {
            let callers: Vec<_> = (0..self.callers)
                .map(|n| {
                    let (ledger, next, near) = (&ledger, &next, processes[0].addr());
                    let seed = self.seed.wrapping_mul(1000) + n as u64;
                    scope.spawn(move || Caller::new(near, seed).call_all(ledger, next))
                })
                .collect();
            let faults = {
                let (processes, is_over, next) = (&processes, &is_over, &next);
                scope.spawn(move || self.harm(processes, is_over, next))
            };
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            is_over.store(true, Ordering::SeqCst);
            faults.join().unwrap()
        });
        let took = start.elapsed();
        relay.calm_down();
        relay.end_all();

        let runs = origin::executions(&executed, self.requests);
        let outcomes = ledger.judge(&runs);
        let (connections, harmed) = relay.counts();
        println!(
            "{} requests in {:.0} s, seed {}: {outcomes}; {faults}; {connections} links, {harmed} of them harmed",
            self.requests,
            took.as_secs_f64(),
            self.seed,
        );
        assert!(outcomes.answered * 2 > self.requests, "most are answered");
        for (process, before) in processes.iter().zip(before).take(2) {
            process.check_end(before);
        }
        // Everything still works.
        let ledger = Ledger::new(100);
        Caller::new(processes[0].addr(), self.seed).call_all(&ledger, &AtomicU64::new(0));
        assert_eq!(ledger.count(Outcome::Answered), 100, "in peace all are answered");
        drop(processes);
        let _ = std::fs::remove_dir_all(folder);
    }

    /// Kills, stops and continues processes until all was asked; the last quarter without kills, so that what the proxies
    /// have in the end is theirs. Returns what was done, and what the proxies had when that quarter began.
    fn harm(
        &self,
        processes: &[Process; 3],
        is_over: &AtomicBool,
        next: &AtomicU64,
    ) -> (String, [process::Holding; 2]) {
        let mut random = Random::new(self.seed ^ 0xfau64);
        let (mut kills, mut stops) = ([0; 3], [0; 3]);
        let mut before = None;
        while !is_over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100 + random.next() % 900));
            let n = random.within(0..3);
            let process = &processes[n];
            let is_late = next.load(Ordering::SeqCst) > self.requests / 4 * 3;
            if is_late && before.is_none() {
                before = Some([processes[0].holding(), processes[1].holding()]);
            }
            if !is_late && random.within(0..3) == 0 {
                kills[n] += 1;
                process.kill();
                thread::sleep(Duration::from_millis(random.next() % 200));
                process.start();
            } else {
                stops[n] += 1;
                process.signal("STOP");
                thread::sleep(Duration::from_millis(random.next() % 1500));
                process.signal("CONT");
            }
        }
        let before = before.unwrap_or_else(|| [processes[0].holding(), processes[1].holding()]);
        (format!("near, far and origin killed {kills:?} and stopped {stops:?} times"), before)
    }
}

impl Process {
    /// That nothing is left of what was.
    fn check_end(&self, before: process::Holding) {
        eventually("what it has in hand to end", || {
            self.figure("httptp_requests_in_flight") == Some(0.0)
                && self.figure("httptp_memory_held_bytes").is_some_and(|bytes| bytes < 8e6)
        });
        eventually("descriptors to return", || self.holding().descriptors <= before.descriptors + 8);
        let after = self.holding();
        println!("{}: {before}, in the end {after}", self.name());
        assert!(after.memory_kib <= before.memory_kib + MORE_MIB * 1024, "{}: {before}, then {after}", self.name());
    }
}
