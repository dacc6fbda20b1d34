//! What handlers are to do: a request each, or those of a line one after another.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;

use super::super::mailbox::{Mailbox, lock};
use super::super::sync::Mutex;
use super::reply::{Call, Command, Reply};
use super::waiting::overloaded;
use super::{Peer, Shared};

/// A request for its handler, whose peer it is from, and where its response goes.
pub(in super::super) type Task = (Request<Bytes>, Peer, Reply);

/// What one task or worker does: run the handler of a request, or those of a line one after another. What is dropped is
/// answered for as if its handler had panicked.
#[allow(clippy::large_enum_variant, reason = "nearly all are of the larger kind")]
pub(in super::super) enum Work {
    One(Task),
    Line(Turn),
}

/// How many requests of a line are handled before others have their turn on the worker.
const TURN: usize = 64;

/// Requests of one link of which one is handled at a time, in their order. Who works on the line takes the next by
/// itself: to have the link hand out each one would cost a switch there and back.
pub(super) struct Line {
    mailbox: Arc<Mailbox<Command>>,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<(Call, Request<Bytes>, Peer)>,
    /// The number of the request in a handler.
    current: Option<u64>,
    /// Who works on the line, by number, and whether anybody does.
    turn: u64,
    is_taken: bool,
}

impl Line {
    pub(super) fn new(mailbox: Arc<Mailbox<Command>>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { mailbox, shared, inner: Mutex::default() })
    }

    /// Appends a request. Returns the work on the line if nobody does it.
    pub(super) fn push(self: &Arc<Self>, call: Call, request: Request<Bytes>, peer: Peer) -> Option<Work> {
        let mut inner = lock(&self.inner);
        inner.waiting.push_back((call, request, peer));
        self.take(&mut inner)
    }

    /// The handler of this request takes too long: if it still does, others go on without it. Returns the work then.
    pub(super) fn pass_by(self: &Arc<Self>, number: u64) -> Option<Work> {
        let mut inner = lock(&self.inner);
        if inner.current != Some(number) {
            return None;
        }
        inner.leave();
        self.take(&mut inner)
    }

    /// Returns the work if there is some that nobody does.
    pub(super) fn resume(self: &Arc<Self>) -> Option<Work> {
        self.take(&mut lock(&self.inner))
    }

    fn take(self: &Arc<Self>, inner: &mut Inner) -> Option<Work> {
        if inner.is_taken || inner.waiting.is_empty() {
            return None;
        }
        inner.is_taken = true;
        inner.turn += 1;
        Some(Work::Line(Turn { line: self.clone(), number: inner.turn, left: TURN }))
    }
}

impl Inner {
    fn leave(&mut self) {
        self.current = None;
        self.is_taken = false;
    }
}

/// The work on a line, until that is empty or goes on without, or for so many requests.
pub(in super::super) struct Turn {
    line: Arc<Line>,
    number: u64,
    left: usize,
}

impl Iterator for Turn {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        let Line { mailbox, shared, inner } = &*self.line;
        loop {
            let mut inner = lock(inner);
            if !inner.is_taken || inner.turn != self.number {
                return None;
            }
            let Some((call, request, peer)) = inner.waiting.pop_front_if(|_| self.left > 0) else {
                inner.leave();
                if !inner.waiting.is_empty() {
                    drop(inner);
                    // A link that has ended needs none.
                    let _ = mailbox.send(Command::Resume);
                }
                return None;
            };
            inner.current = Some(call.number);
            self.left -= 1;
            drop(inner);
            match Reply::enter(call, mailbox, shared) {
                Some(reply) => return Some((request, peer, reply)),
                None => {
                    let _ = mailbox.send(Command::Ended(call, overloaded(shared.options.concurrency), None));
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use http::{Response, StatusCode};

    use super::super::{Admitted, PeerAddr};
    use super::*;
    use crate::driver::options::ServerOptions;

    fn link(options: ServerOptions) -> (Admitted, Arc<Line>) {
        let place = Arc::new(Shared::new(options)).admit(PeerAddr::Unix).unwrap();
        let line = Line::new(place.mailbox.clone(), place.shared.clone());
        (place, line)
    }

    fn push(place: &Admitted, line: &Arc<Line>, number: u64) -> Option<Turn> {
        let call = Call { number, oneway_bytes: 0, held_bytes: 0 };
        turn(line.push(call, Request::default(), place.peer.clone()))
    }

    fn turn(work: Option<Work>) -> Option<Turn> {
        work.map(|work| match work {
            Work::Line(turn) => turn,
            Work::One(_) => panic!("not of a line"),
        })
    }

    /// What the link has been told: the numbers and answers of requests that have ended, and whether it is to resume.
    fn told(place: &Admitted) -> (Vec<(u64, StatusCode)>, bool) {
        let (mut commands, mut ended, mut resumes) = (Vec::new(), Vec::new(), false);
        while place.mailbox.poll(&mut Context::from_waker(Waker::noop()), &mut commands).is_ready() {}
        for command in commands {
            match command {
                Command::Ended(call, response, _) => ended.push((call.number, response.status())),
                Command::Resume => resumes = true,
                Command::Close(_) => panic!("nobody closes"),
            }
        }
        (ended, resumes)
    }

    fn answer(turn: &mut Turn) -> bool {
        turn.next().map(|(_, _, reply)| reply.send(Response::default())).is_some()
    }

    #[test]
    fn one_works_on_a_line_until_it_is_empty() {
        let (place, line) = link(ServerOptions::default());
        let mut first = push(&place, &line, 1).unwrap();
        assert!(push(&place, &line, 2).is_none(), "somebody does already");
        assert!(answer(&mut first) && answer(&mut first) && !answer(&mut first));
        assert_eq!(told(&place), (vec![(1, StatusCode::OK), (2, StatusCode::OK)], false));
        let mut second = push(&place, &line, 3).unwrap();
        assert!(!answer(&mut first), "it is another's now");
        drop(first);
        assert!(answer(&mut second) && !answer(&mut second));
        assert_eq!(told(&place), (vec![(3, StatusCode::OK)], false));
    }

    #[test]
    fn a_line_goes_on_without_who_takes_too_long() {
        let (place, line) = link(ServerOptions::default());
        let mut late = push(&place, &line, 1).unwrap();
        let (_, _, reply) = late.next().unwrap();
        for number in 2..5 {
            assert!(push(&place, &line, number).is_none());
        }
        assert!(line.pass_by(2).is_none(), "it is not its turn");
        let mut next = turn(line.pass_by(1)).unwrap();
        assert!(answer(&mut next));
        reply.send(Response::default());
        assert!(!answer(&mut late));
        assert!(line.pass_by(1).is_none(), "it has ended");
        assert!(answer(&mut next) && answer(&mut next) && !answer(&mut next));
        assert_eq!(told(&place).0.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 1, 3, 4]);
        // Nobody waits behind it: then nobody goes on.
        let mut late = push(&place, &line, 5).unwrap();
        let (_, _, _reply) = late.next().unwrap();
        assert!(line.pass_by(5).is_none());
        assert!(answer(&mut push(&place, &line, 6).unwrap()));
    }

    #[test]
    fn a_long_line_leaves_its_worker_to_others_now_and_then() {
        let (place, line) = link(ServerOptions::default());
        let mut work = push(&place, &line, 1);
        for number in 2..=2 * TURN as u64 + 1 {
            assert!(push(&place, &line, number).is_none());
        }
        let mut turns = Vec::new();
        while let Some(mut turn) = work.take() {
            turns.push(std::iter::from_fn(|| turn.next()).map(|(_, _, reply)| reply.send(Response::default())).count());
            if told(&place).1 {
                work = super::tests::turn(line.resume());
                assert!(line.resume().is_none(), "one at a time");
            }
        }
        assert_eq!(turns, [TURN, TURN, 1]);
    }

    #[test]
    fn who_cannot_be_handled_is_answered_for() {
        let (place, line) = link(ServerOptions::default().concurrency(0));
        let mut refused = push(&place, &line, 1).unwrap();
        assert!(push(&place, &line, 2).is_none() && refused.next().is_none());
        assert_eq!(told(&place).0, [(1, StatusCode::TOO_MANY_REQUESTS), (2, StatusCode::TOO_MANY_REQUESTS)]);
        // As when there is no thread to be had.
        let (place, line) = link(ServerOptions::default());
        let dropped = push(&place, &line, 1);
        assert!(push(&place, &line, 2).is_none());
        drop(dropped);
        let lost = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(told(&place).0, [(1, lost), (2, lost)]);
    }
}
