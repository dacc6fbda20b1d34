//! Who is under way, and how others wait until nobody is.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::mailbox::lock;
use super::sync::{Arc, Mutex};

/// Counts what is under way.
#[derive(Clone, Default)]
pub(super) struct Crowd {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    members: usize,
    waiting: Vec<Waker>,
}

impl Crowd {
    /// One more, until the guard is dropped.
    pub(super) fn enter(&self) -> Member {
        lock(&self.inner).members += 1;
        Member { crowd: self.clone() }
    }

    /// Waits until nobody is left.
    pub(super) async fn gone(&self) {
        poll_fn(|context| {
            let mut inner = lock(&self.inner);
            if inner.members == 0 {
                return Poll::Ready(());
            }
            if !inner.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                inner.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// One of a [`Crowd`].
pub(super) struct Member {
    crowd: Crowd,
}

impl Drop for Member {
    fn drop(&mut self) {
        let waiting = {
            let mut inner = lock(&self.crowd.inner);
            inner.members -= 1;
            if inner.members > 0 {
                return;
            }
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}
