//! Options in a TOML file.
//!
//! ```toml
//! in-type = "teleport"
//! out = ["a.example:80", "b.example:80"]
//! out-delay = "2ms"
//! concurrency = 1000
//! access-log = true
//! ```

use std::fs;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::layers::{CONFIG, Known, Options, Origin, Problem, Setting, Takes};

/// What a file says, and all that is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Filed {
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    /// The options whose values are not known because of that.
    pub(super) spoiled: Vec<String>,
    /// Nothing is known of what it was meant to say.
    pub(super) is_unclear: bool,
}

/// Reads a file. A problem of line 0 is that it cannot be read.
pub(super) fn read(path: &Path, options: &Options) -> Filed {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, path, options),
        Err(error) => {
            let text = format!("cannot read the configuration {} (--config): {error}", path.display());
            let problems = vec![Problem { origin: Origin::File(path.to_owned(), 0), text }];
            Filed { problems, is_unclear: true, ..Filed::default() }
        }
    }
}

fn parse(text: &str, path: &Path, options: &Options) -> Filed {
    let at = |offset: usize| {
        let line = text.get(..offset).unwrap_or(text).bytes().filter(|byte| *byte == b'\n').count() + 1;
        Origin::File(path.to_owned(), line)
    };
    let mut filed = Filed::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What it was meant to say is not clear, and complaints about that would only hide these.
        filed.problems.extend(errors.iter().map(|error| {
            let start = error.span().map_or(0, |span| span.start);
            Problem { origin: at(start), text: format!("this is not TOML: {}", error.message().replace('\n', ": ")) }
        }));
        filed.is_unclear = true;
        return filed;
    }
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let origin = at(key.span().start);
        match values(key.get_ref(), value.get_ref(), options) {
            Ok(values) => filed.settings.extend(values.into_iter().map(|value| Setting {
                name: key.get_ref().to_string(),
                value,
                origin: origin.clone(),
            })),
            Err(text) => {
                filed.spoiled.extend(options.meant(key.get_ref()));
                filed.problems.push(Problem { origin, text });
            }
        }
    }
    filed
}

/// What stands after `--KEY=` on the command line; once for each time that it has to.
fn values(key: &str, value: &DeValue<'_>, options: &Options) -> Result<Vec<String>, String> {
    if key == CONFIG {
        return Err("a file cannot name another: give --config once".to_owned());
    }
    let Some(known) = options.find(key) else {
        if let DeValue::Table(_) = value {
            return Err(format!("the file has no sections: write all options at the beginning, without [{key}]"));
        }
        let meant = options.resembling(key).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return Err(format!("there is no option {key:?}{meant} (see httptp --help)"));
    };
    match (known.takes, value) {
        (Takes::Switch | Takes::Flag, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Takes::List, DeValue::Array(elements)) => {
            let elements = elements.iter().map(|element| match element.get_ref() {
                DeValue::String(text) if text.contains(',') => {
                    Err(format!("{key}: {text:?} has a comma: write each in quotes of its own"))
                }
                element => scalar(known, element),
            });
            Ok(vec![elements.collect::<Result<Vec<_>, _>>()?.join(",")])
        }
        (Takes::Repeated, DeValue::Array(elements)) => {
            elements.iter().map(|element| scalar(known, element.get_ref())).collect()
        }
        (Takes::Switch | Takes::Flag, _) => Err(wanted(known, value)),
        (_, value) => scalar(known, value).map(|value| vec![value]),
    }
}

/// A single value. Whether it is a good one, the option says.
fn scalar(known: &Known, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{}: the number is too large", known.name)),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        _ => Err(wanted(known, value)),
    }
}

/// What there should be, in place of something else.
fn wanted(known: &Known, value: &DeValue<'_>) -> String {
    let Known { name, .. } = known;
    let one_of = match known.values.as_slice() {
        [] => String::new(),
        values => format!(": {}", values.join(", ")),
    };
    let wanted = match known.takes {
        Takes::Switch | Takes::Flag => "true or false, without quotes".to_owned(),
        Takes::One | Takes::Choice => format!("one value, in quotes if it is no number{one_of}"),
        Takes::List | Takes::Repeated => {
            format!("a value in quotes, or several in brackets: [\"...\", \"...\"]{one_of}")
        }
    };
    let found = match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    format!("{name} takes {wanted}; this is {found}")
}
