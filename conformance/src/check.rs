//! Whether the suite is whole: every scenario can be read, every rule exists, every rule has a case or a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::scenario::{Scenario, read_all};
use crate::spec::Spec;
use crate::step::{EventPattern, Expect, Feed, Step, StepKind};

/// What the check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The scenarios that could be read.
    pub scenarios: Vec<Scenario>,
    /// What is wrong, each with its place.
    pub errors: Vec<String>,
    /// MUST rules with a case.
    pub covered: usize,
    /// MUST rules with a reason.
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
    checked.errors.extend(spec.faults.iter().cloned());
    for [id, level, who] in &spec.index {
        match spec.rules.get(id) {
            None => checked.errors.push(format!("spec/08-conformance.md: the index names {id}, which no file holds")),
            Some(rule) if (&rule.level, &rule.who) != (level, who) => {
                let (level, who) = (&rule.level, &rule.who);
                checked.errors.push(format!("spec/08-conformance.md: the index has {id} other than ({level}, {who})"));
            }
            Some(_) => {}
        }
    }
    for id in spec.rules.keys().filter(|id| !spec.index.iter().any(|[known, ..]| known == *id)) {
        checked.errors.push(format!("spec/08-conformance.md: the index lacks {id}"));
    }
    let reasons = listed(&suite.join("untestable.txt"), spec, &cited, &mut checked.errors)?;
    for id in spec.rules.keys() {
        match (cited.contains(id.as_str()), reasons.contains(id.as_str())) {
            (true, _) => checked.covered += usize::from(spec.is_must(id)),
            (false, true) => checked.untestable += usize::from(spec.is_must(id)),
            (false, false) => checked.errors.push(format!("{id} has no case and no reason in untestable.txt")),
        }
    }
    for (example, wire) in &spec.examples {
        let slug = example.trim_start_matches("EX-");
        match scenarios.iter().find(|scenario| scenario.id.ends_with(&format!("-example-{slug}"))) {
            None => checked
                .errors
                .push(format!("the example {example} of the specification has no case ...-example-{slug}")),
            Some(scenario) => {
                let fed = fed(&scenario.steps);
                if !fed.windows(wire.len().max(1)).any(|window| window == &wire[..]) {
                    let place = scenario.path.display();
                    checked.errors.push(format!("{place}: it does not feed the bytes of the example {example}"));
                }
            }
        }
    }
    for id in generated(suite)?.iter().filter(|id| !ids.contains_key(id.as_str())) {
        checked.errors.push(format!("cases/original: {id} is missing: `import-original` writes it"));
    }
    links(suite, &mut checked.errors)?;
    mutants(suite, &ids, &mut checked.errors);
    checked.scenarios = scenarios;
    Ok(checked)
}

/// All that steps feed in bare bytes.
fn fed(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in steps {
        match &step.kind {
            StepKind::Feed(Feed::Wire(wire) | Feed::EofIn(wire)) => bytes.extend_from_slice(wire),
            StepKind::Either(branches) => bytes.extend(branches.iter().flat_map(|steps| fed(steps))),
            _ => {}
        }
    }
    bytes
}

/// The ids of the cases that are written from what the original was seen to do.
fn generated(suite: &Path) -> std::io::Result<Vec<String>> {
    let (original, mut ids) = (suite.join("original"), Vec::new());
    for entry in std::fs::read_dir(original.join("recordings"))? {
        let name = entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        ids.extend(["client", "server"].map(|role| format!("original-recording-{name}-{role}")));
    }
    for role in ["client", "server"] {
        let text = std::fs::read_to_string(original.join(format!("edge-{role}.json")))?;
        let scripts: serde_json::Value = serde_json::from_str(&text)?;
        let names = scripts.as_array().into_iter().flatten().filter_map(|script| script["name"].as_str());
        ids.extend(names.map(|name| format!("original-{role}-{name}")));
    }
    Ok(ids)
}

/// The table of mutants names cases that there are, for every fault that the shim has.
fn mutants(suite: &Path, ids: &BTreeMap<&str, &Path>, errors: &mut Vec<String>) {
    let table = suite.join("mutants.txt");
    let rows = match crate::mutants::read_table(&table) {
        Ok(rows) => rows,
        Err(error) => return errors.push(error),
    };
    for (name, id) in rows.iter().flat_map(|(name, cases)| cases.iter().map(move |id| (name, id))) {
        if !ids.contains_key(id.as_str()) {
            errors.push(format!("{}: {name}: there is no case {id}", table.display()));
        }
    }
    // The list is in the shim's source, which a copy of the suite without its programs does not have.
    let source = std::fs::read_to_string(suite.join("src/bin/teleport-shim-core/mutant.rs")).unwrap_or_default();
    let list = source.split("MUTANTS: ").nth(1).and_then(|rest| rest.split("\n];").next()).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"')).map(|(name, _)| name);
    for name in names.filter(|name| rows.get(*name).is_none_or(Vec::is_empty)) {
        errors.push(format!("{}: no case is named for {name}", table.display()));
    }
}

/// The rules that a file gives a reason for: lines `R-id: reason` or `R-id, in part: reason`, `#` begins a comment.
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
            // Of a rule that has cases, what they do not reach.
            Some((id, _)) if id.strip_suffix(", in part").is_some_and(|id| cited.contains(id)) => {}
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
