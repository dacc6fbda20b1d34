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
    /// The rows of the index of 08-conformance.md: id, level, and whom it binds.
    pub index: Vec<[String; 3]>,
    /// What is wrong with the text, each with its place.
    pub faults: Vec<String>,
    /// Every code of errors.md.
    pub codes: Vec<String>,
    /// The examples of streams, which show more than a hello: their ids and bytes.
    pub examples: Vec<(String, Vec<u8>)>,
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
            for block in blocks.filter(is_stream) {
                let id = block.split(' ').next().unwrap_or_default().to_owned();
                match wire(block) {
                    Ok(bytes) => spec.examples.push((id, bytes)),
                    Err(error) => spec.faults.push(format!("spec/{file}: the example {id}: {error}")),
                }
            }
            for rule in rules(&file, &text, &mut spec.faults) {
                if let Some(other) = spec.rules.insert(rule.id.clone(), rule.clone()) {
                    spec.faults.push(format!("spec/{file}: {} stands in {}, too", rule.id, other.file));
                }
            }
            if file == "08-conformance.md" {
                let cells = |line: &str| {
                    let cells: Vec<&str> = line.strip_prefix("| R-")?.split(" | ").collect();
                    Some([format!("R-{}", cells[0]), (*cells.get(1)?).to_owned(), (*cells.get(2)?).to_owned()])
                };
                spec.index = text.lines().filter_map(cells).collect();
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

    /// Whether a rule is a `MUST`.
    pub fn is_must(&self, id: &str) -> bool {
        self.rules.get(id).is_some_and(|rule| rule.level == LEVELS[0])
    }
}

/// How much a rule binds.
const LEVELS: [&str; 3] = ["MUST", "SHOULD", "MAY"];
/// Whom a rule binds.
const WHO: [&str; 6] = ["client", "server", "sender", "receiver", "both", "proxy"];

/// The bytes of an example: hex digits between `wire:` and the next line that is not indented.
fn wire(block: &str) -> Result<Vec<u8>, String> {
    let lines = block.lines().skip_while(|line| *line != "wire:").skip(1).take_while(|line| line.starts_with(' '));
    let digits: String = lines.filter(|line| !line.trim().starts_with('#')).collect();
    crate::literal::unhex(&digits)
}

/// The rules of one file: list items `- **R-slug** (LEVEL, WHO): text`.
fn rules(file: &str, text: &str, faults: &mut Vec<String>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let (mut is_inside, mut is_fenced) = (false, false);
    for (number, line) in text.lines().enumerate() {
        let mut wrong = |what: String| faults.push(format!("spec/{file}:{}: {what}", number + 1));
        // A fenced block may show the form of a rule, or an example; it holds none.
        is_fenced ^= line.starts_with("```");
        if is_fenced {
            is_inside = false;
        } else if let Some(rest) = line.strip_prefix("- **R-") {
            match rule(file, rest) {
                Some(rule) if !LEVELS.contains(&rule.level.as_str()) => wrong(format!("no level {:?}", rule.level)),
                Some(rule) if !WHO.contains(&rule.who.as_str()) => wrong(format!("nobody is called {:?}", rule.who)),
                Some(rule) => rules.push(rule),
                None => wrong("a rule is `- **R-slug** (LEVEL, WHO): text`".into()),
            }
            is_inside = true;
        } else if is_inside && line.starts_with("  ") {
            if let Some(rule) = rules.last_mut() {
                rule.text.push(' ');
                rule.text.push_str(line.trim());
            }
        } else {
            is_inside = false;
            // README.md tells what the word means; tables repeat what rules say.
            let words = |line: &str| line.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == LEVELS[0]);
            if file != "README.md" && !line.starts_with('|') && words(line) {
                wrong("a MUST that is in no rule".into());
            }
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
