//! How long a peer may take to read what is written to it, and to write what is awaited.

use std::time::{Duration, Instant};

/// What a peer must read each second: one that takes a byte now and then holds up what waits for it as surely as one
/// that takes none.
const LEAST_RATE: u64 = 4 * 1024;
/// For how many write time-outs a peer may fall behind that rate: buffers between here and there are emptied by leaps.
const SLACK: u32 = 4;

/// The deadlines of the output under way.
#[derive(Debug)]
pub(super) struct WritePatience {
    timeout: Duration,
    /// When the socket must have taken something more.
    stall: Option<Instant>,
    /// When it has fallen behind `LEAST_RATE` for too long.
    rate: Option<Instant>,
}

impl WritePatience {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, stall: None, rate: None }
    }

    /// There is output.
    pub(super) fn begin(&mut self, now: Instant) {
        self.stall = now.checked_add(self.timeout);
        self.rate = now.checked_add(self.timeout.saturating_mul(SLACK));
    }

    /// The socket has taken `n` bytes of it, and not all.
    pub(super) fn note_written(&mut self, now: Instant, n: usize) {
        let earned = Duration::from_micros(n as u64 * 1_000_000 / LEAST_RATE);
        let earned = self.rate.and_then(|at| at.checked_add(earned));
        self.begin(now);
        self.rate = earned.into_iter().chain(self.rate).min();
    }

    /// The socket has taken all.
    pub(super) fn end(&mut self) {
        (self.stall, self.rate) = (None, None);
    }

    /// When the peer is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stall.into_iter().chain(self.rate).min()
    }
}

/// The deadline of what is awaited from the peer.
#[derive(Debug)]
pub(super) struct ReadPatience {
    timeout: Option<Duration>,
    /// When something must have come.
    deadline: Option<Instant>,
}

impl ReadPatience {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, deadline: None }
    }

    /// Something is awaited, or not.
    pub(super) fn watch(&mut self, now: Instant, awaits: bool) {
        match self.timeout.filter(|_| awaits) {
            None => self.deadline = None,
            Some(timeout) => self.deadline = self.deadline.or_else(|| now.checked_add(timeout)),
        }
    }

    /// Something has come.
    pub(super) fn note_read(&mut self, now: Instant) {
        if self.deadline.is_some() {
            self.deadline = self.timeout.and_then(|timeout| now.checked_add(timeout));
        }
    }

    /// When the peer is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// For how long a peer is borne that takes `n` bytes each second, at most 1,000 s.
    fn borne(n: usize) -> u32 {
        let begin = Instant::now();
        let mut patience = WritePatience::new(5 * S);
        patience.begin(begin);
        for second in 1..1000 {
            let now = begin + second * S;
            if patience.deadline().unwrap() <= now {
                return second;
            }
            if n > 0 {
                patience.note_written(now, n);
            }
        }
        1000
    }

    #[test]
    fn who_reads_nothing_or_hardly_is_given_up() {
        assert_eq!(borne(0), 5);
        assert_eq!(borne(1), 21);
        assert_eq!(borne(2 * 1024), 39);
        assert_eq!(borne(4 * 1024), 1000);
        assert_eq!(borne(1024 * 1024), 1000);
    }

    #[test]
    fn who_reads_by_leaps_is_not() {
        let mut now = Instant::now();
        let mut patience = WritePatience::new(5 * S);
        patience.begin(now);
        for _ in 0..100 {
            now += 4 * S;
            assert!(patience.deadline().unwrap() > now);
            patience.note_written(now, 100_000);
        }
        patience.end();
        assert_eq!(patience.deadline(), None);
    }

    #[test]
    fn who_writes_nothing_is_given_up_only_if_something_is_awaited() {
        let now = Instant::now();
        let mut patience = ReadPatience::new(Some(5 * S));
        patience.note_read(now);
        assert_eq!(patience.deadline(), None);
        patience.watch(now, true);
        patience.watch(now + S, true);
        assert_eq!(patience.deadline(), Some(now + 5 * S));
        patience.note_read(now + 2 * S);
        assert_eq!(patience.deadline(), Some(now + 7 * S));
        patience.watch(now + 3 * S, false);
        assert_eq!(patience.deadline(), None);
    }
}
