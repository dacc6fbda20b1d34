//! The test of the suite itself: every wilful fault of a shim must be caught by the cases that are named for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::scenario::{AREAS, Scenario};
use crate::suite::{Options, Target, Verdict, run_all};

/// How many cases the table names for a fault.
const NAMED: usize = 3;

/// The table `mutants.txt`: for each fault the cases that catch it. Lines `NAME: CASE CASE`; `#` begins a comment.
///
/// # Errors
///
/// The file cannot be read, or a line has another form.
pub fn read_table(path: &Path) -> Result<BTreeMap<String, Vec<String>>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut table = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let row =
            line.split_once(": ").map(|(name, cases)| (name, cases.split_whitespace().map(str::to_owned).collect()));
        let Some((name, cases)) = row else {
            return Err(format!("{}:{}: no `mutant: cases`", path.display(), number + 1));
        };
        if table.insert(name.to_owned(), cases).is_some() {
            return Err(format!("{}:{}: {name} stands twice", path.display(), number + 1));
        }
    }
    Ok(table)
}

/// The table as text.
pub fn write_table(table: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = String::from(
        "# Which cases catch which fault of teleport-shim-core (--list-mutants). A new fault: add its line, or let\n\
         # `teleport-conformance mutants --shim ... --find` look for its cases and write this file.\n\n",
    );
    for (name, cases) in table {
        text.push_str(&format!("{name}: {}\n", cases.join(" ")));
    }
    text
}

/// The faults that a shim has.
///
/// # Errors
///
/// It cannot be asked, or has none.
pub fn list(shim: &str) -> Result<Vec<String>, String> {
    let output = Command::new("sh").args(["-c", &format!("{shim} --list-mutants")]).output();
    let output = output.map_err(|error| format!("{shim}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<String> = text.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect();
    if !output.status.success() || names.is_empty() {
        return Err(format!("{shim} --list-mutants gives no list"));
    }
    Ok(names)
}

/// The cases, of those given, that catch a fault.
///
/// # Errors
///
/// The shim does not start.
pub fn catching(name: &str, scenarios: &[&Scenario], options: &Options) -> Result<Vec<String>, String> {
    let target = Target::Shim(format!("{} --mutant {name}", command_of(options)?));
    let options = Options { target, ..options.clone() };
    let (_, outcomes) = run_all(scenarios, &options)?;
    let caught = outcomes.into_iter().filter(|outcome| outcome.verdict.failure().is_some());
    let mut caught: Vec<_> =
        caught.map(|outcome| (is_weak(outcome.scenario, &outcome.verdict), outcome.scenario)).collect();
    caught.sort_by_key(|(weak, _)| *weak);
    Ok(caught.into_iter().map(|(_, scenario)| scenario.id.clone()).collect())
}

/// Faults are built into shims.
fn command_of(options: &Options) -> Result<&str, String> {
    match &options.target {
        Target::Shim(command) => Ok(command),
        Target::Client(command) => Err(format!("{command} is no shim with faults")),
        Target::Server(addr) => Err(format!("{addr} is no shim with faults")),
    }
}

/// Cases that say little about what is wrong are named last.
fn is_weak(scenario: &Scenario, verdict: &Verdict) -> (bool, bool) {
    (scenario.area == AREAS[AREAS.len() - 1], !matches!(verdict, Verdict::Fail(_)))
}

/// Runs every fault against its cases; returns what is wrong, one line each.
///
/// # Errors
///
/// The shim does not start, or the table cannot be read.
pub fn check(suite: &Path, scenarios: &[Scenario], options: &Options) -> Result<Vec<String>, String> {
    let table = read_table(&suite.join("mutants.txt"))?;
    let names = list(command_of(options)?)?;
    let mut wrong = Vec::new();
    for name in table.keys().filter(|name| !names.contains(name)) {
        wrong.push(format!("{name}: the shim has no such mutant"));
    }
    for name in &names {
        let Some(ids) = table.get(name).filter(|ids| !ids.is_empty()) else {
            wrong.push(format!("{name}: survives: no case is named for it"));
            continue;
        };
        let chosen: Vec<&Scenario> = scenarios.iter().filter(|scenario| ids.contains(&scenario.id)).collect();
        let caught = catching(name, &chosen, options)?;
        for id in ids.iter().filter(|id| !chosen.iter().any(|scenario| scenario.id == **id)) {
            wrong.push(format!("{name}: there is no case {id}"));
        }
        for scenario in chosen.iter().filter(|scenario| !caught.contains(&scenario.id)) {
            wrong.push(format!("{name}: {} does not catch it", scenario.id));
        }
        if caught.is_empty() {
            wrong.push(format!("{name}: survives"));
        }
    }
    Ok(wrong)
}

/// Looks for the cases that catch each fault, and keeps the named ones that do.
///
/// # Errors
///
/// The shim does not start.
pub fn find(suite: &Path, scenarios: &[Scenario], options: &Options) -> Result<BTreeMap<String, Vec<String>>, String> {
    let known = read_table(&suite.join("mutants.txt")).unwrap_or_default();
    let all: Vec<&Scenario> = scenarios.iter().collect();
    let mut table = BTreeMap::new();
    for name in list(command_of(options)?)? {
        let caught = catching(&name, &all, options)?;
        let mut named = known.get(&name).cloned().unwrap_or_default();
        named.retain(|id| caught.contains(id));
        let more: Vec<_> = caught.into_iter().filter(|id| !named.contains(id)).collect();
        named.extend(more.into_iter().take(NAMED.saturating_sub(named.len())));
        table.insert(name, named);
    }
    Ok(table)
}
