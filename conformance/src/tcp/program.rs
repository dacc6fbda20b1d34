//! A client of which nothing is known but how it is started.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::adapt::ClientCan;
use super::tls::{Tls, quoted};

/// What stands for the address in a command.
const ADDR: &str = "{addr}";
/// What stands in it for the file of the authority that a client with TLS is to trust.
const CA: &str = "{ca}";

/// What stands in it for the number of requests that it is to send.
const REQUESTS: &str = "{requests}";

/// What a command can be told.
pub fn client_can(command: &str) -> ClientCan {
    ClientCan { tls: command.contains(CA), count: command.contains(REQUESTS) }
}

/// A running program. Dropping it ends it.
pub(super) struct Program(Child);

impl Program {
    /// Starts it by a shell command.
    pub(super) fn start(command: &str, addr: SocketAddr, requests: usize, tls: Option<&Tls>) -> Result<Self, String> {
        if !command.contains(ADDR) {
            return Err(format!("the command has no {ADDR}, where the address is to stand"));
        }
        let ca = tls.and_then(Tls::ca).map(|ca| quoted(&ca)).unwrap_or_default();
        let full = command.replace(ADDR, &addr.to_string()).replace(REQUESTS, &requests.to_string());
        let child = Command::new("sh")
            .args(["-c", &full.replace(CA, &ca)])
            .envs(tls.map(Tls::environment).unwrap_or_default())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Self).map_err(|error| format!("cannot start {command:?}: {error}"))
    }

    /// Whether it runs.
    pub(super) fn is_there(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        crate::process::end(&mut self.0);
    }
}
