//! What became of each request, once.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// With the origin's answer to it.
    Answered = 1,
    /// With an answer of a proxy's, that says what went wrong.
    Refused = 2,
    /// With the end of the connection.
    Broken = 3,
}

/// What kind of request it is, by its number.
pub fn method(number: u64) -> &'static str {
    ["POST", "GET", "POST", "PUT"][(number % 4) as usize]
}

/// The outcomes, by number.
pub struct Ledger(Vec<AtomicU8>);

impl Ledger {
    pub fn new(requests: u64) -> Self {
        Self((0..requests).map(|_| AtomicU8::new(0)).collect())
    }

    pub fn requests(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn note(&self, number: u64, outcome: Outcome) {
        let before = self.0[number as usize].swap(outcome as u8, Ordering::SeqCst);
        assert_eq!(before, 0, "request {number} has a second outcome");
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.0.iter().filter(|noted| noted.load(Ordering::SeqCst) == outcome as u8).count() as u64
    }

    /// Judges by how often the origin ran each.
    pub fn judge(&self, runs: &[u32]) -> Outcomes {
        let mut most = 0;
        for (number, (noted, runs)) in self.0.iter().zip(runs).enumerate() {
            let (number, noted) = (number as u64, noted.load(Ordering::SeqCst));
            assert_ne!(noted, 0, "request {number} has no outcome");
            if noted == Outcome::Answered as u8 {
                assert!(*runs >= 1, "request {number} was answered and never ran");
            }
            if method(number) == "POST" {
                assert!(*runs <= 1, "request {number} must not run twice, and ran {runs} times");
            }
            most = most.max(*runs);
        }
        let (answered, refused) = (self.count(Outcome::Answered), self.count(Outcome::Refused));
        let broken = self.count(Outcome::Broken);
        assert_eq!(answered + refused + broken, self.requests());
        Outcomes { answered, refused, broken, repeated: runs.iter().filter(|runs| **runs > 1).count() as u64, most }
    }
}

/// How many ended how.
pub struct Outcomes {
    pub answered: u64,
    refused: u64,
    broken: u64,
    /// Those that may, and did, run more than once, and how often at most.
    repeated: u64,
    most: u32,
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, refused, broken, repeated, most } = self;
        write!(
            f,
            "{answered} answered, {refused} refused, {broken} broken; {repeated} GET or PUT ran again ({most} times at most), no POST"
        )
    }
}
