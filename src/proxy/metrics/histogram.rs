//! A histogram that many threads add to without waiting for each other: one atomic addition for each value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Values below this have a bucket each; from there on each power of two has as many.
const STEPS: u64 = 8;
const STEP_BITS: u32 = STEPS.ilog2();
/// The highest power of two with buckets of its own, in microseconds: more than nine hours.
const TOP: u32 = 35;
const BUCKETS: usize = (STEPS as usize) * (TOP - STEP_BITS + 2) as usize;

/// How long things took, to an eighth.
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]), sum_micros: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Histogram").finish_non_exhaustive()
    }
}

impl Histogram {
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[index(micros)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What it holds now.
    pub(crate) fn snapshot(&self) -> Latencies {
        let counts = self.buckets.iter().enumerate().map(|(index, count)| (index, count.load(Ordering::Relaxed)));
        let buckets: Vec<_> = counts.filter(|(_, n)| *n > 0).map(|(index, n)| (upper(index), n)).collect();
        Latencies { buckets, sum: Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)) }
    }
}

/// The bucket of a value.
fn index(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = micros.ilog2().min(TOP);
    let step = (micros >> (power - STEP_BITS)).min(2 * STEPS - 1) - STEPS;
    ((power - STEP_BITS + 1) as u64 * STEPS + step) as usize
}

/// The microseconds below which the values of a bucket are.
fn upper(index: usize) -> u64 {
    let (group, step) = (index as u64 / STEPS, index as u64 % STEPS);
    if group == 0 { step + 1 } else { (STEPS + step + 1) << (group - 1) }
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    /// The microseconds below which the values of a bucket are, and how many they are; only those that hold any.
    pub(crate) buckets: Vec<(u64, u64)>,
    pub(crate) sum: Duration,
}

impl Latencies {
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// How many lie between one power of two of microseconds and the next, from 128 us to 34 s; then all that are longer.
    /// Bounds in seconds.
    pub(crate) fn by_powers(&self) -> Vec<(f64, u64)> {
        let mut powers: Vec<(f64, u64)> =
            (7..=25).map(|power| ((1u64 << power) as f64 / 1e6, 0)).chain([(f64::INFINITY, 0)]).collect();
        for (upper, count) in &self.buckets {
            let seconds = *upper as f64 / 1e6;
            if let Some((_, sum)) = powers.iter_mut().find(|(bound, _)| seconds <= *bound) {
                *sum += count;
            }
        }
        powers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_below_its_bound_and_within_an_eighth_of_it() {
        for micros in (0..5_000).chain((0..35).map(|power| 1 << power)).chain((3..35).map(|power| (1 << power) - 1)) {
            let bound = upper(index(micros));
            assert!(micros < bound && bound - micros <= 1 + micros / 8, "{micros} {bound}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|n| upper(n) > upper(n - 1)));
    }

    #[test]
    fn powers_hold_all() {
        let histogram = Histogram::default();
        for micros in [1, 127, 128, 100_000, 1 << 40] {
            histogram.note(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 5);
        let powers = snapshot.by_powers();
        assert_eq!((powers[0], powers[1], powers[10].1), ((0.000128, 2), (0.000256, 1), 1));
        assert_eq!(powers.last(), Some(&(f64::INFINITY, 1)));
    }
}
