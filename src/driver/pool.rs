//! Workers that run handlers: as many threads as there is work for, up to a limit.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::mailbox::lock;

/// How long a worker waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool of threads.
pub(super) struct Pool {
    limit: usize,
    inner: Mutex<Inner>,
    has_jobs: Condvar,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// A worker was called and has not come yet. Whoever comes calls the next one if there is more to do: short jobs are
    /// done by few, without a switch of threads for each, and long ones by as many as there are.
    is_called: bool,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default(), has_jobs: Condvar::new() }
    }

    /// Has a worker run `job`, as soon as there is one. Without any thread to be had it is dropped.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut inner = lock(&self.inner);
        inner.jobs.push_back(Box::new(job));
        self.call(&mut inner);
        if inner.threads == 0 {
            let lost = std::mem::take(&mut inner.jobs);
            drop(inner);
            drop(lost);
        }
    }

    /// Has one more worker come, unless one is on its way.
    fn call(self: &Arc<Self>, inner: &mut Inner) {
        if inner.is_called {
            return;
        }
        if inner.idle > 0 {
            inner.is_called = true;
            self.has_jobs.notify_one();
        } else if inner.threads < self.limit {
            let pool = self.clone();
            let worker = std::thread::Builder::new().name("teleport-worker".into()).spawn(move || pool.work());
            if worker.is_ok() {
                inner.threads += 1;
                inner.is_called = true;
            }
        }
    }

    fn work(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        inner.is_called = false;
        loop {
            if let Some(job) = inner.jobs.pop_front() {
                if !inner.jobs.is_empty() {
                    self.call(&mut inner);
                }
                drop(inner);
                // A handler that panics is answered for where its reply is dropped.
                let _ = catch_unwind(AssertUnwindSafe(job));
                inner = lock(&self.inner);
                continue;
            }
            inner.idle += 1;
            let waited = self.has_jobs.wait_timeout(inner, IDLE).unwrap_or_else(PoisonError::into_inner);
            inner = waited.0;
            inner.idle -= 1;
            inner.is_called = false;
            if waited.1.timed_out() && inner.jobs.is_empty() {
                inner.threads -= 1;
                return;
            }
        }
    }
}
