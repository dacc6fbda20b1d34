//! Where the sockets and timers of the proxy wait: one queue of the system's events for all of them.
//!
//! Whoever is in [`block_on`] and has nothing to do waits for events, and so wakes mostly itself: no thread stands between the
//! kernel and a task. A socket is registered once, for both ways and all its life, and a wait is one system call.
//!
//! Tasks may run elsewhere, too: as long as nobody is in [`block_on`], a thread of its own waits for events.

mod attend;
mod fine;
mod timer;

/// `fuzz/tests/loom.rs` compiles `attend` with others in place of these.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, Mutex as TryMutex, MutexGuard, MutexGuard as TryMutexGuard};
}

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::{Event, Source};
use mio::{Events, Interest, Registry, Token};

use attend::{Attendance, lock};
use fine::FineClock;
pub(crate) use timer::Timer;
use timer::Timers;

/// How many events one wait takes.
const EVENTS: usize = 1024;
/// What wakes the one who waits, and no socket.
const WAKE: Token = Token(usize::MAX);
/// What ends a wait in time, and is no socket either.
const TIME: Token = Token(usize::MAX - 1);

static REACTOR: OnceLock<Attendance<Reactor>> = OnceLock::new();

/// All that is waited for.
#[derive(Debug)]
struct Reactor {
    registry: Registry,
    waker: mio::Waker,
    sockets: Mutex<Sockets>,
    timers: Mutex<Timers>,
}

/// What the one who waits waits with.
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
    if REACTOR.get().is_none() && REACTOR.set(Reactor::attended()?).is_ok() {
        thread::Builder::new().name("reactor".into()).spawn(|| {
            loop {
                attendance().stand_in();
            }
        })?;
    }
    Ok(())
}

/// Runs a future on this thread, to its end. Meanwhile this thread waits for sockets and timers, its own and others', unless
/// another one does.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    attendance().block_on(future)
}

/// The one that there is.
///
/// # Panics
///
/// As [`start`] fails, if that was not called before.
fn attendance() -> &'static Attendance<Reactor> {
    loop {
        match REACTOR.get() {
            Some(reactor) => return reactor,
            None => start().expect("sockets and timers have nothing to wait in"),
        }
    }
}

impl Reactor {
    /// The one that there is, or else a panic as of [`attendance`].
    fn get() -> &'static Self {
        &attendance().events
    }

    fn attended() -> io::Result<Attendance<Self>> {
        let poll = mio::Poll::new()?;
        let (registry, waker) = (poll.registry().try_clone()?, mio::Waker::new(poll.registry(), WAKE)?);
        let (events, clock) = (Events::with_capacity(EVENTS), FineClock::new(&registry, TIME)?);
        let reactor = Self { registry, waker, sockets: Mutex::default(), timers: Mutex::default() };
        Ok(Attendance::new(reactor, Turn { poll, events, clock, wakers: Vec::new() }))
    }
}

impl attend::Events for Reactor {
    type Turn = Turn;

    /// Timers end, too.
    fn wait(&self, turn: &mut Turn, limit: Option<Duration>, then: impl FnOnce()) {
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

    fn interrupt(&self) {
        // It fails only for want of what it has had since it was made.
        let _ = self.waker.wake();
    }
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
