//! Lanes, sessions and carriers as they are, over a network and beside a server that a seed determines, in virtual time:
//! what they say of a request is what has become of it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response};

use super::super::carrier::{Carrier, Endpoint};
use super::super::channel::Channel;
use super::super::options::Overflow;
use super::*;
use crate::proto::{Compression, Limits, ResponseToken, ServerConfig, ServerConnection, ServerEvent, Timer};

const SEEDS: u64 = 2_000;
const MS: Duration = Duration::from_millis(1);

/// A request of the script, and what has become of it.
struct Call {
    begins: Instant,
    deadline: Option<Instant>,
    gives_up: Option<Instant>,
    may_repeat: bool,
    is_oneway: bool,
    outcome: Option<Outcome>,
    end: Option<Result<Response<Bytes>, ClientError>>,
    /// How often the server has seen it.
    runs: u32,
}

struct World {
    rng: Rng,
    now: Instant,
    callers: Option<Arc<Callers>>,
    calls: Vec<Call>,
    /// Nothing breaks, servers answer everything, and close only in order, after a goodbye.
    is_orderly: bool,
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

impl World {
    /// Lets callers do what they do now, and takes note of outcomes.
    fn act(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for (number, call) in self.calls.iter_mut().enumerate() {
            if let Some(callers) = self.callers.as_ref().filter(|_| call.begins <= self.now)
                && call.outcome.is_none()
                && call.end.is_none()
                && call.gives_up.is_none_or(|at| self.now < at)
            {
                let request = Request::post(format!("http://h/{}", if call.may_repeat { "again" } else { "once" }));
                let request = request.header("number", number).body(Bytes::from(vec![b'x'; number * 50])).unwrap();
                call.outcome = Some(callers.send_at(self.now, request, call.deadline.into(), call.is_oneway));
            }
            if let Some(Poll::Ready(end)) = call.outcome.as_mut().map(|outcome| Pin::new(outcome).poll(&mut context)) {
                assert!(call.end.is_none(), "a second outcome");
                (call.end, call.outcome) = (Some(end), None);
            }
            if call.gives_up.is_some_and(|at| at <= self.now) {
                call.outcome = None;
            }
        }
        let is_waited_for = |call: &Call| call.outcome.is_some() || (self.now < call.begins && call.end.is_none());
        if !self.calls.iter().any(is_waited_for) {
            self.callers = None;
        }
    }

    /// When callers do something next.
    fn next(&self) -> Option<Instant> {
        let times = self.calls.iter().flat_map(|call| [Some(call.begins), call.gives_up]);
        times.flatten().filter(|at| *at > self.now).min()
    }

    fn pass_until(&mut self, at: Option<Instant>) {
        let next = earliest([at, self.next()]);
        self.now = next.unwrap_or(self.now + MS).max(self.now + MS / 100);
        self.act();
    }

    /// Carries the lanes that are started, one link at a time, until the last has ended. Returns how many there were.
    fn carry(&mut self, started: impl Fn() -> Option<Lane>) -> u32 {
        let mut context = Context::from_waker(Waker::noop());
        let (mut lanes, mut count) = (Vec::new(), 0);
        loop {
            self.act();
            while let Some(lane) = started() {
                lanes.push(lane);
                count += 1;
            }
            if lanes.is_empty() && self.callers.is_none() {
                return count;
            }
            let (mut is_idle, mut next) = (true, None);
            lanes.retain_mut(|lane| match lane.poll_at(self.now, &mut context) {
                Poll::Ready(Step::End) => false,
                Poll::Pending => {
                    next = earliest([next, lane.next_at()]);
                    true
                }
                Poll::Ready(Step::Dial) => {
                    is_idle = false;
                    self.dial(lane);
                    true
                }
            });
            if is_idle {
                self.pass_until(next);
            }
        }
    }

    fn dial(&mut self, lane: &mut Lane) {
        let mut context = Context::from_waker(Waker::noop());
        let ends = self.now + MS * self.rng.u32(0..20);
        let mut dialling = lane.dial(self.now, std::future::pending::<io::Result<()>>());
        while self.now < ends && dialling.poll_at(self.now, &mut context).is_pending() {
            self.pass_until(earliest([Some(ends), dialling.next_at()]));
        }
        if !self.is_orderly && self.rng.u8(0..10) == 0 {
            lane.handle_dial_error(self.now, io::ErrorKind::ConnectionRefused.into());
        } else {
            self.link(lane);
        }
    }

    /// One link, to a server that may do anything to it.
    fn link(&mut self, lane: &mut Lane) {
        let mut context = Context::from_waker(Waker::noop());
        let patience = lane.patience();
        let mut carrier = Carrier::new(lane.begin(self.now), patience);
        let mut server = ServerConnection::new(ServerConfig::default(), self.now);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut answers: Vec<(Instant, ResponseToken, String)> = Vec::new();
        // How many bytes pass in either direction before it is cut.
        let mut left = if self.is_orderly || self.rng.bool() { usize::MAX } else { self.rng.usize(0..3_000) };
        // When the server says goodbye, and again, and when it closes, if it does.
        let says = self.is_orderly || self.rng.bool();
        let mut goodbyes: Vec<_> = (0..if says { 2 } else { 0 }).map(|_| self.now + MS * self.rng.u32(0..60)).collect();
        let grace = if self.is_orderly { 1_000 } else { self.rng.u32(0..30) };
        let mut closes = goodbyes.iter().max().map(|at| *at + MS * grace);
        loop {
            while carrier.turn(self.now) {}
            self.act();
            if carrier.endpoint.poll_commands(&mut context).is_ready() {
                continue;
            }
            if carrier.is_over() {
                break;
            }
            let mut moved = false;
            if left == 0 {
                // Both ends, or one, notice.
                match self.rng.bool() {
                    true => carrier.fail(self.now, io::ErrorKind::ConnectionReset.into()),
                    false if carrier.wants_read() => carrier.note_read(self.now, 0),
                    false => carrier.fail(self.now, io::ErrorKind::BrokenPipe.into()),
                }
                left = usize::MAX;
                continue;
            }
            let n = self.rng.usize(0..=carrier.output().len()).min(left);
            if n > 0 {
                up.extend_from_slice(&carrier.output()[..n]);
                carrier.note_written(self.now, n);
                left -= n;
                moved = true;
            }
            let taken = server.handle_input(self.now, &up);
            up.drain(..taken);
            moved |= taken > 0;
            while let Some(event) = server.poll_event() {
                moved = true;
                let (token, request) = match event {
                    ServerEvent::Request { token, request } => (Some(token), request),
                    ServerEvent::Oneway { request } => (None, request),
                    _ => continue,
                };
                let number = request.headers()["number"].to_str().unwrap().to_owned();
                self.calls[number.parse::<usize>().unwrap()].runs += 1;
                if let Some(token) = token.filter(|_| self.is_orderly || self.rng.u8(0..10) > 0) {
                    answers.push((self.now + MS * self.rng.u32(0..30), token, number));
                }
            }
            let due = goodbyes.extract_if(.., |at| *at <= self.now).count();
            (0..due).for_each(|_| server.say_goodbye(self.now));
            if closes.take_if(|at| *at <= self.now).is_some() {
                server.close(self.now);
            }
            let mut waiting = Vec::new();
            for (at, token, number) in answers.drain(..) {
                if at <= self.now {
                    let _ = server.send_response(self.now, token, &Response::new(number.into()));
                } else {
                    waiting.push((at, token, number));
                }
            }
            answers = waiting;
            server.poll_transmit(self.now, &mut down);
            let n = self.rng.usize(0..=down.len()).min(left);
            if n > 0 && carrier.wants_read() {
                let room = carrier.input_room();
                let n = n.min(room.len());
                room[..n].copy_from_slice(&down[..n]);
                down.drain(..n);
                carrier.note_read(self.now, n);
                left -= n;
                moved = true;
            }
            if !moved && carrier.output().is_empty() && down.is_empty() {
                let next = answers.iter().map(|(at, ..)| *at).chain(goodbyes.iter().copied()).chain(closes).min();
                let timers = [carrier.poll_timeout(), server.poll_timeout(), next];
                let is_dead = server.is_closed() && down.is_empty();
                if is_dead || (earliest(timers).is_none() && self.next().is_none()) {
                    // Nobody will do anything any more: the server's machine dies.
                    left = 0;
                    continue;
                }
                self.pass_until(earliest(timers));
                carrier.handle_timeout(self.now);
                server.handle_timeout(self.now);
            }
        }
        let (session, error) = carrier.into_parts();
        session.finish(self.now, error);
        self.act();
    }
}

/// A client, and the lanes that it has started, one after another.
fn client(options: ClientOptions) -> (Arc<Callers>, impl Fn() -> Option<Lane>) {
    let lanes = Arc::new(Mutex::new(VecDeque::new()));
    let started = lanes.clone();
    let start = move |lane| {
        lock(&started).push_back(lane);
        Ok(())
    };
    (Callers::new("somewhere".to_owned(), options, start), move || lock(&lanes).pop_front())
}

fn run(seed: u64, is_orderly: bool) -> (World, u32) {
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    // Later than any real time that is asked for meanwhile.
    let begin = Instant::now() + Duration::from_secs(3600);
    let limits = Limits { output_bytes: 2_000, pending_requests: rng.usize(2..30), ..Limits::default() };
    let compressions = Compression::ALL;
    let options = ClientOptions::default()
        .compression(compressions[rng.usize(0..compressions.len())])
        .max_batch_delay(MS * rng.u32(0..4))
        .hello_timeout(MS * 50)
        .limits(limits)
        .overflow(if rng.bool() { Overflow::Newest } else { Overflow::Oldest })
        .wait_for_link(rng.bool())
        .retry_if(|request| request.uri().path() == "/again");
    let (callers, started) = client(options);
    let calls = (0..rng.usize(1..20)).map(|_| {
        let begins = begin + MS * rng.u32(0..100);
        let mut later = |one_in: u8| (rng.u8(0..one_in) == 0).then(|| begins + MS * rng.u32(1..100));
        let (gives_up, deadline) = (later(5), later(2).unwrap_or(begins + MS * 2_000));
        let (may_repeat, is_oneway) = (rng.bool(), rng.u8(0..8) == 0);
        let deadline = Some(deadline);
        Call { begins, deadline, gives_up, may_repeat, is_oneway, outcome: None, end: None, runs: 0 }
    });
    let calls = calls.collect();
    let mut world = World { rng, now: begin, callers: Some(callers), calls, is_orderly };
    let lanes = world.carry(started);
    world.act();
    (world, lanes)
}

/// How many requests ran more than once, were maybe delivered, and were not.
fn verdict(world: &World) -> (u32, u32, u32) {
    let (mut repeated, mut lost, mut unsent) = (0, 0, 0);
    for (number, call) in world.calls.iter().enumerate() {
        assert!(
            call.runs <= if call.may_repeat && !call.is_oneway { 3 } else { 1 },
            "{number} ran {} times",
            call.runs
        );
        repeated += u32::from(call.runs > 1);
        match &call.end {
            None => assert!(call.gives_up.is_some(), "{number} has no outcome"),
            Some(Ok(response)) if call.is_oneway => assert!(response.body().is_empty()),
            Some(Ok(response)) => assert_eq!(response.body(), number.to_string().as_bytes()),
            Some(Err(error)) if error.maybe_delivered() => lost += 1,
            Some(Err(error)) => {
                assert_eq!(call.runs, 0, "{number}: {error}");
                unsent += 1;
            }
        }
    }
    (repeated, lost, unsent)
}

#[test]
fn what_is_said_of_a_request_is_what_has_become_of_it() {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    let mut sums = (0, 0, 0);
    for seed in 0..SEEDS {
        let _named = Seed(seed);
        let (repeated, lost, unsent) = verdict(&run(seed, false).0);
        sums = (sums.0 + repeated, sums.1 + lost, sums.2 + unsent);
    }
    println!("{sums:?}: ran more than once, maybe delivered, not delivered");
    assert!(sums.0 > 100 && sums.1 > 100 && sums.2 > 100, "{sums:?}");
}

#[test]
fn a_server_that_says_goodbye_loses_nothing() {
    // R-goodbye, R-goodbye-heed: also where nothing may be repeated.
    let mut handed_over = 0;
    for seed in 0..SEEDS {
        let (world, lanes) = run(seed, true);
        handed_over += lanes.saturating_sub(1);
        verdict(&world);
        for (number, call) in world.calls.iter().enumerate().filter(|(_, call)| call.gives_up.is_none()) {
            let is_answered = matches!(call.end, Some(Ok(_)));
            let has_expired = matches!(call.end, Some(Err(ClientError::Timeout { .. })));
            let was_shed = matches!(call.end, Some(Err(ClientError::Send(_))));
            assert!(is_answered || has_expired || was_shed, "seed {seed}, {number}: {:?}", call.end);
            assert!(!is_answered || call.runs == 1, "seed {seed}, {number} ran {} times", call.runs);
        }
    }
    println!("{handed_over} further lanes");
    assert!(handed_over > 100, "{handed_over}");
}

#[test]
fn pauses_double_up_to_the_longest_and_each_is_shortened_at_random() {
    // R-reconnect-pause
    let mut context = Context::from_waker(Waker::noop());
    let mut shares = Vec::new();
    for _ in 0..50 {
        let options = ClientOptions::default().reconnect_pause(MS * 100, MS * 1_000).wait_for_link(true);
        let (callers, started) = client(options);
        let _outcome = callers.send(Request::new(Bytes::new()), None.into(), false);
        let mut lane = started().unwrap();
        let _ = lane.poll(&mut context);
        let mut now = Instant::now();
        for longest in [100, 200, 400, 800, 1_000, 1_000] {
            assert_eq!(lane.poll_at(now, &mut context), Poll::Ready(Step::Dial));
            lane.handle_dial_error(now, io::ErrorKind::ConnectionRefused.into());
            assert!(lane.poll_at(now, &mut context).is_pending());
            let until = lane.next_at().unwrap();
            shares.push((until - now).as_secs_f64() * 1_000.0 / f64::from(longest));
            now = until;
        }
    }
    assert!(shares.iter().all(|share| (0.499..=1.0).contains(share)), "{shares:?}");
    let short = shares.iter().filter(|share| **share < 0.75).count();
    assert!((60..240).contains(&short), "{short} of 300 are shortened by more than a quarter");
}

#[test]
fn what_waits_for_a_dial_that_fails_moves_to_a_lane_that_is_up_and_has_room() {
    let (callers, next) = client(ClientOptions::default().links(2).max_pending_requests(5));
    let send = || Some(callers.send(Request::new(Bytes::new()), None.into(), false));
    let mut outcomes: Vec<_> = (0..8).map(|_| send()).collect();
    let (mut up, mut down) = (next().unwrap(), next().unwrap());
    let (now, mut context) = (Instant::now(), Context::from_waker(Waker::noop()));
    for lane in [&mut up, &mut down] {
        assert_eq!((lane.poll_at(now, &mut context), lane.queue.len()), (Poll::Ready(Step::Dial), 4));
    }
    up.note_connected();
    outcomes[0] = None;
    let _ = up.poll(&mut context);
    down.handle_dial_error(now, io::ErrorKind::ConnectionRefused.into());
    // There was room for two; the others know.
    for (number, outcome) in outcomes.iter_mut().enumerate() {
        let end = outcome.as_mut().map(|outcome| Pin::new(outcome).poll(&mut context));
        let has_failed = matches!(end, Some(Poll::Ready(Err(ClientError::Connect { .. }))));
        assert_eq!(has_failed, number == 5 || number == 7, "{number}: {end:?}");
    }
    // One is given up on its way, the other where it has come to.
    outcomes[1] = None;
    let _ = up.poll(&mut context);
    let load = || callers.common.lanes.iter().map(|lane| lane.load.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!((up.queue.len(), load()), (4, vec![4, 0, 0, 0, 0, 0]));
    outcomes[3] = None;
    let _ = up.poll(&mut context);
    assert_eq!((up.queue.len(), load()), (3, vec![3, 0, 0, 0, 0, 0]));
    assert_eq!(std::iter::from_fn(|| up.queue.pop()).map(|job| job.ticket).collect::<Vec<_>>(), [2, 4, 6]);
}

#[test]
fn the_batch_delay_counts_from_when_the_caller_sent() {
    let delay = 10 * MS;
    let (callers, next) = client(ClientOptions::default().max_batch_delay(delay));
    let (now, mut context) = (Instant::now(), Context::from_waker(Waker::noop()));
    let send = |at| callers.send_at(at, Request::get("http://h/").body(Bytes::new()).unwrap(), None.into(), false);
    let _first = send(now);
    let mut lane = next().unwrap();
    assert_eq!(lane.poll_at(now, &mut context), Poll::Ready(Step::Dial));
    let mut session = lane.begin(now);
    let mut server = ServerConnection::new(ServerConfig::default(), now);
    for _ in 0..2 {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        session.take_commands(now);
        session.connection_mut().flush();
        session.connection_mut().poll_transmit(now, &mut up);
        server.handle_input(now, &up);
        server.poll_transmit(now, &mut down);
        session.connection_mut().handle_input(now, &down);
        session.deliver_events(now, &mut Channel::default()).unwrap();
    }
    assert!(matches!(server.poll_event(), Some(ServerEvent::Connected { .. })));
    assert!(matches!(server.poll_event(), Some(ServerEvent::Request { .. })));
    // The link is busy elsewhere when the next ones come.
    let _more = [send(now + 2 * MS), send(now + 3 * MS)];
    let _ = session.poll_commands(&mut context);
    session.take_commands(now + 8 * MS);
    assert_eq!(session.connection().next_timer(), Some((Timer::Flush, now + 2 * MS + delay)));
}

#[test]
fn who_comes_to_a_lane_that_dials_again_goes_to_one_that_is_up() {
    let (callers, next) = client(ClientOptions::default().links(2));
    let send = || callers.send(Request::new(Bytes::new()), None.into(), false);
    let _outcomes = [send(), send()];
    let (mut up, mut down) = (next().unwrap(), next().unwrap());
    let (mut now, mut context) = (Instant::now(), Context::from_waker(Waker::noop()));
    for lane in [&mut up, &mut down] {
        assert_eq!(lane.poll_at(now, &mut context), Poll::Ready(Step::Dial));
    }
    up.note_connected();
    down.handle_dial_error(now, io::ErrorKind::ConnectionRefused.into());
    now += Duration::from_secs(10);
    let _late = {
        // This one has chosen the lane before it knew.
        down.entrance().condition.set(None, false);
        while callers.next_lane() != 1 {}
        send()
    };
    let down_load = || callers.common.lanes[1].load.load(Ordering::Relaxed);
    let was_chosen = down_load() == 1;
    let mut dialling = down.dial(now, std::future::pending::<io::Result<()>>());
    assert!(dialling.poll_at(now, &mut context).is_pending());
    assert_eq!((was_chosen, down_load()), (true, 0));
}

#[test]
fn a_lane_that_cannot_be_started_harms_no_other_and_is_started_later() {
    // There is no thread to be had for the second one, at first.
    let lanes = Arc::new(Mutex::new(Vec::new()));
    let (started, refused) = (lanes.clone(), AtomicUsize::new(0));
    let start = move |lane: Lane| {
        let is_second = lock(&started).len() == 1;
        if is_second && refused.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        lock(&started).push(lane);
        Ok(())
    };
    let options = ClientOptions::default().links(2).reconnect_pause(MS, MS);
    let callers = Arc::new(Callers::new("somewhere".to_owned(), options, start));
    let mut context = Context::from_waker(Waker::noop());
    let mut outcomes = Vec::new();
    let began = Instant::now();
    while lock(&lanes).len() < 2 && began.elapsed() < Duration::from_secs(10) {
        outcomes.push(callers.send(Request::new(Bytes::new()), None.into(), false));
        std::thread::sleep(MS);
    }
    outcomes.push(callers.send(Request::new(Bytes::new()), None.into(), false));
    for outcome in &mut outcomes {
        assert!(Pin::new(outcome).poll(&mut context).is_pending());
    }
    for lane in lock(&lanes).iter_mut() {
        let _ = lane.poll(&mut context);
        assert!(!lane.queue.is_empty());
    }
    assert_eq!(lock(&lanes).iter().map(|lane| lane.queue.len()).sum::<usize>(), outcomes.len());
}

#[test]
fn who_cannot_be_started_at_all_is_told_why_each_time() {
    let start = |_| Err(io::ErrorKind::WouldBlock.into());
    let callers = Arc::new(Callers::new("somewhere".to_owned(), ClientOptions::default(), start));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        let mut outcome = callers.send(Request::new(Bytes::new()), None.into(), false);
        let end = Pin::new(&mut outcome).poll(&mut context);
        assert!(matches!(end, Poll::Ready(Err(ClientError::Connect { .. }))), "{end:?}");
    }
}
