//! The flags about what the program shows of itself.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;

use super::args::go_bool;
use crate::proxy::process::{Log, LogFormat};
use crate::proxy::{Recording, Seeing};

/// Where metrics are when nothing else is said.
const DEFAULT_ADDR: &str = "localhost:8040";

#[derive(Debug, Args)]
#[command(next_help_heading = "Seeing what it does")]
pub(super) struct SeeingArgs {
    /// HOST:PORT of a page with live figures, and of /status, /metrics, /prometheus, /expvar, /healthz and /readyz; empty for
    /// none [default: localhost:8040, unless it is busy]
    #[arg(long, value_name = "HOST:PORT")]
    expvar_addr: Option<String>,
    /// Log one line for each request: sender, method, target, status, bytes, milliseconds, upstream, trace and X-Request-Id
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool)]
    access_log: bool,
    /// Give each request without a traceparent field one, so that the lines of both proxies can be told to be of one
    /// request; a field that is there is always passed on
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool)]
    make_traceparent: bool,
    /// Record what is carried in this file, as JSON lines for `httptp estimate`: heads and bodies, passwords and cookies
    /// included. It is made for its owner alone, and appended to
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    record: Option<PathBuf>,
    /// How long the file of --record may get, in bytes; what comes after that is not recorded
    #[arg(long, value_name = "BYTES", default_value_t = Recording::LIMIT)]
    record_limit: u64,
    /// How the log is written to stderr
    #[arg(long, value_name = "HOW", default_value = "human")]
    log_format: Format,
    /// What is logged, and what is more important
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Least,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// lines for people
    Human,
    /// one JSON object a line
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Least {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl SeeingArgs {
    pub(super) fn log(&self) -> Log {
        let level = match self.log_level {
            Least::Error => Level::ERROR,
            Least::Warn => Level::WARN,
            Least::Info => Level::INFO,
            Least::Debug => Level::DEBUG,
            Least::Trace => Level::TRACE,
        };
        let format = match self.log_format {
            Format::Human => LogFormat::Human,
            Format::Json => LogFormat::Json,
        };
        Log { level, format }
    }

    pub(super) fn seeing(self) -> Seeing {
        Seeing {
            metrics_optional: self.expvar_addr.is_none(),
            metrics_addr: Some(self.expvar_addr.unwrap_or_else(|| DEFAULT_ADDR.to_owned()))
                .filter(|addr| !addr.is_empty()),
            access_log: self.access_log,
            make_traceparent: self.make_traceparent,
            record: self.record.map(|path| Recording { path, limit: self.record_limit }),
        }
    }
}
