//! The level at which a link compresses follows the time that there is for it.

use std::time::{Duration, Instant};

use crate::proto::Connection;

/// Over how long the share is taken.
const INTERVAL: Duration = Duration::from_millis(250);
/// The level rises after so long at less than half of the share. A change of zstd's level costs the history, and so is
/// nothing to do back and forth.
const CALM: Duration = Duration::from_secs(5);
/// Twice as long after each rise that had to be taken back, and no longer than this: a level that costs more than twice
/// as much as the one below, or load in bursts, would move it for ever otherwise.
const LONGEST_CALM: Duration = Duration::from_secs(80);

/// Lowers the level of a link when compressing takes more than its share of the time, and raises it again.
///
/// The time is that of the clock, in which others may have had the core: also then a lower level is what helps. It is
/// the time of this link alone, and of what it sends.
#[derive(Debug)]
pub(super) struct Throttle {
    most: Option<f64>,
    /// The level that was chosen: the link comes back to it.
    top: Option<u8>,
    interval: Option<Instant>,
    /// Time spent in the interval.
    busy: Duration,
    /// For how long the share has been less than half.
    calm: Duration,
    /// How long that must be for the level to rise to one that was too much; to any other it is [`CALM`].
    enough: Duration,
    /// When it last rose, unless it has fallen since.
    risen: Option<Instant>,
    /// The level that was too much when it was last tried.
    too_much: Option<u8>,
}

impl Throttle {
    pub(super) fn new(most: Option<f64>) -> Self {
        Self {
            most,
            top: None,
            interval: None,
            busy: Duration::ZERO,
            calm: Duration::ZERO,
            enough: CALM,
            risen: None,
            too_much: None,
        }
    }

    /// Does what compresses, and changes the level if it is time for that.
    pub(super) fn watch<C: Connection, T>(
        &mut self,
        connection: &mut C,
        clock: impl Fn() -> Instant,
        compress: impl FnOnce(&mut C) -> T,
    ) -> T {
        let Some(most) = self.most else { return compress(connection) };
        let (begin, before) = (clock(), connection.stats().plain_out);
        let made = compress(connection);
        // A server that has compressed nothing may not know yet how it will, and so not at which level.
        if connection.stats().plain_out > before
            && let Some(level) = connection.level()
            && let Some(level) = self.note(most, begin, clock(), level)
        {
            connection.set_level(level);
        }
        made
    }

    /// From `begin` to `end` something was compressed at this level; returns another, if it is time for that.
    fn note(&mut self, most: f64, begin: Instant, end: Instant, level: u8) -> Option<u8> {
        let top = *self.top.get_or_insert(level);
        self.busy += end.saturating_duration_since(begin);
        let elapsed = end.saturating_duration_since(*self.interval.get_or_insert(begin));
        // What the whole interval may take can be used up before it is over: then it is too much, however it goes on.
        let share = self.busy.as_secs_f64() / elapsed.max(INTERVAL).as_secs_f64();
        if elapsed < INTERVAL && share <= most {
            return None;
        }
        (self.interval, self.busy) = (Some(end), Duration::ZERO);
        if share > most / 2.0 {
            self.calm = Duration::ZERO;
        } else {
            self.calm += elapsed;
        }
        if share > most && level > 1 {
            if let Some(at) = self.risen.take() {
                let has_held = end.saturating_duration_since(at) >= self.enough;
                (self.enough, self.too_much) = match has_held {
                    true => (CALM, None),
                    false => ((self.enough * 2).min(LONGEST_CALM), Some(level)),
                };
            }
            // By halves: the higher, the more a step costs.
            return Some(level / 2);
        }
        let is_too_much = |level: u8| self.too_much.is_some_and(|too_much| level >= too_much);
        let enough = if is_too_much(level + 1) { self.enough } else { CALM };
        if self.calm >= enough && level < top {
            if is_too_much(level) {
                // It has held.
                (self.enough, self.too_much) = (CALM, None);
            }
            self.calm = Duration::ZERO;
            self.risen = Some(end);
            return Some(level + 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use http::Request;

    use super::*;
    use crate::proto::{
        ClientConfig, ClientConnection, Compression, Config, ServerConfig, ServerConnection, ServerEvent,
    };

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    /// Compresses for `busy` of each 10 ms, for so many of them; returns the level after each change.
    fn run(throttle: &mut Throttle, now: &mut Instant, level: &mut u8, busy: Duration, times: u32) -> Vec<u8> {
        run_at(throttle, now, level, |_| busy, times)
    }

    /// The same if it depends on the level for how long.
    fn run_at(
        throttle: &mut Throttle,
        now: &mut Instant,
        level: &mut u8,
        busy: impl Fn(u8) -> Duration,
        times: u32,
    ) -> Vec<u8> {
        let mut changes = Vec::new();
        for _ in 0..times {
            if let Some(next) = throttle.note(throttle.most.unwrap(), *now, *now + busy(*level), *level) {
                *level = next;
                changes.push(next);
            }
            *now += 10 * MS;
        }
        changes
    }

    #[test]
    fn the_level_falls_under_load_and_rises_when_it_has_long_been_calm() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 9);
        assert_eq!(run(&mut throttle, &mut now, &mut level, 4 * MS, 1000), [0u8; 0], "below its share");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 6 * MS, 100), [4, 2, 1], "in less than a second");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 9 * MS, 1000), [0u8; 0], "no lower than 1");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 3 * MS, 1000), [0u8; 0], "not calm enough to rise");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 2 * MS, 1100), [2, 3], "a step after five seconds");
        assert_eq!(run(&mut throttle, &mut now, &mut level, MS, 4000), [4, 5, 6, 7, 8, 9], "no higher than it was");
    }

    #[test]
    fn what_is_used_up_is_not_waited_for() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.1)), Instant::now(), 9);
        assert_eq!(run(&mut throttle, &mut now, &mut level, 10 * MS, 3), [4], "25 ms of 250 are over");
        assert_eq!(run(&mut throttle, &mut now, &mut level, 10 * MS, 6), [2, 1]);
    }

    #[test]
    fn a_link_that_was_idle_has_been_calm() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 3);
        assert_eq!(run(&mut throttle, &mut now, &mut level, 9 * MS, 100), [1]);
        now += 60 * S;
        assert_eq!(run(&mut throttle, &mut now, &mut level, MS, 1), [2]);
    }

    #[test]
    fn a_level_that_costs_too_much_is_tried_less_and_less_often() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 3);
        // Less than half of the share below, and more than all of it above.
        let busy = |level| if level > 1 { 6 * MS } else { 2 * MS };
        let changes = run_at(&mut throttle, &mut now, &mut level, busy, 60_000);
        assert_eq!(changes.iter().filter(|level| **level == 2).count(), 10, "after 5, 10, 20, 40 and then each 80 s");
        assert!(changes.chunks(2).all(|pair| pair[0] == 1 && pair.get(1).is_none_or(|level| *level == 2)));
        // And no less often than that, nor for ever.
        assert_eq!(run(&mut throttle, &mut now, &mut level, MS, 20_000), [2, 3]);
    }

    #[test]
    fn that_lower_levels_have_held_is_no_reason_to_try_one_sooner() {
        let (mut throttle, mut now, mut level) = (Throttle::new(Some(0.5)), Instant::now(), 6);
        let busy = |level| if level > 4 { 6 * MS } else { 2 * MS };
        let changes = run_at(&mut throttle, &mut now, &mut level, busy, 60_000);
        assert_eq!(changes[..9], [3, 4, 5, 2, 3, 4, 5, 2, 3]);
        assert_eq!(
            changes.iter().filter(|level| **level == 5).count(),
            9,
            "after 5, 10, 20, 40 and then each 80 s at 4"
        );
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_server_comes_back_to_the_level_that_it_has_once_it_knows_how_it_compresses() {
        // R-zstd-server: the default level of DEFLATE is another than that of zstd.
        let now = Instant::now();
        let mut throttle = Throttle::new(Some(0.5));
        let mut transmit = |server: &mut ServerConnection| {
            let mut out = Vec::new();
            throttle.watch(server, || now, |it| it.poll_transmit(now, &mut out));
            (out, throttle.top)
        };
        let config = Config { prefer_zstd: true, ..Config::default() };
        let mut server = ServerConnection::new(ServerConfig { config, ..ServerConfig::default() }, now);
        assert_eq!(transmit(&mut server), (Vec::new(), None));
        server.handle_input(now, b"httpteleport\x00\x03\x00");
        assert_eq!(transmit(&mut server).0.len(), 15);
        let mut client = ClientConnection::new(
            ClientConfig { config: Config { compression: Compression::Zstd, ..Config::default() }, tls: false },
            now,
        );
        client.handle_input(now, b"httpteleport\x00\x03\x00");
        let request = Request::get("http://h.example/").body(Bytes::new()).unwrap();
        client.send_request(now, &request, None).unwrap();
        let mut wire = Vec::new();
        client.poll_transmit(now, &mut wire);
        server.handle_input(now, &wire[15..]);
        while let Some(event) = server.poll_event() {
            if let ServerEvent::Request { token, .. } = event {
                server.send_response(now, token, &http::Response::new(Bytes::new())).unwrap();
            }
        }
        assert_eq!(transmit(&mut server).1, Some(3));
    }

    #[test]
    fn under_load_that_rises_the_level_falls_before_the_queue_grows() {
        let mut world = World::new(Some(0.5));
        world.pass(60 * S, 10.0..400.0);
        world.pass(20 * S, 400.0..400.0);
        assert_eq!(world.levels, [9, 4, 5, 2, 1], "where 5 is still few enough, it is tried");
        assert!(world.at_fall.unwrap() <= 1 && world.longest <= 8, "{:?}, {}", world.at_fall, world.longest);
        // It comes back with calm, and nothing is lost by any of that.
        world.pass(60 * S, 400.0..10.0);
        world.pass(60 * S, 10.0..10.0);
        assert_eq!(world.levels[5..], [2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(world.longest <= 8 && world.queue() <= 1, "{}", world.longest);
        assert_eq!(world.received + world.queue(), world.came as u64);
    }

    #[test]
    fn under_load_that_is_there_at_once_the_queue_grows_for_a_moment_only() {
        let mut world = World::new(Some(0.5));
        world.pass(5 * S, 10.0..10.0);
        world.pass(10 * S, 400.0..400.0);
        assert_eq!(world.levels, [9, 4, 2, 1]);
        assert!(world.longest < 400 && world.queue() <= 8, "{}, {}", world.longest, world.queue());
        // What it would be otherwise.
        let mut world = World::new(None);
        world.pass(10 * S, 400.0..400.0);
        assert!(world.levels == [9] && world.queue() > 2000, "{}", world.queue());
    }

    /// A client that sends oneways to a server, on a link that does all its work in turn, as a task does: what comes
    /// while it compresses waits, and shares the next batch. Compressing costs what a table says.
    struct World {
        now: Cell<Instant>,
        throttle: Throttle,
        client: ClientConnection,
        server: ServerConnection,
        /// Requests that have come so far, and one that is about to.
        came: f64,
        received: u64,
        levels: Vec<u8>,
        /// The longest queue, and how long it was when the level first fell.
        longest: u64,
        at_fall: Option<u64>,
    }

    /// How many tenths of a millisecond a request takes at each level, and what else it takes on the link: 111 a second
    /// are all that it bears at level 9, and 500 at level 1.
    const COSTS: [u32; 10] = [0, 10, 14, 18, 25, 32, 40, 50, 62, 80];
    const REST: Duration = MS;

    impl World {
        fn new(most: Option<f64>) -> Self {
            let begin = Instant::now();
            let config = Config { compression: Compression::Deflate, level: Some(9), ..Config::default() };
            let mut world = Self {
                now: Cell::new(begin),
                throttle: Throttle::new(most),
                client: ClientConnection::new(ClientConfig { config, ..ClientConfig::default() }, begin),
                server: ServerConnection::new(ServerConfig::default(), begin),
                came: 0.0,
                received: 0,
                levels: vec![9],
                longest: 0,
                at_fall: None,
            };
            world.transmit();
            let mut hello = Vec::new();
            world.server.poll_transmit(begin, &mut hello);
            world.client.handle_input(begin, &hello);
            world
        }

        /// For so long, with a rate of requests a second that changes evenly.
        fn pass(&mut self, time: Duration, rate: std::ops::Range<f64>) {
            let begin = self.now.get();
            let mut told = begin;
            while told < begin + time {
                let part = told.saturating_duration_since(begin).as_secs_f64() / time.as_secs_f64();
                let rate = rate.start + (rate.end - rate.start) * part;
                let passed = self.now.get() - told;
                told = self.now.get();
                let before = self.came as u64;
                self.came += rate * passed.as_secs_f64();
                for number in before..self.came as u64 {
                    let body = Bytes::from(format!("number {number} of many that are alike"));
                    let request = Request::post("http://h.example/").body(body).unwrap();
                    self.client.send_oneway(told, &request).unwrap();
                }
                let queue = self.queue();
                self.longest = self.longest.max(queue);
                if self.transmit() == 0 {
                    self.now.set(self.now.get() + MS);
                }
                if self.client.level() != self.levels.last().copied() {
                    self.levels.extend(self.client.level());
                    self.at_fall.get_or_insert(queue);
                }
            }
        }

        /// Requests that have come and not left.
        fn queue(&self) -> u64 {
            self.came as u64 - self.client.stats().frames_out
        }

        fn transmit(&mut self) -> usize {
            let (now, mut out) = (&self.now, Vec::new());
            let before = self.client.stats().frames_out;
            let made = self.throttle.watch(
                &mut self.client,
                || now.get(),
                |client| {
                    let cost = MS / 10 * COSTS[usize::from(client.level().unwrap())];
                    let made = client.poll_transmit(now.get(), &mut out);
                    now.set(now.get() + cost * (client.stats().frames_out - before) as u32);
                    made
                },
            );
            now.set(now.get() + REST * (self.client.stats().frames_out - before) as u32);
            let mut taken = 0;
            loop {
                taken += self.server.handle_input(now.get(), &out[taken..]);
                let before = self.received;
                while let Some(event) = self.server.poll_event() {
                    match event {
                        ServerEvent::Connected { .. } => {}
                        ServerEvent::Oneway { .. } => self.received += 1,
                        event => panic!("{event:?}"),
                    }
                }
                if taken == out.len() && self.received == before {
                    return made;
                }
            }
        }
    }
}
