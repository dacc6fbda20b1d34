//! A driver that keeps the contract and no more than the contract: it reads in any pieces, writes as far as there is
//! room, comes late with timers, calls when nothing is due, and watches that time and bytes are as they should be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use httpteleport::proto::{Compression, Config, ConnectionError, ErrorKind, Stats, Timer};

use super::ends::{End, News};
use super::outbox::Outbox;
use super::random::Random;
use super::wire::Wire;

/// How a driver behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Most bytes offered at once.
    pub piece: usize,
    /// Most bytes read each time, and how long it takes until the next time.
    pub appetite: usize,
    pub pause: Duration,
    /// Most events heard each time.
    pub hearing: usize,
    /// How late timers are told at most.
    pub lateness: Duration,
}

/// The hello in both directions: nothing after it is read before TLS.
const HELLO_BYTES: u64 = 15;
/// Far more steps than there is work for in one moment without input.
const LIVELOCK: usize = 1_000;

pub struct Driver<C: End> {
    pub conn: C,
    pub outbox: Outbox,
    /// Deadlines of pending requests, by id.
    pub deadlines: BTreeMap<u32, Instant>,
    /// The reason, once it is closed.
    pub closed: Option<Option<ConnectionError>>,
    /// When it was told to close.
    pub close_told: Option<Instant>,
    /// Since when a server may be draining for a reason of its own: from then on some of its timers are not foreseen.
    pub may_drain: Option<Instant>,
    pub compression: Option<Compression>,
    pub broken: bool,
    /// A reason for the end which nothing that comes later may replace.
    reason: Option<&'static str>,
    pub eof_told: Option<Instant>,
    config: Config,
    manners: Manners,
    created: Instant,
    opened: bool,
    in_tls: bool,
    last_activity: Instant,
    consumed: u64,
    /// Taken from the connection, and not yet by the transport.
    out: Vec<u8>,
    /// The timer that is set, and when it will be told.
    armed: Option<(Instant, Instant)>,
    reads_again: Instant,
    /// There may be events that were not heard yet.
    pub is_behind: bool,
}

impl<C: End> Driver<C> {
    pub fn new(conn: C, config: &Config, manners: &Manners, now: Instant) -> Self {
        Self {
            conn,
            outbox: Outbox::new(config.max_batch_delay, config.limits.output_bytes),
            deadlines: BTreeMap::new(),
            closed: None,
            close_told: None,
            may_drain: None,
            compression: None,
            broken: false,
            reason: None,
            eof_told: None,
            config: config.clone(),
            manners: manners.clone(),
            created: now,
            opened: false,
            in_tls: false,
            last_activity: now,
            consumed: 0,
            out: Vec::new(),
            armed: None,
            reads_again: now,
            is_behind: false,
        }
    }

    // What its owner tells it.

    pub fn close(&mut self, now: Instant) {
        self.close_told.get_or_insert(now);
        self.may_drain.get_or_insert(now);
        self.outbox.seal();
        self.conn.close(now);
    }

    pub fn flush(&mut self) {
        self.outbox.seal();
        self.conn.flush();
    }

    pub fn tls_established(&mut self, now: Instant) {
        if self.in_tls && !self.conn.is_closed() {
            self.in_tls = false;
            self.last_activity = now;
        }
        self.conn.handle_tls_established(now);
    }

    pub fn transport_error(&mut self, now: Instant) {
        self.broken = true;
        self.out.clear();
        self.conn.handle_transport_error(now);
        assert!(self.conn.is_closed(), "R-transport-failed: at once, without a drain");
    }

    /// Does everything there is to do now; returns what the connection said.
    pub fn drive(
        &mut self,
        now: Instant,
        random: &mut Random,
        inbound: &mut Wire,
        outbound: &mut Wire,
    ) -> Vec<C::Event> {
        inbound.land(now);
        let mut events = Vec::new();
        let mut appetite = if self.reads_again <= now { self.manners.appetite } else { 0 };
        self.outputs(now, random, outbound, &mut events);
        let mut idle_rounds = 0;
        loop {
            idle_rounds += 1;
            assert!(idle_rounds < LIVELOCK, "law 4: the {} does not come to rest", C::NAME);
            let timers_first = random.percent(50);
            let mut busy = timers_first && self.timers(now, random, outbound, &mut events);
            if let Some(went_on) = self.read(now, random, inbound, &mut appetite) {
                busy |= went_on;
                idle_rounds = if went_on { 0 } else { idle_rounds };
                self.outputs(now, random, outbound, &mut events);
            }
            busy |= !timers_first && self.timers(now, random, outbound, &mut events);
            if !busy {
                break;
            }
        }
        if self.closed.is_some() {
            inbound.close();
            if self.out.is_empty() {
                outbound.finish(now, random);
            }
        } else if appetite == 0 && self.reads_again <= now {
            self.reads_again = now + self.manners.pause;
        }
        self.check_timers(now);
        events
    }

    /// When to drive it again, if nobody speaks to it before.
    pub fn next_wake(&mut self, now: Instant, random: &mut Random, inbound: &Wire, outbound: &Wire) -> Option<Instant> {
        let due = self.conn.next_timer().map(|(timer, at)| {
            if self.armed.is_none_or(|(armed, _)| armed != at) {
                // What is due at once is no timer to a driver: it goes on.
                let late = if timer == Timer::Input { Duration::ZERO } else { random.up_to(self.manners.lateness) };
                let late = if random.percent(50) { late } else { Duration::ZERO };
                self.armed = Some((at, at + late));
            }
            self.armed.map_or(at, |(_, told)| told)
        });
        let arrival = inbound.next_arrival().filter(|_| self.closed.is_none());
        let wants = self.closed.is_none() && !inbound.readable().is_empty() && self.conn.wants_read();
        let again = wants.then_some(self.reads_again);
        let room = (!self.out.is_empty() && outbound.room() > 0).then(|| now + Duration::from_micros(50));
        let hears = self.is_behind.then(|| now + Duration::from_micros(20));
        [due, arrival, again, room, hears].into_iter().flatten().min().map(|at| at.max(now))
    }

    /// Offers input, if there is some; returns whether that got on.
    fn read(&mut self, now: Instant, random: &mut Random, inbound: &mut Wire, appetite: &mut usize) -> Option<bool> {
        if self.closed.is_some() {
            return None;
        }
        if inbound.is_at_end() {
            if self.eof_told.is_some() {
                return None;
            }
            self.eof_told = Some(now);
            self.may_drain.get_or_insert(now);
            self.conn.handle_eof(now);
            return Some(true);
        }
        let wants = self.conn.wants_read();
        let most = inbound.readable().len().min(*appetite);
        if most == 0 || (!wants && !random.percent(5)) {
            return None;
        }
        let offered = if random.percent(30) { most } else { random.within(1..most + 1) }.min(self.manners.piece);
        let was_open = !self.conn.is_handshaking();
        let taken = self.conn.handle_input(now, &inbound.readable()[..offered]);
        inbound.consume(taken);
        self.consumed += taken as u64;
        *appetite -= taken;
        assert!(taken == offered || !self.conn.wants_read(), "R-backpressure: all is taken, or no more is wanted");
        if !wants {
            assert!(
                taken == 0 || self.may_drain.is_some() || self.conn.is_closed(),
                "law 6: input is taken that is not wanted"
            );
            return Some(false);
        }
        if taken > 0 || (!was_open && !self.conn.is_handshaking()) {
            self.last_activity = now;
        }
        Some(taken > 0)
    }

    fn timers(&mut self, now: Instant, random: &mut Random, outbound: &mut Wire, events: &mut Vec<C::Event>) -> bool {
        let before = self.conn.next_timer();
        let due = before.filter(|(_, at)| *at <= now);
        let told = due.is_some_and(|(timer, at)| {
            timer == Timer::Input || self.armed.is_none_or(|(armed, told)| armed != at || told <= now)
        });
        if !told && !random.percent(5) {
            return false;
        }
        self.conn.handle_timeout(now);
        if self.outbox.is_due(now) {
            self.outbox.seal();
        }
        if self.idle_deadline().is_some_and(|at| at <= now) {
            // A client ends at once: there, what is due together decides in any order.
            self.reason = self.reason.or(Some("idle-timeout").filter(|_| C::NAME == "server"));
            self.may_drain.get_or_insert(now);
        }
        let after = self.conn.next_timer();
        assert!(after.is_none_or(|(_, at)| at > now), "law 4: {after:?} is still due at the {}", C::NAME);
        let (said, drained) = (events.len(), self.out.is_empty() && !self.is_behind);
        self.outputs(now, random, outbound, events);
        if due.is_none() && drained {
            assert_eq!(said, events.len(), "law 4: a timer fires at the {} before it is due", C::NAME);
            assert!(self.closed.is_some() || before.is_none() == after.is_none(), "law 4: a timer comes or goes");
        }
        due.is_some()
    }

    fn outputs(&mut self, now: Instant, random: &mut Random, outbound: &mut Wire, events: &mut Vec<C::Event>) {
        loop {
            let polled = self.out.is_empty();
            let was_open = !self.conn.is_handshaking() && !self.conn.is_closed();
            let made = if polled { self.conn.poll_transmit(now, &mut self.out) } else { 0 };
            assert!(!polled || made == self.out.len());
            let said = events.len();
            events.extend(std::iter::from_fn(|| self.conn.poll_event()).take(self.manners.hearing));
            self.is_behind = events.len() - said == self.manners.hearing;
            self.listen(now, &events[said..]);
            let (due, gone) = (self.outbox.is_due(now), self.conn.stats().plain_out);
            let frames = self.outbox.advance(gone);
            self.check_fates(&events[said..]);
            if made > 0 {
                self.last_activity = now;
            }
            if polled && was_open {
                assert!(frames || !due, "law 4: a batch that is due does not leave the {}", C::NAME);
                assert!(due || !frames || self.server_may_drain(), "law 4: a batch leaves the {} too early", C::NAME);
            }
            assert!(was_open || !frames, "a frame leaves the {} before or after its time", C::NAME);
            if !self.out.is_empty() {
                // Sometimes the transport takes less than it could.
                let most = if random.percent(80) { self.out.len() } else { random.within(0..self.out.len()) + 1 };
                let written = outbound.write(now, random, &self.out[..most]);
                self.out.drain(..written);
            }
            if (polled && made == 0) || !self.out.is_empty() {
                return;
            }
        }
    }

    /// What the connection says is noted, before what has left is counted.
    fn listen(&mut self, now: Instant, events: &[C::Event]) {
        for event in events {
            assert!(self.closed.is_none(), "law 1: an event of the {} after Closed", C::NAME);
            match C::news(event) {
                News::StartTls => {
                    assert_eq!(self.consumed, HELLO_BYTES, "no byte of TLS is taken");
                    self.in_tls = true;
                }
                News::Connected(compression) => {
                    assert!(!self.opened, "Connected comes once");
                    self.opened = true;
                    self.compression = Some(compression);
                }
                News::Failed { id, maybe_delivered: false } => {
                    self.deadlines.remove(&id);
                    self.outbox.withdraw(id);
                }
                News::Failed { id, .. } => drop(self.deadlines.remove(&id)),
                News::Closed(error) => {
                    self.check_end(now, error);
                    self.closed = Some(error.cloned());
                }
                News::Answered { id } => {
                    self.deadlines.remove(&id);
                    assert!(self.outbox.has_begun(id), "law 2: a response to what was not sent");
                }
                News::Refused { answer } => self.outbox.push(now, 0, usize::MAX, answer),
                News::Other => {}
            }
        }
    }

    fn check_fates(&self, events: &[C::Event]) {
        for event in events {
            if let News::Failed { id, maybe_delivered: true } = C::news(event) {
                assert!(self.outbox.has_begun(id), "law 3: request {id} has not begun to leave");
            }
        }
    }

    /// No reason for the end that cannot be.
    fn check_end(&self, now: Instant, error: Option<&ConnectionError>) {
        let drained = |at: Option<Instant>| at.is_some_and(|at| now >= at + self.config.drain_timeout);
        let idle = self.config.idle_timeout;
        let fair = match error.map(ConnectionError::kind) {
            None => self.may_drain.is_some(),
            Some(ErrorKind::HelloTimeout) => now >= self.created + self.config.hello_timeout && !self.opened,
            Some(ErrorKind::HelloTruncated) => self.eof_told.is_some() && self.consumed < HELLO_BYTES,
            Some(ErrorKind::TlsRefused | ErrorKind::TlsUnavailable | ErrorKind::TlsRequired) => !self.opened,
            Some(ErrorKind::Truncated | ErrorKind::Closed) => self.eof_told.is_some(),
            Some(ErrorKind::IdleTimeout) if C::NAME == "client" => self.idle_deadline().is_some_and(|at| at <= now),
            Some(ErrorKind::IdleTimeout) => idle.is_some_and(|idle| now >= self.created + idle),
            Some(ErrorKind::DrainTimeout) => drained(self.may_drain),
            Some(ErrorKind::Transport) => self.broken || (self.eof_told.is_some() && !self.opened),
            Some(ErrorKind::AbandonedLimit(limit)) => *limit == self.config.limits.abandoned_requests,
            Some(_) => false,
        };
        assert!(fair, "the {} ends with {error:?}", C::NAME);
        let reason = error.map(ConnectionError::code);
        assert!(self.reason.is_none() || self.reason == reason, "R-error-once: {:?}, not {reason:?}", self.reason);
    }

    /// What was received until the end of file, if that came, and before any order to close.
    pub fn stats_at_eof(&self) -> Option<Stats> {
        self.eof_told.filter(|_| self.close_told.is_none()).map(|_| self.conn.stats())
    }

    /// Between `StartTls` and the end of the handshake.
    pub fn is_in_tls(&self) -> bool {
        self.in_tls
    }

    fn server_may_drain(&self) -> bool {
        C::NAME == "server" && self.may_drain.is_some()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let watched = self.opened && self.closed.is_none() && self.close_told.is_none();
        self.config.idle_timeout.filter(|_| watched && !self.server_may_drain()).map(|idle| self.last_activity + idle)
    }

    /// Law 4: the next timer is the earliest of those that should be set, no other, and none is missing.
    fn check_timers(&self, now: Instant) {
        let told = self.conn.next_timer();
        assert_eq!(self.conn.poll_timeout(), told.map(|(_, at)| at));
        if self.closed.is_some() {
            assert_eq!(told, None, "law 4: a closed connection waits for nothing");
            assert!(!self.conn.wants_read());
            return;
        }
        if self.is_behind {
            return;
        }
        let handshaking = self.conn.is_handshaking();
        assert_eq!(handshaking, !self.opened);
        let hello = handshaking.then(|| self.created + self.config.hello_timeout);
        let flush = self.outbox.deadline().filter(|_| !handshaking);
        let drain = self.close_told.map(|at| at + self.config.drain_timeout);
        let request = self.deadlines.values().min().copied();
        let due = [hello, flush, drain, request, self.idle_deadline()].into_iter().flatten().min();
        match (told, due) {
            (Some((Timer::Input, at)), _) => assert!(at <= now),
            (told, due) if self.server_may_drain() => {
                let late = due.is_some_and(|due| told.is_none_or(|(_, at)| at > due));
                assert!(!late || flush == due, "law 4: {told:?} is later than {due:?}");
            }
            (told, due) => {
                assert_eq!(told.map(|(_, at)| at), due, "law 4: the next timer of the {}, {told:?}", C::NAME)
            }
        }
    }
}
