//! The whole suite: which scenarios are run, in which shims, and what is said of each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::run::{Failure, Stop, run};
use crate::scenario::{Level, Scenario};
use crate::shim::{Description, Shim, Transcript};

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
    /// The caller asked for it not to be run.
    Skipped,
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
            Self::Skipped => "skipped",
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
}

/// How the suite is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The shell command that starts a shim.
    pub command: String,
    /// How many shims run at a time.
    pub jobs: usize,
    /// How long a shim may take for one answer.
    pub timeout: Duration,
    /// Patterns of ids that are not run, and reported as skipped.
    pub skip: Vec<String>,
    /// Where every line exchanged is kept; then one shim runs at a time.
    pub transcript: Option<Transcript>,
}

/// Runs scenarios and returns what is said of each, in their order.
///
/// # Errors
///
/// No shim can be started, or it does not describe itself.
pub fn run_all<'s>(scenarios: &[&'s Scenario], options: &Options) -> Result<(Description, Vec<Outcome<'s>>), String> {
    let mut first = start(options)?;
    let description = first.describe()?;
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let first = Mutex::new(Some(first));
    std::thread::scope(|scope| {
        let jobs = if options.transcript.is_some() { 1 } else { options.jobs };
        for _ in 0..jobs.clamp(1, scenarios.len().max(1)) {
            scope.spawn(|| {
                let mut shim = first.lock().ok().and_then(|mut first| first.take());
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let verdict = judge(scenario, &mut shim, &description, options);
                    let outcome = Outcome { scenario, verdict, took: begin.elapsed() };
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

fn start(options: &Options) -> Result<Shim, String> {
    Ok(Shim::start(&options.command, options.timeout)?.recorded(options.transcript.clone()))
}

fn judge(scenario: &Scenario, shim: &mut Option<Shim>, description: &Description, options: &Options) -> Verdict {
    if options.skip.iter().any(|pattern| matches(pattern, &scenario.id)) {
        return Verdict::Skipped;
    }
    let missing: Vec<String> = scenario.needs.iter().filter(|need| !description.can.contains(need)).cloned().collect();
    if !missing.is_empty() {
        return Verdict::Unimplemented(missing);
    }
    let started = match shim {
        Some(running) => Ok(running),
        None => start(options).map(|new| shim.insert(new)),
    };
    let stop = match started {
        Ok(running) => run(scenario, running),
        Err(message) => Err(Stop::Shim(Box::new(Failure {
            replay: crate::run::Replay::Whole,
            line: 0,
            step: "(the shim starts)".into(),
            mismatch: crate::matching::Mismatch::new("shim", "a shim", message),
        }))),
    };
    let failure = match stop {
        Ok(()) => return Verdict::Pass,
        Err(Stop::Fail(failure)) => failure,
        Err(Stop::Shim(failure)) => {
            // The next scenario begins with a new process.
            *shim = None;
            failure
        }
    };
    match scenario.level {
        Level::Must => Verdict::Fail(failure),
        Level::Should => Verdict::NonStrict(failure),
        Level::May => Verdict::Informational(failure),
    }
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
