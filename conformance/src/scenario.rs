//! Scenario files, parsed (FORMAT.md).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::parser::parse_steps;
use crate::step::{Action, EventPattern, Expect, Feed, Step, StepKind};
use crate::wire::{HELLO_BYTES, hello};

/// The areas, which are the folders below `cases`.
pub const AREAS: [&str; 12] = [
    "hello",
    "tls",
    "compression",
    "frames",
    "ids",
    "batch",
    "messages",
    "head",
    "limits",
    "timers",
    "closing",
    "original",
];

/// The capabilities that a shim can claim (SHIM.md).
pub const CAPABILITIES: [&str; 17] = [
    "client",
    "server",
    "none",
    "deflate",
    "snappy",
    "zstd",
    "zstd-auto",
    "tls",
    "tls-required",
    "limits",
    "cancel",
    "idle",
    "batch-delay",
    "next-id",
    FRAMES,
    "hold-output",
    "goodbye",
];

/// Anything after the hello.
pub const FRAMES: &str = "frames";

/// What every shim has that does not claim `zstd`.
pub const NO_ZSTD: &str = "no-zstd";

/// Capabilities that no implementation needs to be conformant: the specification leaves them free.
pub const OPTIONAL: [&str; 5] = ["zstd", "zstd-auto", NO_ZSTD, "tls-required", "goodbye"];

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its name, for ever.
    pub id: String,
    /// One sentence.
    pub title: String,
    /// Its folder.
    pub area: String,
    /// Which end of the link the subject is.
    pub role: Role,
    /// What failing it means.
    pub level: Level,
    /// The requirements that it checks.
    pub rules: Vec<String>,
    /// All capabilities without which it cannot be run, those that follow from role, config and steps included.
    pub needs: Vec<String>,
    /// How the subject is set up.
    pub config: Config,
    /// Whether feeds are replayed in other cuts.
    pub replays: bool,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Which end of the link the subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Client,
    /// Sends responses.
    Server,
}

/// What failing a scenario means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It withholds conformance.
    Must,
    /// The subject is non-strict.
    Should,
    /// It is told, and nothing more.
    May,
}

/// A compression, in the order of the codes of the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw DEFLATE.
    Deflate,
    /// Plain bytes.
    None,
    /// The snappy framing format.
    Snappy,
    /// Zstandard frames.
    Zstd,
}

/// How the subject is set up; durations in microseconds, limits in bytes or counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the subject sends with.
    pub compression: Compression,
    /// It sends zstd instead to a peer that knows it.
    pub prefers_zstd: bool,
    /// `no` or `yes` of a client; `off`, `optional` or `required` of a server.
    pub tls: String,
    /// Longest wait of a batch.
    pub batch_delay: u64,
    /// Time for the hello.
    pub hello_timeout: u64,
    /// Time without a byte after which the link ends.
    pub idle_timeout: Option<u64>,
    /// Time for a drain.
    pub drain_timeout: u64,
    /// Limits in the order of [`Config::LIMITS`].
    pub limits: [u64; 7],
    /// The id of a client's first request.
    pub next_id: u32,
}

impl Config {
    /// The names of the limits.
    pub const LIMITS: [&'static str; 7] = ["head", "fields", "body", "message", "pending", "abandoned", "output"];

    /// The defaults of the specification, without compression.
    pub fn new(role: Role) -> Self {
        let (tls, pending) = match role {
            Role::Client => ("no", 1_000),
            Role::Server => ("off", 10_000),
        };
        Self {
            compression: Compression::None,
            prefers_zstd: false,
            tls: tls.into(),
            batch_delay: 0,
            hello_timeout: 3_000_000,
            idle_timeout: None,
            drain_timeout: 5_000_000,
            limits: [65_536, 128, 64 << 20, 1 << 30, pending, 10_000, 16 << 20],
            next_id: 1,
        }
    }

    /// Takes the pairs of a `config` line over, and notes which capabilities they need.
    fn read(&mut self, role: Role, text: &str, needs: &mut Vec<String>) -> Result<(), String> {
        for pair in text.split_whitespace() {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is no key=value"))?;
            let need = self.set(role, key, value)?;
            needs.extend(need.map(str::to_owned));
        }
        Ok(())
    }

    fn set(&mut self, role: Role, key: &str, value: &str) -> Result<Option<&'static str>, String> {
        let time = || crate::literal::time(value);
        let number = || value.parse::<u64>().map_err(|_| format!("{value:?} is no number"));
        if let Some(limit) = Self::LIMITS.iter().position(|name| *name == key) {
            self.limits[limit] = number()?;
            return Ok(Some("limits"));
        }
        let need = match key {
            "compression" if value == "auto" => {
                (self.compression, self.prefers_zstd) = (Compression::Deflate, true);
                Some("zstd-auto")
            }
            "compression" => {
                self.compression = Compression::from_name(value).ok_or_else(|| format!("no compression {value:?}"))?;
                return Ok(None);
            }
            "tls" => {
                let values: &[&str] = match role {
                    Role::Client => &["no", "yes"],
                    Role::Server => &["off", "optional", "required"],
                };
                if !values.contains(&value) {
                    return Err(format!("tls of this role is one of {}", values.join(", ")));
                }
                value.clone_into(&mut self.tls);
                match value {
                    "required" => Some("tls-required"),
                    _ => (value != values[0]).then_some("tls"),
                }
            }
            "batch-delay" => {
                self.batch_delay = time()?;
                Some("batch-delay")
            }
            "idle-timeout" => {
                self.idle_timeout = Some(time()?);
                Some("idle")
            }
            "hello-timeout" => {
                self.hello_timeout = time()?;
                None
            }
            "drain-timeout" => {
                self.drain_timeout = time()?;
                None
            }
            "next-id" => {
                self.next_id = value.parse().map_err(|_| format!("{value:?} is no id"))?;
                Some("next-id")
            }
            other => return Err(format!("unknown config key {other:?}")),
        };
        Ok(need)
    }
}

impl Compression {
    /// All, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Deflate, Self::None, Self::Snappy, Self::Zstd];

    /// The code in the hello.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The compression with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name in scenario files and in the spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::None => "none",
            Self::Snappy => "snappy",
            Self::Zstd => "zstd",
        }
    }

    /// The compression with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }
}

impl Scenario {
    /// Whether an implementation can be conformant without what this needs.
    pub fn is_optional(&self) -> bool {
        self.needs.iter().any(|need| OPTIONAL.contains(&need.as_str()))
    }
}

impl Role {
    /// The word in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl Level {
    /// The word in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::May => "may",
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug)]
pub struct ParseError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; 0 if the whole file is meant.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Parses one file.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ParseError> {
    let error = |(line, message): (usize, String)| ParseError { path: path.to_owned(), line, message };
    if let Some(line) = text.lines().position(|line| line.ends_with('\r')) {
        return Err(error((line + 1, "the line ends with CR LF".into())));
    }
    let lines: Vec<(usize, &str)> = text.lines().enumerate().map(|(n, line)| (n + 1, line)).collect();
    let lines: Vec<_> = lines.into_iter().filter(|(_, line)| !line.starts_with('#')).collect();
    let blank = lines.iter().position(|(_, line)| line.trim().is_empty());
    let blank = blank.ok_or_else(|| error((0, "no empty line after the header".into())))?;
    let (header, body) = lines.split_at(blank);
    let header = Header::read(header).map_err(error)?;
    let mut scenario = header.scenario(path).map_err(error)?;
    // A case is SUITE/cases/AREA/ID.scn.
    let suite = path.ancestors().nth(3).unwrap_or(Path::new("."));
    let resolve = |name: &str| crate::recordings::part(suite, name);
    scenario.steps = parse_steps(scenario.role, &body[1..], &resolve).map_err(error)?;
    let mut needs = std::mem::take(&mut scenario.needs);
    needs.push(scenario.role.name().into());
    needs.push(scenario.config.compression.name().into());
    collect_needs(&scenario.steps, &mut needs);
    if feeds_more_than_a_hello(&scenario.steps, &mut Vec::new()) {
        needs.push(FRAMES.into());
    }
    needs.sort();
    needs.dedup();
    if needs.iter().any(|need| need == NO_ZSTD) {
        // The code is there because the subject does not know it.
        needs.retain(|need| need != Compression::Zstd.name());
    }
    scenario.needs = needs;
    Ok(scenario)
}

/// The capabilities that steps need, those in blocks too.
fn collect_needs(steps: &[Step], needs: &mut Vec<String>) {
    for step in steps {
        needs.extend(need_of(step).map(str::to_owned));
        match &step.kind {
            StepKind::Unordered(steps) => collect_needs(steps, needs),
            StepKind::Either(branches) => branches.iter().for_each(|steps| collect_needs(steps, needs)),
            _ => {}
        }
    }
}

/// Whether the steps feed bytes behind a hello that is in order. What comes behind another one is not read.
fn feeds_more_than_a_hello(steps: &[Step], fed: &mut Vec<u8>) -> bool {
    steps.iter().any(|step| {
        match &step.kind {
            StepKind::Feed(Feed::Wire(bytes) | Feed::EofIn(bytes)) => fed.extend_from_slice(bytes),
            StepKind::Feed(Feed::Hello { compression, tls, version }) => {
                fed.extend_from_slice(&hello(*version, *compression, *tls));
            }
            StepKind::Either(branches) => {
                return branches.iter().any(|branch| feeds_more_than_a_hello(branch, &mut fed.clone()));
            }
            _ => {}
        }
        fed.len() > HELLO_BYTES && fed.starts_with(b"httpteleport\0") && Compression::from_code(fed[13]).is_some()
    })
}

/// The capability that a step needs, beyond those of the config.
fn need_of(step: &Step) -> Option<&'static str> {
    match &step.kind {
        StepKind::Feed(Feed::Hello { compression, version: 0, .. }) => {
            Compression::from_code(*compression).map(Compression::name)
        }
        // A hello in bare bytes, as recordings have it.
        StepKind::Feed(Feed::Wire(wire)) if wire.starts_with(b"httpteleport\0") => {
            wire.get(13).and_then(|code| Compression::from_code(*code)).map(Compression::name)
        }
        StepKind::Feed(Feed::Plain(_)) => Some(FRAMES),
        StepKind::Do { action: Action::Request { .. } | Action::Oneway(_), .. } => Some(FRAMES),
        StepKind::Do { action: Action::Respond { .. } | Action::Discard { .. }, .. } => Some(FRAMES),
        StepKind::Expect(Expect::SendFrame { .. } | Expect::SendRefusal { .. } | Expect::SendBatch(_)) => Some(FRAMES),
        StepKind::Expect(Expect::Event(event)) => {
            (!matches!(event, EventPattern::Connected | EventPattern::StartTls)).then_some(FRAMES)
        }
        StepKind::Do { action: Action::Cancel { .. }, .. } => Some("cancel"),
        StepKind::Do { action: Action::NextId { .. }, .. } => Some("next-id"),
        StepKind::Do { action: Action::Hold(_), .. } => Some("hold-output"),
        StepKind::Do { action: Action::Goodbye, .. } => Some("goodbye"),
        StepKind::Do { action: Action::TlsEstablished, .. } => Some("tls"),
        _ => None,
    }
}

/// The header's lines, by key.
struct Header<'t> {
    lines: Vec<(usize, &'t str, &'t str)>,
}

impl<'t> Header<'t> {
    const KEYS: [&'static str; 9] = ["id", "title", "area", "role", "level", "rules", "needs", "config", "cuts"];

    fn read(lines: &[(usize, &'t str)]) -> Result<Self, (usize, String)> {
        let mut read: Vec<(usize, &str, &str)> = Vec::new();
        for (number, line) in lines {
            let (key, value) = line.split_once(':').ok_or_else(|| (*number, "no `key: value`".to_owned()))?;
            if !Self::KEYS.contains(&key) {
                return Err((*number, format!("unknown key {key:?} in the header")));
            }
            if read.iter().any(|(_, known, _)| *known == key) {
                return Err((*number, format!("{key:?} stands twice in the header")));
            }
            read.push((*number, key, value.trim()));
        }
        Ok(Self { lines: read })
    }

    fn optional(&self, key: &str) -> Option<(usize, &'t str)> {
        self.lines.iter().find(|(_, known, _)| *known == key).map(|(line, _, value)| (*line, *value))
    }

    fn value(&self, key: &str) -> Result<(usize, &'t str), (usize, String)> {
        match self.optional(key) {
            Some((line, "")) => Err((line, format!("{key:?} is empty"))),
            Some(found) => Ok(found),
            None => Err((1, format!("the header has no {key:?}"))),
        }
    }

    fn one_of<T: Copy>(&self, key: &str, values: &[(&str, T)]) -> Result<T, (usize, String)> {
        let (line, value) = self.value(key)?;
        values.iter().find(|(name, _)| *name == value).map(|(_, found)| *found).ok_or_else(|| {
            let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
            (line, format!("{key} is one of {}, not {value:?}", names.join(", ")))
        })
    }

    fn scenario(&self, path: &Path) -> Result<Scenario, (usize, String)> {
        let (line, id) = self.value("id")?;
        if !is_id(id) {
            return Err((line, "an id is lower-case words and digits joined by `-`".into()));
        }
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(id) {
            return Err((line, format!("the file of {id:?} is {id}.scn")));
        }
        let (line, area) = self.value("area")?;
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        if !AREAS.contains(&area) {
            return Err((line, format!("area is one of {}", AREAS.join(", "))));
        }
        if folder.is_some_and(|folder| folder != area) {
            return Err((line, format!("a scenario of the area {area:?} stands in the folder {area}")));
        }
        let role = self.one_of("role", &[("client", Role::Client), ("server", Role::Server)])?;
        let levels = [("must", Level::Must), ("should", Level::Should), ("may", Level::May)];
        let level = self.one_of("level", &levels)?;
        let mut needs = Vec::new();
        if let Some((line, listed)) = self.optional("needs") {
            for need in listed.split_whitespace() {
                if !CAPABILITIES.contains(&need) && need != NO_ZSTD {
                    return Err((line, format!("no capability {need:?}")));
                }
                needs.push(need.to_owned());
            }
        }
        let mut config = Config::new(role);
        if let Some((line, pairs)) = self.optional("config") {
            config.read(role, pairs, &mut needs).map_err(|message| (line, message))?;
        }
        let replays = match self.optional("cuts") {
            None => true,
            Some(_) => self.one_of("cuts", &[("all", true), ("whole", false)])?,
        };
        Ok(Scenario {
            path: path.to_owned(),
            id: id.to_owned(),
            title: self.value("title")?.1.to_owned(),
            area: area.to_owned(),
            role,
            level,
            rules: self.value("rules")?.1.split_whitespace().map(str::to_owned).collect(),
            needs,
            config,
            replays,
            steps: Vec::new(),
        })
    }
}

/// All scenarios below a folder of areas, by area and id, and what could not be parsed.
///
/// # Errors
///
/// The folder cannot be read.
pub fn read_all(cases: &Path) -> std::io::Result<(Vec<Scenario>, Vec<ParseError>)> {
    let (mut scenarios, mut errors) = (Vec::new(), Vec::new());
    for folder in sorted(cases)?.into_iter().filter(|path| path.is_dir()) {
        for path in sorted(&folder)? {
            if path.extension().is_none_or(|extension| extension != "scn") {
                continue;
            }
            let parsed = match String::from_utf8(std::fs::read(&path)?) {
                Ok(text) => parse(&path, &text),
                Err(_) => Err(ParseError { path, line: 0, message: "the file is not UTF-8".into() }),
            };
            match parsed {
                Ok(scenario) => scenarios.push(scenario),
                Err(error) => errors.push(error),
            }
        }
    }
    scenarios.sort_by_key(|scenario| (AREAS.iter().position(|area| *area == scenario.area), scenario.id.clone()));
    Ok((scenarios, errors))
}

fn sorted(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// Whether a text can be the id of a scenario.
pub(crate) fn is_id(id: &str) -> bool {
    let is_of_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    id.chars().all(is_of_word) && !id.split('-').any(str::is_empty)
}

/// Whether a step is of those that only stand at the end.
pub(crate) fn is_last(expect: &Expect) -> bool {
    matches!(expect, Expect::Closed(_) | Expect::StillOpen)
}
