//! The program `httptp`: see `httptp --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    httpteleport::proxy::cli::main(std::env::args_os())
}
