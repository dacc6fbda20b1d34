//! What a driver waits for: something that others do, or a time. How it waits is all that is its own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// Something to wait for that acts by itself when it is time.
pub(super) trait Timed {
    type Output;

    /// Goes on as far as it can; wakes the waker of the context when it can go on.
    fn poll_at(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<Self::Output>;
    /// When to poll it again at the latest.
    fn next_at(&self) -> Option<Instant>;
}

impl<T: Timed> Timed for &mut T {
    type Output = T::Output;

    fn poll_at(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<T::Output> {
        T::poll_at(self, now, context)
    }

    fn next_at(&self) -> Option<Instant> {
        T::next_at(self)
    }
}

/// A future that is waited for until then, or for ever.
pub(super) struct Until<F> {
    end: Option<Instant>,
    future: F,
}

impl<F> Until<F> {
    pub(super) fn new(end: impl Into<Option<Instant>>, future: F) -> Self {
        Self { end: end.into(), future }
    }
}

impl<F: Future + Unpin> Timed for Until<F> {
    /// None if it takes longer.
    type Output = Option<F::Output>;

    fn poll_at(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match Pin::new(&mut self.future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.end.is_some_and(|at| at <= now) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn next_at(&self) -> Option<Instant> {
        self.end
    }
}
