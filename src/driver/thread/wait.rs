//! How a thread waits for a future, and how others wake it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// What wakes the calling thread from [`park_until`].
pub(super) fn waker() -> Waker {
    Arc::new(Unpark(std::thread::current())).into()
}

/// Waits until it is woken, or until then; now and then for no reason.
pub(super) fn park_until(at: Option<Instant>) {
    match at {
        None => std::thread::park(),
        Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
    }
}

/// Waits for `future`, until `deadline` if there is one.
pub(super) fn wait<T>(future: impl Future<Output = T>, deadline: Option<Instant>) -> Option<T> {
    let mut future = pin!(future);
    let waker = waker();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return None;
        }
        park_until(deadline);
    }
}
