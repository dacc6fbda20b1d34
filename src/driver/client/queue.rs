//! What the callers of a client want and no connection has yet: jobs that wait, are given up, and expire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Request, Response};

use super::super::error::ClientError;
use super::super::options::Overflow;
use crate::proto::SendError;

/// How late a job in the queue may learn that its deadline has passed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// What a caller wants of a lane.
pub(super) enum Command {
    Send(Box<Job>),
    Cancel(u64),
    /// Close in order, until then if it is said.
    Close(Option<Instant>),
}

/// A request that waits for its outcome.
pub(super) struct Job {
    /// Its caller's name for it.
    pub(super) ticket: u64,
    pub(super) request: Request<Bytes>,
    /// It wants no response; an empty one says that it is on its way.
    pub(super) is_oneway: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Response<Bytes>, ClientError>>,
    /// How often a connection has not delivered it.
    pub(super) tries: u32,
    /// How the last link ended that may have delivered it, if one has.
    pub(super) earlier: Option<ClientError>,
}

impl Job {
    pub(super) fn end(self: Box<Self>, outcome: Result<Response<Bytes>, ClientError>) {
        let Self { earlier, reply, .. } = *self;
        let outcome = outcome.map_err(|error| match earlier {
            Some(earlier) => error.after(earlier),
            None => error,
        });
        // A caller that has gone wants no outcome.
        let _ = reply.send(outcome);
    }
}

/// Jobs that wait for a connection, in order. A job stays where its caller has put it: it is long, and goes through many
/// hands.
pub(super) struct Queue {
    jobs: VecDeque<Box<Job>>,
    /// When to look for jobs whose deadline has come: not before the earliest deadline.
    sweep_at: Option<Instant>,
    /// Most jobs, and which one loses when there are more.
    limit: usize,
    overflow: Overflow,
}

impl Queue {
    pub(super) fn new(limit: usize, overflow: Overflow) -> Self {
        Self { jobs: VecDeque::new(), sweep_at: None, limit, overflow }
    }

    /// Takes a job in.
    pub(super) fn push(&mut self, job: Box<Job>) {
        self.sweep_at = self.sweep_at.into_iter().chain(job.deadline).min();
        self.jobs.push_back(job);
        if self.jobs.len() > self.limit {
            self.shed();
        }
    }

    /// Ends the job that loses when there are too many; false if there is none.
    pub(super) fn shed(&mut self) -> bool {
        let loser = match self.overflow {
            Overflow::Newest => self.jobs.pop_back(),
            Overflow::Oldest => self.jobs.pop_front(),
        };
        let Some(loser) = loser else { return false };
        loser.end(Err(ClientError::Send(SendError::PendingOverflow(self.limit))));
        true
    }

    /// Puts jobs back in front, in their order: they were here before.
    pub(super) fn put_back(&mut self, jobs: impl DoubleEndedIterator<Item = Box<Job>>) {
        for job in jobs.rev() {
            self.sweep_at = self.sweep_at.into_iter().chain(job.deadline).min();
            self.jobs.push_front(job);
        }
    }

    pub(super) fn front(&self) -> Option<&Job> {
        self.jobs.front().map(|job| &**job)
    }

    pub(super) fn pop(&mut self) -> Option<Box<Job>> {
        self.jobs.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Drops the job with this ticket; false if there is none.
    pub(super) fn give_up(&mut self, ticket: u64) -> bool {
        let at = self.jobs.iter().position(|job| job.ticket == ticket);
        at.is_some_and(|at| self.jobs.remove(at).is_some())
    }

    /// When to call [`expire`](Self::expire).
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.sweep_at.filter(|_| !self.jobs.is_empty())
    }

    /// Ends the jobs whose deadline has come. A long queue is not swept for each single one of them.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        for _ in 0..self.jobs.len() {
            match self.jobs.pop_front() {
                Some(job) if job.deadline.is_some_and(|at| at <= now) => {
                    job.end(Err(ClientError::Timeout { maybe_delivered: false }));
                }
                job => self.jobs.extend(job),
            }
        }
        let earliest = self.jobs.iter().filter_map(|job| job.deadline).min();
        self.sweep_at = earliest.map(|at| at.max(now + SWEEP_INTERVAL));
    }

    pub(super) fn fail(&mut self, error: &ClientError) {
        for job in self.jobs.drain(..) {
            job.end(Err(error.clone()));
        }
    }
}

/// The program's own dial has panicked.
pub(in super::super) fn dial_panicked() -> std::io::Error {
    std::io::Error::other("the dial has panicked")
}

/// An error of the dial.
pub(super) fn cannot_connect(addr: &str, error: std::io::Error) -> ClientError {
    ClientError::Connect { addr: addr.to_owned(), error: Arc::new(error) }
}
