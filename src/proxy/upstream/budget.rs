//! How many requests may be sent again: when much fails, trying everything again would make it worse.

use std::time::{Duration, Instant};

/// Retries that the budget allows for: a share of the requests, and a few each second for those who send little.
#[derive(Debug)]
pub(super) struct Budget {
    tokens: f64,
    since: Option<Instant>,
}

impl Budget {
    /// How many retries a request earns.
    const SHARE: f64 = 0.2;
    /// How many each second earns.
    const PER_SECOND: f64 = 1.0;
    /// How many can be saved up, and are there at first.
    const MOST: f64 = 100.0;
    const FIRST: f64 = 10.0;

    pub(super) fn new() -> Self {
        Self { tokens: Self::FIRST, since: None }
    }

    /// A request has come.
    pub(super) fn note_request(&mut self, now: Instant) {
        let lasted = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.since = Some(now);
        self.tokens = (self.tokens + Self::SHARE + lasted.as_secs_f64() * Self::PER_SECOND).min(Self::MOST);
    }

    /// Whether one may be sent again; if so, that is taken from the budget.
    pub(super) fn take(&mut self) -> bool {
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let now = Instant::now();
        let mut budget = Budget::new();
        let retried = (0..10_000)
            .filter(|_| {
                budget.note_request(now);
                budget.take()
            })
            .count();
        assert!((2_000..=2_011).contains(&retried), "{retried}");
    }

    #[test]
    fn who_sends_little_has_some_anyway() {
        let start = Instant::now();
        let mut budget = Budget::new();
        for second in 0..100 {
            budget.note_request(start + Duration::from_secs(second));
            assert!(budget.take());
        }
    }
}
