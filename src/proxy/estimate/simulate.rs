//! The recorded traffic through a link of the real core, in virtual time: nothing waits, and nothing is guessed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;

use super::read::Exchange;
use crate::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Dictionary, Limits, RequestId, ResponseToken,
    ServerConfig, ServerConnection, ServerEvent, ServerTls,
};

/// A frame begins with the id of its request.
const ID_BYTES: u64 = 4;

/// How both ends of a link are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup<'a> {
    pub(super) compression: Compression,
    pub(super) level: Option<u8>,
    pub(super) delay: Duration,
    /// For zstd.
    pub(super) dictionary: Option<&'a Dictionary>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    /// Those that a link does not take, left out.
    pub(super) refused: u64,
    /// Requests as HTTP/1.1 messages, and on the wire.
    pub(super) http_up: u64,
    pub(super) wire_up: u64,
    /// The same of the responses.
    pub(super) http_down: u64,
    pub(super) wire_down: u64,
    /// Batches, both ways.
    pub(super) batches: u64,
    /// How much later answers were there, all together, than without the link.
    pub(super) waited: Duration,
    /// What the core took at each end: framing, compression, parsing.
    pub(super) near_cpu: Duration,
    pub(super) far_cpu: Duration,
}

impl Outcome {
    /// How many times smaller than HTTP.
    pub(super) fn times_smaller(&self) -> f64 {
        (self.http_up + self.http_down) as f64 / (self.wire_up + self.wire_down).max(1) as f64
    }

    /// CPU of both ends for each request, in microseconds.
    pub(super) fn cpu_us(&self) -> f64 {
        (self.near_cpu + self.far_cpu).as_secs_f64() * 1e6 / self.requests.max(1) as f64
    }
}

/// Sends `traffic` through a link at its own times.
///
/// # Errors
///
/// The link broke, in words.
pub(super) fn run(traffic: &[Exchange], setup: Setup<'_>) -> Result<Outcome, String> {
    let mut simulation = Simulation::new(setup);
    let mut coming = traffic.iter().enumerate().peekable();
    loop {
        let at = coming.peek().map(|(_, exchange)| simulation.start + exchange.at);
        let Some(now) = at.into_iter().chain(simulation.poll_timeout()).min() else { break };
        simulation.now = now;
        let mut due = Vec::new();
        while let Some((n, _)) = coming.next_if(|(_, exchange)| simulation.start + exchange.at <= now) {
            due.push(n);
        }
        simulation.turn(traffic, &due)?;
        if coming.peek().is_none() && simulation.is_done() {
            break;
        }
    }
    Ok(simulation.finish())
}

struct Simulation {
    start: Instant,
    now: Instant,
    client: ClientConnection,
    server: ServerConnection,
    /// Which exchange each request is, by its id; and of those that have not arrived, in order.
    sent: HashMap<RequestId, usize>,
    on_their_way: VecDeque<usize>,
    /// Answers by when they are there.
    answers: BinaryHeap<Reverse<(Instant, usize)>>,
    tokens: HashMap<usize, ResponseToken>,
    near: Meter,
    far: Meter,
    outcome: Outcome,
}

impl Simulation {
    fn new(setup: Setup<'_>) -> Self {
        // Where virtual time begins does not matter.
        let start = Instant::now();
        let no_limit = usize::MAX / 4;
        let limits = Limits {
            head_bytes: 1024 * 1024,
            header_count: Limits::MAX_HEADER_COUNT,
            body_bytes: no_limit,
            message_bytes: u64::MAX / 4,
            pending_requests: no_limit,
            abandoned_requests: no_limit,
            held_bytes: no_limit,
            output_bytes: no_limit,
        };
        let Setup { compression, level, delay, dictionary } = setup;
        let dictionaries = dictionary.into_iter().cloned().collect();
        let config = Config { compression, level, max_batch_delay: delay, dictionaries, limits, ..Config::default() };
        let client = ClientConfig { config: config.clone(), tls: false };
        let server = ServerConfig { config, tls: ServerTls::Off };
        let mut simulation = Self {
            start,
            now: start,
            client: ClientConnection::new(client, start),
            server: ServerConnection::new(server, start),
            sent: HashMap::new(),
            on_their_way: VecDeque::new(),
            answers: BinaryHeap::new(),
            tokens: HashMap::new(),
            near: Meter::default(),
            far: Meter::default(),
            outcome: Outcome::default(),
        };
        // The hellos are not what is asked about, and go over before the time begins.
        while simulation.client.is_handshaking() && simulation.turn(&[], &[]).is_ok() {}
        (simulation.near, simulation.far) = (Meter::default(), Meter::default());
        simulation
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let answer = self.answers.peek().map(|Reverse((at, _))| *at);
        answer.into_iter().chain(self.client.poll_timeout()).chain(self.server.poll_timeout()).min()
    }

    fn is_done(&self) -> bool {
        self.client.pending_requests() == 0 && self.answers.is_empty()
    }

    /// All that happens at this moment, until nothing moves any more.
    fn turn(&mut self, traffic: &[Exchange], due: &[usize]) -> Result<(), String> {
        let now = self.now;
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let (client, sent, on_their_way) = (&mut self.client, &mut self.sent, &mut self.on_their_way);
        let mut refused = 0;
        self.near.run(|| {
            client.handle_timeout(now);
            for n in due {
                match client.send_request(now, &traffic[*n].request, None) {
                    Ok(id) => {
                        sent.insert(id, *n);
                        on_their_way.push_back(*n);
                    }
                    Err(_) => refused += 1,
                }
            }
        });
        self.outcome.refused += refused;
        loop {
            let client = &mut self.client;
            self.near.run(|| client.poll_transmit(now, &mut up));
            self.serve(traffic, &mut up)?;
            let server = &mut self.server;
            self.far.run(|| server.poll_transmit(now, &mut down));
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            self.take_answers(traffic, &mut down)?;
        }
    }

    /// The far end: takes what came, and answers what is due.
    fn serve(&mut self, traffic: &[Exchange], up: &mut Vec<u8>) -> Result<(), String> {
        let (now, server) = (self.now, &mut self.server);
        let mut arrived = Vec::new();
        let taken = self.far.run(|| {
            server.handle_timeout(now);
            let taken = server.handle_input(now, up);
            while let Some(event) = server.poll_event() {
                arrived.push(event);
            }
            taken
        });
        up.drain(..taken);
        for event in arrived {
            match event {
                ServerEvent::Request { token, .. } => {
                    let n = self.on_their_way.pop_front().ok_or("a request came that was not sent")?;
                    let exchange = &traffic[n];
                    self.answers.push(Reverse((now.max(self.start + exchange.at + exchange.took), n)));
                    self.tokens.insert(n, token);
                }
                ServerEvent::Closed { error } => return Err(format!("the far end closed the link: {error:?}")),
                ServerEvent::Refused { error, .. } => {
                    self.on_their_way.pop_front();
                    return Err(format!("the far end refused a request: {error}"));
                }
                _ => {}
            }
        }
        let mut due = Vec::new();
        while let Some(Reverse((at, n))) = self.answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            debug_assert!(at <= now);
            self.answers.pop();
            due.extend(self.tokens.remove(&n).map(|token| (token, n)));
        }
        let server = &mut self.server;
        self.far
            .run(|| due.into_iter().try_for_each(|(token, n)| server.send_response(now, token, &traffic[n].response)))
            .map_err(|error| format!("an answer cannot be sent: {error:?}"))
    }

    fn take_answers(&mut self, traffic: &[Exchange], down: &mut Vec<u8>) -> Result<(), String> {
        let (now, client) = (self.now, &mut self.client);
        let mut events = Vec::new();
        let taken = self.near.run(|| {
            let taken = client.handle_input(now, down);
            while let Some(event) = client.poll_event() {
                events.push(event);
            }
            taken
        });
        down.drain(..taken);
        for event in events {
            match event {
                ClientEvent::Response { id, .. } => {
                    let n = self.sent.remove(&id).ok_or("an answer came to nothing")?;
                    let there = self.start + traffic[n].at + traffic[n].took;
                    self.outcome.waited += now.saturating_duration_since(there);
                    self.outcome.requests += 1;
                }
                ClientEvent::Failed { error, .. } => return Err(format!("a request failed: {error:?}")),
                ClientEvent::Closed { error } => return Err(format!("the near end closed the link: {error:?}")),
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        let (near, far) = (self.client.stats(), self.server.stats());
        Outcome {
            http_up: near.plain_out - ID_BYTES * near.frames_out,
            wire_up: near.wire_out,
            http_down: far.plain_out - ID_BYTES * far.frames_out,
            wire_down: far.wire_out,
            batches: near.batches_out + far.batches_out,
            near_cpu: self.near.total(),
            far_cpu: self.far.total(),
            ..self.outcome
        }
    }
}

/// CPU time of this thread, without what it takes to ask for it.
#[derive(Debug, Default)]
struct Meter {
    taken: Duration,
    runs: u32,
}

impl Meter {
    fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = ThreadTime::now();
        let result = work();
        self.taken += began.elapsed();
        self.runs += 1;
        result
    }

    fn total(&self) -> Duration {
        const SAMPLES: u32 = 1_000;
        let began = ThreadTime::now();
        let mut idle = Duration::ZERO;
        for _ in 0..SAMPLES {
            idle += ThreadTime::now().elapsed();
        }
        debug_assert!(idle <= began.elapsed());
        self.taken.saturating_sub(idle / SAMPLES * self.runs)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};

    use super::*;

    fn traffic(count: u64, gap: Duration) -> Vec<Exchange> {
        let exchange = |n: u64| Exchange {
            at: gap * n as u32,
            took: Duration::from_millis(3),
            request: Request::post("/x").header("host", "h").body(Bytes::from(format!("{{\"number\":{n}}}"))).unwrap(),
            response: Response::new(Bytes::from(format!("the answer to number {n} is this"))),
        };
        (0..count).map(exchange).collect()
    }

    fn setup(compression: Compression, delay_ms: u64) -> Setup<'static> {
        Setup { compression, level: None, delay: Duration::from_millis(delay_ms), dictionary: None }
    }

    #[test]
    fn every_request_is_answered_whatever_the_setup() {
        let traffic = traffic(200, Duration::from_micros(250));
        for compression in Compression::ALL {
            for delay in [0, 1, 5] {
                let outcome = run(&traffic, setup(compression, delay)).unwrap();
                assert_eq!((outcome.requests, outcome.refused), (200, 0), "{compression:?} {delay}");
                // Fields that every message has, such as Content-Length, and the bodies.
                assert!(outcome.http_up > 200 * 40 && outcome.http_down > 200 * 50);
            }
        }
    }

    #[test]
    fn batches_come_of_the_recorded_times() {
        let traffic = traffic(100, Duration::from_millis(1));
        let none = setup(Compression::None, 0);
        let alone = run(&traffic, none).unwrap();
        assert_eq!(alone.batches, 200, "each message leaves at once");
        assert_eq!(alone.waited, Duration::ZERO);
        let shared = run(&traffic, setup(Compression::None, 5)).unwrap();
        // A batch begins with a message and takes those of the next 5 ms in: 6 of them, or 5 with the first.
        assert!((30..=40).contains(&shared.batches), "{shared:?}");
        assert!(shared.waited > Duration::from_millis(100), "{shared:?}");
        let sparse = self::traffic(100, Duration::from_secs(1));
        assert_eq!(run(&sparse, setup(Compression::None, 5)).unwrap().batches, 200);
    }

    #[test]
    fn what_is_alike_gets_smaller_and_nothing_is_lost_without_compression() {
        let traffic = traffic(500, Duration::from_micros(100));
        let none = run(&traffic, setup(Compression::None, 0)).unwrap();
        assert!((0.9..1.0).contains(&none.times_smaller()), "{none:?}");
        let zstd = run(&traffic, setup(Compression::Zstd, 1)).unwrap();
        assert!(zstd.times_smaller() > 4.0 && zstd.http_up == none.http_up, "{zstd:?}");
        assert!(zstd.near_cpu > Duration::ZERO && zstd.far_cpu > Duration::ZERO);
    }
}
