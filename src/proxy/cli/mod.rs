//! The program `httptp`: arguments in, exit code out.

mod args;
mod args_access;
mod args_tls;
mod balancing;
mod check;
mod dictionaries;
mod duration;
mod file;
mod layers;
mod number;
mod secrets;
mod seeing;
mod spelling;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sd_notify::NotifyState;
use smol::Executor;
use tracing::{info, warn};

use super::process::Log;
pub(super) use secrets::hidden;

use args::{Cli, Command, DemoArgs, EstimateArgs, TrainArgs};
use dictionaries::DictionaryFiles;
use layers::{Layers, Options, Problem};

use super::check::problems;
use super::config::HANDED_OVER;
use super::{Opened, Proxy, ProxyConfig, demo, estimate, process};

/// Something that was configured cannot be done.
const USAGE: u8 = 2;

/// Runs the program with `args`, the name of the program first.
///
/// The exit code is 0 after an orderly end, 1 if it could not start or something went wrong, 2 for a bad command line,
/// variable or configuration file.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let is_bare = args.len() < 2;
    let Parsed { task, mut config, dictionaries, threads, log, layers } = match parse(args, &variables()) {
        Ok(parsed) => parsed,
        Err(Stop::Clap(error)) => {
            // Where help cannot be written, the exit code still tells.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
        Err(Stop::Problems(problems)) => {
            for problem in problems {
                eprintln!("httptp: {problem}");
            }
            return ExitCode::from(USAGE);
        }
    };
    let result = match task {
        Task::Demo(args) => demo::main(args.into()),
        Task::Estimate(args) => estimate::main(&args.into()),
        Task::Train(args) => estimate::train::main(&args.into()),
        Task::Check { resolve } => {
            let wrong = dictionaries.load(&mut config);
            return check::main(&config, &layers, resolve, wrong);
        }
        Task::Serve => match &dictionaries.load(&mut config)[..] {
            [] => serve(config, threads, log, is_bare && layers.settings.is_empty(), layers),
            wrong => Err(wrong.join("\nhttptp: ")),
        },
    };
    result.unwrap_or_else(|line| {
        eprintln!("httptp: {line}");
        ExitCode::FAILURE
    })
}

/// The environment.
fn variables() -> Vec<(String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Why there is nothing to run.
#[derive(Debug)]
enum Stop {
    /// Help or the version.
    Clap(clap::Error),
    /// All that is wrong.
    Problems(Vec<Problem>),
}

/// What is to be done.
#[derive(Debug)]
enum Task {
    Serve,
    Demo(DemoArgs),
    Estimate(EstimateArgs),
    Train(TrainArgs),
    Check { resolve: bool },
}

/// What the command line, the environment and the file say.
#[derive(Debug)]
struct Parsed {
    task: Task,
    config: ProxyConfig,
    dictionaries: DictionaryFiles,
    threads: Option<usize>,
    log: Log,
    layers: Layers,
}

fn parse(args: impl IntoIterator<Item = OsString>, variables: &[(String, String)]) -> Result<Parsed, Stop> {
    let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_else(|| "httptp".to_owned());
    let options = Options::new();
    let normal =
        spelling::normalise(args, |name| options.written(name).map(|known| (&*known.name, known.takes_value())));
    let mut layers = Layers::gather(normal, variables, &options);
    let cli = loop {
        match Cli::try_parse_from([&program].into_iter().chain(&layers.args)) {
            Err(error) if !error.use_stderr() => return Err(Stop::Clap(error)),
            Err(error) => {
                layers.note_error(&error);
                if !layers.drop_dependents(&options) {
                    return Err(Stop::Problems(layers.problems));
                }
            }
            Ok(cli) => break cli,
        }
    };
    // A check goes on, to what is wrong beside that, unless all of it may be otherwise.
    let goes_on = matches!(cli.command, Some(Command::Check(_))) && !layers.is_unclear;
    if !layers.problems.is_empty() && !goes_on {
        return Err(Stop::Problems(layers.problems));
    }
    let (task, proxy) = match cli.command {
        None => (Task::Serve, cli.proxy),
        Some(Command::Demo(args)) => (Task::Demo(args), cli.proxy),
        Some(Command::Estimate(args)) => (Task::Estimate(args), cli.proxy),
        Some(Command::Train(args)) => (Task::Train(args), cli.proxy),
        Some(Command::Check(args)) => (Task::Check { resolve: args.resolve }, args.proxy),
    };
    let (threads, log, dictionaries) = (proxy.threads, proxy.log(), proxy.dictionaries());
    let located = |text: String| layers.locate(text);
    let config = proxy.config().map_err(|text| Stop::Problems(vec![located(text)]))?;
    let found: Vec<_> = problems(&config).iter().map(|error| located(error.to_string())).collect();
    // A check tells these itself, with what is wrong with files.
    if !found.is_empty() && !matches!(task, Task::Check { .. }) {
        return Err(Stop::Problems(found));
    }
    Ok(Parsed { task, config, dictionaries, threads, log, layers })
}

fn serve(
    mut config: ProxyConfig,
    threads: Option<usize>,
    log: Log,
    is_bare: bool,
    layers: Layers,
) -> Result<ExitCode, String> {
    process::log_to_stderr(log);
    if is_bare {
        info!("no flags given: this is a near proxy with the defaults; --help tells more, and `httptp demo` shows it");
    }
    for note in &layers.notes {
        warn!("{note}");
    }
    if config.inbound.addr == HANDED_OVER {
        let opened = Opened::from_env(config.inbound.kind).map_err(|error| format!("--in {HANDED_OVER}: {error}"))?;
        config.inbound.opened = Some(opened);
    }
    let file = layers.file.map(ConfigFile::read);
    let signal = process::until_signal()?;
    let hangups = process::Hangups::catch()?;
    let executor = Arc::new(Executor::new());
    let main = {
        let executor = executor.clone();
        async move {
            let proxy = Proxy::bind(config, executor.clone()).await.map_err(|error| error.to_string())?;
            process::tell_manager(NotifyState::Ready);
            let reloader = proxy.reloader();
            let reload = async move {
                loop {
                    hangups.next().await;
                    reloader.reload();
                    if let Some(file) = &file {
                        file.tell_if_changed();
                    }
                }
            };
            executor.spawn(reload).detach();
            let shutdown = async {
                signal.await;
                process::tell_manager(NotifyState::Stopping);
                info!("stopping: requests in hand may end; a second signal exits at once");
            };
            proxy.run(shutdown).await.map_err(|error| format!("the listener failed: {error}"))
        }
    };
    process::run(&executor, threads, main)??;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The file with options, as it was at the start.
struct ConfigFile {
    path: PathBuf,
    text: Option<Vec<u8>>,
}

impl ConfigFile {
    fn read(path: PathBuf) -> Self {
        info!("options are read from {}", path.display());
        Self { text: std::fs::read(&path).ok(), path }
    }

    /// Options count from the start to the end of the process.
    fn tell_if_changed(&self) {
        if std::fs::read(&self.path).ok() != self.text {
            warn!(
                "{} has changed, which counts after a restart: SIGHUP has the files read again that options name",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
