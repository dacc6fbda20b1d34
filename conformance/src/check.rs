//! Whether the suite is whole: every scenario can be read, every rule exists, every owed rule has a case or a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::scenario::{Scenario, read_all};
use crate::spec::Spec;
use crate::step::{EventPattern, Expect, Step, StepKind};

/// What the check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The scenarios that could be read.
    pub scenarios: Vec<Scenario>,
    /// What is wrong, each with its place.
    pub errors: Vec<String>,
    /// Owed rules with a case.
    pub covered: usize,
    /// Owed rules with a reason.
    pub untestable: usize,
}

/// Checks the suite in `suite` (the folder `conformance`) against the rules.
///
/// # Errors
///
/// A folder or file cannot be read.
pub fn check(suite: &Path, spec: &Spec) -> std::io::Result<Checked> {
    let (scenarios, errors) = read_all(&suite.join("cases"))?;
    let mut checked = Checked { errors: errors.iter().map(ToString::to_string).collect(), ..Checked::default() };
    let mut ids: BTreeMap<&str, &Path> = BTreeMap::new();
    let mut cited: BTreeSet<&str> = BTreeSet::new();
    for scenario in &scenarios {
        let place = scenario.path.display();
        if let Some(other) = ids.insert(&scenario.id, &scenario.path) {
            checked.errors.push(format!("{place}: the id {:?} is also that of {}", scenario.id, other.display()));
        }
        for rule in &scenario.rules {
            if !spec.rules.contains_key(rule) {
                checked.errors.push(format!("{place}: the specification has no {rule}"));
            }
            cited.insert(rule);
        }
        for (line, code) in codes(&scenario.steps) {
            if !spec.codes.iter().any(|known| known == code) {
                checked.errors.push(format!("{place}:{line}: errors.md has no code {code:?}"));
            }
        }
    }
    for id in &spec.index {
        if !spec.rules.contains_key(id) {
            checked.errors.push(format!("spec/08-conformance.md: the index names {id}, which no file holds"));
        }
    }
    for id in spec.rules.keys().filter(|id| !spec.index.contains(id)) {
        checked.errors.push(format!("spec/08-conformance.md: the index lacks {id}"));
    }
    let reasons = listed(&suite.join("untestable.txt"), spec, &cited, &mut checked.errors)?;
    for id in spec.rules.keys().filter(|id| spec.is_owed(id)) {
        match (cited.contains(id.as_str()), reasons.contains(id.as_str())) {
            (true, _) => checked.covered += 1,
            (false, true) => checked.untestable += 1,
            (false, false) => checked.errors.push(format!("{id} has no case and no reason in untestable.txt")),
        }
    }
    for example in &spec.examples {
        let slug = example.trim_start_matches("EX-");
        if !ids.keys().any(|id| id.ends_with(&format!("-example-{slug}"))) {
            checked.errors.push(format!("the example {example} of the specification has no case ...-example-{slug}"));
        }
    }
    links(suite, &mut checked.errors)?;
    let table = suite.join("mutants.txt");
    if table.exists() {
        match crate::mutants::read_table(&table) {
            Err(error) => checked.errors.push(error),
            Ok(rows) => {
                for (name, id) in rows.iter().flat_map(|(name, cases)| cases.iter().map(move |id| (name, id))) {
                    if !ids.contains_key(id.as_str()) {
                        checked.errors.push(format!("{}: {name}: there is no case {id}", table.display()));
                    }
                }
            }
        }
    }
    checked.scenarios = scenarios;
    Ok(checked)
}

/// The rules that a file gives a reason for: lines `R-id: reason`, `#` begins a comment.
fn listed(
    path: &Path,
    spec: &Spec,
    cited: &BTreeSet<&str>,
    errors: &mut Vec<String>,
) -> std::io::Result<BTreeSet<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut reasons = BTreeSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty())
    {
        let mut wrong = |what: String| errors.push(format!("{}:{}: {what}", path.display(), number + 1));
        match line.split_once(": ") {
            // A reason may go on on lines that begin with a space.
            None if line.starts_with(' ') => {}
            Some(_) if line.starts_with(' ') => {}
            Some((id, _)) if !spec.rules.contains_key(id) => wrong(format!("the specification has no {id}")),
            Some((id, _)) if cited.contains(id) => wrong(format!("{id} has a case")),
            Some((id, reason)) if !reason.trim().is_empty() => drop(reasons.insert(id.to_owned())),
            _ => wrong("no `R-id: reason`".into()),
        }
    }
    Ok(reasons)
}

/// Links of the suite's documents to files that do not exist.
fn links(suite: &Path, errors: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(suite)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        for (number, line) in text.lines().enumerate() {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
            for target in targets.filter(|target| !target.contains("://")) {
                let file = target.split('#').next().unwrap_or_default();
                if !suite.join(file).exists() {
                    errors.push(format!("{}:{}: there is no {target}", path.display(), number + 1));
                }
            }
        }
    }
    Ok(())
}

/// All codes that steps name, with their lines.
fn codes(steps: &[Step]) -> Vec<(usize, &str)> {
    let mut codes = Vec::new();
    for step in steps {
        match &step.kind {
            StepKind::Do { refused: Some(code), .. }
            | StepKind::Expect(Expect::Closed(Some(code)))
            | StepKind::Expect(Expect::Event(EventPattern::Refused { code, .. } | EventPattern::Failed { code, .. })) =>
            {
                codes.push((step.line, code.as_str()));
            }
            StepKind::Unordered(steps) => codes.extend(self::codes(steps)),
            StepKind::Either(branches) => codes.extend(branches.iter().flat_map(|steps| self::codes(steps))),
            _ => {}
        }
    }
    codes
}
