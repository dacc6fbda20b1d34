//! How a request's outcome comes back to its caller, and how a caller that waits no longer finds its request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;

use super::super::error::ClientError;
use super::super::mailbox::lock;
use super::super::sync::Mutex;
use super::Common;

type Outcome = Result<Response<Bytes>, ClientError>;

/// What a request has in common with its caller.
struct State {
    /// The number of the lane that the request is in.
    lane: usize,
    outcome: Option<Outcome>,
    /// Whom to wake for it.
    waker: Option<Waker>,
    /// Nobody waits for it any more.
    is_given_up: bool,
}

/// The way from a request to its caller. It is one of the load of the lane that the request is in.
pub(super) struct Reply {
    common: Arc<Common>,
    state: Arc<Mutex<State>>,
    is_sent: bool,
}

/// The caller's end of it.
pub(super) struct Waiting {
    state: Arc<Mutex<State>>,
}

impl Reply {
    /// For a request that goes to this lane.
    pub(super) fn new(common: Arc<Common>, lane: usize) -> (Self, Waiting) {
        common.lanes[lane].load.fetch_add(1, Ordering::Relaxed);
        let state = State { lane, outcome: None, waker: None, is_given_up: false };
        let state = Arc::new(Mutex::new(state));
        (Self { common, state: state.clone(), is_sent: false }, Waiting { state })
    }

    /// One for a job that is in no lane.
    #[cfg(test)]
    pub(super) fn nowhere() -> (Self, Waiting) {
        let options = super::ClientOptions::default();
        let callers = super::Callers::new(String::new(), options, |_| Ok(()));
        Self::new(callers.common.clone(), 0)
    }

    /// The request goes to another lane: first this, then the way there. Who gives it up in between tells that lane before
    /// it comes, and it is looked at [there](Self::is_given_up).
    pub(super) fn move_to(&self, lane: usize) {
        let before = std::mem::replace(&mut lock(&self.state).lane, lane);
        self.common.lanes[before].load.fetch_sub(1, Ordering::Relaxed);
        self.common.lanes[lane].load.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nobody waits for the outcome.
    pub(super) fn is_given_up(&self) -> bool {
        lock(&self.state).is_given_up
    }

    pub(super) fn send(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        self.is_sent = true;
        let waker = {
            let mut state = lock(&self.state);
            // Before its caller can ask for more.
            self.common.lanes[state.lane].load.fetch_sub(1, Ordering::Relaxed);
            state.outcome = Some(outcome);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            self.end(Err(ClientError::lost()));
        }
    }
}

impl Waiting {
    /// Takes the outcome, once it is there.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = lock(&self.state);
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits no longer. Returns the lane that is to be told, unless there is an outcome.
    pub(super) fn give_up(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        state.is_given_up = true;
        state.outcome.is_none().then_some(state.lane)
    }
}
