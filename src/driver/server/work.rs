//! What handlers are to do: a request each, or those of a line one after another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use super::super::mailbox::{Mailbox, lock};
use super::super::sync::Mutex;
use super::reply::{Call, Command, Reply};
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

/// How long one works on a line before others have their turn on the worker, and the link has its own.
const TURN: Duration = Duration::from_millis(1);

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
    /// Who works on the line, while somebody does. Nobody else ever has the same number.
    turn: Option<u64>,
    last_turn: u64,
    /// The last request whose time was over before it had ended.
    late: u64,
    /// No handler is to start.
    is_held: bool,
    /// Nobody would take the work up again.
    has_ended: bool,
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

    /// The time of this request is over. If its handler runs, others go on without it. If not, it is dropped when it was
    /// answered; if it was not, nobody waits for its handler. Returns the work then.
    pub(super) fn pass_by(self: &Arc<Self>, number: u64, was_answered: bool) -> Option<Work> {
        let mut inner = lock(&self.inner);
        if inner.current == Some(number) {
            inner.turn = None;
        } else if !was_answered || inner.waiting.pop_front_if(|(call, ..)| call.number == number).is_none() {
            inner.late = number;
        }
        self.take(&mut inner)
    }

    /// Whether this request does not start because none may.
    pub(super) fn holds(&self, number: u64) -> bool {
        let inner = lock(&self.inner);
        inner.is_held && inner.waiting.front().is_some_and(|(call, ..)| call.number <= number)
    }

    /// The link has ended: what waits is handled to its end, whoever reads the answers. Returns the work if nobody does it.
    pub(super) fn end(self: &Arc<Self>) -> Option<Work> {
        let mut inner = lock(&self.inner);
        (inner.has_ended, inner.is_held) = (true, false);
        self.take(&mut inner)
    }

    /// Starts no more handlers, or does so again. Returns the work if there is some that nobody does.
    pub(super) fn hold(self: &Arc<Self>, is_held: bool) -> Option<Work> {
        let mut inner = lock(&self.inner);
        inner.is_held = is_held;
        self.take(&mut inner)
    }

    fn take(self: &Arc<Self>, inner: &mut Inner) -> Option<Work> {
        if inner.turn.is_some() || inner.is_held || inner.waiting.is_empty() {
            return None;
        }
        inner.last_turn += 1;
        inner.turn = Some(inner.last_turn);
        Some(Work::Line(Turn { line: self.clone(), number: inner.last_turn, until: None }))
    }
}

/// The work on a line, until that is empty or goes on without, or it is the turn of others.
pub(in super::super) struct Turn {
    line: Arc<Line>,
    number: u64,
    until: Option<Instant>,
}

impl Turn {
    /// The next request, unless this one does not work on the line any more.
    fn pop(&mut self) -> Option<(Call, Request<Bytes>, Peer)> {
        let now = Instant::now();
        let is_over = now >= *self.until.get_or_insert(now + TURN);
        let mut inner = lock(&self.line.inner);
        if inner.turn != Some(self.number) {
            return None;
        }
        let goes_on = inner.has_ended || (!is_over && !inner.is_held);
        let next = inner.waiting.pop_front_if(|_| goes_on);
        inner.current = next.as_ref().map(|(call, ..)| call.number);
        // One that was late before its handler began may take as long as it likes: nobody waits for it.
        if inner.current.is_none_or(|number| number <= inner.late) {
            inner.turn = None;
            if !inner.waiting.is_empty() {
                drop(inner);
                // A link that has ended needs none.
                let _ = self.line.mailbox.send(Command::Resume);
            }
        }
        next
    }
}

impl Iterator for Turn {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        loop {
            let (call, request, peer) = self.pop()?;
            let Line { mailbox, shared, .. } = &*self.line;
            match Reply::enter(call, mailbox, shared) {
                Ok(reply) => return Some((request, peer, reply)),
                // A link that has ended needs none.
                Err(response) => drop(mailbox.send(Command::Ended(call, *response, None))),
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

    /// Requests from 1 on, of which the first alone brings the work.
    fn push_all(place: &Admitted, line: &Arc<Line>, last: u64) -> Turn {
        let first = push(place, line, 1).unwrap();
        assert!((2..=last).all(|number| push(place, line, number).is_none()));
        first
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
        let mut late = push_all(&place, &line, 4);
        let (_, _, reply) = late.next().unwrap();
        let mut next = turn(line.pass_by(1, true)).unwrap();
        assert!(answer(&mut next));
        reply.send(Response::default());
        assert!(!answer(&mut late));
        assert!(line.pass_by(1, true).is_none(), "it has ended");
        assert!(answer(&mut next) && answer(&mut next) && !answer(&mut next));
        assert_eq!(told(&place).0.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 1, 3, 4]);
        // Nobody waits behind it: then nobody goes on.
        let mut late = push(&place, &line, 5).unwrap();
        let (_, _, _reply) = late.next().unwrap();
        assert!(line.pass_by(5, true).is_none());
        assert!(answer(&mut push(&place, &line, 6).unwrap()));
    }

    #[test]
    fn who_was_late_before_it_began_is_dropped_or_waited_for_by_nobody() {
        let (place, line) = link(ServerOptions::default());
        // No worker is free when their time is over. The first was answered, the second wanted no answer.
        let mut first = push_all(&place, &line, 4);
        assert!(line.pass_by(1, true).is_none() && line.pass_by(2, false).is_none());
        // Then one is, and the second hangs.
        let (_, _, _hangs) = first.next().unwrap();
        assert_eq!(told(&place), (Vec::new(), true));
        let mut second = turn(line.hold(false)).unwrap();
        assert!(answer(&mut second) && first.next().is_none());
        assert!(answer(&mut second) && !answer(&mut second));
        assert_eq!(told(&place).0.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn what_a_link_leaves_behind_is_handled() {
        let (place, line) = link(ServerOptions::default());
        let mut first = push_all(&place, &line, 4);
        assert!(answer(&mut first) && line.hold(true).is_none() && !answer(&mut first));
        drop(place);
        let mut rest = turn(line.end()).unwrap();
        assert!(answer(&mut rest));
        std::thread::sleep(TURN);
        assert!(answer(&mut rest) && answer(&mut rest) && !answer(&mut rest));
    }

    #[test]
    fn a_line_that_is_held_starts_nothing() {
        let (place, line) = link(ServerOptions::default());
        let mut first = push(&place, &line, 1).unwrap();
        assert!(push(&place, &line, 2).is_none() && answer(&mut first));
        assert!(line.hold(true).is_none() && !answer(&mut first));
        assert!(push(&place, &line, 3).is_none() && line.hold(true).is_none());
        let mut second = turn(line.hold(false)).unwrap();
        assert!(!answer(&mut first) && answer(&mut second) && answer(&mut second) && !answer(&mut second));
    }

    #[test]
    fn a_long_line_leaves_its_worker_to_others_now_and_then() {
        let (place, line) = link(ServerOptions::default());
        let mut work = Some(push_all(&place, &line, 5));
        let mut turns = 0;
        while let Some(mut first) = work.take() {
            turns += 1;
            assert!(answer(&mut first));
            std::thread::sleep(TURN);
            assert!(!answer(&mut first));
            if told(&place).1 {
                work = turn(line.hold(false));
                assert!(line.hold(false).is_none(), "one at a time");
            }
        }
        assert_eq!(turns, 5);
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
