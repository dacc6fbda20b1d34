//! Runs a target's check on files, or on all files of folders, without libFuzzer: `replay TARGET PATH...`. Panics where the
//! check does.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use httpteleport_fuzz::{Check, TARGETS};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some((_, check)) = TARGETS.iter().find(|(target, _)| *target == name) else {
        let names: Vec<_> = TARGETS.iter().map(|(target, _)| *target).collect();
        eprintln!("usage: replay TARGET PATH...\nTARGET is one of {}", names.join(", "));
        return ExitCode::from(2);
    };
    let mut runs = 0;
    for path in arguments {
        match run(*check, Path::new(&path)) {
            Ok(files) => runs += files,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{name}: {runs} inputs");
    ExitCode::SUCCESS
}

/// Checks a file, or the files of a folder in the order of their names; returns how many.
fn run(check: Check, path: &Path) -> io::Result<usize> {
    let mut files: Vec<PathBuf> = vec![path.to_owned()];
    if path.is_dir() {
        files = path.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        files.sort();
    }
    let mut runs = 0;
    for file in &files {
        // Told before, so that it is known which one panics.
        if std::env::var_os("VERBOSE").is_some() {
            eprintln!("{}", file.display());
        }
        match std::fs::read(file) {
            Ok(input) => check(&input),
            // A campaign that runs meanwhile takes inputs out of its corpus.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file != path => continue,
            Err(error) => return Err(error),
        }
        runs += 1;
    }
    Ok(runs)
}
