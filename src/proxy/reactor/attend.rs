//! Threads that run futures, of which one at a time waits for events meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard, TryMutex, TryMutexGuard};

/// What is waited for.
pub(super) trait Events: Send + Sync + 'static {
    /// Held by who waits.
    type Turn: Send;

    /// Waits for events, `limit` at most, and wakes all whom they concern. `then` is called when the wait is over, before that.
    fn wait(&self, turn: &mut Self::Turn, limit: Option<Duration>, then: impl FnOnce());

    /// Ends the wait that is under way, or the next one.
    fn interrupt(&self);
}

/// Events, and who waits for them.
#[derive(Debug)]
pub(super) struct Attendance<E: Events> {
    pub(super) events: E,
    /// Held by who waits for events.
    turn: TryMutex<E::Turn>,
    /// Who is in [`block_on`](Self::block_on).
    attendants: Mutex<Vec<Arc<Parker<E>>>>,
    /// The last one has left.
    is_alone: Condvar,
}

impl<E: Events> Attendance<E> {
    pub(super) fn new(events: E, turn: E::Turn) -> Self {
        Self { events, turn: TryMutex::new(turn), attendants: Mutex::new(Vec::new()), is_alone: Condvar::new() }
    }

    /// Runs a future on this thread, to its end. Meanwhile this thread waits for events, its own and others', unless another
    /// one does.
    pub(super) fn block_on<T>(&'static self, future: impl Future<Output = T>) -> T {
        let attendant = Attendant::new(self);
        let waker = Waker::from(attendant.parker.clone());
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            attendant.wait();
        }
    }

    /// Waits until nobody is in [`block_on`](Self::block_on), and then once for events, unless somebody has come.
    pub(super) fn stand_in(&self) {
        let mut attendants = lock(&self.attendants);
        while !attendants.is_empty() {
            attendants = self.is_alone.wait(attendants).unwrap_or_else(PoisonError::into_inner);
        }
        drop(attendants);
        if let Some(mut turn) = self.try_turn() {
            self.events.wait(&mut turn, None, || ());
        }
        // Who has come meanwhile could not wait for events, and now can.
        lock(&self.attendants).iter().for_each(Parker::wake);
    }

    fn try_turn(&self) -> Option<TryMutexGuard<'_, E::Turn>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Attendant<E: Events> {
    attendance: &'static Attendance<E>,
    parker: Arc<Parker<E>>,
}

impl<E: Events> Attendant<E> {
    fn new(attendance: &'static Attendance<E>) -> Self {
        let parker = Arc::new(Parker::new(&attendance.events));
        let mut attendants = lock(&attendance.attendants);
        attendants.push(parker.clone());
        if attendants.len() == 1 {
            // Nobody needs to stand in.
            attendance.events.interrupt();
        }
        drop(attendants);
        Self { attendance, parker }
    }

    /// Waits until the future of this thread is woken.
    fn wait(&self) {
        let events = &self.attendance.events;
        if self.parker.take_wake() {
            // It has more to do, but others wait for their events.
            if let Some(mut turn) = self.attendance.try_turn() {
                events.wait(&mut turn, Some(Duration::ZERO), || ());
            }
            return;
        }
        while !self.parker.take_wake() {
            match self.attendance.try_turn() {
                Some(mut turn) => {
                    if self.parker.begin(State::Polling) {
                        events.wait(&mut turn, None, || self.parker.end());
                    }
                }
                None => self.parker.park(),
            }
        }
    }
}

impl<E: Events> Drop for Attendant<E> {
    fn drop(&mut self) {
        let mut attendants = lock(&self.attendance.attendants);
        attendants.retain(|other| !Arc::ptr_eq(other, &self.parker));
        // One of those who have left the wait to this one takes it over.
        attendants.iter().for_each(Parker::wake);
        if attendants.is_empty() {
            self.attendance.is_alone.notify_one();
        }
    }
}

/// What a thread does, for those who wake it.
#[derive(Debug)]
struct Parker<E: Events> {
    events: &'static E,
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

impl<E: Events> Parker<E> {
    fn new(events: &'static E) -> Self {
        Self { events, state: Mutex::new(State::Running), changed: Condvar::new() }
    }

    fn wake(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let was = std::mem::replace(&mut *state, State::Woken);
        drop(state);
        match was {
            State::Parked => self.changed.notify_one(),
            State::Polling => self.events.interrupt(),
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
            let mut state = lock(&self.state);
            while *state == State::Parked {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl<E: Events> Wake for Parker<E> {
    fn wake(self: Arc<Self>) {
        Parker::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Parker::wake(self);
    }
}
