//! Runs a target's check on files, without libFuzzer: `replay TARGET FILE...`. Panics where the check does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some((_, check)) = httpteleport_fuzz::TARGETS.iter().find(|(target, _)| *target == name) else {
        let names: Vec<_> = httpteleport_fuzz::TARGETS.iter().map(|(target, _)| *target).collect();
        eprintln!("usage: replay TARGET FILE...\nTARGET is one of {}", names.join(", "));
        return ExitCode::from(2);
    };
    let mut runs = 0;
    for path in arguments {
        match std::fs::read(&path) {
            Ok(input) => {
                // Told before, so that it is known which one panics.
                if std::env::var_os("VERBOSE").is_some() {
                    eprintln!("{path}");
                }
                check(&input);
                runs += 1;
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{name}: {runs} inputs");
    ExitCode::SUCCESS
}
