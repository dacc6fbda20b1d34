//! A thread that runs a future and waits for events meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{Reactor, lock};

/// Runs a future on this thread, to its end. Meanwhile this thread waits for sockets and timers, its own and others', unless
/// another one does.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let attendant = Attendant::new();
    let waker = Waker::from(attendant.parker.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        attendant.wait();
    }
}

struct Attendant {
    reactor: &'static Reactor,
    parker: Arc<Parker>,
}

impl Attendant {
    fn new() -> Self {
        let (reactor, parker) = (Reactor::get(), Arc::<Parker>::default());
        let mut attendants = lock(&reactor.attendants);
        attendants.push(parker.clone());
        if attendants.len() == 1 {
            // No other thread is needed for that.
            reactor.interrupt();
        }
        drop(attendants);
        Self { reactor, parker }
    }

    /// Waits until the future of this thread is woken.
    fn wait(&self) {
        if self.parker.take_wake() {
            // It has more to do, but others wait for their sockets.
            if let Some(mut turn) = self.reactor.try_turn() {
                self.reactor.take_turn(&mut turn, Some(Duration::ZERO), || ());
            }
            return;
        }
        while !self.parker.take_wake() {
            match self.reactor.try_turn() {
                Some(mut turn) => {
                    if self.parker.begin(State::Polling) {
                        self.reactor.take_turn(&mut turn, None, || self.parker.end());
                    }
                }
                None => self.parker.park(),
            }
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        let mut attendants = lock(&self.reactor.attendants);
        attendants.retain(|other| !Arc::ptr_eq(other, &self.parker));
        // One of those who have left the wait to this one takes it over.
        attendants.iter().for_each(Parker::wake);
        if attendants.is_empty() {
            self.reactor.is_alone.notify_one();
        }
    }
}

/// What a thread does, for those who wake it.
#[derive(Debug, Default)]
pub(super) struct Parker {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It runs, and will look at its future after that if it was woken.
    #[default]
    Running,
    Woken,
    /// It waits for events.
    Polling,
    /// It waits to be woken.
    Parked,
}

impl Parker {
    pub(super) fn wake(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Woken) {
            State::Parked => self.changed.notify_one(),
            State::Polling => {
                drop(state);
                Reactor::get().interrupt();
            }
            State::Running | State::Woken => {}
        }
    }

    /// Whether it was woken; it is not, then.
    fn take_wake(&self) -> bool {
        std::mem::take(&mut *lock(&self.state)) == State::Woken
    }

    /// Begins something that a wake ends; false if it was woken already.
    fn begin(&self, what: State) -> bool {
        let mut state = lock(&self.state);
        let is_awake = *state == State::Woken;
        if !is_awake {
            *state = what;
        }
        !is_awake
    }

    /// Runs again. From now on nobody needs to interrupt it.
    fn end(&self) {
        let mut state = lock(&self.state);
        if *state != State::Woken {
            *state = State::Running;
        }
    }

    fn park(&self) {
        if self.begin(State::Parked) {
            let parked = self.changed.wait_while(lock(&self.state), |state| *state == State::Parked);
            drop(parked.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        Parker::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Parker::wake(self);
    }
}
