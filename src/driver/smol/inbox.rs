//! What the callers of a client want and no connection has yet: jobs that wait, are given up, and expire.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Request, Response};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::stream::Stream;

use super::error::ClientError;

/// How late a job in the queue may learn that its deadline has passed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// What a caller wants of a link.
pub(super) enum Command {
    Send(Box<Job>),
    Cancel(u64),
    Close,
}

/// A request that waits for its outcome.
pub(super) struct Job {
    pub(super) ticket: u64,
    pub(super) request: Request<Bytes>,
    /// It wants no response; an empty one says that it is on its way.
    pub(super) is_oneway: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Response<Bytes>, ClientError>>,
    pub(super) tries: u32,
}

impl Job {
    pub(super) fn end(self, outcome: Result<Response<Bytes>, ClientError>) {
        // A caller that has gone wants no outcome.
        let _ = self.reply.send(outcome);
    }
}

/// What callers want and no connection has yet.
pub(super) struct Inbox {
    commands: Pin<Box<Receiver<Command>>>,
    pub(super) queue: VecDeque<Job>,
    /// When to look for jobs in the queue whose deadline has come: not before the earliest deadline.
    pub(super) sweep_at: Option<Instant>,
    pub(super) closing: bool,
}

impl Inbox {
    pub(super) fn new(commands: Receiver<Command>) -> Self {
        Self { commands: Box::pin(commands), queue: VecDeque::new(), sweep_at: None, closing: false }
    }

    /// Moves what callers want into the queue; `cancel` is given what is not there. Ready if there was anything.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, mut cancel: impl FnMut(u64)) -> Poll<()> {
        let mut ready = false;
        while let Poll::Ready(command) = self.commands.as_mut().poll_next(context) {
            match command {
                Some(Command::Send(job)) => {
                    self.sweep_at = self.sweep_at.into_iter().chain(job.deadline).min();
                    self.queue.push_back(*job);
                }
                Some(Command::Cancel(ticket)) => match self.queue.iter().position(|job| job.ticket == ticket) {
                    Some(at) => drop(self.queue.remove(at)),
                    None => cancel(ticket),
                },
                Some(Command::Close) => self.closing = true,
                None if self.closing => break,
                None => self.closing = true,
            }
            ready = true;
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until callers want something.
    pub(super) async fn wait(&mut self) {
        std::future::poll_fn(|context| self.poll(context, |_| ())).await;
    }

    /// Ends the jobs whose deadline has come. A long queue is not swept for each single one of them.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        for _ in 0..self.queue.len() {
            match self.queue.pop_front() {
                Some(job) if job.deadline.is_some_and(|at| at <= now) => {
                    job.end(Err(ClientError::Timeout { maybe_delivered: false }));
                }
                job => self.queue.extend(job),
            }
        }
        let earliest = self.queue.iter().filter_map(|job| job.deadline).min();
        self.sweep_at = earliest.map(|at| at.max(now + SWEEP_INTERVAL));
    }

    pub(super) fn fail(&mut self, error: &ClientError) {
        for job in self.queue.drain(..) {
            job.end(Err(error.clone()));
        }
    }

    /// Runs `future` while jobs come, are given up and expire.
    pub(super) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            self.expire(Instant::now());
            let sweep_at = self.sweep_at;
            let done = async { Some(future.as_mut().await) };
            let expired = async {
                sweep_at.map_or_else(Timer::never, Timer::at).await;
                None
            };
            let asked = async {
                self.wait().await;
                None
            };
            if let Some(done) = done.or(expired).or(asked).await {
                return done;
            }
        }
    }
}
