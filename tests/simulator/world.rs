//! The run of one scenario: events in virtual time, those of one moment in any order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Outcome, Tally};
use super::link::{Link, Todo};
use super::messages::{METHODS, STATUSES, body};
use super::random::Random;
use super::scenario::Scenario;

/// Far more than there is to do at one moment.
const MOST_AT_ONCE: usize = 50_000;

enum Event {
    Connect,
    /// A caller has a wish.
    Wish,
    Wake {
        link: usize,
        client: bool,
    },
    Tls {
        link: usize,
        client: bool,
    },
    Answer {
        link: usize,
        tag: usize,
    },
    Broken {
        link: usize,
        client: bool,
    },
    ServerClose {
        link: usize,
    },
    /// No wish comes any more.
    Finish,
}

pub struct World {
    scenario: Scenario,
    random: Random,
    begin: Instant,
    now: Instant,
    /// By time, then by chance.
    queue: BTreeMap<(Instant, u64), Event>,
    links: Vec<Link>,
    /// The next wake-ups of each link's client and server.
    wakes: Vec<[Option<Instant>; 2]>,
    ledger: Ledger,
    /// Wishes that wait for the next link.
    waiting: Vec<usize>,
    flooded: bool,
    finishing: bool,
    talks: bool,
    happened: u64,
}

impl World {
    /// `begin` is any moment; `talks`: tell what happens.
    pub fn new(seed: u64, begin: Instant, talks: bool) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::new(&mut random);
        if talks {
            println!("{scenario:#?}");
        }
        Self {
            scenario,
            random,
            begin,
            now: begin,
            queue: BTreeMap::new(),
            links: Vec::new(),
            wakes: Vec::new(),
            ledger: Ledger::default(),
            waiting: Vec::new(),
            flooded: false,
            finishing: false,
            talks,
            happened: 0,
        }
    }

    /// Runs until nothing happens any more; panics where a law is broken. Returns how much happened and
    /// how long it took.
    pub fn run(mut self, tally: &mut Tally) -> (u64, Duration) {
        self.after(Duration::ZERO, Event::Connect);
        self.after(Duration::ZERO, Event::Wish);
        self.after(self.scenario.until, Event::Finish);
        let mut at_once = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            at_once = if at > self.now { 0 } else { at_once + 1 };
            assert!(at_once < MOST_AT_ONCE, "law 4: time stands still");
            self.now = at;
            self.happened += 1;
            self.happen(event);
        }
        for wish in std::mem::take(&mut self.waiting) {
            self.ledger.end(wish, Outcome::Refused);
        }
        self.links.iter().for_each(|link| link.check(&self.ledger, tally));
        self.ledger.check(self.scenario.calm, tally);
        (self.happened, self.now - self.begin)
    }

    fn after(&mut self, wait: Duration, event: Event) {
        let chance = self.random.next();
        self.queue.insert((self.now + wait, chance), event);
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            println!("{:>10?} {}", self.now - self.begin, what());
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connect => {
                self.say(|| format!("link {} begins", self.links.len()));
                self.links.push(Link::new(self.links.len(), &self.scenario, self.now));
                self.wakes.push([None; 2]);
                for wish in std::mem::take(&mut self.waiting) {
                    self.send(wish);
                }
                let link = self.links.len() - 1;
                self.drive(link, true);
                self.drive(link, false);
                if self.finishing {
                    let wait = self.random.up_to(Duration::from_millis(20));
                    self.after(wait, Event::Finish);
                }
            }
            Event::Wish if self.finishing => {}
            Event::Wish => {
                self.wish();
                let wait = self.random.up_to(self.scenario.pace * 2);
                self.after(wait, Event::Wish);
            }
            Event::Wake { link, client } => {
                let wake = &mut self.wakes[link][usize::from(!client)];
                if *wake == Some(self.now) {
                    *wake = None;
                } else if !self.random.percent(10) {
                    return;
                }
                self.drive(link, client);
            }
            Event::Tls { link, client } => {
                self.say(|| format!("link {link}: TLS is established, client: {client}"));
                if client {
                    self.links[link].client.tls_established(self.now);
                } else {
                    self.links[link].server.tls_established(self.now);
                }
                self.drive(link, client);
            }
            Event::Answer { link, tag } => self.answer(link, tag),
            Event::Broken { link, client } => {
                self.say(|| format!("link {link}: is broken, client: {client}"));
                if client {
                    self.links[link].client.transport_error(self.now);
                } else {
                    self.links[link].server.transport_error(self.now);
                }
                self.drive(link, client);
            }
            Event::ServerClose { link } => {
                self.say(|| format!("link {link}: the server closes"));
                if self.links[link].server.closed.is_none() {
                    self.links[link].server.close(self.now);
                    self.drive(link, false);
                }
            }
            Event::Finish => {
                self.finishing = true;
                let link = self.links.len() - 1;
                self.close(link);
            }
        }
    }

    // Callers.

    fn wish(&mut self) {
        let (now, link) = (self.now, self.links.len().wrapping_sub(1));
        let Some(current) = self.links.get_mut(link) else { return };
        let is_last = link + 1 == self.scenario.links;
        if is_last && !current.is_open() && self.random.percent(90) {
            return;
        }
        if self.random.percent(self.scenario.cancels) {
            current.cancel(now, &mut self.ledger, &mut self.random);
        } else if self.random.percent(self.scenario.closes) && (!self.scenario.calm || self.links.len() == 1) {
            if !self.scenario.calm && self.random.percent(40) {
                let wait = self.random.up_to(Duration::from_millis(5));
                self.after(wait, Event::ServerClose { link });
            } else {
                self.close(link);
            }
        } else if self.random.percent(self.scenario.wraps) {
            self.links[link].client.conn.set_next_id(self.scenario.first_id);
        } else if self.random.percent(self.scenario.cuts) {
            self.cut(link);
        } else if self.random.percent(8) {
            self.say(|| format!("link {link}: flush"));
            if self.random.percent(50) {
                self.links[link].client.flush();
            } else {
                self.links[link].server.flush();
                self.drive(link, false);
            }
        } else {
            let flood = self.scenario.floods && !std::mem::replace(&mut self.flooded, true);
            let count = if flood { self.random.within(300..600) } else { self.random.pick(&[1, 1, 1, 2, 5]) };
            for _ in 0..count {
                self.new_request(link, flood);
            }
            if self.random.percent(self.scenario.lags) {
                let wait = self.random.up_to(Duration::from_millis(2));
                self.wake(link, true, now + wait);
                return;
            }
        }
        self.drive(link, true);
    }

    fn new_request(&mut self, link: usize, small: bool) {
        let most = if small { 10 } else { self.scenario.bodies[0] };
        let length = self.random.size(most);
        let number = self.ledger.next_tag();
        let content = body(number, length, self.random.percent(70));
        if self.random.percent(12) {
            self.say(|| format!("link {link}: oneway {number} of {length}"));
            self.links[link].oneway(self.now, &mut self.ledger, content);
            return;
        }
        let method = self.random.pick(&METHODS);
        let content = if super::messages::is_bodiless(method) { Default::default() } else { content };
        let allowed = self.random.percent(20);
        let wish = self.ledger.wish(method, content, allowed);
        self.send(wish);
    }

    /// Sends a wish on the link that there is, or keeps it for the next.
    fn send(&mut self, wish: usize) {
        let Some(link) = self.links.last_mut() else { return self.waiting.push(wish) };
        let limit = Duration::from_millis(30);
        let deadline = self.random.percent(self.scenario.deadlines).then(|| self.random.up_to(limit));
        let (is_open, tag) = (link.is_open(), self.ledger.next_tag());
        let sent = link.request(self.now, &mut self.ledger, wish, deadline);
        if !sent && !is_open && self.links.len() < self.scenario.links {
            self.waiting.push(wish);
        } else if !sent {
            self.ledger.end(wish, Outcome::Refused);
        }
        self.say(|| {
            let wish = &self.ledger.wishes[wish];
            format!("request {tag}: {} of {}, deadline {deadline:?}, sent: {sent}", wish.method, wish.body.len())
        });
    }

    fn close(&mut self, link: usize) {
        if self.links[link].client.closed.is_none() {
            self.say(|| format!("link {link}: the client closes"));
            self.links[link].client.close(self.now);
            self.drive(link, true);
        }
    }

    /// The network fails, in one of its ways.
    fn cut(&mut self, link: usize) {
        let kind = self.random.within(0..4);
        self.say(|| format!("link {link}: cut {kind}"));
        let (first, second) = (self.random.size(5_000), self.random.size(5_000));
        let current = &mut self.links[link];
        match kind {
            0 => current.up.cut_after(first),
            1 => current.down.cut_after(first),
            // The client has nothing more to say, it believes.
            2 => current.up.finish(self.now, &mut self.random),
            _ => {
                current.up.break_at(first);
                current.down.break_at(second);
                for client in [true, false] {
                    let wait = self.random.up_to(Duration::from_millis(20));
                    self.after(wait, Event::Broken { link, client });
                }
                self.plan(link);
            }
        }
    }

    // Handlers.

    fn answer(&mut self, link: usize, tag: usize) {
        if self.random.percent(self.scenario.discards) {
            self.say(|| format!("link {link}: request {tag} gets no answer"));
            self.links[link].discard(tag);
        } else {
            let status = self.random.pick(&STATUSES);
            let length = self.random.size(self.scenario.bodies[1]);
            let content = body(tag + 1_000_000, length, self.random.percent(70));
            let done = self.links[link].answer(self.now, &mut self.ledger, tag, status, content);
            self.say(|| format!("link {link}: request {tag} is answered with {status} and {length}: {done}"));
            if !done {
                // There is no room, or the answer is too long.
                self.after(Duration::from_micros(500), Event::Answer { link, tag });
            }
        }
        self.drive(link, false);
    }

    // Drivers.

    fn drive(&mut self, link: usize, client: bool) {
        let (now, current) = (self.now, &mut self.links[link]);
        let todo = if client {
            current.drive_client(now, &mut self.random, &mut self.ledger)
        } else {
            current.drive_server(now, &mut self.random, &mut self.ledger)
        };
        for todo in todo {
            match todo {
                Todo::Tls { client } if self.scenario.calm || self.random.percent(95) => {
                    let wait = self.random.up_to(Duration::from_millis(8));
                    self.after(wait, Event::Tls { link, client });
                }
                Todo::Tls { .. } => {}
                Todo::Handle(tag) => {
                    let wait = self.random.up_to(self.scenario.work);
                    self.after(wait, Event::Answer { link, tag });
                }
                Todo::Again(wish) if self.links.len() < self.scenario.links => self.waiting.push(wish),
                Todo::Again(wish) => self.ledger.end(wish, Outcome::Failed),
                Todo::ClientClosed => {
                    self.say(|| format!("link {link}: the client is closed: {:?}", self.links[link].client.closed));
                    let wants = !self.finishing || !self.waiting.is_empty();
                    if wants && self.links.len() < self.scenario.links {
                        let wait = self.random.up_to(Duration::from_millis(3));
                        self.after(wait, Event::Connect);
                    }
                }
            }
        }
        self.plan(link);
    }

    /// Sees to it that both ends of a link are woken when there is something for them.
    fn plan(&mut self, link: usize) {
        let (now, current) = (self.now, &mut self.links[link]);
        let wakes = [
            current.client.next_wake(now, &mut self.random, &current.down, &current.up),
            current.server.next_wake(now, &mut self.random, &current.up, &current.down),
        ];
        for (client, at) in [true, false].into_iter().zip(wakes) {
            if let Some(at) = at {
                self.wake(link, client, at);
            }
        }
    }

    /// Sees to it that one end is driven then, or before.
    fn wake(&mut self, link: usize, client: bool, at: Instant) {
        let planned = &mut self.wakes[link][usize::from(!client)];
        if planned.is_none_or(|planned| at < planned) {
            *planned = Some(at);
            self.after(at - self.now, Event::Wake { link, client });
        }
    }
}
