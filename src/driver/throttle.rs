//! The level at which a link compresses follows the time that there is for it.

use std::time::{Duration, Instant};

use crate::proto::Connection;

/// Over how long the share is taken.
const INTERVAL: Duration = Duration::from_millis(250);
/// The level rises after so long at less than half of the share. A change of zstd's level costs the history, and so is
/// nothing to do back and forth.
const CALM: Duration = Duration::from_secs(5);

/// Lowers the level of a link when compressing takes more than its share of the time, and raises it again.
///
/// The time is that of the clock, in which others may have had the core: also then a lower level is what helps.
#[derive(Debug)]
pub(super) struct Throttle {
    most: Option<f64>,
    /// The level that was chosen: the link comes back to it.
    top: Option<u8>,
    interval: Option<Instant>,
    /// Time spent in the interval.
    busy: Duration,
    /// For how long the share has been less than half.
    calm: Duration,
}

impl Throttle {
    pub(super) fn new(most: Option<f64>) -> Self {
        Self { most, top: None, interval: None, busy: Duration::ZERO, calm: Duration::ZERO }
    }

    /// Does what compresses, and changes the level if it is time for that.
    pub(super) fn watch<C: Connection, T>(&mut self, connection: &mut C, compress: impl FnOnce(&mut C) -> T) -> T {
        if self.most.is_none() {
            return compress(connection);
        }
        let begin = Instant::now();
        let made = compress(connection);
        let level = connection.level().and_then(|level| self.note(begin, Instant::now(), level));
        if let Some(level) = level {
            connection.set_level(level);
        }
        made
    }

    /// From `begin` to `end` something was compressed at this level; returns another, if it is time for that.
    fn note(&mut self, begin: Instant, end: Instant, level: u8) -> Option<u8> {
        let top = *self.top.get_or_insert(level);
        self.busy += end.saturating_duration_since(begin);
        let elapsed = end.saturating_duration_since(*self.interval.get_or_insert(begin));
        if elapsed < INTERVAL {
            return None;
        }
        let share = self.busy.as_secs_f64() / elapsed.as_secs_f64();
        (self.interval, self.busy) = (Some(end), Duration::ZERO);
        let most = self.most?;
        if share > most / 2.0 {
            self.calm = Duration::ZERO;
        } else {
            self.calm += elapsed;
        }
        if share > most && level > 1 {
            // By halves: the higher, the more a step costs.
            return Some(level / 2);
        }
        if self.calm >= CALM && level < top {
            self.calm = Duration::ZERO;
            return Some(level + 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Compresses for `busy` of each 10 ms, for so many of them; returns the level after each change.
    fn run(throttle: &mut Throttle, now: &mut Instant, level: &mut u8, busy: Duration, times: u32) -> Vec<u8> {
        let mut changes = Vec::new();
        for _ in 0..times {
            if let Some(next) = throttle.note(*now, *now + busy, *level) {
                *level = next;
                changes.push(next);
            }
            *now += 10 * MS;
        }
        changes
    }

    #[test]
    fn the_level_falls_under_load_and_rises_when_it_has_long_been_calm() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 9);
        assert_eq!(run(&mut throttle, &mut now, &mut level, 4 * MS, 1000), [0u8; 0], "below its share");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 6 * MS, 100), [4, 2, 1], "in less than a second");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 9 * MS, 1000), [0u8; 0], "no lower than 1");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 3 * MS, 1000), [0u8; 0], "not calm enough to rise");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 2 * MS, 1100), [2, 3], "a step after five seconds");
        assert_eq!(run(&mut throttle, &mut now, &mut level, MS, 4000), [4, 5, 6, 7, 8, 9], "no higher than it was");
    }

    #[test]
    fn a_link_that_was_idle_has_been_calm() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 3);
        assert_eq!(run(&mut throttle, &mut now, &mut level, 9 * MS, 100), [1]);
        now += 60 * 1000 * MS;
        assert_eq!(run(&mut throttle, &mut now, &mut level, MS, 1), [2]);
    }
}
