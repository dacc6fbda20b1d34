//! What the connections of one side have carried, as the original counts it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// The connections of one side. Bytes are those of the transport, TLS included.
#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    /// Accepted or dialled.
    pub(crate) opened: AtomicU64,
    /// Could not be accepted or dialled.
    pub(crate) failed: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
}

impl IoCounters {
    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        let closed = self.closed.load(Ordering::Relaxed);
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }

    /// Counts an accept or a dial if it has failed.
    pub(crate) fn count_error<T>(&self, opened: io::Result<T>) -> io::Result<T> {
        if opened.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    /// Counts a connection; what it gives counts what the connection carries, and its end.
    pub(crate) fn count_open(self: &Arc<Self>) -> Counted {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }
}

/// Counts for one connection, whose end is when this is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<IoCounters>);

impl Counted {
    pub(crate) fn note_read(&self, done: &Poll<io::Result<usize>>) {
        let IoCounters { reads, bytes_read, read_errors, .. } = &*self.0;
        count(reads, bytes_read, read_errors, done);
    }

    pub(crate) fn note_written(&self, done: &Poll<io::Result<usize>>) {
        let IoCounters { writes, bytes_written, write_errors, .. } = &*self.0;
        count(writes, bytes_written, write_errors, done);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

fn count(calls: &AtomicU64, bytes: &AtomicU64, errors: &AtomicU64, done: &Poll<io::Result<usize>>) {
    let (counter, by) = match done {
        Poll::Pending => return,
        Poll::Ready(Ok(n)) => (bytes, *n as u64),
        Poll::Ready(Err(_)) => (errors, 1),
    };
    calls.fetch_add(1, Ordering::Relaxed);
    counter.fetch_add(by, Ordering::Relaxed);
}
