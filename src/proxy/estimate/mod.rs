//! `httptp estimate FILE`: how many times smaller the traffic in a file would be on a link, by compression and batch delay,
//! and what CPU that takes.
//!
//! Nothing is computed by formula: the requests and answers go through a link of the real core, at their recorded times, in
//! virtual time ([`simulate`]).
//!
//! ```text
//! file -> read -> (recompress) -> simulate, for each setup -> report | plot
//! ```

mod plot;
mod read;
mod report;
mod simulate;
pub(super) mod train;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cpu_time::ThreadTime;

use super::recompress;
use crate::proto::Compression;
use read::Traffic;
use report::{DELAYS, Row};
use simulate::Setup;

/// What the estimate is told.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) file: PathBuf,
    /// One JSON object and nothing else.
    pub(crate) json: bool,
    /// Where to draw the figures.
    pub(crate) plot: Option<PathBuf>,
    /// Requests a second where the file has no times.
    pub(crate) rate: f64,
    /// Compressed bodies go decoded.
    pub(crate) recompress: bool,
}

/// What became of compressed bodies.
#[derive(Clone, Copy, Debug, Default)]
struct Recompressed {
    bodies: u64,
    coded_bytes: u64,
    decoded_bytes: u64,
    /// For decoding and for coding again.
    cpu: Duration,
}

/// Estimates, and prints what came of it.
pub(crate) fn main(options: &Options) -> Result<ExitCode, String> {
    let file = &options.file;
    let mut traffic = read::read(file, options.rate).map_err(|error| format!("{}: {error}", file.display()))?;
    let recompressed = options.recompress.then(|| recompress_all(&mut traffic));
    let rows = estimate(&traffic)?;
    if let Some(path) = &options.plot {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let requests = rows.first().and_then(|row| row.outcomes.first()).map_or(0, |outcome| outcome.requests);
        let svg = plot::svg(&format!("{name}: {requests} requests"), &rows);
        std::fs::write(path, svg).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    match options.json {
        true => println!("{}", report::json(file, &traffic, recompressed, &rows)),
        false => print!("{}", report::table(file, &traffic, recompressed, &rows)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is tried: name, compression, level.
fn setups() -> [(&'static str, Compression, Option<u8>); 6] {
    [
        ("none", Compression::None, None),
        ("snappy", Compression::Snappy, None),
        ("flate 6", Compression::Deflate, Some(6)),
        ("zstd 1", Compression::Zstd, Some(1)),
        ("zstd 3", Compression::Zstd, Some(3)),
        ("zstd 6", Compression::Zstd, Some(6)),
    ]
}

fn estimate(traffic: &Traffic) -> Result<Vec<Row>, String> {
    let row = |(name, compression, level): (&str, Compression, Option<u8>)| {
        let run = |(_, delay)| simulate::run(&traffic.exchanges, Setup { compression, level, delay, dictionary: None });
        let outcomes = DELAYS.into_iter().map(run).collect::<Result<_, String>>()?;
        Ok(Row { name: name.to_owned(), outcomes })
    };
    setups().into_iter().map(row).collect()
}

/// Takes the codings off, as `--recompress=content` does.
fn recompress_all(traffic: &mut Traffic) -> Recompressed {
    let mut done = Recompressed::default();
    for exchange in &mut traffic.exchanges {
        let (request, response) = (&mut exchange.request, &mut exchange.response);
        for is_request in [true, false] {
            let (headers, body) = match is_request {
                true => (request.headers().clone(), request.body().clone()),
                false => (response.headers().clone(), response.body().clone()),
            };
            let began = ThreadTime::now();
            let Some((headers, decoded)) = recompress::there_and_back(headers, &body) else { continue };
            done.cpu += began.elapsed();
            done.bodies += 1;
            done.coded_bytes += body.len() as u64;
            done.decoded_bytes += decoded.len() as u64;
            match is_request {
                true => (*request.headers_mut(), *request.body_mut()) = (headers, decoded),
                false => (*response.headers_mut(), *response.body_mut()) = (headers, decoded),
            }
        }
    }
    done
}
