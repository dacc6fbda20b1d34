//! The subject behind its shim: a process that speaks JSON lines (SHIM.md).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http1::Field;
use crate::literal::{hex, unhex};
use crate::process::Process;
use crate::scenario::{Config, Scenario};
use crate::step::Outgoing;

/// What a shim says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Description {
    /// The implementation's name.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// How it is driven: `core` or `tcp`.
    pub profile: String,
    /// The capabilities that it claims.
    pub can: Vec<String>,
}

/// What a shim answers to a command.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// How many bytes of the input were taken.
    pub consumed: usize,
    /// What is to be transmitted.
    #[serde(deserialize_with = "bytes")]
    pub out: Vec<u8>,
    /// What happened.
    pub events: Vec<Event>,
    /// The next deadline, in microseconds.
    #[serde(deserialize_with = "there")]
    pub timer: Option<u64>,
    /// Whether input would be taken.
    pub reads: bool,
    /// The local code with which the command failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Why the shim does not have the command.
    #[serde(skip)]
    pub nack: Option<String>,
}

/// The answer of a shim that does not have a command.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nack {
    nack: String,
}

/// A value that may be null, but not be left out.
fn there<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

/// Something that the subject tells its program.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "SHIM.md says what they are")]
pub enum Event {
    Connected {},
    StartTls {},
    Request {
        ticket: u64,
        /// Null where the driver does not tell its program; only in profile tcp.
        #[serde(deserialize_with = "there")]
        id: Option<u32>,
        #[serde(deserialize_with = "text")]
        method: Vec<u8>,
        #[serde(deserialize_with = "text")]
        target: Vec<u8>,
        #[serde(deserialize_with = "fields")]
        fields: Vec<Field>,
        #[serde(deserialize_with = "bytes")]
        body: Vec<u8>,
    },
    Oneway {
        #[serde(deserialize_with = "text")]
        method: Vec<u8>,
        #[serde(deserialize_with = "text")]
        target: Vec<u8>,
        #[serde(deserialize_with = "fields")]
        fields: Vec<Field>,
        #[serde(deserialize_with = "bytes")]
        body: Vec<u8>,
    },
    Refused {
        id: u32,
        code: String,
    },
    Response {
        tag: u64,
        status: u16,
        #[serde(deserialize_with = "fields")]
        fields: Vec<Field>,
        #[serde(deserialize_with = "bytes")]
        body: Vec<u8>,
    },
    Failed {
        tag: u64,
        code: String,
        maybe_delivered: bool,
    },
    Unmatched {
        id: u32,
    },
    Closed {
        code: Option<String>,
    },
}

/// Text of a shim: each character is one byte.
fn latin1(text: &str) -> Result<Vec<u8>, String> {
    text.chars().map(|c| u8::try_from(c).map_err(|_| format!("{c:?} is no byte"))).collect()
}

fn to_latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}

fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    latin1(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn bytes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    unhex(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn fields<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Field>, D::Error> {
    let fields = Vec::<(String, String)>::deserialize(from)?;
    let field = |(name, value): (String, String)| Ok((name, latin1(&value)?));
    fields.into_iter().map(field).collect::<Result<_, String>>().map_err(serde::de::Error::custom)
}

/// A command to a shim.
#[derive(Debug, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "SHIM.md says what they are")]
pub enum Request {
    Describe {
        suite: u32,
    },
    New {
        role: &'static str,
        config: serde_json::Value,
        /// Profile tcp: whereto a client connects.
        #[serde(skip_serializing_if = "Option::is_none")]
        connect: Option<String>,
    },
    Input {
        now: u64,
        hex: String,
    },
    Eof {
        now: u64,
    },
    Timeout {
        now: u64,
    },
    TlsEstablished {
        now: u64,
    },
    Request {
        now: u64,
        tag: u64,
        #[serde(flatten)]
        message: MessageOut,
        deadline: Option<u64>,
    },
    Oneway {
        now: u64,
        #[serde(flatten)]
        message: MessageOut,
    },
    Cancel {
        now: u64,
        tag: u64,
    },
    Respond {
        now: u64,
        ticket: u64,
        status: u64,
        fields: Vec<(String, String)>,
        body: String,
    },
    Discard {
        now: u64,
        ticket: u64,
    },
    NextId {
        now: u64,
        id: u32,
    },
    HoldOutput {
        now: u64,
    },
    ReleaseOutput {
        now: u64,
    },
    Flush {
        now: u64,
    },
    Goodbye {
        now: u64,
    },
    Close {
        now: u64,
    },
}

impl Request {
    /// The line of the command.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>, String> {
        let mut line = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        line.push(b'\n');
        Ok(line)
    }
}

/// A request as a shim is told it.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "SHIM.md says what they are")]
pub struct MessageOut {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl From<&Outgoing> for MessageOut {
    fn from(request: &Outgoing) -> Self {
        Self {
            method: to_latin1(&request.method),
            target: to_latin1(&request.target),
            fields: fields_out(&request.fields),
            body: hex(&request.body),
        }
    }
}

/// Fields as a shim is told them.
pub fn fields_out(fields: &[Field]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.clone(), to_latin1(value))).collect()
}

/// The command that begins a scenario; in profile tcp a client is told whereto it connects.
pub fn new_command(scenario: &Scenario, connect: Option<String>) -> Request {
    let config = &scenario.config;
    let tls = match config.tls.as_str() {
        "no" => false.into(),
        "yes" => true.into(),
        other => serde_json::Value::from(other),
    };
    let limits: serde_json::Map<_, _> =
        Config::LIMITS.iter().zip(config.limits).map(|(name, limit)| ((*name).to_owned(), limit.into())).collect();
    let config = serde_json::json!({
        "compression": if config.prefers_zstd { "auto" } else { config.compression.name() },
        "tls": tls,
        "max_batch_delay": config.batch_delay,
        "hello_timeout": config.hello_timeout,
        "idle_timeout": config.idle_timeout,
        "drain_timeout": config.drain_timeout,
        "limits": limits,
        "next_id": config.next_id,
    });
    Request::New { role: scenario.role.name(), config, connect }
}

/// A file that keeps every line exchanged with shims, in the form that SHIM.md describes.
#[derive(Clone, Debug)]
pub struct Transcript(Arc<Mutex<File>>);

impl Transcript {
    /// Begins a new file.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self, String> {
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    pub(crate) fn write(&self, direction: &str, line: &str) -> Result<(), String> {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok();
        let line = if is_json { line.trim_end().to_owned() } else { serde_json::Value::from(line).to_string() };
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(format!("{{\"{direction}\": {line}}}\n").as_bytes());
        written.map_err(|error| format!("the transcript cannot be written: {error}"))
    }
}

/// A running shim. Dropping it ends the process.
pub struct Shim {
    process: Process,
    line: String,
    transcript: Option<Transcript>,
}

impl Shim {
    /// Starts a shim by a shell command; every answer must come within `timeout`.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn start(command: &str, timeout: Duration) -> Result<Self, String> {
        Self::start_with(command, timeout, Vec::new())
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(
        command: &str,
        timeout: Duration,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self, String> {
        Ok(Self { process: Process::start(command, timeout, environment)?, line: String::new(), transcript: None })
    }

    /// The same shim; every line is kept, too.
    #[must_use]
    pub fn recorded(mut self, transcript: Option<Transcript>) -> Self {
        self.transcript = transcript;
        self
    }

    /// Asks what the shim is.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), or it is driven in a way that the suite does not know.
    pub fn describe(&mut self) -> Result<Description, String> {
        let unanswered = |error| format!("`describe` is not answered: {error}");
        self.exchange(&Request::Describe { suite: 1 }).map_err(unanswered)?;
        let description: Description = parsed(&self.line).map_err(unanswered)?;
        if !["core", "tcp"].contains(&description.profile.as_str()) {
            return Err(format!("the suite does not know the profile {:?}", description.profile));
        }
        Ok(description)
    }

    /// Sends a command and returns the answer.
    ///
    /// # Errors
    ///
    /// The shim has ended, does not answer in time, or says what no shim says.
    pub fn call(&mut self, request: &Request) -> Result<Answer, String> {
        self.exchange(request)?;
        match parsed(&self.line) {
            Err(error) => match serde_json::from_str(&self.line) {
                Ok(Nack { nack }) => Ok(Answer { nack: Some(nack), ..Answer::default() }),
                Err(_) => Err(error),
            },
            answer => answer,
        }
    }

    /// The process, for a profile whose shims also write without being asked.
    pub(crate) fn into_process(self) -> (Process, Option<Transcript>) {
        (self.process, self.transcript)
    }

    fn exchange(&mut self, request: &Request) -> Result<(), String> {
        let command = request.to_line()?;
        if let Some(transcript) = &self.transcript {
            transcript.write("to", &String::from_utf8_lossy(&command))?;
        }
        self.process.exchange(&command, &mut self.line)?;
        self.transcript.as_ref().map_or(Ok(()), |transcript| transcript.write("from", &self.line))
    }
}

/// Reads a line of a shim.
pub(crate) fn parsed<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| {
        let line: String = line.trim_end().chars().take(300).collect();
        format!("the shim's answer cannot be read: {error}: {line}")
    })
}
