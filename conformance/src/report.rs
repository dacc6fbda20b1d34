//! What the suite says at the end: text for people, JSON and JUnit for programs.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::literal::{hex, show_time};
use crate::scenario::Level;
use crate::shim::Description;
use crate::spec::{Rule, Spec};
use crate::suite::{Outcome, Target, Verdict};

/// Everything about a run.
pub struct Report<'r> {
    /// Who was tested.
    pub description: &'r Description,
    /// What became of each scenario.
    pub outcomes: &'r [Outcome<'r>],
    /// The rules.
    pub spec: &'r Spec,
    /// The option that says what was tested, for the line that runs a case again.
    pub target: &'r Target,
    /// The options, other than the target, with which it was run, for the same line.
    pub arguments: &'r str,
    /// Whether the run left scenarios out by a filter.
    pub is_partial: bool,
}

/// The verdicts, in the order in which they are counted.
const NAMES: [&str; 7] = ["pass", "fail", "known", "non-strict", "informational", "unimplemented", "skipped"];

impl Report<'_> {
    /// How often a verdict was given, among the scenarios of a level or all.
    fn count(&self, name: &str, level: Option<Level>) -> usize {
        let is_meant = |outcome: &&Outcome<'_>| {
            outcome.verdict.name() == name && level.is_none_or(|level| outcome.scenario.level == level)
        };
        self.outcomes.iter().filter(is_meant).count()
    }

    /// The exit code: 0 conformant, 1 required cases failed, 3 required cases were not run.
    pub fn exit_code(&self) -> u8 {
        let must = Some(Level::Must);
        // What the specification leaves free may be missing.
        let is_free = |outcome: &&Outcome<'_>| {
            let is_missing = matches!(outcome.verdict, Verdict::Unimplemented(_));
            is_missing && outcome.scenario.level == Level::Must && outcome.scenario.is_optional()
        };
        let free = self.outcomes.iter().filter(is_free).count();
        let not_run = self.count("unimplemented", must) - free + self.count("skipped", must);
        match (self.count("fail", must), not_run + self.count("known", must)) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }

    /// The last line in words.
    fn conclusion(&self) -> &'static str {
        match (self.exit_code(), self.is_partial) {
            (0, false) => "conformant: every required case passes",
            (0, true) => "every required case that was chosen passes",
            (1, _) => "not conformant: required cases fail",
            _ if self.count("known", Some(Level::Must)) > 0 => "not conformant, as was known: nothing new fails",
            _ => "incomplete: required cases were not run",
        }
    }

    /// The report for people.
    pub fn text(&self, is_verbose: bool) -> String {
        let mut text = String::new();
        for outcome in self.outcomes {
            if is_verbose || !matches!(outcome.verdict, Verdict::Unimplemented(_)) {
                let _ = self.outcome_text(&mut text, outcome, is_verbose);
            }
        }
        let missing: BTreeSet<&str> = self.outcomes.iter().flat_map(|outcome| missing(&outcome.verdict)).collect();
        if !is_verbose && !missing.is_empty() {
            let (count, missing) = (self.count("unimplemented", None), Vec::from_iter(missing).join(", "));
            let _ = writeln!(text, "{count} unimplemented: need {missing} (-v lists them)");
        }
        let Description { name, version, profile, .. } = self.description;
        let counts: Vec<_> =
            NAMES.iter().map(|name| (name, self.count(name, None))).filter(|(_, count)| *count > 0).collect();
        let counts: Vec<_> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        let _ = writeln!(text, "{name} {version} ({profile}): {} cases: {}", self.outcomes.len(), counts.join(", "));
        let again: Vec<&str> =
            self.outcomes.iter().filter(|outcome| outcome.was_again).map(|outcome| &*outcome.scenario.id).collect();
        if !again.is_empty() {
            let _ = writeln!(text, "{} passed only when run again: {}", again.len(), again.join(", "));
        }
        let _ = writeln!(text, "{}", self.conclusion());
        text
    }

    fn outcome_text(&self, text: &mut String, outcome: &Outcome<'_>, is_verbose: bool) -> std::fmt::Result {
        let Outcome { scenario, verdict, .. } = outcome;
        match verdict {
            Verdict::Pass if !is_verbose => return Ok(()),
            Verdict::Skipped(why) => return writeln!(text, "skipped        {}: {why}", scenario.id),
            Verdict::Known(why) => return writeln!(text, "known          {}: {why}", scenario.id),
            Verdict::Unimplemented(missing) => {
                return writeln!(text, "unimplemented  {}: needs {}", scenario.id, missing.join(", "));
            }
            _ => {}
        }
        writeln!(text, "{:13}  {}: {}", verdict.name(), scenario.id, scenario.title)?;
        let Some(failure) = verdict.failure() else { return Ok(()) };
        let mismatch = &failure.mismatch;
        let place = if failure.line > 0 { format!(":{}", failure.line) } else { String::new() };
        writeln!(text, "  layer     {}", mismatch.layer)?;
        writeln!(text, "  step      {}{place}: {}", scenario.path.display(), indented(&shortened(&failure.step)))?;
        writeln!(text, "  replay    {}", failure.replay.name())?;
        writeln!(text, "  expected  {}", indented(&mismatch.expected))?;
        writeln!(text, "  actual    {}", indented(&mismatch.actual))?;
        // The rule that is broken for certain, and those that the case is about.
        let broken = mismatch.rule.map(str::to_owned);
        let about = scenario.rules.iter().filter(|id| broken.as_ref() != Some(*id)).map(|id| ("about", id));
        for (what, id) in broken.iter().map(|id| ("broken", id)).chain(about) {
            if let Some(rule) = self.spec.rules.get(id) {
                let Rule { level, who, file, text: words, .. } = rule;
                writeln!(text, "  {what:8}  {id} ({level}, {who}; spec/{file}): {words}")?;
            }
        }
        if let Some((expected, actual)) = mismatch.bytes.as_deref() {
            text.push_str(&dump(expected, actual));
        } else if !failure.fed.is_empty() {
            let (now, fed, count) = (show_time(failure.now), &failure.fed, failure.fed_in_all);
            writeln!(text, "  fed       {count} bytes until {now}; the last are")?;
            text.push_str(&lines("fed", fed, 0));
        }
        writeln!(text, "  again     {}\n", self.again(&scenario.id))
    }

    /// The command line that runs one case again.
    fn again(&self, id: &str) -> String {
        let target = match self.target {
            Target::Shim(command) => format!("--shim '{}'", command.replace('\'', r"'\''")),
            Target::Client(command) => format!("--client '{}'", command.replace('\'', r"'\''")),
            Target::Server(addr) => format!("--server {addr}"),
        };
        let (program, arguments) = (program(), self.arguments);
        format!("{program} run {target} --id {id}{arguments}")
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let cases: Vec<Value> = self
            .outcomes
            .iter()
            .map(|outcome| {
                let scenario = outcome.scenario;
                let mut case = json!({
                    "id": scenario.id, "title": scenario.title, "area": scenario.area, "role": scenario.role.name(),
                    "level": scenario.level.name(), "rules": scenario.rules, "verdict": outcome.verdict.name(),
                    "seconds": outcome.took.as_secs_f64(), "again": outcome.was_again,
                });
                if let Verdict::Unimplemented(missing) = &outcome.verdict {
                    case["missing"] = json!(missing);
                }
                if let Verdict::Skipped(why) | Verdict::Known(why) = &outcome.verdict {
                    case["why"] = json!(why);
                }
                if let Some(failure) = outcome.verdict.failure() {
                    let broken = failure.mismatch.rule.and_then(|id| self.spec.rules.get(id));
                    let about = scenario.rules.iter().filter_map(|id| self.spec.rules.get(id));
                    let bytes = failure.mismatch.bytes.as_deref().map(|(expected, actual)| {
                        json!({ "expected": hex(expected), "actual": hex(actual), "dump": dump(expected, actual) })
                    });
                    case["failure"] = json!({
                        "broken": broken.map(requirement), "about": about.map(requirement).collect::<Vec<_>>(),
                        "bytes": bytes, "now": failure.now,
                        "fed": { "bytes": failure.fed_in_all, "last": hex(&failure.fed) },
                        "file": scenario.path.display().to_string(),
                        "layer": failure.mismatch.layer, "line": failure.line, "step": failure.step,
                        "replay": failure.replay.name(), "expected": failure.mismatch.expected,
                        "actual": failure.mismatch.actual, "again": self.again(&scenario.id),
                    });
                }
                case
            })
            .collect();
        let counts: serde_json::Map<_, _> =
            NAMES.iter().map(|name| ((*name).to_owned(), self.count(name, None).into())).collect();
        let Description { name, version, profile, can } = self.description;
        json!({
            "suite": { "protocol": 0, "version": env!("CARGO_PKG_VERSION") },
            "subject": { "name": name, "version": version, "profile": profile, "can": can },
            "conclusion": self.conclusion(), "exit_code": self.exit_code(), "counts": counts, "cases": cases,
        })
    }

    /// The report as JUnit XML.
    pub fn junit(&self) -> String {
        let failed = self.count("fail", None);
        let total = self.outcomes.len();
        let not_run = total - self.count("pass", None) - failed;
        // A shim that cannot be talked to is an error, and no failure.
        let is_error =
            |verdict: &Verdict| matches!(verdict, Verdict::Fail(failure) if failure.mismatch.layer == "shim");
        let errors = self.outcomes.iter().filter(|outcome| is_error(&outcome.verdict)).count();
        let failed = failed - errors;
        let took: f64 = self.outcomes.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
        let counts =
            format!(r#"tests="{total}" failures="{failed}" errors="{errors}" skipped="{not_run}" time="{took:.3}""#);
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let name = escaped(&self.description.name);
        let _ = writeln!(xml, r#"<testsuites {counts}>"#);
        let _ = writeln!(xml, r#"  <testsuite name="teleport/0 {name}" {counts}>"#);
        for outcome in self.outcomes {
            let Outcome { scenario, verdict, took, .. } = outcome;
            let (id, area) = (escaped(&scenario.id), escaped(&scenario.area));
            let _ = write!(xml, r#"    <testcase classname="{area}" name="{id}" time="{:.3}">"#, took.as_secs_f64());
            let mut details = String::new();
            let _ = self.outcome_text(&mut details, outcome, true);
            let message = verdict.failure().map_or(String::new(), |failure| {
                format!("expected {}, actual {}", failure.mismatch.expected, failure.mismatch.actual)
            });
            let (message, details) = (escaped(&message), escaped(&details));
            let _ = match verdict {
                Verdict::Pass => Ok(()),
                Verdict::Fail(_) if is_error(verdict) => write!(xml, r#"<error message="{message}">{details}</error>"#),
                Verdict::Fail(_) => write!(xml, r#"<failure message="{message}">{details}</failure>"#),
                other => write!(xml, r#"<skipped message="{}">{details}</skipped>"#, other.name()),
            };
            xml.push_str("</testcase>\n");
        }
        xml.push_str("  </testsuite>\n</testsuites>\n");
        xml
    }
}

/// The capabilities for want of which a case was not run.
fn missing(verdict: &Verdict) -> impl Iterator<Item = &str> {
    let missing = if let Verdict::Unimplemented(missing) = verdict { missing.as_slice() } else { &[] };
    missing.iter().map(AsRef::as_ref)
}

/// This program as it was called, as one word of a shell command.
fn program() -> String {
    let program = std::env::args().next().unwrap_or_else(|| "teleport-conformance".into());
    let is_plain = program.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if is_plain { program } else { format!("'{}'", program.replace('\'', r"'\''")) }
}

/// A requirement and where it stands.
fn requirement(rule: &Rule) -> Value {
    let Rule { id, level, who, file, text } = rule;
    json!({ "id": id, "level": level, "who": who, "file": format!("spec/{file}"), "text": text })
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n            ")
}

/// A step may hold a body of many pages.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 400 { text.to_owned() } else { text.chars().take(400).chain("...".chars()).collect() }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The lines around the first byte that differs.
fn dump(expected: &[u8], actual: &[u8]) -> String {
    let at = expected.iter().zip(actual).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(16) / 16 * 16;
    let mut text = String::new();
    if !expected.is_empty() {
        let _ = writeln!(text, "  first difference at byte {at}");
        text.push_str(&lines("expected", expected, from));
    }
    text.push_str(&lines("actual", actual, from));
    text
}

fn lines(name: &str, bytes: &[u8], from: usize) -> String {
    let mut text = String::new();
    for (n, line) in bytes.get(from..).unwrap_or_default().chunks(16).take(4).enumerate() {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let shown: String = line.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }).collect();
        let _ = writeln!(text, "    {name:8}  {:06x}  {:47}  {shown}", from + n * 16, hex.join(" "));
    }
    if text.is_empty() {
        let _ = writeln!(text, "    {name:8}  {from:06x}  (ends before)");
    }
    text
}
