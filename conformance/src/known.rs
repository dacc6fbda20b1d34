//! Failures that are known beforehand, each with its reason: what is new stands out, and what was mended, too.

use std::path::Path;

use crate::suite::{Outcome, Verdict, matches};

/// A list of known failures: patterns of ids, each with a reason.
#[derive(Clone, Debug, Default)]
pub struct Known {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    pattern: String,
    reason: String,
    /// What depends on a race may also come true.
    is_sometimes: bool,
}

impl Known {
    /// Reads a file of lines `PATTERN: reason`; a line that begins with `#` is a comment. `?` before the pattern says
    /// that the case fails at times, and passes at others.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line has no reason.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text).map_err(|line| format!("{}:{line}: not `PATTERN: reason`", path.display()))
    }

    fn parse(text: &str) -> Result<Self, usize> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, reason) = line.split_once(": ").ok_or(number + 1)?;
            let (is_sometimes, pattern) = pattern.strip_prefix('?').map_or((false, pattern), |pattern| (true, pattern));
            lines.push(Line { pattern: pattern.trim().to_owned(), reason: reason.trim().to_owned(), is_sometimes });
        }
        Ok(Self { lines })
    }

    /// Gives known failures their verdict. Returns the patterns of which no case that was run has failed.
    pub fn apply(&self, outcomes: &mut [Outcome<'_>]) -> Vec<String> {
        let mut was_met = vec![false; self.lines.len()];
        let mut was_run = vec![false; self.lines.len()];
        for outcome in outcomes {
            let is_run = !matches!(outcome.verdict, Verdict::Skipped(_) | Verdict::Unimplemented(_));
            let fits = |line: &Line| matches(&line.pattern, &outcome.scenario.id);
            // All patterns are looked at: a case may fit several.
            let fitting: Vec<usize> = (0..self.lines.len()).filter(|at| fits(&self.lines[*at])).collect();
            for at in &fitting {
                was_run[*at] |= is_run;
                was_met[*at] |= outcome.verdict.failure().is_some();
            }
            if let (Some(at), Some(_)) = (fitting.first(), outcome.verdict.failure()) {
                outcome.verdict = Verdict::Known(self.lines[*at].reason.clone());
            }
        }
        let is_over = |at: &usize| was_run[*at] && !was_met[*at] && !self.lines[*at].is_sometimes;
        (0..self.lines.len()).filter(is_over).map(|at| self.lines[at].pattern.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_pattern_and_a_reason() {
        let known = Known::parse("# of others\n\na-*: it does so: always\n?b: a race\n").unwrap();
        let line = |pattern: &str, reason: &str, is_sometimes| Line {
            pattern: pattern.into(),
            reason: reason.into(),
            is_sometimes,
        };
        assert_eq!(known.lines, [line("a-*", "it does so: always", false), line("b", "a race", true)]);
        assert_eq!(Known::parse("a: b\nno reason\n").unwrap_err(), 2);
    }
}
