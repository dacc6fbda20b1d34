//! What the callers of a client want and no connection has yet: jobs that wait, are given up, and expire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};

use super::super::error::ClientError;
use super::super::options::Overflow;
use super::reply::Reply;
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
    /// When its caller sent it: the batch delay counts from then.
    pub(super) sent_at: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: Reply,
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
        reply.send(outcome);
    }
}

/// Jobs that wait for a connection, in the order of their tickets: that in which their callers came. A job stays where its
/// caller has put it: it is long, and goes through many hands.
pub(super) struct Queue {
    jobs: BTreeMap<u64, Box<Job>>,
    /// When to look for jobs whose deadline has come: not before the earliest deadline.
    sweep_at: Option<Instant>,
    /// Most jobs, and which one loses when there are more.
    limit: usize,
    overflow: Overflow,
}

impl Queue {
    pub(super) fn new(limit: usize, overflow: Overflow) -> Self {
        Self { jobs: BTreeMap::new(), sweep_at: None, limit, overflow }
    }

    /// Takes a job in.
    pub(super) fn push(&mut self, job: Box<Job>) {
        self.insert(job);
        if self.jobs.len() > self.limit {
            self.shed();
        }
    }

    /// Takes a job in that was here before: it has its place, also above the limit. One that was given up meanwhile has
    /// none: nobody would tell this queue.
    pub(super) fn put_back(&mut self, job: Box<Job>) {
        if !job.reply.is_given_up() {
            self.insert(job);
        }
    }

    fn insert(&mut self, job: Box<Job>) {
        self.sweep_at = self.sweep_at.into_iter().chain(job.deadline).min();
        self.jobs.insert(job.ticket, job);
    }

    /// Ends the job that loses when there are too many; false if there is none.
    pub(super) fn shed(&mut self) -> bool {
        let loser = match self.overflow {
            Overflow::Newest => self.jobs.pop_last(),
            Overflow::Oldest => self.jobs.pop_first(),
        };
        let Some((_, loser)) = loser else { return false };
        loser.end(Err(ClientError::Send(SendError::PendingOverflow(self.limit))));
        true
    }

    pub(super) fn front(&self) -> Option<&Job> {
        self.jobs.first_key_value().map(|(_, job)| &**job)
    }

    pub(super) fn pop(&mut self) -> Option<Box<Job>> {
        self.jobs.pop_first().map(|(_, job)| job)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Drops the job with this ticket; false if there is none.
    pub(super) fn give_up(&mut self, ticket: u64) -> bool {
        self.jobs.remove(&ticket).is_some()
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
        for (_, job) in self.jobs.extract_if(.., |_, job| job.deadline.is_some_and(|at| at <= now)) {
            job.end(Err(ClientError::Timeout { maybe_delivered: false }));
        }
        let earliest = self.jobs.values().filter_map(|job| job.deadline).min();
        self.sweep_at = earliest.map(|at| at.max(now + SWEEP_INTERVAL));
    }

    pub(super) fn fail(&mut self, error: &ClientError) {
        for job in std::mem::take(&mut self.jobs).into_values() {
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::super::reply::Waiting;
    use super::*;

    fn job(ticket: u64, deadline: Option<Instant>) -> (Box<Job>, Waiting) {
        let (reply, waiting) = Reply::nowhere();
        let request = Request::default();
        let sent_at = Instant::now();
        let job = Job { ticket, request, is_oneway: false, sent_at, deadline, reply, tries: 0, earlier: None };
        (Box::new(job), waiting)
    }

    fn outcome(waiting: &Waiting) -> Poll<Result<Response<Bytes>, ClientError>> {
        waiting.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn tickets(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|job| job.ticket).collect()
    }

    #[test]
    fn jobs_leave_in_the_order_in_which_their_callers_came() {
        let mut queue = Queue::new(4, Overflow::Newest);
        let (jobs, waiting): (Vec<_>, Vec<_>) = [1, 3, 2, 4].map(|ticket| job(ticket, None)).into_iter().unzip();
        jobs.into_iter().for_each(|job| queue.push(job));
        let (first, second) = (queue.pop().unwrap(), queue.pop().unwrap());
        queue.push(job(5, None).0);
        queue.put_back(first);
        // Given up while it was elsewhere.
        assert!(waiting[2].give_up().is_some());
        queue.put_back(second);
        assert!(queue.give_up(3) && !queue.give_up(3));
        assert_eq!(tickets(&mut queue), [1, 4, 5]);
    }

    #[test]
    fn who_loses_is_told() {
        for (overflow, loser) in [(Overflow::Newest, 2), (Overflow::Oldest, 0)] {
            let mut queue = Queue::new(2, overflow);
            let mut replies = Vec::new();
            for ticket in 0..3 {
                let (job, reply) = job(ticket, None);
                queue.push(job);
                replies.push(reply);
            }
            for (ticket, waiting) in replies.into_iter().enumerate() {
                let outcome = outcome(&waiting);
                let has_lost = matches!(outcome, Poll::Ready(Err(ClientError::Send(SendError::PendingOverflow(2)))));
                assert_eq!(has_lost, ticket == loser, "{overflow:?}: {outcome:?}");
            }
        }
    }

    #[test]
    fn each_deadline_ends_its_own_job() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis(1));
        let mut queue = Queue::new(10, Overflow::Newest);
        let mut replies = Vec::new();
        for ticket in 0..10 {
            let (job, reply) = job(ticket, (ticket % 2 == 0).then(|| now + ms * (100 - 10 * ticket as u32)));
            queue.push(job);
            replies.push(reply);
        }
        while let Some(at) = queue.poll_timeout() {
            assert!(at > now);
            now = at;
            queue.expire(now);
        }
        assert_eq!(tickets(&mut queue), [1, 3, 5, 7, 9]);
        for (ticket, waiting) in replies.into_iter().enumerate() {
            let is_late =
                matches!(outcome(&waiting), Poll::Ready(Err(ClientError::Timeout { maybe_delivered: false })));
            assert_eq!(is_late, ticket % 2 == 0);
        }
    }

    #[test]
    fn giving_up_takes_no_longer_where_many_wait() {
        // By looking at each job before it, this took minutes.
        const JOBS: u64 = 200_000;
        let mut queue = Queue::new(JOBS as usize, Overflow::Newest);
        (0..JOBS).for_each(|ticket| queue.push(job(ticket, None).0));
        assert!((0..JOBS).rev().all(|ticket| queue.give_up(ticket)));
        assert!(queue.is_empty());
    }
}
