//! The whole suite: which scenarios are run, in which shims, and what is said of each.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::core_profile::Core;
use crate::matching::Mismatch;
use crate::run::{Failure, Replay, Stop, Subject, run};
use crate::scenario::{Level, NO_ZSTD, Scenario};
use crate::shim::{Description, Shim, Transcript};
use crate::tcp::{self, Obstacle, RealTime, ServerTls, Tcp, Tls};

/// What is said of a scenario.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every replay came true.
    Pass,
    /// A `must` scenario did not come true.
    Fail(Box<Failure>),
    /// A `should` scenario did not come true.
    NonStrict(Box<Failure>),
    /// A `may` scenario did not come true.
    Informational(Box<Failure>),
    /// The shim does not claim these capabilities.
    Unimplemented(Vec<String>),
    /// It was not run, and why.
    Skipped(String),
    /// It did not come true, for a reason that was known before.
    Known(String),
}

impl Verdict {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::NonStrict(_) => "non-strict",
            Self::Informational(_) => "informational",
            Self::Unimplemented(_) => "unimplemented",
            Self::Skipped(_) => "skipped",
            Self::Known(_) => "known",
        }
    }

    /// What went wrong, if something did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Fail(failure) | Self::NonStrict(failure) | Self::Informational(failure) => Some(failure),
            _ => None,
        }
    }
}

/// A scenario and what is said of it.
#[derive(Debug)]
pub struct Outcome<'s> {
    /// The scenario.
    pub scenario: &'s Scenario,
    /// The verdict.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// It came true only when it was run again: real time is not kept well on a busy machine.
    pub was_again: bool,
}

/// What is tested.
#[derive(Clone, Debug)]
pub enum Target {
    /// What stands behind the shim that this shell command starts.
    Shim(String),
    /// The server at this address, of which nothing else is known.
    Server(SocketAddr),
    /// The client that this shell command starts, of which nothing else is known; `{addr}` in it is where it connects
    /// to.
    Client(String),
}

/// How the suite is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is tested.
    pub target: Target,
    /// How many scenarios run at a time; if nothing is said, it depends on the profile.
    pub jobs: Option<usize>,
    /// How long a shim may take for one answer.
    pub timeout: Duration,
    /// Patterns of ids that are not run, and reported as skipped.
    pub skip: Vec<String>,
    /// Where every line exchanged is kept; then one shim runs at a time.
    pub transcript: Option<Transcript>,
    /// How time passes in profile tcp.
    pub time: RealTime,
    /// A [`Target::Server`] has TLS.
    pub server_tls: Option<ServerTls>,
}

impl Options {
    /// Those of a shim, if nothing else is said.
    pub fn of_shim(command: impl Into<String>) -> Self {
        let (target, time) = (Target::Shim(command.into()), RealTime::default());
        Self {
            target,
            jobs: None,
            timeout: crate::run::TIMEOUT,
            skip: Vec::new(),
            time,
            transcript: None,
            server_tls: None,
        }
    }

    /// Starts what is tested.
    fn start(&self, tls: &Tls) -> Result<(Description, Box<dyn Subject + Send>), String> {
        let black_box = |name: String, role: &str, has_tls: bool| {
            let can = [role, "none", "deflate", "snappy", "frames"].into_iter().chain(has_tls.then_some("tls"));
            let (version, profile, can) = (String::new(), "black box".to_owned(), can.map(str::to_owned).collect());
            Description { name, version, profile, can }
        };
        match &self.target {
            Target::Server(addr) => {
                std::net::TcpStream::connect_timeout(addr, self.timeout).map_err(|error| format!("{addr}: {error}"))?;
                let description = black_box(format!("server at {addr}"), "server", self.server_tls.is_some());
                Ok((description, Box::new(Tcp::black_box(*addr, self.timeout, &self.time).with_tls(tls))))
            }
            Target::Client(command) => {
                let description = black_box("client".to_owned(), "client", tcp::client_can(command).tls);
                let client = Tcp::black_box_client(command, self.timeout, &self.time);
                Ok((description, Box::new(client.with_tls(tls))))
            }
            Target::Shim(command) => {
                let shim = Shim::start_with(command, self.timeout, tls.environment())?;
                let mut shim = shim.recorded(self.transcript.clone());
                let mut description = shim.describe()?;
                if !description.can.iter().any(|can| can == "zstd") {
                    description.can.push(NO_ZSTD.to_owned());
                }
                let subject: Box<dyn Subject + Send> = match description.profile.as_str() {
                    "tcp" => Box::new(Tcp::behind_shim(shim, &description.can, &self.time)?.with_tls(tls)),
                    _ => Box::new(Core::new(shim)),
                };
                Ok((description, subject))
            }
        }
    }

    /// The scenario as this subject is shown it, or what is said of it instead.
    fn shown(&self, scenario: &Scenario, description: &Description) -> Result<Option<Scenario>, Verdict> {
        if self.skip.iter().any(|pattern| matches(pattern, &scenario.id)) {
            return Err(Verdict::Skipped("--skip".into()));
        }
        let has = |need: &&String| description.can.contains(need);
        let missing: Vec<String> = scenario.needs.iter().filter(|need| !has(need)).cloned().collect();
        if !missing.is_empty() {
            return Err(Verdict::Unimplemented(missing));
        }
        let longest = self.time.longest;
        let has_tls = description.can.iter().any(|can| can == "tls");
        match (&self.target, description.profile.as_str()) {
            (Target::Server(_), _) => tcp::for_server(scenario, longest, has_tls).map(Some).map_err(Verdict::Skipped),
            (Target::Client(command), _) => {
                tcp::for_client(scenario, longest, tcp::client_can(command)).map(Some).map_err(Verdict::Skipped)
            }
            (_, "tcp") => match tcp::for_shim(scenario, &description.can, longest) {
                Ok(shown) => Ok(Some(shown)),
                Err(Obstacle::Skipped(why)) => Err(Verdict::Skipped(why)),
                Err(Obstacle::Missing(missing)) => Err(Verdict::Unimplemented(missing)),
            },
            _ => Ok(None),
        }
    }
}

/// How many scenarios run at a time in profile core, which works all the time, and over sockets, which mostly waits.
const JOBS: (usize, usize) = (2, 8);

/// Runs scenarios and returns what is said of each, in their order.
///
/// # Errors
///
/// No shim can be started, or it does not describe itself.
pub fn run_all<'s>(scenarios: &[&'s Scenario], options: &Options) -> Result<(Description, Vec<Outcome<'s>>), String> {
    let tls = &match &options.server_tls {
        Some(server) => Tls::of_server(server)?,
        None => Tls::new()?,
    };
    let (description, first) = options.start(tls)?;
    let usual = if description.profile == "core" { JOBS.0 } else { JOBS.1 };
    let usual = if options.transcript.is_some() { 1 } else { usual };
    let jobs = options.jobs.unwrap_or(usual).clamp(1, scenarios.len().max(1));
    let (next, third_tries) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(Vec::new());
    let first = Mutex::new(Some(first));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut subject = first.lock().ok().and_then(|mut first| first.take());
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let (verdict, was_again) =
                        judge(scenario, &mut subject, &description, (options, tls), &third_tries);
                    let outcome = Outcome { scenario, verdict, took: begin.elapsed(), was_again };
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().map_err(|_| "a thread of the suite has failed")?;
    let place = |outcome: &Outcome<'_>| scenarios.iter().position(|scenario| scenario.id == outcome.scenario.id);
    outcomes.sort_by_key(place);
    Ok((description, outcomes))
}

/// How many times longer a second and a third try wait in real time.
const PATIENCE: [u32; 2] = [4, 4];
/// The third try is for a busy machine, on which few cases fail: so many of a run have one.
const THIRD_TRIES: usize = 12;

fn judge(
    scenario: &Scenario,
    subject: &mut Option<Box<dyn Subject + Send>>,
    description: &Description,
    (options, tls): (&Options, &Tls),
    third_tries: &AtomicUsize,
) -> (Verdict, bool) {
    let shown = match options.shown(scenario, description) {
        Ok(shown) => shown,
        Err(verdict) => return (verdict, false),
    };
    let mut was_again = false;
    let started = match subject {
        Some(running) => Ok(running),
        None => options.start(tls).map(|(_, new)| subject.insert(new)),
    };
    let stop = match started {
        Ok(running) => {
            let scenario = shown.as_ref().unwrap_or(scenario);
            let mut last = run(scenario, running.as_mut());
            for (at, times) in PATIENCE.into_iter().enumerate() {
                let is_left = || at == 0 || third_tries.fetch_add(1, Ordering::Relaxed) < THIRD_TRIES;
                if !matches!(last, Err(Stop::Fail(_))) || !is_left() || !running.be_patient(times) {
                    break;
                }
                was_again = true;
                last = run(scenario, running.as_mut());
            }
            running.be_patient(1);
            last
        }
        Err(message) => Err(Stop::Shim(Box::new(Failure {
            replay: Replay::Whole,
            line: 0,
            step: "(the shim starts)".into(),
            mismatch: Mismatch::new("shim", "a shim", message),
            now: 0,
            fed: Vec::new(),
            fed_in_all: 0,
        }))),
    };
    let failure = match stop {
        Ok(()) => return (Verdict::Pass, was_again),
        Err(Stop::Fail(failure)) => failure,
        Err(Stop::Shim(failure)) => {
            // The next scenario begins with a new process.
            *subject = None;
            failure
        }
    };
    let verdict = match scenario.level {
        Level::Must => Verdict::Fail(failure),
        Level::Should => Verdict::NonStrict(failure),
        Level::May => Verdict::Informational(failure),
    };
    (verdict, false)
}

/// Whether a text matches a pattern in which `*` stands for any characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    loop {
        if matches(rest, text) {
            return true;
        }
        let mut chars = text.chars();
        if chars.next().is_none() {
            return false;
        }
        text = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("a*", "abc"), ("*c", "abc"), ("a*b*c", "a-b-b-c"), ("*b*", "abc")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*d", "abc"), ("", "a"), ("b*", "ab")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
