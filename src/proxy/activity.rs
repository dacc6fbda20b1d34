//! Whether a caller's connection is worth keeping: judged once in an idle time-out, not by a timer for each request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::request_head::Refused;

/// What a caller must take of an answer each second, lest that counts as nothing.
const LEAST_RATE: f64 = 256.0;
/// For how many idle time-outs a caller may take less of an answer: buffers between here and there are emptied by leaps.
const SLACK: u32 = 4;

/// What goes on at a connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    begun: AtomicU64,
    answered: AtomicU64,
    /// Whose answer has left, as far as hyper has asked for it.
    ended: AtomicU64,
    /// Given up by their caller before they were answered.
    cancelled: AtomicU64,
    /// A part of a head has come.
    in_head: AtomicBool,
    /// Which request is refused, counted from 1, and why. It is the last one.
    refused: OnceLock<Box<(u64, Refused)>>,
}

impl Activity {
    /// Whether a request is on its way of whose head a part has come.
    pub(crate) fn is_in_head(&self) -> bool {
        self.in_head.load(Ordering::Relaxed)
    }

    /// The request with this number, counted from 1, is refused, and a stand-in comes in its place.
    pub(crate) fn refuse(&self, number: u64, refused: Refused) {
        // There is only one: nothing is read after it.
        let _ = self.refused.set(Box::new((number, refused)));
    }

    /// Why the request that has begun last is refused, if it is.
    pub(crate) fn refusal(&self) -> Option<&Refused> {
        let (number, refused) = &**self.refused.get()?;
        (*number == self.begun.load(Ordering::Relaxed)).then_some(refused)
    }

    pub(crate) fn set_in_head(&self, in_head: bool) {
        self.in_head.store(in_head, Ordering::Relaxed);
    }

    /// How many requests were given up by their caller before they were answered.
    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether every request that has begun has an answer that hyper has taken whole.
    pub(crate) fn is_idle(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
    }
}

/// A request in hand; or, once [`answered`](Busy::answered), one whose answer is to leave. Until dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    is_answered: bool,
}

impl Busy {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        Self { activity: activity.clone(), is_answered: false }
    }

    pub(crate) fn answered(mut self) -> Self {
        self.is_answered = true;
        self.activity.answered.fetch_add(1, Ordering::Relaxed);
        self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.is_answered {
            self.activity.answered.fetch_add(1, Ordering::Relaxed);
            self.activity.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        self.activity.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long nothing has happened.
#[derive(Debug)]
pub(crate) struct Patience {
    least_bytes: u64,
    /// The requests begun and the bytes sent when it was looked at last.
    last: (u64, u64),
    /// How often in a row nothing had happened.
    quiet: u32,
}

impl Patience {
    /// For a connection that is looked at once in `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        // So that the first look, whenever that is, finds something new, unless an answer is leaving.
        let last = (u64::MAX, 0);
        Self { least_bytes: (interval.as_secs_f64() * LEAST_RATE) as u64, last, quiet: 0 }
    }

    /// Looks at a connection that has sent so many bytes; whether it is over.
    pub(crate) fn ends(&mut self, activity: &Activity, sent: u64) -> bool {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (begun, answered, ended) = (load(&activity.begun), load(&activity.answered), load(&activity.ended));
        let is_leaving = answered > ended;
        // Small requests beside an answer that does not leave, as HTTP/2 may have them, do not keep that for ever.
        let is_new = begun != self.last.0 && !is_leaving;
        let is_quiet = begun == answered && !is_new && sent - self.last.1 <= self.least_bytes;
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        self.last = (begun, sent);
        self.quiet >= if is_leaving { SLACK } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 256;

    #[test]
    fn an_idle_connection_ends_in_one_to_two_intervals() {
        let activity = Arc::new(Activity::default());
        let mut patience = Patience::new(Duration::from_secs(1));
        assert!(!patience.ends(&activity, 0));
        assert!(patience.ends(&activity, 0));

        let mut patience = Patience::new(Duration::from_secs(1));
        for sent in 1..10 {
            drop(Busy::begin(&activity).answered());
            assert!(!patience.ends(&activity, sent), "it had requests");
        }
        assert!(patience.ends(&activity, 9));
    }

    #[test]
    fn a_request_in_hand_may_take_its_time() {
        let activity = Arc::new(Activity::default());
        let mut patience = Patience::new(Duration::from_secs(1));
        let busy = Busy::begin(&activity);
        assert!((0..100).all(|_| !patience.ends(&activity, 0)));
        drop(busy);
        assert!(patience.ends(&activity, 0));
    }

    #[test]
    fn small_requests_do_not_keep_an_answer_that_does_not_leave() {
        let activity = Arc::new(Activity::default());
        let mut patience = Patience::new(Duration::from_secs(1));
        let leaving = Busy::begin(&activity).answered();
        let looks = (1..10).position(|n| {
            drop(Busy::begin(&activity).answered());
            patience.ends(&activity, n * RATE / 2)
        });
        assert!(looks.is_some_and(|looks| looks <= SLACK as usize), "{looks:?}");
        drop(leaving);
    }

    #[test]
    fn an_answer_may_leave_slowly_and_by_leaps() {
        let activity = Arc::new(Activity::default());
        let mut patience = Patience::new(Duration::from_secs(1));
        let leaving = Busy::begin(&activity).answered();
        assert!((1..100).all(|n| !patience.ends(&activity, n * (RATE + 1))));
        assert!((100..200).all(|n| !patience.ends(&activity, n / 3 * 4 * (RATE + 1))));
        let sent = 1000 * (RATE + 1);
        patience.ends(&activity, sent);
        assert_eq!((0..SLACK).position(|_| patience.ends(&activity, sent)), Some(SLACK as usize - 1));
        drop(leaving);
    }
}
