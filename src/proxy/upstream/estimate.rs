//! What is remembered of an upstream's answers: how long they take, and how many of them are failures.

use std::time::{Duration, Instant};

/// After this time without a request half of what is remembered of failures is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// The same of latency: where few requests come, a slow one is not to be left out for long.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(2);

/// What is younger is not worth a calculation.
const FRESH: Duration = Duration::from_millis(10);

/// What is left of a memory after some time.
fn remains(half_life: Duration, since: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(since);
    if age < FRESH {
        return 1.0;
    }
    (-age.as_secs_f64() / half_life.as_secs_f64()).exp2()
}

/// The weight of what is new beside a memory that time has worn.
fn renewed(weight: f64, half_life: Duration, since: Instant, now: Instant) -> f64 {
    1.0 - (1.0 - weight) * remains(half_life, since, now)
}

/// How long answers take: a moving mean that is quicker to believe in slow ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency(Option<(f64, Instant)>);

impl Latency {
    /// How far one slow answer moves the mean, and one fast answer.
    const UP: f64 = 0.3;
    const DOWN: f64 = 0.1;
    /// Below this, and within half as much again, differences are noise.
    const NOISE: f64 = 0.001;
    const TOLERANCE: f64 = 1.5;
    /// Handicaps of no more than this are none, so that equals take turns.
    const LITTLE: f64 = 0.1;

    pub(super) fn note(&mut self, now: Instant, took: Duration) {
        let took = took.as_secs_f64();
        let mean = self.0.map_or(took, |(mean, at)| {
            let weight = if took > mean { Self::UP } else { Self::DOWN };
            mean + (took - mean) * renewed(weight, LATENCY_HALF_LIFE, at, now)
        });
        self.0 = Some((mean, now));
    }

    /// The same for an answer that deserves no credit for being fast.
    pub(super) fn note_if_slow(&mut self, now: Instant, took: Duration) {
        if self.0.is_some_and(|(mean, _)| took.as_secs_f64() > mean) {
            self.note(now, took);
        }
    }

    /// The mean in seconds, if there is one.
    pub(super) fn mean(&self) -> Option<f64> {
        self.0.map(|(mean, _)| mean)
    }

    /// How many times slower it is than the fastest, whose mean is `fastest`; 1 within what is noise. What is long ago
    /// counts less and less, so that one that was slow is tried again.
    pub(super) fn handicap(&self, now: Instant, fastest: f64) -> f64 {
        let Some((mean, at)) = self.0 else { return 1.0 };
        let times = (mean + Self::NOISE) / ((fastest + Self::NOISE) * Self::TOLERANCE);
        let more = (times - 1.0) * remains(LATENCY_HALF_LIFE, at, now);
        if more < Self::LITTLE { 1.0 } else { 1.0 + more }
    }
}

/// The share of failures among the last answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FailureShare {
    share: f64,
    at: Option<Instant>,
    seen: u32,
}

impl FailureShare {
    const WEIGHT: f64 = 1.0 / 16.0;
    /// Shares below this are noise.
    const NOISE: f64 = 0.05;

    pub(super) fn note(&mut self, now: Instant, failed: bool) {
        let sample = if failed { 1.0 } else { 0.0 };
        let weight = self.at.map_or(Self::WEIGHT, |at| renewed(Self::WEIGHT, HALF_LIFE, at, now));
        self.share += (sample - self.share) * weight;
        self.at = Some(now);
        self.seen = self.seen.saturating_add(1);
    }

    /// From 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        self.at.map_or(0.0, |at| self.share * remains(HALF_LIFE, at, now))
    }

    /// How many answers it has seen.
    pub(super) fn seen(&self) -> u32 {
        self.seen
    }

    /// By how much failures make it less wanted; 1 within what is noise.
    pub(super) fn handicap(&self, now: Instant) -> f64 {
        let share = self.share(now);
        if share < Self::NOISE { 1.0 } else { 1.0 + 10.0 * share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn small_differences_are_noise_and_large_ones_count() {
        let now = Instant::now();
        let handicap = |took: Duration, fastest: Duration| {
            let mut latency = Latency::default();
            latency.note(now, took);
            latency.handicap(now, fastest.as_secs_f64())
        };
        assert_eq!(handicap(MS / 2, MS / 10), 1.0);
        assert_eq!(handicap(28 * MS, 20 * MS), 1.0);
        assert!((1.5..2.5).contains(&handicap(60 * MS, 20 * MS)));
        assert_eq!(Latency::default().handicap(now, 0.0), 1.0);
    }

    #[test]
    fn a_slow_past_is_forgotten() {
        let now = Instant::now();
        let mut latency = Latency::default();
        latency.note(now, 1000 * MS);
        assert!(latency.handicap(now, 0.001) > 100.0);
        assert_eq!(latency.handicap(now + 20 * LATENCY_HALF_LIFE, 0.001), 1.0);
        latency.note_if_slow(now, MS);
        assert_eq!(latency.mean(), Some(1.0));
        latency.note(now + 20 * LATENCY_HALF_LIFE, MS);
        assert_eq!(latency.handicap(now + 20 * LATENCY_HALF_LIFE, 0.001), 1.0);
    }

    #[test]
    fn the_share_follows_what_comes_and_is_forgotten() {
        let now = Instant::now();
        let mut failures = FailureShare::default();
        assert_eq!(failures.handicap(now), 1.0);
        for n in 0..400 {
            failures.note(now, n % 2 == 0);
        }
        assert!((0.4..0.6).contains(&failures.share(now)));
        assert!((0.2..0.3).contains(&failures.share(now + HALF_LIFE)));
        assert_eq!(failures.handicap(now + 10 * HALF_LIFE), 1.0);
        // What was forgotten does not return with the next answer.
        failures.note(now + 10 * HALF_LIFE, false);
        assert_eq!(failures.handicap(now + 10 * HALF_LIFE), 1.0);
    }
}
