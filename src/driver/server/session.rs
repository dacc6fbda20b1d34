//! One link of a server: requests to handlers, responses back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};

use super::super::carrier::Endpoint;
use super::super::channel::{Channel, no_tls};
use super::super::mailbox::{lock, unharmed};
use super::super::memory::{Charge, MemoryBudget};
use super::reply::{Call, Command, Reply};
use super::waiting::{Waiting, weight};
use super::work::{Line, Work};
use super::{Admitted, Dispatch};
use crate::proto::{
    Compression, ConnectionError, IdMap, MessageError, ResponseToken, ServerConnection, ServerEvent, Stats,
};

/// How many requests of a line there are at most; the others are the link's yet. So many may be handled, and wait, before the
/// link learns that too many responses do.
const AHEAD: usize = 64;

/// One link of a server.
pub(in super::super) struct Session {
    connection: ServerConnection,
    place: Admitted,
    dispatch: Dispatch,
    commands: Vec<Command>,
    /// What responses were charged on their way here, until they are counted as the link's.
    arriving: Vec<Charge>,
    /// Requests in handlers or in the line that are not answered for, by their numbers; oneways without tokens.
    running: IdMap<u64, Option<ResponseToken>>,
    last_number: u64,
    /// Where requests go that are handled one after another, if they are.
    line: Option<Arc<Line>>,
    /// When handlers have taken too long, in order.
    limits: VecDeque<(Instant, u64)>,
    /// What no handler may have yet, in order.
    held_back: VecDeque<(Option<ResponseToken>, Request<Bytes>)>,
    waiting: Waiting,
    /// Bytes of oneways in handlers or before: the connection, which gives out no tokens for them, does not count them.
    oneway_bytes: usize,
    /// What of the connection's figures the server's already have.
    counted: Stats,
    /// When it must be over, if the server shuts down.
    end_at: Option<Instant>,
    /// When it takes no more requests, if it has said goodbye.
    close_at: Option<Instant>,
    /// The last event, when it has come.
    end: Option<Option<ConnectionError>>,
}

impl Session {
    pub(in super::super) fn new(place: Admitted, dispatch: Dispatch, now: Instant) -> Self {
        let shared = &place.shared;
        let line = shared.options.pipeline.then(|| Line::new(place.mailbox.clone(), shared.clone()));
        Self {
            connection: ServerConnection::new(shared.options.connection(), now),
            place,
            dispatch,
            commands: Vec::new(),
            arriving: Vec::new(),
            running: IdMap::default(),
            last_number: 0,
            line,
            limits: VecDeque::new(),
            held_back: VecDeque::new(),
            waiting: Waiting::default(),
            oneway_bytes: 0,
            counted: Stats::default(),
            end_at: None,
            close_at: None,
            end: None,
        }
    }

    /// The link is over; `transport` is what its transport failed with, if it did.
    pub(in super::super) fn finish(self, transport: Option<io::Error>) {
        // Its requests have been handed out, as others have to their handlers.
        self.line.iter().filter_map(Line::end).for_each(&*self.dispatch);
        if let (Some(on_end), Some(end)) = (self.place.shared.on_link_end.get(), &self.end) {
            unharmed(|| on_end(&self.place.peer, end.as_ref(), transport.as_ref()));
        }
    }

    /// A request has come. Without a token its response is dropped.
    fn receive(&mut self, now: Instant, token: Option<ResponseToken>, request: Request<Bytes>) {
        if token.is_none() {
            self.oneway_bytes += weight(request.headers(), request.body());
        }
        if self.held_back.is_empty() && self.is_free() {
            self.handle(now, token, request);
        } else {
            self.held_back.push_back((token, request));
            self.advance(now);
        }
    }

    /// Hands out what was held back, and has somebody work on the line.
    fn advance(&mut self, now: Instant) {
        if let Some(line) = &self.line {
            let is_full = self.waiting.is_full(self.place.shared.options.waiting_bytes);
            line.hold(is_full).into_iter().for_each(&*self.dispatch);
        }
        while self.is_free()
            && let Some((token, request)) = self.held_back.pop_front()
        {
            self.handle(now, token, request);
        }
    }

    /// Whether one more request may be handed out: none while more responses wait than should, since whoever asks for more
    /// has to read what there is.
    fn is_free(&self) -> bool {
        let has_room = self.line.is_none() || self.running.len() < AHEAD;
        has_room && !self.waiting.is_full(self.place.shared.options.waiting_bytes)
    }

    /// Hands a request out to its handler, or to the line, unless there are too many.
    fn handle(&mut self, now: Instant, token: Option<ResponseToken>, request: Request<Bytes>) {
        let (mailbox, shared) = (&self.place.mailbox, &self.place.shared);
        let oneway_bytes = if token.is_none() { weight(request.headers(), request.body()) } else { 0 };
        let held_bytes = token.as_ref().map_or(oneway_bytes, ResponseToken::held_bytes);
        let number = self.last_number + 1;
        let call = Call { number, oneway_bytes, held_bytes };
        let peer = self.place.peer.clone();
        let given = match &self.line {
            Some(line) => Ok(line.push(call, request, peer)),
            None => Reply::enter(call, mailbox, shared).map(|reply| Some(Work::One((request, peer, reply)))),
        };
        match given {
            Ok(work) => {
                self.last_number = number;
                self.running.insert(number, token);
                if self.line.is_none() || self.running.len() == 1 {
                    self.limit(now, number);
                }
                work.into_iter().for_each(&*self.dispatch);
            }
            Err(response) => {
                self.oneway_bytes -= oneway_bytes;
                if let Some(token) = token {
                    self.respond(now, token, *response);
                }
            }
        }
    }

    /// The time of a handler begins.
    fn limit(&mut self, now: Instant, number: u64) {
        let timeout = self.place.shared.options.handler_timeout.as_ref();
        let limit = timeout.and_then(|(timeout, _)| now.checked_add(*timeout));
        self.limits.extend(limit.map(|limit| (limit, number)));
    }

    /// The request with this number is none of those in handlers any more: in a line it is the turn of the next.
    fn end_turn(&mut self, now: Instant, number: u64) {
        if self.line.is_some() && self.running.contains_key(&(number + 1)) {
            self.limit(now, number + 1);
        }
    }

    /// A handler has ended.
    fn handle_end(&mut self, now: Instant, call: Call, response: Response<Bytes>) {
        self.oneway_bytes -= call.oneway_bytes;
        // One that took too long was answered for.
        if let Some(token) = self.running.remove(&call.number) {
            if let Some(token) = token {
                self.respond(now, token, response);
            }
            self.end_turn(now, call.number);
        }
        while self.limits.front().is_some_and(|(_, number)| !self.running.contains_key(number)) {
            self.limits.pop_front();
        }
        // Behind one that runs for long, many can come and end.
        if self.limits.len() > 2 * self.running.len() + 64 {
            self.limits.retain(|(_, number)| self.running.contains_key(number));
        }
    }

    /// Answers for the handlers that have taken too long.
    fn expire(&mut self, now: Instant) {
        while let Some((_, number)) = self.limits.pop_front_if(|(at, _)| *at <= now) {
            if self.line.as_ref().is_some_and(|line| line.holds(number)) {
                // It may not start, and so has its time yet.
                self.limit(now, number);
                break;
            }
            let Some(token) = self.running.remove(&number) else { continue };
            let was_answered = token.is_some();
            let response = self.place.shared.options.handler_timeout.as_ref().map(|(_, response)| response.clone());
            if let (Some(token), Some(response)) = (token, response) {
                self.respond(now, token, Response::clone(&response));
            }
            self.end_turn(now, number);
            let work = self.line.as_ref().and_then(|line| line.pass_by(number, was_answered));
            work.into_iter().for_each(&*self.dispatch);
        }
        self.advance(now);
    }

    /// Ends the link in order, by `deadline`: it says goodbye, goes on for a while, and then drains. A hello that is on its
    /// way is waited for as long, for its client may have requests behind it.
    fn begin_to_close(&mut self, now: Instant, deadline: Instant) {
        self.end_at = self.end_at.into_iter().chain([deadline]).min();
        let grace = self.place.shared.options.goodbye.min(deadline.saturating_duration_since(now) / 2);
        if grace.is_zero() {
            self.connection.close_by(now, deadline);
            return;
        }
        self.connection.say_goodbye(now);
        self.close_at = self.close_at.into_iter().chain([now + grace]).min();
    }

    fn respond(&mut self, now: Instant, token: ResponseToken, response: Response<Bytes>) {
        let limit = self.place.shared.options.waiting_bytes;
        self.waiting.respond(now, &mut self.connection, limit, token, response);
    }

    fn announce(&mut self, compression: Compression) {
        self.place.peer.compression = compression;
        if let Some(on_start) = self.place.shared.on_link_start.get() {
            unharmed(|| on_start(&self.place.peer, compression));
        }
    }

    fn count(&mut self) {
        let now = self.connection.stats();
        if now != self.counted {
            lock(&self.place.shared.stats).add(now, self.counted);
            self.counted = now;
        }
    }

    #[cfg(feature = "tls")]
    fn start_tls(&self, channel: &mut Channel) -> io::Result<()> {
        match &self.place.shared.options.tls {
            Some(tls) => channel.start_server(tls),
            None => Err(no_tls()),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn start_tls(&self, _: &mut Channel) -> io::Result<()> {
        Err(no_tls())
    }
}

impl Endpoint for Session {
    type Connection = ServerConnection;

    fn connection(&self) -> &ServerConnection {
        &self.connection
    }

    fn connection_mut(&mut self) -> &mut ServerConnection {
        &mut self.connection
    }

    fn handle_timeout(&mut self, now: Instant) {
        // Who has ended, and said so, is not late.
        self.take_commands(now);
        self.expire(now);
        if self.close_at.take_if(|at| *at <= now).is_some() {
            self.connection.close_by(now, self.end_at.unwrap_or(now));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.limits.front().map(|(at, _)| *at).into_iter().chain(self.close_at).min()
    }

    fn wants_read(&self) -> bool {
        let options = &self.place.shared.options;
        self.oneway_bytes < options.config.limits.held_bytes && !self.waiting.is_full(options.waiting_bytes)
    }

    #[cfg(feature = "tls")]
    fn handle_tls_established(&mut self, now: Instant, channel: &Channel) {
        self.place.peer.tls = channel.identity().map(Arc::new);
        self.connection.handle_tls_established(now);
    }

    #[cfg(not(feature = "tls"))]
    fn handle_tls_established(&mut self, now: Instant, _: &Channel) {
        self.connection.handle_tls_established(now);
    }

    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let before = self.commands.len();
        // Again: only who finds nothing is woken.
        while self.place.mailbox.poll(context, &mut self.commands).is_ready() {}
        if self.commands.len() > before { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take_commands(&mut self, now: Instant) {
        self.waiting.send(now, &mut self.connection);
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Ended(call, response, charge) => {
                    self.arriving.extend(charge);
                    self.handle_end(now, call, response);
                }
                // Below.
                Command::Resume => {}
                Command::Close(deadline) => self.begin_to_close(now, deadline),
            }
        }
        // Their memory is for the next ones.
        self.commands = commands;
        self.advance(now);
    }

    fn deliver_events(&mut self, now: Instant, channel: &mut Channel) -> io::Result<bool> {
        let mut any = false;
        // Before the events, so that whoever acts on one sees figures that include it.
        self.count();
        while let Some(event) = self.connection.poll_event() {
            any = true;
            match event {
                ServerEvent::Request { token, request } => self.receive(now, Some(token), request),
                ServerEvent::Oneway { request } => self.receive(now, None, request),
                ServerEvent::Connected { compression } => {
                    self.announce(compression);
                    if self.close_at.is_some() {
                        self.connection.say_goodbye(now);
                    }
                }
                ServerEvent::Refused { error: MessageError::Overload, .. } => {
                    self.memory().into_iter().for_each(MemoryBudget::note_shed);
                }
                ServerEvent::Refused { .. } => {}
                ServerEvent::StartTls => self.start_tls(channel)?,
                ServerEvent::Closed { error } => self.end = Some(error),
            }
        }
        Ok(any)
    }

    fn awaits_peer(&self) -> bool {
        self.connection.pending_requests() == 0 && !self.connection.is_handshaking()
    }

    fn end_at(&self) -> Option<Instant> {
        self.end_at
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn drops_output(&self) -> bool {
        // Its answers are owed, whatever has ended the link.
        false
    }

    fn memory(&self) -> Option<&MemoryBudget> {
        self.place.shared.options.memory.as_ref()
    }

    fn note_counted(&mut self) {
        self.arriving.clear();
    }

    fn held_bytes(&self) -> usize {
        // Those of requests in handlers are among the connection's.
        self.connection.held_bytes() + self.oneway_bytes + self.waiting.bytes()
    }
}

#[cfg(all(test, feature = "smol"))]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::{PeerAddr, Shared};
    use super::*;
    use crate::driver::options::{ServerOptions, request_timeout};
    use crate::proto::{ClientConfig, ClientConnection};

    #[test]
    fn limits_of_handlers_that_have_ended_are_forgotten() {
        let now = Instant::now();
        let options = ServerOptions::default().handler_timeout(Duration::from_secs(60), request_timeout("late"));
        // The first handler runs on.
        let first = Mutex::new(None);
        let dispatch: Dispatch = Arc::new(move |work| {
            let Work::One((_, _, reply)) = work else { panic!("no line") };
            let mut first = lock(&first);
            match *first {
                None => *first = Some(reply),
                Some(_) => reply.send(Response::default()),
            }
        });
        let place = Arc::new(Shared::new(options)).admit(PeerAddr::Unix).unwrap();
        let mut session = Session::new(place, dispatch, now);
        let mut client = ClientConnection::new(ClientConfig::default(), now);
        let mut channel = Channel::default();
        for _ in 0..1000 {
            let request = Request::get("http://h.example/").body(Bytes::new()).unwrap();
            client.send_request(now, &request, None).unwrap();
            let (mut up, mut down) = (Vec::new(), Vec::new());
            client.poll_transmit(now, &mut up);
            assert_eq!(session.connection.handle_input(now, &up), up.len());
            session.deliver_events(now, &mut channel).unwrap();
            let _ = session.poll_commands(&mut Context::from_waker(std::task::Waker::noop()));
            session.take_commands(now);
            session.connection.poll_transmit(now, &mut down);
            assert_eq!(client.handle_input(now, &down), down.len());
            while client.poll_event().is_some() {}
        }
        assert_eq!(client.pending_requests(), 1);
        assert!(session.limits.len() < 100, "{} of 1", session.limits.len());
        session.handle_timeout(now + Duration::from_secs(60));
        assert!(session.limits.is_empty() && session.running.is_empty());
    }

    #[test]
    fn what_a_handler_has_made_is_charged_on_its_way_to_its_link() {
        const LENGTH: usize = 100_000;
        let now = Instant::now();
        let budget = MemoryBudget::new(1 << 20);
        let options = ServerOptions::default().memory_budget(budget.clone());
        let dispatch: Dispatch = Arc::new(|work| {
            let Work::One((_, _, reply)) = work else { panic!("no line") };
            reply.send(Response::new(vec![b'x'; LENGTH].into()));
        });
        let mut session = asked(options, dispatch, 1, now);
        // Beside what its request still counts for.
        let held = session.held_bytes();
        assert!(held > 0);
        assert_eq!(budget.held(), LENGTH - held, "it waits for its link's turn");
        let _ = session.poll_commands(&mut Context::from_waker(std::task::Waker::noop()));
        session.take_commands(now);
        assert_eq!(budget.held(), LENGTH - held);
        assert!(session.connection.buffered_bytes() + session.held_bytes() >= LENGTH, "now it is the link's");
        session.note_counted();
        assert_eq!(budget.held(), 0);
    }

    /// A server's link in pipeline mode, after so many requests; and the work on its line.
    fn in_line(options: ServerOptions, requests: usize, now: Instant) -> (Session, Arc<Mutex<Vec<Work>>>) {
        let works = Arc::new(Mutex::new(Vec::new()));
        let given = works.clone();
        let dispatch: Dispatch = Arc::new(move |work| lock(&given).push(work));
        (asked(options.pipeline(true), dispatch, requests, now), works)
    }

    /// A server's link after so many requests, whose client reads nothing.
    fn asked(options: ServerOptions, dispatch: Dispatch, requests: usize, now: Instant) -> Session {
        let place = Arc::new(Shared::new(options)).admit(PeerAddr::Unix).unwrap();
        let mut session = Session::new(place, dispatch, now);
        let mut client = ClientConnection::new(ClientConfig::default(), now);
        for _ in 0..requests {
            let request = Request::get("http://h.example/").body(Bytes::new()).unwrap();
            client.send_request(now, &request, None).unwrap();
        }
        // The hellos, then the requests.
        for _ in 0..2 {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            client.poll_transmit(now, &mut up);
            session.connection.handle_input(now, &up);
            session.connection.poll_transmit(now, &mut down);
            client.handle_input(now, &down);
            client.flush();
        }
        session.deliver_events(now, &mut Channel::default()).unwrap();
        session
    }

    fn line(works: &Mutex<Vec<Work>>) -> Option<super::super::work::Turn> {
        lock(works).pop().map(|work| match work {
            Work::Line(turn) => turn,
            Work::One(_) => panic!("not of a line"),
        })
    }

    fn take(session: &mut Session, now: Instant) {
        let _ = session.poll_commands(&mut Context::from_waker(std::task::Waker::noop()));
        session.take_commands(now);
    }

    #[test]
    fn a_line_starts_no_handler_while_responses_wait() {
        let now = Instant::now();
        let mut config = crate::proto::Config::default();
        config.limits.output_bytes = 1000;
        let options = ServerOptions::default().config(config).waiting_bytes(1000);
        let (mut session, works) = in_line(options, 20, now);
        let (mut started, mut at) = (0, now);
        while let Some(turn) = line(&works) {
            for (_, _, reply) in turn {
                started += 1;
                at += Duration::from_secs(1);
                reply.send(Response::new(vec![b'x'; 100_000].into()));
                take(&mut session, at);
            }
            take(&mut session, at);
        }
        assert!((1..=3).contains(&started), "{started} handlers were started");
        // The client reads: all has room again.
        while session.connection.poll_transmit(at, &mut Vec::new()) > 0 || session.waiting.is_full(1000) {
            take(&mut session, at);
        }
        take(&mut session, at);
        assert!(line(&works).unwrap().next().is_some());
    }

    #[test]
    fn of_a_line_more_than_the_link_hands_out_is_handled_each_with_its_own_time() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(10));
        let options = ServerOptions::default().handler_timeout(timeout, request_timeout("late"));
        let (mut session, works) = in_line(options, 3 * AHEAD, now);
        assert_eq!(session.running.len(), AHEAD);
        let (mut handled, mut at) = (0, now);
        while let Some(turn) = line(&works) {
            for (_, _, reply) in turn {
                handled += 1;
                // Each takes nearly as long as it may.
                at += timeout - Duration::from_secs(1);
                reply.send(Response::default());
                session.handle_timeout(at - Duration::from_millis(1));
                take(&mut session, at);
            }
            take(&mut session, at);
        }
        assert_eq!((handled, session.running.len()), (3 * AHEAD, 0));
        // The second of two is late although it was sent as long ago as the first.
        let (mut session, works) =
            in_line(ServerOptions::default().handler_timeout(timeout, request_timeout("late")), 2, now);
        let mut turn = line(&works).unwrap();
        let (_, _, reply) = turn.next().unwrap();
        let end = now + timeout - Duration::from_secs(1);
        reply.send(Response::default());
        take(&mut session, end);
        let (_, _, _late) = turn.next().unwrap();
        assert_eq!(session.poll_timeout(), Some(end + timeout));
        session.handle_timeout(end + timeout);
        assert!(session.running.is_empty());
    }
}
