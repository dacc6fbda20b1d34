//! `httptp check`: what is wrong with a configuration, and what is in effect.

use std::fmt::Write as _;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use super::super::config::HANDED_OVER;
use super::USAGE;
use super::layers::{CONFIG, Known, Layers, Options, Problem, Takes};
use super::secrets::is_secret;
use crate::proto::Compression;
use crate::proxy::check::{file_notes, file_problems, problems};
use crate::proxy::{Kind, ProxyConfig};

/// Tells all that is wrong on stderr, `wrong` too, or prints what is in effect on stdout.
pub(super) fn main(config: &ProxyConfig, layers: &Layers, resolve: bool, wrong: Vec<String>) -> ExitCode {
    for note in &layers.notes {
        eprintln!("httptp: note: {note}");
    }
    for note in file_notes(config, SystemTime::now()) {
        eprintln!("httptp: note: {}", layers.locate(note));
    }
    if layers.problems.is_empty() {
        for note in idle(config, layers) {
            eprintln!("httptp: note: {note}");
        }
    }
    let found = all_problems(config, layers, resolve, wrong);
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

fn all_problems(config: &ProxyConfig, layers: &Layers, resolve: bool, wrong: Vec<String>) -> Vec<Problem> {
    let mut found: Vec<String> = problems(config).iter().map(ToString::to_string).chain(wrong).collect();
    found.extend(file_problems(config));
    found.extend(missing_places(config));
    if resolve {
        found.extend(unknown_names(config));
    }
    found.retain(|text| !layers.may_follow(text));
    let located = found.into_iter().map(|text| layers.locate(text));
    layers.problems.iter().cloned().chain(located).collect()
}

/// Options that somebody has set and that do nothing, because of what is spoken on their side.
fn idle(config: &ProxyConfig, layers: &Layers) -> Vec<Problem> {
    let (inward, outward) = (config.inbound.kind, config.outbound.kind);
    let of_links = ["compress", "dictionary", "level", "max-compress-cpu", "delay", "conns-per-addr", "pass-time-left"];
    let of_callers = ["client-ip-header", "forwarded", "forwarded-proto"];
    let is_on_demand = inward == Kind::Https && config.inbound.tls.is_without_certificates();
    let why = |name: &str| {
        let side = |prefix: &str| name.strip_prefix(prefix);
        if side("in-").is_some_and(|rest| of_links.contains(&rest)) && !inward.is_link() {
            return Some(format!("it is about links of near proxies, and --in-type is {inward}"));
        }
        if side("out-").is_some_and(|rest| of_links.contains(&rest)) && !outward.is_link() {
            return Some(format!("it is about links to far proxies, and --out-type is {outward}"));
        }
        if name == "out-dictionary" && !config.outbound.prefer_zstd && config.outbound.compression != Compression::Zstd
        {
            return Some("it is for zstd, and --out-compress is not".to_owned());
        }
        if side("in-tls-").is_some() && !inward.is_tls() {
            return Some(format!("it is about TLS, and --in-type is {inward}"));
        }
        if side("autocert-").is_some() && !is_on_demand {
            return Some("it is about --in-type https without --in-tls-cert".to_owned());
        }
        if of_callers.contains(&name) && inward.is_link() {
            return Some(format!("it is about HTTP callers, whom the near proxy knows, and --in-type is {inward}"));
        }
        None
    };
    let mut notes: Vec<Problem> = Vec::new();
    for known in Options::new().iter() {
        // What is set to its default says nothing, as in command lines that name everything.
        let setting = layers.settings.get(&known.name);
        let setting =
            setting.filter(|setting| !setting.value.is_empty() && known.default.as_ref() != Some(&setting.value));
        if let Some((setting, why)) = setting.and_then(|setting| Some((setting, why(&known.name)?))) {
            let text = format!("--{} does nothing: {why}", known.name);
            notes.push(Problem { origin: setting.origin.clone(), text });
        }
    }
    notes
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
    let is_addr = !inbound.kind.is_unix() && inbound.addr != HANDED_OVER;
    let here = [(&*inbound.addr, "--in")].into_iter().filter(|_| is_addr);
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
        let line = if is_secret(&known.name) {
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

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn options_that_do_nothing_are_noted() {
        let notes = |line: &str, variables: &[(String, String)]| {
            let args = ["httptp", "check"].into_iter().chain(line.split_whitespace()).map(Into::into);
            let parsed = parse(args, variables).unwrap();
            idle(&parsed.config, &parsed.layers).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(notes("--out-delay=1ms", &[]), [""; 0]);
        assert_eq!(notes("-inCompress=flate -inTLSCert= -inDelay=0", &[]).len(), 1);
        let variable = [("HTTPTP_IN_DELAY".to_owned(), "2ms".to_owned())];
        assert_eq!(
            notes("", &variable),
            ["HTTPTP_IN_DELAY: --in-delay does nothing: it is about links of near proxies, and --in-type is http"]
        );
        let far = "--in-type=teleport --out-type=http --out-compress=none --out-conns-per-addr=2 --forwarded=forwarded \
                   --in-tls-cert=a.pem --autocert-email=me@example.com";
        assert_eq!(notes(far, &[]).len(), 5);
        assert_eq!(notes("--in-type=https --autocert-email=me@example.com", &[]), [""; 0]);
    }

    #[test]
    fn values_are_written_as_toml_reads_them() {
        for text in ["plain", "a\"b\\c", "tab\there", "ü"] {
            let line = format!("in = {}", quoted(text));
            let table = toml::de::DeTable::parse(&line).unwrap();
            assert_eq!(table.get_ref()["in"].get_ref().as_str(), Some(text));
        }
    }
}
