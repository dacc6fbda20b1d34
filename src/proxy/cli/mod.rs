//! The program `httptp`: arguments in, exit code out.

mod args;
mod args_access;
mod args_tls;
mod balancing;
mod duration;
mod seeing;
mod spelling;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use smol::Executor;
use tracing::info;

use super::process::Log;
use args::{Cli, Command};

use super::{Proxy, ProxyConfig, check, demo, estimate, process};

/// Something on the command line cannot be done.
const USAGE: u8 = 2;

/// Runs the program with `args`, the name of the program first.
///
/// The exit code is 0 after an orderly end, 1 if it could not start or something went wrong, 2 for a bad command line.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let is_bare = args.len() < 2;
    let Parsed { command, config, threads, log } = match parse(args) {
        Ok(parsed) => parsed,
        Err(Stop::Clap(error)) if error.use_stderr() => {
            eprintln!("httptp: {}", in_one_line(&error));
            return ExitCode::from(USAGE);
        }
        Err(Stop::Clap(error)) => {
            // Where help and complaints cannot be written, the exit code still tells.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
        Err(Stop::Line(line)) => {
            eprintln!("httptp: {line}");
            return ExitCode::from(USAGE);
        }
    };
    let result = match command {
        Some(Command::Demo(args)) => demo::main(args.into()),
        Some(Command::Estimate(args)) => estimate::main(&args.into()),
        None => serve(config, threads, log, is_bare),
    };
    result.unwrap_or_else(|line| {
        eprintln!("httptp: {line}");
        ExitCode::FAILURE
    })
}

/// What clap complains of, and what it advises, without the usage, which `--help` tells better.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut parts: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    parts.retain(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = parts.join("; ");
    format!("{} (see httptp --help)", line.trim_start_matches("error: "))
}

/// Why there is nothing to run.
#[derive(Debug)]
enum Stop {
    /// Help, the version, or clap's complaint.
    Clap(clap::Error),
    /// One line.
    Line(String),
}

/// What the command line says.
#[derive(Debug)]
struct Parsed {
    command: Option<Command>,
    config: ProxyConfig,
    threads: Option<usize>,
    log: Log,
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Stop> {
    let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_else(|| "httptp".to_owned());
    let normal = spelling::normalise(args);
    let cli = Cli::try_parse_from([program].into_iter().chain(normal)).map_err(Stop::Clap)?;
    let (threads, log) = (cli.proxy.threads, cli.proxy.log());
    let config = cli.proxy.config().map_err(Stop::Line)?;
    check(&config).map_err(|error| Stop::Line(error.to_string()))?;
    Ok(Parsed { command: cli.command, config, threads, log })
}

fn serve(config: ProxyConfig, threads: Option<usize>, log: Log, is_bare: bool) -> Result<ExitCode, String> {
    process::log_to_stderr(log);
    if is_bare {
        info!("no flags given: this is a near proxy with the defaults; --help tells more, and `httptp demo` shows it");
    }
    let signal = process::until_signal()?;
    let hangups = process::Hangups::catch()?;
    let executor = Arc::new(Executor::new());
    let main = {
        let executor = executor.clone();
        async move {
            let proxy = Proxy::bind(config, executor.clone()).await.map_err(|error| error.to_string())?;
            let reloader = proxy.reloader();
            let reload = async move {
                loop {
                    hangups.next().await;
                    reloader.reload();
                }
            };
            executor.spawn(reload).detach();
            let shutdown = async {
                signal.await;
                info!("stopping: requests in hand may end; a second signal exits at once");
            };
            proxy.run(shutdown).await.map_err(|error| format!("the listener failed: {error}"))
        }
    };
    process::run(&executor, threads, main)??;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
