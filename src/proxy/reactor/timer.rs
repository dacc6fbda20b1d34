//! Timers, in the order of their time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Reactor;
use super::attend::{Events, lock};
use crate::driver::smol::Alarm;

/// The longest wait at a time.
const LONGEST: Duration = Duration::from_secs(3600);

/// When a timer is due, and which one it is.
type Key = (Instant, u64);

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: BTreeMap<Key, Waker>,
    made: u64,
    /// How long somebody waits for events now, if somebody does.
    waits_until: Option<Instant>,
}

impl Timers {
    /// Somebody begins to wait for events, `limit` at most. Returns how long.
    pub(super) fn begin_wait(&mut self, now: Instant, limit: Option<Duration>) -> Duration {
        let next = self.waiting.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
        let wait = next.into_iter().chain(limit).fold(LONGEST, Duration::min);
        self.waits_until = Some(now + wait);
        wait
    }

    /// The wait is over. Adds the wakers of all that are due.
    pub(super) fn end_wait(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        self.waits_until = None;
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            wakers.push(first.remove());
        }
    }

    /// Whether who waits for events has to look again, to be in time for a timer that is due then.
    fn is_early(&self, at: Instant) -> bool {
        self.waits_until.is_some_and(|until| at < until)
    }
}

/// Ends at its time.
#[derive(Debug)]
pub(crate) struct Timer {
    /// None for one that never ends.
    at: Option<Instant>,
    key: Option<Key>,
}

impl Timer {
    /// Ends then.
    pub(crate) fn at(at: Instant) -> Self {
        Self { at: Some(at), key: None }
    }

    /// Ends so long from now, or never if that is too long to tell.
    pub(crate) fn after(duration: Duration) -> Self {
        Self { at: Instant::now().checked_add(duration), key: None }
    }

    fn leave(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&Reactor::get().timers).waiting.remove(&key);
        }
    }
}

impl Alarm for Timer {
    fn never() -> Self {
        Self { at: None, key: None }
    }

    fn set_at(&mut self, at: Instant) {
        self.leave();
        self.at = Some(at);
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(at) = this.at else { return Poll::Pending };
        if at <= Instant::now() {
            this.leave();
            return Poll::Ready(());
        }
        let reactor = Reactor::get();
        let mut timers = lock(&reactor.timers);
        let key = *this.key.get_or_insert_with(|| {
            timers.made += 1;
            (at, timers.made)
        });
        // Polled as often as what it ends, mostly by the same task.
        let waker = timers.waiting.entry(key).or_insert_with(|| cx.waker().clone());
        waker.clone_from(cx.waker());
        let is_early = timers.is_early(at);
        drop(timers);
        if is_early {
            reactor.interrupt();
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.leave();
    }
}
