//! How a thread waits, and how others wake it.

use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Instant;

use super::super::timed::Timed;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for the end of `timed`.
pub(super) fn wait<T: Timed>(mut timed: T) -> T::Output {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        let now = Instant::now();
        if let Poll::Ready(output) = timed.poll_at(now, &mut context) {
            return output;
        }
        // It may wake for no reason.
        match timed.next_at() {
            None => std::thread::park(),
            Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
        }
    }
}
