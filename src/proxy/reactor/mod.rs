//! Where the sockets and timers of the proxy wait: one queue of the system's events for all of them.
//!
//! Whoever is in [`block_on`] and has nothing to do waits for events, and so wakes mostly itself: no thread stands between the
//! kernel and a task. A socket is registered once, for both ways and all its life, and a wait is one system call.
//!
//! Tasks may run elsewhere, too: as long as nobody is in [`block_on`], a thread of its own waits for events.

mod attend;
mod fine;
mod timer;

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Events, Interest, Registry, Token};

use attend::Parker;
pub(crate) use attend::block_on;
use fine::FineClock;
pub(crate) use timer::Timer;
use timer::Timers;

/// How many events one wait takes.
const EVENTS: usize = 1024;
/// What wakes the one who waits, and no socket.
const WAKE: Token = Token(usize::MAX);
/// What ends a wait in time, and is no socket either.
const TIME: Token = Token(usize::MAX - 1);

static REACTOR: OnceLock<Reactor> = OnceLock::new();

/// All that is waited for.
#[derive(Debug)]
struct Reactor {
    /// Held by who waits for events.
    turn: Mutex<Turn>,
    registry: Registry,
    waker: mio::Waker,
    sockets: Mutex<Sockets>,
    timers: Mutex<Timers>,
    /// Who is in [`block_on`].
    attendants: Mutex<Vec<Arc<Parker>>>,
    /// The last one has left.
    is_alone: Condvar,
}

#[derive(Debug)]
struct Turn {
    poll: mio::Poll,
    events: Events,
    clock: FineClock,
    /// Of those to whom something has happened; empty but for its memory.
    wakers: Vec<Waker>,
}

/// The sockets that are watched. A name is never given twice: what has happened to one must not be told of another.
#[derive(Debug, Default)]
struct Sockets {
    by_name: HashMap<usize, Arc<Readiness>>,
    named: usize,
}

/// Makes what all sockets and timers wait in, if it is not there.
///
/// # Errors
///
/// The system gives no queue of events, mostly since there are no more file descriptors, or no thread.
pub(crate) fn start() -> io::Result<()> {
    if REACTOR.get().is_none() && REACTOR.set(Reactor::new()?).is_ok() {
        thread::Builder::new().name("reactor".into()).spawn(|| Reactor::get().stand_in())?;
    }
    Ok(())
}

impl Reactor {
    /// The one that there is.
    ///
    /// # Panics
    ///
    /// As [`start`] fails, if that was not called before.
    fn get() -> &'static Self {
        loop {
            match REACTOR.get() {
                Some(reactor) => return reactor,
                None => start().expect("sockets and timers have nothing to wait in"),
            }
        }
    }

    fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let (registry, waker) = (poll.registry().try_clone()?, mio::Waker::new(poll.registry(), WAKE)?);
        let (events, clock) = (Events::with_capacity(EVENTS), FineClock::new(&registry, TIME)?);
        Ok(Self {
            turn: Mutex::new(Turn { poll, events, clock, wakers: Vec::new() }),
            registry,
            waker,
            sockets: Mutex::default(),
            timers: Mutex::default(),
            attendants: Mutex::default(),
            is_alone: Condvar::new(),
        })
    }

    /// Waits for events whenever nobody is in [`block_on`].
    fn stand_in(&self) {
        loop {
            let alone = self.is_alone.wait_while(lock(&self.attendants), |attendants| !attendants.is_empty());
            drop(alone.unwrap_or_else(PoisonError::into_inner));
            self.take_turn(&mut lock(&self.turn), None, || ());
            // Who has come meanwhile could not wait for events, and now can.
            lock(&self.attendants).iter().for_each(Parker::wake);
        }
    }

    fn try_turn(&self) -> Option<MutexGuard<'_, Turn>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for events, `limit` at most, and wakes all whom they or the time concern. `then` is called when the wait is over,
    /// before that.
    fn take_turn(&self, turn: &mut Turn, limit: Option<Duration>, then: impl FnOnce()) {
        let now = Instant::now();
        let wait = lock(&self.timers).begin_wait(now, limit);
        turn.clock.set(now, wait);
        // It can fail by a signal only: there were no events then.
        let is_ok = turn.poll.poll(&mut turn.events, Some(wait)).is_ok();
        then();
        lock(&self.timers).end_wait(Instant::now(), &mut turn.wakers);
        if is_ok && !turn.events.is_empty() {
            let sockets = lock(&self.sockets);
            for event in turn.events.iter() {
                // It may be gone by now, or be none.
                if let Some(socket) = sockets.by_name.get(&event.token().0) {
                    socket.note(event, &mut turn.wakers);
                }
            }
        }
        turn.wakers.drain(..).for_each(Waker::wake);
    }

    /// Has the one who waits for events look again.
    fn interrupt(&self) {
        // It fails only for want of what it has had since it was made.
        let _ = self.waker.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the two ways of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// What comes: bytes, or connections.
    In,
    /// What goes.
    Out,
}

/// Whether a socket may have something to read, and room to write.
#[derive(Debug, Default)]
struct Readiness([Mutex<WayState>; 2]);

#[derive(Debug)]
struct WayState {
    is_ready: bool,
    /// There is an error or an end to be had, of which no more news will come.
    is_over: bool,
    /// How often there was news.
    news: u64,
    waker: Option<Waker>,
}

impl Default for WayState {
    /// What is new may be tried.
    fn default() -> Self {
        Self { is_ready: true, is_over: false, news: 0, waker: None }
    }
}

impl Readiness {
    fn way(&self, way: Way) -> MutexGuard<'_, WayState> {
        lock(&self.0[way as usize])
    }

    fn note(&self, event: &Event, wakers: &mut Vec<Waker>) {
        let is_broken = event.is_error();
        let news = [
            (Way::In, event.is_readable(), event.is_read_closed() || is_broken),
            (Way::Out, event.is_writable(), event.is_write_closed() || is_broken),
        ];
        for (way, is_ready, is_over) in news {
            if is_ready || is_over {
                let mut state = self.way(way);
                state.is_ready = true;
                state.is_over |= is_over;
                state.news += 1;
                wakers.extend(state.waker.take());
            }
        }
    }
}

/// A socket, and what is known of it. It must not block.
pub(crate) struct Watched<S: Source> {
    io: S,
    name: usize,
    readiness: Arc<Readiness>,
}

impl<S: Source> Watched<S> {
    /// # Errors
    ///
    /// The system cannot watch it.
    pub(crate) fn new(io: S) -> io::Result<Self> {
        let reactor = Reactor::get();
        let readiness = Arc::<Readiness>::default();
        let name = {
            let mut sockets = lock(&reactor.sockets);
            sockets.named += 1;
            let name = sockets.named;
            sockets.by_name.insert(name, readiness.clone());
            name
        };
        let mut watched = Self { io, name, readiness };
        reactor.registry.register(&mut watched.io, Token(name), Interest::READABLE | Interest::WRITABLE)?;
        Ok(watched)
    }

    /// The socket itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Attempts something until it does not end in [`ErrorKind::WouldBlock`].
    pub(crate) fn poll_with<T>(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        attempt: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll_until(way, cx, attempt, |_| false)
    }

    /// As [`poll_with`](Self::poll_with), as a future.
    pub(crate) async fn with<T>(&self, way: Way, mut attempt: impl FnMut(&S) -> io::Result<T>) -> io::Result<T> {
        poll_fn(|cx| self.poll_with(way, cx, &mut attempt)).await
    }

    /// Reads what is there. What a read that came back short has not found is looked for only once there is news of it: HTTP
    /// is polled several times for each request, and each time would be a call that finds nothing.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>
    where
        for<'s> &'s S: Read,
    {
        let room = buf.len();
        self.poll_until(Way::In, cx, |mut io| io.read(buf), |n| (1..room).contains(n))
    }

    fn poll_until<T>(
        &self,
        way: Way,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&S) -> io::Result<T>,
        was_all: impl Fn(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        loop {
            let news = {
                let mut state = self.readiness.way(way);
                if !state.is_ready {
                    match &mut state.waker {
                        Some(waker) => waker.clone_from(cx.waker()),
                        none => *none = Some(cx.waker().clone()),
                    }
                    return Poll::Pending;
                }
                state.news
            };
            let outcome = attempt(&self.io);
            let would_block = matches!(&outcome, Err(error) if error.kind() == ErrorKind::WouldBlock);
            if would_block || outcome.as_ref().is_ok_and(&was_all) {
                let mut state = self.readiness.way(way);
                // It is, if there was news since, of which this attempt knew nothing.
                state.is_ready = state.news != news || state.is_over && !would_block;
            }
            if !would_block {
                return Poll::Ready(outcome);
            }
        }
    }
}

impl<S: Source> Drop for Watched<S> {
    fn drop(&mut self) {
        let reactor = Reactor::get();
        // If it was never registered there is nothing to undo.
        let _ = reactor.registry.deregister(&mut self.io);
        lock(&reactor.sockets).by_name.remove(&self.name);
    }
}

impl<S: Source + fmt::Debug> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.io.fmt(f)
    }
}

#[cfg(test)]
mod tests;
