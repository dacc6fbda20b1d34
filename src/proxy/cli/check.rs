//! `httptp check`: what is wrong with a configuration, and what is in effect.

use std::fmt::Write as _;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use super::USAGE;
use super::layers::{CONFIG, Known, Layers, Options, Problem, Takes};
use crate::proxy::ProxyConfig;
use crate::proxy::check::{file_notes, file_problems, problems};

/// Options that are not printed: whoever reads them can read sessions.
const SECRETS: [&str; 1] = ["in-tls-session-ticket-key"];

/// Tells all that is wrong on stderr, or prints what is in effect on stdout.
pub(super) fn main(config: &ProxyConfig, layers: &Layers, resolve: bool) -> ExitCode {
    for note in &layers.notes {
        eprintln!("httptp: note: {note}");
    }
    for note in file_notes(config, SystemTime::now()) {
        eprintln!("httptp: note: {}", layers.locate(note));
    }
    let found = all_problems(config, layers, resolve);
    for problem in &found {
        eprintln!("httptp: {problem}");
    }
    if !found.is_empty() {
        return ExitCode::from(USAGE);
    }
    print!("{}", effective(&Options::new(), layers));
    eprintln!("httptp: nothing is wrong with this configuration");
    ExitCode::SUCCESS
}

fn all_problems(config: &ProxyConfig, layers: &Layers, resolve: bool) -> Vec<Problem> {
    let mut found: Vec<String> = problems(config).iter().map(ToString::to_string).collect();
    found.extend(file_problems(config));
    found.extend(missing_places(config));
    if resolve {
        found.extend(unknown_names(config));
    }
    found.into_iter().map(|text| layers.locate(text)).collect()
}

/// Unix sockets that cannot be made.
fn missing_places(config: &ProxyConfig) -> Option<String> {
    let inbound = &config.inbound;
    let directory =
        Path::new(&inbound.addr).parent().filter(|path| inbound.kind.is_unix() && !path.as_os_str().is_empty());
    let missing = directory.filter(|path| !path.is_dir())?;
    Some(format!("there is no directory {} for the socket to listen on (--in)", missing.display()))
}

/// Names that stand for no address now.
fn unknown_names(config: &ProxyConfig) -> Vec<String> {
    let (inbound, out) = (&config.inbound, &config.outbound);
    // `:PORT` is every address.
    let here = [(&*inbound.addr, "--in")].into_iter().filter(|_| !inbound.kind.is_unix());
    let figures = config.seeing.metrics_addr.iter().map(|addr| (&**addr, "--expvar-addr"));
    let there = out.addrs().map(|addr| (addr, "--out")).filter(|_| !out.kind.is_unix());
    let named = here.chain(figures).chain(there).filter(|(addr, _)| !addr.starts_with(':'));
    let unknown = named.filter_map(|(addr, flag)| {
        let error = addr.to_socket_addrs().err()?;
        Some(format!("the name in {addr} ({flag}) stands for no address now: {error}"))
    });
    unknown.collect()
}

/// Each option that has a value, as a file, with where it is from. Defaults are comments, so that the file says no more
/// than was said.
fn effective(options: &Options, layers: &Layers) -> String {
    let mut text = String::new();
    let mut heading = None;
    for known in options.iter().filter(|known| known.name != CONFIG) {
        let setting = layers.settings.get(&known.name);
        let Some(value) = setting.map(|setting| &setting.value).or(known.default.as_ref()) else { continue };
        let origin = setting.map_or_else(|| "default".to_owned(), |setting| setting.origin.to_string());
        if heading != known.heading.as_ref() {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}# {}", known.heading.as_deref().unwrap_or("Other options"));
            heading = known.heading.as_ref();
        }
        let line = if SECRETS.contains(&&*known.name) {
            format!("# {} is set and not shown", known.name)
        } else {
            let mark = if setting.is_none() { "# " } else { "" };
            format!("{mark}{} = {}", known.name, literal(known, value))
        };
        // Writing to memory does not fail.
        let _ = writeln!(text, "{line:<40} # {origin}");
    }
    text
}

/// A value as TOML.
fn literal(known: &Known, value: &str) -> String {
    match known.takes {
        Takes::Switch | Takes::Flag => super::args::go_bool(value).unwrap_or_default().to_string(),
        Takes::List if value.contains(',') => {
            format!("[{}]", value.split(',').map(quoted).collect::<Vec<_>>().join(", "))
        }
        // What TOML takes for a number of the same value.
        _ if value.parse::<i64>().is_ok_and(|number| number.to_string() == value) => value.to_owned(),
        _ => quoted(value),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
