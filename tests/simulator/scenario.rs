//! What a seed chooses before anything happens: the two configurations, the network, the drivers, the callers.

use std::time::Duration;

use httpteleport::proto::{ClientConfig, Compression, Config, Limits, ServerConfig, ServerTls};

use super::driver::Manners;
use super::random::Random;
use super::wire::WireSetting;

const MS: Duration = Duration::from_millis(1);

/// Everything but the order of events.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nothing goes wrong and nobody gives up: every request must get its response.
    pub calm: bool,
    pub client: ClientConfig,
    pub server: ServerConfig,
    pub first_id: u32,
    /// Client to server, server to client.
    pub wires: [WireSetting; 2],
    /// Of the client, of the server.
    pub manners: [Manners; 2],
    /// Most links, one after another.
    pub links: usize,
    /// How long callers have wishes, and how long they think in between.
    pub until: Duration,
    pub pace: Duration,
    /// Longest body of a request, of a response.
    pub bodies: [usize; 2],
    /// How long handlers take at most.
    pub work: Duration,
    /// How often, in percent of wishes.
    pub cancels: usize,
    pub deadlines: usize,
    pub discards: usize,
    pub closes: usize,
    pub cuts: usize,
    /// The counter of ids comes round again.
    pub wraps: usize,
    /// Drivers are told of commands late.
    pub lags: usize,
    /// Now and then hundreds of requests at once.
    pub floods: bool,
}

impl Scenario {
    pub fn new(random: &mut Random) -> Self {
        let calm = random.percent(30);
        let large = random.percent(4);
        let longest = if large { 150_000 } else { random.pick(&[0, 200, 2_000, 8_000]) };
        let tls = random.percent(20);
        let server_tls = match (calm, tls) {
            (true, true) => random.pick(&[ServerTls::Optional, ServerTls::Required]),
            (true, false) => random.pick(&[ServerTls::Optional, ServerTls::Off]),
            (false, true) if random.percent(90) => ServerTls::Optional,
            (false, _) if random.percent(90) => random.pick(&[ServerTls::Optional, ServerTls::Off]),
            _ => random.pick(&[ServerTls::Off, ServerTls::Required]),
        };
        let server = ServerConfig { config: config(random, calm), tls: server_tls };
        let wires = [(); 2].map(|()| wire(random, large));
        // What a server refuses it answers before its events are heard: then its output is known only later.
        let may_refuse = server.config.limits.body_bytes < Limits::default().body_bytes;
        let hearing = if may_refuse { usize::MAX } else { random.pick(&[1, 3, usize::MAX, usize::MAX]) };
        let storm = |random: &mut Random, most: usize| {
            if calm || random.percent(40) { 0 } else { random.within(0..most) }
        };
        Self {
            calm,
            client: ClientConfig { config: config(random, calm), tls },
            server,
            first_id: random.pick(&[1, 1, 7, u32::MAX - 3]),
            wires,
            manners: [manners(random, longest), Manners { hearing, ..manners(random, longest) }],
            links: if calm { 2 } else { random.within(1..5) },
            until: random.pick(&[1, 5, 20, 20, 60]) * MS,
            pace: random.pick(&[Duration::from_micros(500), MS, 4 * MS]),
            bodies: [(); 2].map(|()| longest),
            work: random.pick(&[Duration::ZERO, MS, 10 * MS, 60 * MS]),
            cancels: storm(random, 15),
            deadlines: storm(random, 100),
            discards: storm(random, 10),
            closes: if calm { 2 } else { storm(random, 5) },
            cuts: storm(random, 6),
            wraps: storm(random, 10),
            lags: random.pick(&[0, 0, 30]),
            floods: random.percent(4),
        }
    }
}

fn config(random: &mut Random, calm: bool) -> Config {
    let long = Duration::from_secs(3600);
    let mut config = Config {
        compression: random.pick(&Compression::ALL),
        max_batch_delay: random.pick(&[Duration::ZERO, Duration::from_micros(300), 3 * MS, 20 * MS]),
        hello_timeout: long,
        drain_timeout: long,
        ..Config::default()
    };
    if calm {
        return config;
    }
    if random.percent(30) {
        config.hello_timeout = random.pick(&[2 * MS, 10 * MS, 50 * MS]);
    }
    if random.percent(70) {
        config.drain_timeout = random.pick(&[Duration::ZERO, MS, 20 * MS, 100 * MS]);
    }
    if random.percent(25) {
        config.idle_timeout = Some(random.pick(&[5 * MS, 20 * MS, 80 * MS]));
    }
    let most = |random: &mut Random, small: &[usize], else_: usize| {
        if random.percent(30) { random.pick(small) } else { else_ }
    };
    let usual = Limits::default();
    // Some are as long as a frame: there the limit is met exactly.
    let frames = random.within(60..160);
    config.limits = Limits {
        pending_requests: most(random, &[1, 2, 5, 20], 1_000),
        abandoned_requests: most(random, &[0, 1, 3, 10], 10_000),
        held_bytes: most(random, &[1, 500, 5_000], usual.held_bytes),
        output_bytes: most(random, &[1, frames, 2 * frames, 5_000, 100_000], usual.output_bytes),
        body_bytes: most(random, &[0, 30, 1_000], usual.body_bytes),
        ..usual
    };
    config
}

fn wire(random: &mut Random, large: bool) -> WireSetting {
    let small = if large { 4_000 } else { 50 };
    WireSetting {
        delay: random.pick(&[Duration::ZERO, Duration::from_micros(30), MS, 12 * MS]),
        jitter: random.pick(&[Duration::ZERO, Duration::from_micros(100), 5 * MS]),
        window: random.pick(&[small, 3_000, 30_000, 1 << 20, 1 << 20]).max(small),
        segment: random.pick(&[small, 1_400, 16_000, 1 << 20]).max(small),
    }
}

fn manners(random: &mut Random, longest: usize) -> Manners {
    let (slow, large) = (random.percent(25), longest > 10_000);
    // Byte by byte is dear, and told by small messages.
    let least = if longest > 1_000 { 100 } else { 1 };
    Manners {
        piece: random.pick(&[1, 40, 1_000, 1 << 20, 1 << 20]).max(if large { 16_000 } else { least }),
        appetite: if slow && !large { random.pick(&[30, 500, 4_000]) } else { 1 << 20 },
        pause: if slow { random.pick(&[Duration::from_micros(20), MS]) } else { Duration::ZERO },
        hearing: usize::MAX,
        lateness: random.pick(&[Duration::ZERO, Duration::from_micros(100), 4 * MS]),
    }
}
