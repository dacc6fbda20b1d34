//! The two loops that carry a link over a stream: this thread writes and waits, another one reads.

use std::io;
use std::net::Shutdown;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::super::carrier::{Carrier, Endpoint, Patience};
use super::super::mailbox::{lock, unharmed};
use super::stream::Stream;
use super::wait::{park_until, waker};

/// How long a write may keep the writer from anything else.
const WRITE_SLICE: Duration = Duration::from_millis(10);
/// How long a closed link goes on reading, so that what it wrote is not destroyed by a reset (R-server-linger).
const LINGER: Duration = Duration::from_secs(1);

/// A link that two threads carry.
struct Link<'s, E> {
    stream: &'s dyn Stream,
    state: Mutex<State<E>>,
    /// Told when the state says that there is something to read, or that it is over.
    reader: Condvar,
    writer: Thread,
}

struct State<E> {
    carrier: Carrier<E>,
    /// Until when the writer waits, while it does.
    parked: Option<Option<Instant>>,
    is_over: bool,
    /// The reader has come to the end of the stream.
    has_end: bool,
}

/// Runs a link until it is over; then lingers, if it should. Returns the endpoint, and what the stream failed with, if
/// it did.
pub(super) fn carry<E: Endpoint + Send>(
    endpoint: E,
    stream: &dyn Stream,
    patience: Patience,
    lingers: bool,
) -> (E, Option<io::Error>) {
    let carrier = Carrier::new(endpoint, patience);
    let state = State { carrier, parked: None, is_over: false, has_end: false };
    let link = Link { stream, state: Mutex::new(state), reader: Condvar::new(), writer: std::thread::current() };
    std::thread::scope(|scope| {
        let reading =
            std::thread::Builder::new().name("teleport-read".into()).spawn_scoped(scope, || link.guard(|| link.read()));
        let ready = reading.and_then(|_| stream.set_write_timeout(WRITE_SLICE));
        if let Err(error) = ready {
            lock(&link.state).carrier.fail(Instant::now(), error);
        }
        link.guard(|| link.write());
        if lingers {
            link.linger();
        }
        // Whatever fails here has ended.
        let _ = stream.shutdown(Shutdown::Both);
        lock(&link.state).is_over = true;
        link.reader.notify_one();
    });
    link.state.into_inner().unwrap_or_else(PoisonError::into_inner).carrier.into_parts()
}

impl<E: Endpoint> Link<'_, E> {
    /// A stream that panics has failed: neither thread waits for the other then.
    fn guard(&self, run: impl FnOnce()) {
        if unharmed(run).is_none() {
            lock(&self.state).carrier.fail(Instant::now(), io::Error::other("what carries the link has panicked"));
            self.writer.unpark();
        }
    }

    fn write(&self) {
        let waker = waker();
        let mut context = Context::from_waker(&waker);
        loop {
            let mut state = lock(&self.state);
            while state.carrier.turn(Instant::now()) {}
            if state.carrier.is_over() {
                return;
            }
            if state.carrier.wants_read() {
                self.reader.notify_one();
            }
            if !state.carrier.output().is_empty() {
                state = self.write_some(state);
            } else if state.carrier.endpoint.poll_commands(&mut context).is_pending() {
                let at = state.carrier.poll_timeout();
                state.parked = Some(at);
                drop(state);
                park_until(at);
                state = lock(&self.state);
                state.parked = None;
            }
            // Who does not look here is not woken.
            let _ = state.carrier.endpoint.poll_commands(&mut context);
            let now = Instant::now();
            if state.carrier.poll_timeout().is_some_and(|at| at <= now) {
                state.carrier.handle_timeout(now);
            }
        }
    }

    /// Writes without keeping others from the state.
    fn write_some<'l>(&'l self, mut state: MutexGuard<'l, State<E>>) -> MutexGuard<'l, State<E>> {
        let (output, begin) = state.carrier.lend_output();
        drop(state);
        let written = self.stream.write(&output[begin..]);
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.carrier.return_output(output);
        match written {
            Ok(0) => state.carrier.fail(now, io::ErrorKind::WriteZero.into()),
            // What failed meanwhile has no output any more.
            Ok(_) if state.carrier.output().is_empty() => {}
            Ok(n) => state.carrier.note_written(now, n),
            Err(error) if is_no_failure(&error) => {}
            Err(error) => state.carrier.fail(now, error),
        }
        state
    }

    fn read(&self) {
        loop {
            let mut state = lock(&self.state);
            while !state.carrier.wants_read() && !state.is_over {
                state = self.reader.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                drop(state);
                self.discard();
                return;
            }
            let mut input = state.carrier.lend_input();
            drop(state);
            let read = self.stream.read(&mut input);
            let now = Instant::now();
            let mut state = lock(&self.state);
            state.carrier.return_input(input);
            match read {
                Ok(n) => {
                    state.has_end = n == 0;
                    state.carrier.note_read(now, n);
                }
                Err(error) if is_no_failure(&error) => {}
                Err(error) => state.carrier.fail(now, error),
            }
            // The writer may be busy writing; what came is not to wait for that.
            while state.carrier.turn(Instant::now()) {}
            if Self::needs_writer(&state) {
                self.writer.unpark();
            }
        }
    }

    /// Whether the writer waits for something else than what there is.
    fn needs_writer(state: &State<E>) -> bool {
        let Some(until) = state.parked else { return false };
        let is_earlier = |at: Instant| until.is_none_or(|until| at < until);
        let carrier = &state.carrier;
        !carrier.output().is_empty() || carrier.is_over() || carrier.poll_timeout().is_some_and(is_earlier)
    }

    /// Ends the sending side, and gives the reader a while to come to the end.
    fn linger(&self) {
        let mut state = lock(&self.state);
        let end = Instant::now() + LINGER;
        let end = state.carrier.endpoint.end_at().map_or(end, |at| at.min(end));
        state.is_over = true;
        if state.has_end || state.carrier.has_failed() || self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        drop(state);
        self.reader.notify_one();
        while !lock(&self.state).has_end && Instant::now() < end {
            park_until(Some(end));
        }
    }

    /// Reads what nobody wants, to the end.
    fn discard(&self) {
        let mut discarded = vec![0; 16 * 1024];
        while !lock(&self.state).has_end {
            let has_end = !matches!(self.stream.read(&mut discarded), Ok(n) if n > 0);
            lock(&self.state).has_end = has_end;
        }
        self.writer.unpark();
    }
}

fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
