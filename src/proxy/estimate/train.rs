//! `httptp train FILE`: makes a dictionary for zstd of one half of the traffic in a file, and keeps it if it makes fewer bytes
//! of the other half.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::read::{Exchange, read};
use super::simulate::{self, Outcome, Setup};
use crate::proto::{
    ClientConfig, ClientConnection, Compression, Config, Dictionary, ServerConfig, ServerConnection, ServerEvent,
};

/// What the training is told.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) file: PathBuf,
    pub(crate) dictionary: PathBuf,
    /// Bytes that the dictionary may have.
    pub(crate) size: usize,
    /// The level at which it is tried.
    pub(crate) level: u8,
    /// The batch delay at which it has to be worth it.
    pub(crate) delay: Duration,
    /// Requests a second where the file has no times.
    pub(crate) rate: f64,
}

/// Most bytes of messages that are trained on: more take long and tell little.
const MAX_SAMPLE_BYTES: usize = 32 << 20;
/// What has to be saved of a link's bytes, or it is not worth the trouble.
const LEAST_SAVED: f64 = 0.01;
/// The first requests of a link, which have no history yet.
const FIRST: usize = 100;

/// Trains, tries, prints what came of it and writes the dictionary if that is worth it.
pub(crate) fn main(options: &Options) -> Result<ExitCode, String> {
    let file = &options.file;
    let path = &options.dictionary;
    if path.exists() {
        return Err(format!(
            "{} is there already: name a new file, since one that is in use must stay as it is",
            path.display()
        ));
    }
    let mut traffic = read(file, options.rate).map_err(|error| format!("{}: {error}", file.display()))?;
    let rest = traffic.exchanges.split_off(traffic.exchanges.len() / 2);
    let dictionary = train(&traffic.exchanges, options.size)?;
    let (count, others) = (traffic.exchanges.len(), rest.len());
    let bytes = dictionary.as_bytes().len();
    println!(
        "{bytes} bytes, trained on {count} requests and their answers, and tried on {others} others, with zstd {}:\n",
        options.level
    );
    println!("| requests | batch delay | bytes each, both ways | with the dictionary | saved |");
    println!("|---|---|---|---|---|");
    let tried = |some: &[Exchange], delay: Duration| {
        let run = |dictionary| {
            let setup = Setup { compression: Compression::Zstd, level: Some(options.level), delay, dictionary };
            simulate::run(some, setup).map(|outcome| wire_bytes(&outcome))
        };
        let (without, with) = (run(None)?, run(Some(&dictionary))?);
        let saved = 1.0 - with / without;
        let count = some.len();
        println!("| {count} | {} | {without:.1} | {with:.1} | {:.1} % |", shown(delay), saved * 100.0);
        Ok::<_, String>(saved)
    };
    // What it is with another delay is for comparison.
    let other = if options.delay.is_zero() { Duration::from_millis(2) } else { Duration::ZERO };
    tried(&rest[..FIRST.min(rest.len())], options.delay)?;
    tried(&rest, other)?;
    let saved = tried(&rest, options.delay)?;
    println!();
    if saved.is_nan() || saved < LEAST_SAVED {
        let delay = shown(options.delay);
        return Err(format!(
            "it saves less than 1 % where the batch delay is {delay}: not written; do without, or give a longer recording"
        ));
    }
    write(path, dictionary.as_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!(
        "Written to {0}, with the id {1}; it holds pieces of the traffic. Start far proxies with --in-dictionary={0}\n\
         first, then near ones with --out-dictionary={0}.",
        path.display(),
        dictionary.id()
    );
    Ok(ExitCode::SUCCESS)
}

fn shown(delay: Duration) -> String {
    if delay.is_zero() { "none".to_owned() } else { format!("{delay:?}") }
}

/// For its owner alone: it holds pieces of the traffic.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// What a request and its answer take on the link.
fn wire_bytes(outcome: &Outcome) -> f64 {
    (outcome.wire_up + outcome.wire_down) as f64 / outcome.requests.max(1) as f64
}

/// A dictionary of at most `size` bytes for traffic like this.
fn train(traffic: &[Exchange], size: usize) -> Result<Dictionary, String> {
    let samples = messages(traffic);
    let sizes: Vec<_> = samples.iter().map(Vec::len).collect();
    let mut bytes = Vec::with_capacity(size);
    let trained = zstd_safe::train_from_buffer(&mut bytes, &samples.concat(), &sizes);
    trained.map_err(|code| {
        let why = zstd_safe::get_error_name(code);
        format!("no dictionary can be made of {} messages ({why}): give a longer file", samples.len())
    })?;
    Dictionary::new(bytes).map_err(|error| format!("what was trained is {error}"))
}

/// Requests and answers as they are on a link, until there are enough.
fn messages(traffic: &[Exchange]) -> Vec<Vec<u8>> {
    // Virtual time stands still.
    let now = Instant::now();
    let plain = || Config { compression: Compression::None, ..Config::default() };
    let mut client = ClientConnection::new(ClientConfig { config: plain(), tls: false }, now);
    let mut server = ServerConnection::new(ServerConfig { config: plain(), ..ServerConfig::default() }, now);
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut length = 0;
    let mut begin = Vec::new();
    client.poll_transmit(now, &mut begin);
    server.handle_input(now, &begin);
    begin.clear();
    server.poll_transmit(now, &mut begin);
    client.handle_input(now, &begin);
    for exchange in traffic {
        if length > MAX_SAMPLE_BYTES {
            break;
        }
        // What a link does not take is no traffic of one.
        let Ok(id) = client.send_request(now, &exchange.request, None) else { continue };
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.poll_transmit(now, &mut up);
        server.handle_input(now, &up);
        while let Some(event) = server.poll_event() {
            if let ServerEvent::Request { token, .. } = event
                && let Err(rejected) = server.send_response(now, token, &exchange.response)
            {
                server.discard(rejected.token);
            }
        }
        server.poll_transmit(now, &mut down);
        client.handle_input(now, &down);
        while client.poll_event().is_some() {}
        client.cancel(now, id);
        length += up.len() + down.len();
        all.extend([up, down].into_iter().filter(|message| !message.is_empty()));
    }
    all
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};

    use super::*;

    fn traffic(count: u64) -> Vec<Exchange> {
        let exchange = |n: u64| {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let body = format!("{{\"id\":\"{random:016x}\",\"site\":{},\"size\":\"{}x250\"}}", n % 91, 300 + n % 3);
            let request = Request::post(format!("http://h.example/bid?n={}", n % 17)).body(Bytes::from(body)).unwrap();
            let response = Response::new(Bytes::from(format!("{{\"id\":\"{random:016x}\",\"price\":{}}}", n % 1009)));
            Exchange { at: Duration::from_millis(n), took: Duration::from_micros(300), request, response }
        };
        (0..count).map(exchange).collect()
    }

    #[test]
    fn what_is_trained_saves_bytes_of_what_comes() {
        let all = traffic(2_000);
        let dictionary = train(&all[..1_000], 8 * 1024).unwrap();
        assert!(dictionary.as_bytes().len() <= 8 * 1024);
        let run = |dictionary| {
            let setup = Setup { compression: Compression::Zstd, level: Some(3), delay: Duration::ZERO, dictionary };
            wire_bytes(&simulate::run(&all[1_000..], setup).unwrap())
        };
        let (without, with) = (run(None), run(Some(&dictionary)));
        assert!(with < without * 0.95, "{with} of {without}");
    }

    #[test]
    fn of_too_little_nothing_is_made() {
        let error = train(&traffic(3), 64 * 1024).unwrap_err();
        assert!(error.contains("6 messages") && error.contains("longer file"), "{error}");
    }
}
