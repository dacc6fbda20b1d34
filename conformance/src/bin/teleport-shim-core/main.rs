//! The shim around this project's own core (SHIM.md), with wilful faults on demand.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

#[path = "../common/mod.rs"]
mod common;
mod core;
mod mutant;
mod rewrite;

use crate::core::{Answer, Command, Core};
use crate::mutant::{MUTANTS, Mutant};

/// Makes the core of httpteleport answer to the conformance suite, on stdin and stdout (conformance/SHIM.md).
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Adds a wilful fault: what a suite is for must find it.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Lists the faults, a name and what it does on each line.
    #[arg(long)]
    list_mutants: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list_mutants {
        for (name, what) in MUTANTS {
            println!("{name}\t{what}");
        }
        return ExitCode::SUCCESS;
    }
    let mutant = match args.mutant.as_deref().map(|name| Mutant::find(name).ok_or(name)) {
        None => None,
        Some(Ok(name)) => Some(name),
        Some(Err(name)) => {
            eprintln!("teleport-shim-core: no mutant {name:?}; see --list-mutants");
            return ExitCode::from(2);
        }
    };
    match serve(mutant) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("teleport-shim-core: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A connection, and the fault around it.
type Connection = (Core, Option<Mutant>);

fn serve(mutant: Option<&'static str>) -> std::io::Result<()> {
    let mut connection = None;
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let mut answer = serde_json::to_vec(&answer(&line?, mutant, &mut connection))?;
        answer.push(b'\n');
        stdout.write_all(&answer)?;
        stdout.flush()?;
    }
    Ok(())
}

/// The answer to one line.
fn answer(line: &str, mutant: Option<&'static str>, connection: &mut Option<Connection>) -> Value {
    let command: Command = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return json!({ "nack": error.to_string() }),
    };
    let answer = match &command {
        Command::Describe {} => {
            return json!({
                "name": "httpteleport core",
                "version": env!("CARGO_PKG_VERSION"),
                "profile": "core",
                "can": [
                    "client", "server", "none", "deflate", "snappy", "zstd", "zstd-auto", "tls", "tls-required", "limits", "cancel",
                    "idle", "batch-delay", "next-id", "hold-output", "goodbye", "frames",
                ],
            });
        }
        Command::New { role, config } => {
            let mutant = mutant.map(|name| Mutant::new(name, role, config));
            let setup = mutant.as_ref().map_or_else(|| config.clone(), Mutant::setup);
            Core::new(role, &setup).and_then(|core| carry_out(connection.insert((core, mutant)), &command))
        }
        command => match connection {
            Some(connection) => carry_out(connection, command),
            None => Err("no connection".into()),
        },
    };
    answer.map_or_else(|why| json!({ "nack": why }), to_json)
}

fn carry_out((core, mutant): &mut Connection, command: &Command) -> Result<Answer, String> {
    match mutant {
        Some(mutant) => mutant.carry_out(core, command),
        None => core.carry_out(command),
    }
}

fn to_json(answer: Answer) -> Value {
    let Answer { consumed, out, events, timer, reads, error } = answer;
    let out = core::hex(&out);
    let mut json = json!({ "consumed": consumed, "out": out, "events": events, "timer": timer, "reads": reads });
    if let Some(error) = error {
        json["error"] = error.into();
    }
    json
}
