//! The rules of the specification, read from `spec/*.md`.

use std::collections::BTreeMap;
use std::path::Path;

/// One requirement.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `R-slug`
    pub id: String,
    /// `MUST`, `SHOULD` or `MAY`.
    pub level: String,
    /// Whom it binds.
    pub who: String,
    /// The file in which it stands.
    pub file: String,
    /// The whole text, on one line.
    pub text: String,
}

/// The specification's rules and codes.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Every rule, by id.
    pub rules: BTreeMap<String, Rule>,
    /// The ids in the index of 08-conformance.md.
    pub index: Vec<String>,
    /// Every code of errors.md.
    pub codes: Vec<String>,
    /// The ids of the examples of streams: those that show more than a hello.
    pub examples: Vec<String>,
}

impl Spec {
    /// Reads the specification from its folder.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn read(folder: &Path) -> std::io::Result<Self> {
        let mut spec = Self::default();
        let mut paths =
            std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path)?;
            let blocks = text.split("\n```example id=").skip(1);
            let is_stream = |block: &&str| block.split("\n```").next().is_some_and(|block| block.contains("\nwire:"));
            let id = |block: &str| block.split(' ').next().unwrap_or_default().to_owned();
            spec.examples.extend(blocks.filter(is_stream).map(id));
            for rule in rules(&file, &text) {
                spec.rules.insert(rule.id.clone(), rule);
            }
            if file == "08-conformance.md" {
                let first_cell = |line: &str| {
                    line.strip_prefix("| R-").and_then(|rest| rest.split_once(' ')).map(|c| c.0.to_owned())
                };
                spec.index = text.lines().filter_map(first_cell).map(|slug| format!("R-{slug}")).collect();
            }
            if file == "errors.md" {
                for cell in
                    text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('|')).map(|cells| cells.0)
                {
                    let words = cell.split(['`', ',', ' ']).filter(|word| !word.is_empty());
                    spec.codes.extend(words.map(str::to_owned));
                }
            }
        }
        Ok(spec)
    }

    /// Whether a case or a reason is owed for a rule: it is a `MUST` that binds an end of a link.
    pub fn is_owed(&self, id: &str) -> bool {
        let binds = ["client", "server", "sender", "receiver", "both"];
        self.rules.get(id).is_some_and(|rule| rule.level == "MUST" && binds.contains(&rule.who.as_str()))
    }
}

/// The rules of one file: list items `- **R-slug** (LEVEL, WHO): text`.
fn rules(file: &str, text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let (mut is_inside, mut is_fenced) = (false, false);
    for line in text.lines() {
        // A fenced block may show the form of a rule, or an example; it holds none.
        is_fenced ^= line.starts_with("```");
        if is_fenced {
            is_inside = false;
        } else if let Some(rule) = line.strip_prefix("- **R-").and_then(|rest| rule(file, rest)) {
            rules.push(rule);
            is_inside = true;
        } else if is_inside && line.starts_with("  ") {
            if let Some(rule) = rules.last_mut() {
                rule.text.push(' ');
                rule.text.push_str(line.trim());
            }
        } else {
            is_inside = false;
        }
    }
    rules
}

fn rule(file: &str, rest: &str) -> Option<Rule> {
    let (slug, rest) = rest.split_once("** (")?;
    let (level, rest) = rest.split_once(", ")?;
    let (who, text) = rest.split_once("): ")?;
    Some(Rule {
        id: format!("R-{slug}"),
        level: level.into(),
        who: who.into(),
        file: file.into(),
        text: text.trim().into(),
    })
}
