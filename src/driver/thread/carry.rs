//! The two loops that carry a link over a stream: this thread writes and waits, another one reads.

use std::io;
use std::net::Shutdown;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::{Builder, Thread};
use std::time::{Duration, Instant};

use super::super::carrier::{Carrier, Endpoint, Patience};
use super::super::mailbox::{lock, unharmed};
use super::super::timed::Timed;
use super::stream::Stream;
use super::wait::wait;

/// How long a write may keep the writer from anything else.
const WRITE_SLICE: Duration = Duration::from_millis(10);

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
}

/// Runs a link until it is over. Returns the endpoint, and what the stream failed with, if it did.
pub(super) fn carry<E: Endpoint + Send>(
    endpoint: E,
    stream: &dyn Stream,
    patience: Patience,
) -> (E, Option<io::Error>) {
    let state = Mutex::new(State { carrier: Carrier::new(endpoint, patience), parked: None, is_over: false });
    let link = Link { stream, state, reader: Condvar::new(), writer: std::thread::current() };
    std::thread::scope(|scope| {
        let reading = Builder::new().name("teleport-read".into()).spawn_scoped(scope, || link.guard(|| link.read()));
        if let Err(error) = reading.and_then(|_| stream.set_write_timeout(WRITE_SLICE)) {
            lock(&link.state).carrier.fail(Instant::now(), error);
        }
        link.guard(|| wait(&link));
        // Whatever fails here has ended.
        let _ = stream.shutdown(Shutdown::Both);
        lock(&link.state).is_over = true;
        link.reader.notify_one();
    });
    link.state.into_inner().unwrap_or_else(PoisonError::into_inner).carrier.into_parts()
}

/// What the writer does and waits for.
impl<E: Endpoint> Timed for &Link<'_, E> {
    type Output = ();

    fn poll_at(&mut self, _: Instant, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        state.parked = None;
        loop {
            while state.carrier.turn(Instant::now()) {}
            if state.carrier.is_over() {
                return Poll::Ready(());
            }
            if state.carrier.wants_read() {
                self.reader.notify_one();
            }
            let mut is_idle = state.carrier.endpoint.poll_commands(context).is_pending();
            if state.carrier.wants_shutdown() {
                is_idle = false;
                state.carrier.handle_shutdown(self.stream.shutdown(Shutdown::Write));
            }
            if !state.carrier.output().is_empty() {
                is_idle = false;
                // Others may have the state meanwhile.
                let (output, begin) = state.carrier.lend_output();
                drop(state);
                let written = self.stream.write(&output[begin..]).map_err(no_room);
                state = lock(&self.state);
                state.carrier.handle_written_of(output, Instant::now(), written);
            }
            is_idle &= !state.carrier.act_if_due(Instant::now());
            if is_idle {
                state.parked = Some(state.carrier.poll_timeout());
                return Poll::Pending;
            }
        }
    }

    fn next_at(&self) -> Option<Instant> {
        lock(&self.state).carrier.poll_timeout()
    }
}

impl<E: Endpoint> Link<'_, E> {
    /// A stream that panics has failed: neither thread waits for the other then.
    fn guard(&self, run: impl FnOnce()) {
        if unharmed(run).is_none() {
            lock(&self.state).carrier.fail(Instant::now(), io::Error::other("what carries the link has panicked"));
            self.writer.unpark();
        }
    }

    fn read(&self) {
        let mut state = lock(&self.state);
        while !state.is_over {
            if !state.carrier.wants_read() {
                state = self.reader.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut input = state.carrier.lend_input();
            drop(state);
            let read = self.stream.read(&mut input);
            state = lock(&self.state);
            state.carrier.handle_read_to(input, Instant::now(), read);
            // The writer may be busy writing; what came is not to wait for that.
            while state.carrier.turn(Instant::now()) {}
            if state.parked.is_some_and(|until| state.carrier.has_work(until)) {
                self.writer.unpark();
            }
        }
    }
}

/// Some systems say so when there was no room for so long.
fn no_room(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::TimedOut { io::ErrorKind::WouldBlock.into() } else { error }
}
