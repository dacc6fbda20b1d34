//! What is shown: a table for people, or JSON for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::read::{Traffic, kinds};
use super::simulate::Outcome;
use super::{Recompressed, setups};

/// How long messages wait for others.
pub(super) const DELAYS: [(&str, Duration); 4] = [
    ("0", Duration::ZERO),
    ("1 ms", Duration::from_millis(1)),
    ("2 ms", Duration::from_millis(2)),
    ("5 ms", Duration::from_millis(5)),
];

/// The outcomes of a compression, for each of [`DELAYS`].
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) outcomes: Vec<Outcome>,
}

impl Row {
    pub(super) fn times(&self) -> Vec<f64> {
        self.outcomes.iter().map(Outcome::times_smaller).collect()
    }

    pub(super) fn cpu(&self) -> Vec<f64> {
        self.outcomes.iter().map(Outcome::cpu_us).collect()
    }
}

/// A title, the value below it, and how many digits of it.
type Section = (&'static str, fn(&Outcome) -> f64, usize);

/// For people.
pub(super) fn table(path: &Path, traffic: &Traffic, recompressed: Option<Recompressed>, rows: &[Row]) -> String {
    let mut text = String::new();
    // Into a String nothing fails.
    let _ = write_table(&mut text, path, traffic, recompressed, rows);
    text
}

fn write_table(
    text: &mut String,
    path: &Path,
    traffic: &Traffic,
    recompressed: Option<Recompressed>,
    rows: &[Row],
) -> std::fmt::Result {
    let Some(first) = rows.first().and_then(|row| row.outcomes.first()) else { return Ok(()) };
    let (requests, kinds) = (first.requests, kinds(traffic));
    let seconds = traffic.exchanges.last().map_or(0.0, |last| last.at.as_secs_f64());
    writeln!(
        text,
        "{}: {requests} requests in {seconds:.1} s, by method and path {kinds} different; as HTTP/1.1 {} up, {} down",
        path.display(),
        size(first.http_up),
        size(first.http_down)
    )?;
    if let Some(Recompressed { bodies, coded_bytes, decoded_bytes, cpu }) = recompressed {
        let us = cpu.as_secs_f64() * 1e6 / bodies.max(1) as f64;
        writeln!(
            text,
            "{bodies} compressed bodies go decoded, as by --recompress=content: {} instead of {}; {us:.0} µs of CPU each, both ends",
            size(decoded_bytes),
            size(coded_bytes)
        )?;
    }
    for note in &traffic.notes {
        writeln!(text, "note: {note}")?;
    }
    if first.refused > 0 {
        writeln!(text, "note: {} requests were left out: a link does not take them", first.refused)?;
    }
    let sections: [Section; 4] = [
        ("Times smaller on the link, by batch delay", Outcome::times_smaller, 2),
        ("CPU of both ends, µs a request (the protocol alone, on this machine)", Outcome::cpu_us, 1),
        ("Batches a request, both ways", |o| o.batches as f64 / o.requests.max(1) as f64, 2),
        ("Later than without the link, ms on average", |o| o.waited.as_secs_f64() * 1e3 / o.requests.max(1) as f64, 2),
    ];
    for (title, value, digits) in sections {
        writeln!(text, "\n{title}")?;
        write!(text, "  {:<10}", "")?;
        DELAYS.iter().try_for_each(|(name, _)| write!(text, "{name:>9}"))?;
        writeln!(text)?;
        for row in rows {
            write!(text, "  {:<10}", row.name)?;
            row.outcomes.iter().try_for_each(|outcome| write!(text, "{:>9.digits$}", value(outcome)))?;
            writeln!(text)?;
        }
    }
    Ok(())
}

/// For programs.
pub(super) fn json(path: &Path, traffic: &Traffic, recompressed: Option<Recompressed>, rows: &[Row]) -> Value {
    let setups = setups();
    let outcomes: Vec<Value> = rows
        .iter()
        .zip(&setups)
        .flat_map(|(row, (_, compression, level))| {
            row.outcomes.iter().zip(DELAYS).map(move |(outcome, (_, delay))| {
                json!({
                    "compression": crate::proxy::name(*compression),
                    "level": level,
                    "delay_ms": delay.as_millis() as u64,
                    "times_smaller": outcome.times_smaller(),
                    "wire_bytes": { "up": outcome.wire_up, "down": outcome.wire_down },
                    "batches": outcome.batches,
                    "cpu_us_per_request": {
                        "near": outcome.near_cpu.as_secs_f64() * 1e6 / outcome.requests.max(1) as f64,
                        "far": outcome.far_cpu.as_secs_f64() * 1e6 / outcome.requests.max(1) as f64,
                    },
                    "later_ms": outcome.waited.as_secs_f64() * 1e3 / outcome.requests.max(1) as f64,
                })
            })
        })
        .collect();
    let first = rows.first().and_then(|row| row.outcomes.first()).copied().unwrap_or_default();
    json!({
        "file": path.display().to_string(),
        "requests": first.requests,
        "refused": first.refused,
        "seconds": traffic.exchanges.last().map_or(0.0, |last| last.at.as_secs_f64()),
        "http_bytes": { "up": first.http_up, "down": first.http_down },
        "recompressed": recompressed.map(|done| json!({
            "bodies": done.bodies,
            "coded_bytes": done.coded_bytes,
            "decoded_bytes": done.decoded_bytes,
            "cpu_us_per_body": done.cpu.as_secs_f64() * 1e6 / done.bodies.max(1) as f64,
        })),
        "notes": traffic.notes,
        "outcomes": outcomes,
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.0} KB", bytes as f64 / 1e3),
        _ => format!("{:.0} MB", bytes as f64 / 1e6),
    }
}
