//! Where the values of options come from: the command line, else the environment, else a file, else the default.
//!
//! What options there are, and what they take, is read off clap's own description of the command line: the long name of an
//! option is its key in a file, and with `HTTPTP_` before it, in capitals and with `_` for `-`, its variable. So a new
//! option needs no second listing. The values themselves are judged by clap, wherever they are from: those of the
//! environment and of the file become arguments before those of the command line, which win.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use clap::builder::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::args::Cli;
use super::file;
use super::spelling;

/// What all variables begin with.
const PREFIX: &str = "HTTPTP_";
/// The option that names the file. A file cannot name another.
pub(super) const CONFIG: &str = "config";

/// An option of the proxy.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Without dashes.
    pub(super) name: String,
    /// What clap calls it.
    id: String,
    pub(super) takes: Takes,
    /// What it is if nobody says, if that can be written down.
    pub(super) default: Option<String>,
    /// The values that there are, if they are listed.
    pub(super) values: Vec<String>,
    pub(super) heading: Option<String>,
}

impl Known {
    /// Whether it has to have a value.
    pub(super) fn takes_value(&self) -> bool {
        !matches!(self.takes, Takes::Switch | Takes::Flag | Takes::Choice)
    }
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `true` or `false`: it is on or off.
    Switch,
    /// Nothing: it is on or off.
    Flag,
    /// One of the values listed, which on the command line may be left out.
    Choice,
    /// A value.
    One,
    /// Values with commas between.
    List,
    /// Values, each with the name of the option before it.
    Repeated,
}

/// The options of the proxy.
#[derive(Clone, Debug)]
pub(super) struct Options(Vec<Known>);

impl Options {
    pub(super) fn new() -> Self {
        let command = Cli::command();
        let known = command.get_arguments().filter_map(|arg| {
            let takes = match arg.get_action() {
                ArgAction::Append => Takes::Repeated,
                ArgAction::Set if arg.get_num_args().is_some_and(|n| n.min_values() == 0) => {
                    if arg.get_possible_values().is_empty() { Takes::Switch } else { Takes::Choice }
                }
                // As in `ADDR,...`.
                ArgAction::Set if arg.get_value_names().is_some_and(|names| names[0].ends_with(",...")) => Takes::List,
                ArgAction::Set => Takes::One,
                ArgAction::SetTrue => Takes::Flag,
                _ => return None,
            };
            let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
            let is_switch = matches!(takes, Takes::Switch | Takes::Flag);
            let values = if is_switch { Vec::new() } else { arg.get_possible_values() };
            Some(Known {
                name: arg.get_long()?.to_owned(),
                id: arg.get_id().to_string(),
                takes,
                default: default.or_else(|| is_switch.then(|| "false".to_owned())),
                values: values.iter().map(|value| value.get_name().to_owned()).collect(),
                heading: arg.get_help_heading().map(str::to_owned),
            })
        });
        Self(known.collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.0.iter()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Known> {
        self.0.iter().find(|known| known.name == name)
    }

    /// The one that is written so, in this program's spelling or as the original would have spelled it: `outTLSCA`.
    pub(super) fn written(&self, name: &str) -> Option<&Known> {
        let is_camel = !name.contains('-') && name.contains(|c: char| c.is_ascii_uppercase());
        let letters = is_camel.then(|| spelling::letters(name));
        let like_the_original = || self.0.iter().find(|known| Some(spelling::letters(&known.name)) == letters);
        self.find(name).or_else(like_the_original)
    }

    /// The one of this name, or that somebody may have meant.
    pub(super) fn meant(&self, name: &str) -> Option<String> {
        self.find(name).map(|known| known.name.clone()).or_else(|| self.resembling(name))
    }

    /// The one that somebody may have meant, in their way to write it.
    pub(super) fn resembling(&self, name: &str) -> Option<String> {
        let spelled = spelling::kebab(&name.to_ascii_lowercase().replace(['_', '.', ' '], "-"));
        if self.find(&spelled).is_some() {
            return Some(spelled);
        }
        let original = spelling::own(name).filter(|own| self.find(own).is_some());
        if let Some(own) = original {
            return Some(own.to_owned());
        }
        if let Some(known) = self.written(name) {
            return Some(known.name.clone());
        }
        let error = Cli::try_parse_from(["httptp".to_owned(), format!("--{spelled}=")]).err()?;
        match error.get(ContextKind::SuggestedArg)? {
            ContextValue::String(arg) => arg.strip_prefix("--").map(str::to_owned),
            _ => None,
        }
    }
}

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    CommandLine,
    /// A variable of this name.
    Variable(String),
    File(PathBuf, Line),
}

/// A line of a file, from 1.
pub(super) type Line = usize;

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// An option and what somebody wants it to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    /// As on the command line.
    pub(super) value: String,
    pub(super) origin: Origin,
}

impl Setting {
    fn to_arg(&self, options: &Options) -> Option<String> {
        let Self { name, value, .. } = self;
        match options.find(name).map(|known| known.takes) {
            Some(Takes::Flag) => (value == "true").then(|| format!("--{name}")),
            _ => Some(format!("--{name}={value}")),
        }
    }

    /// All that is wrong with the value, whatever the others are: of a list, with each element.
    pub(super) fn problems(&self, options: &Options) -> Vec<Problem> {
        let Self { name, value, origin } = self;
        let problem = |text| Problem { origin: origin.clone(), text };
        let takes = options.find(name).map(|known| known.takes);
        if takes == Some(Takes::Flag) && !matches!(&**value, "true" | "false") {
            return vec![problem(format!("invalid value {value:?} for --{name}: write true or false"))];
        }
        // What else has to be there is for the whole to tell.
        let wrong = |setting: &Self| setting.error(options).filter(|error| !is_of_the_whole(error));
        let Some(whole) = wrong(self) else { return Vec::new() };
        let elements = value.split(',').filter(|_| takes == Some(Takes::List));
        let each: Vec<_> =
            elements.filter_map(|element| wrong(&Self { value: element.to_owned(), ..self.clone() })).collect();
        let told = if each.is_empty() { &[whole][..] } else { &each };
        told.iter().map(|error| problem(in_one_line(error))).collect()
    }

    /// What clap says of it alone.
    fn error(&self, options: &Options) -> Option<clap::Error> {
        Cli::try_parse_from(["httptp".to_owned(), self.to_arg(options)?]).err()
    }
}

/// Whether an option needs another, or does not go with it.
fn is_of_the_whole(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict)
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) origin: Origin,
    pub(super) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::CommandLine => f.write_str(&self.text),
            origin => write!(f, "{origin}: {}", self.text),
        }
    }
}

/// What was said, by whom.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
    /// What counts, by the names of options.
    pub(super) settings: HashMap<String, Setting>,
    /// The whole command line, with what is from elsewhere in its place, without the name of the program; but for what is
    /// wrong by itself.
    pub(super) args: Vec<String>,
    pub(super) problems: Vec<Problem>,
    /// Options whose values are not known because of those problems.
    spoiled: Vec<String>,
    /// There is a file that says nobody knows what.
    pub(super) is_unclear: bool,
    /// What is strange and does no harm.
    pub(super) notes: Vec<String>,
}

impl Layers {
    /// Adds to a command line, in this program's own spelling, what variables and the file say. Each value is judged, and
    /// each problem kept.
    pub(super) fn gather(args: Vec<String>, variables: &[(String, String)], options: &Options) -> Self {
        let Some(place) = place_for_options(&args) else { return Self { args, ..Self::default() } };
        let mut layers = Self::default();
        let spoken: Vec<Setting> = args[place..].iter().filter_map(|arg| spoken(arg, options)).collect();
        let environment = layers.read_variables(variables, options);
        let path = spoken.iter().rev().chain(&environment).find(|setting| setting.name == CONFIG);
        layers.file = path.map(|setting| PathBuf::from(&setting.value)).filter(|path| !path.as_os_str().is_empty());
        let filed = match &layers.file {
            None => Vec::new(),
            Some(path) => {
                let filed = file::read(path, options);
                let origin = path_origin(&spoken, &environment);
                layers.problems.extend(filed.problems.into_iter().map(|problem| problem.unless_unread(&origin)));
                layers.spoiled.extend(filed.spoiled);
                layers.is_unclear = filed.is_unclear;
                filed.settings
            }
        };
        for setting in spoken.iter().chain(&environment).chain(&filed) {
            let wrong = setting.problems(options);
            layers.spoiled.extend(wrong.first().map(|_| setting.name.clone()));
            layers.problems.extend(wrong);
        }
        layers.args.extend_from_slice(&args[..place]);
        let is_said = |name: &str, by: &[Setting]| by.iter().any(|setting| setting.name == name);
        let filed_alone = filed.iter().filter(|setting| !is_said(&setting.name, &environment));
        let below = filed_alone.chain(&environment).filter(|setting| !is_said(&setting.name, &spoken));
        let below = below.filter(|setting| !layers.spoiled.contains(&setting.name));
        layers.args.extend(below.filter_map(|setting| setting.to_arg(options)));
        let mut may_be_value = false;
        for arg in &args[place..] {
            let name = split(arg).map(|(name, _)| name);
            let follows_unknown = std::mem::take(&mut may_be_value);
            if follows_unknown && name.is_none() {
                // Of an option that there is not.
            } else if let Some(problem) = unknown(arg, options) {
                may_be_value = name.is_some_and(|name| !arg[name.len()..].contains('='));
                layers.problems.push(problem);
                layers.spoiled.extend(name.and_then(|name| options.meant(name)));
            } else if !name.is_some_and(|name| layers.spoiled.iter().any(|spoiled| spoiled == name)) {
                layers.args.push(arg.clone());
            }
        }
        for setting in filed.into_iter().chain(environment).chain(spoken) {
            layers.settings.insert(setting.name.clone(), setting);
        }
        layers
    }

    fn read_variables(&mut self, variables: &[(String, String)], options: &Options) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            let name = rest.to_ascii_lowercase().replace('_', "-");
            if options.find(&name).is_some() {
                let origin = Origin::Variable(variable.clone());
                settings.push(Setting { name, value: value.clone(), origin });
            } else if !is_of_a_service(rest) {
                let meant = options.resembling(&name).map(|name| format!("; did you mean {}?", variable_of(&name)));
                self.notes
                    .push(format!("{variable}: there is no option for this variable{}", meant.unwrap_or_default()));
            }
        }
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        settings
    }

    /// What clap says of the whole.
    pub(super) fn note_error(&mut self, error: &clap::Error) {
        let text = in_one_line(error);
        if !self.may_follow(&text) {
            let problem = self.locate(text);
            self.problems.push(problem);
        }
    }

    /// Whether a problem that names options may be none once others are right, whose values are not known.
    pub(super) fn may_follow(&self, text: &str) -> bool {
        let is_spoiled = |name: &str| self.spoiled.iter().any(|spoiled| spoiled == name);
        named(text).any(|name| {
            // What an address or a file has to be is a matter of what is spoken there.
            let side = name.split('-').next().filter(|side| matches!(*side, "in" | "out"));
            is_spoiled(name) || side.is_some_and(|side| is_spoiled(&format!("{side}-type")))
        })
    }

    /// Leaves out the options that need another which is not there. Returns whether there are any.
    pub(super) fn drop_dependents(&mut self, options: &Options) -> bool {
        let before = self.args.len();
        let needs_another = |arg: &String| {
            let setting = spoken(arg, options);
            setting.and_then(|setting| setting.error(options)).is_some_and(|error| is_of_the_whole(&error))
        };
        self.args.retain(|arg| !needs_another(arg));
        self.args.len() < before
    }

    /// Says of a problem that names options where those are from.
    pub(super) fn locate(&self, text: String) -> Problem {
        let mut said: Vec<&Setting> = named(&text).filter_map(|name| self.settings.get(name)).collect();
        said.retain(|setting| setting.origin != Origin::CommandLine);
        let mut distinct: Vec<&Setting> = Vec::new();
        for setting in said {
            if !distinct.contains(&setting) {
                distinct.push(setting);
            }
        }
        let Some((first, others)) = distinct.split_first() else {
            return Problem { origin: Origin::CommandLine, text };
        };
        let others: Vec<String> = others.iter().map(|other| format!("--{}: {}", other.name, other.origin)).collect();
        let more = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        Problem { origin: first.origin.clone(), text: format!("{text}{more}") }
    }
}

impl Problem {
    /// A file that cannot be read at all is the fault of who named it.
    fn unless_unread(self, named: &Origin) -> Self {
        match self.origin {
            Origin::File(_, 0) => Self { origin: named.clone(), text: self.text },
            _ => self,
        }
    }
}

/// The options that a text names.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("--").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-');
        &rest[..end.unwrap_or(rest.len())]
    })
}

fn path_origin(spoken: &[Setting], environment: &[Setting]) -> Origin {
    let named = spoken.iter().rev().chain(environment).find(|setting| setting.name == CONFIG);
    named.map_or(Origin::CommandLine, |setting| setting.origin.clone())
}

/// The variable of an option.
pub(super) fn variable_of(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Kubernetes gives every program variables about each service there is, which may be called `httptp` or `httptp-far`.
fn is_of_a_service(rest: &str) -> bool {
    let marks = ["SERVICE_HOST", "SERVICE_PORT", "PORT"];
    let part = |mark: &str| rest == mark || rest.ends_with(&format!("_{mark}")) || rest.contains(&format!("{mark}_"));
    marks.into_iter().any(part)
}

/// Where on the command line the options of the proxy stand: after the name of a command that takes them. None for those
/// that do not, and if only help is wanted.
fn place_for_options(args: &[String]) -> Option<usize> {
    let wants_help = |arg: &String| matches!(arg.as_str(), "-h" | "--help" | "-V" | "--version");
    if args.iter().any(wants_help) {
        return None;
    }
    match args.first().filter(|first| !first.starts_with('-')) {
        None => Some(0),
        Some(command) => {
            let takes_them =
                |command: &clap::Command| command.get_arguments().any(|arg| arg.get_long() == Some(CONFIG));
            Cli::command().find_subcommand(command).is_some_and(takes_them).then_some(1)
        }
    }
}

/// An argument of the command line that gives an option a value.
fn spoken(arg: &str, options: &Options) -> Option<Setting> {
    let (name, value) = split(arg)?;
    let known = options.find(name)?;
    let value = match (value, known.takes) {
        (Some(value), _) => value.to_owned(),
        (None, Takes::Switch | Takes::Flag) => "true".to_owned(),
        (None, Takes::Choice) => {
            let matches = Cli::command().try_get_matches_from(["httptp", arg]).ok()?;
            let value = matches.get_raw(&known.id)?.next()?;
            value.to_string_lossy().into_owned()
        }
        (None, _) => return None,
    };
    Some(Setting { name: name.to_owned(), value, origin: Origin::CommandLine })
}

/// An argument that is no option, nor has any other place here.
fn unknown(arg: &str, options: &Options) -> Option<Problem> {
    let name = split(arg).map(|(name, _)| name);
    if name.is_some_and(|name| name.is_empty() || options.find(name).is_some()) {
        return None;
    }
    let command = [vec!["httptp".to_owned(), arg.to_owned()], vec!["httptp".into(), "check".into(), arg.to_owned()]];
    let mut errors = command.into_iter().filter_map(|args| Cli::try_parse_from(args).err());
    let (error, of_check) = (errors.next()?, errors.next()?);
    // Without dashes it is for the first no subcommand.
    let error = if name.is_some() { error } else { of_check };
    Some(Problem { origin: Origin::CommandLine, text: in_one_line(&error) })
}

fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let bare = arg.strip_prefix("--")?;
    Some(bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value))))
}

/// What clap complains of, and what it advises, without the usage, which `--help` tells better.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut parts: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    parts.retain(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = parts.join("; ").replace(":; ", ": ");
    format!("{} (see httptp --help)", line.trim_start_matches("error: "))
}
