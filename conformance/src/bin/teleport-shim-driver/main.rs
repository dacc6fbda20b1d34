//! The shim around this project's drivers, both ends of each, in profile tcp (SHIM.md). Its argument says which one.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};
use smol::Executor;

mod client;
#[path = "../common/mod.rs"]
mod common;
mod server;
mod tls;

use crate::client::ClientEnd;
use crate::common::{Event, Message, Setup};
use crate::server::ServerEnd;

/// A command of the suite (SHIM.md). What a driver has not is not here.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
enum Command {
    Describe {},
    New {
        role: String,
        config: Setup,
        connect: Option<String>,
    },
    Request {
        now: u64,
        tag: u64,
        #[serde(flatten)]
        message: Message,
        deadline: Option<u64>,
    },
    Oneway {
        #[serde(flatten)]
        message: Message,
    },
    Cancel {
        tag: u64,
    },
    Respond {
        ticket: u64,
        status: u64,
        fields: Vec<(String, String)>,
        body: String,
    },
    Close {},
}

/// Which driver stands behind it.
#[derive(Clone, Copy)]
enum Driver {
    Smol,
    Thread,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Smol => "httpteleport smol driver",
            Self::Thread => "httpteleport thread driver",
        }
    }

    async fn keep_pace(self) {
        if let Self::Thread = self {
            smol::Timer::after(std::time::Duration::from_millis(50)).await;
        }
    }
}

enum End {
    Client(ClientEnd),
    Server(ServerEnd),
}

/// Writes the events of one connection, until the next begins.
#[derive(Clone)]
struct Teller {
    is_over: Arc<AtomicBool>,
}

impl Teller {
    fn new() -> Self {
        Self { is_over: Arc::new(AtomicBool::new(false)) }
    }

    fn tell(&self, event: &Event) {
        if !self.is_over.load(Ordering::Relaxed) {
            write(&json!(event));
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Writes a line. A suite that has gone away ends this program by closing its input.
fn write(value: &Value) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{value}").and_then(|()| stdout.flush());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let driver = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["smol"] => Driver::Smol,
        ["thread"] => Driver::Thread,
        _ => {
            eprintln!("teleport-shim-driver smol|thread: answers to the conformance suite on stdin and stdout");
            return ExitCode::from(2);
        }
    };
    let (lines, commands) = smol::channel::unbounded();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send_blocking(line).is_err() {
                return;
            }
        }
    });
    // One thread runs everything: what the suite asks for happens in its order.
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(async {
        let mut end = None;
        while let Ok(line) = commands.recv().await {
            let answer = match serde_json::from_str(&line) {
                Ok(command) => carry_out(driver, command, &mut end, &executor).await,
                Err(error) => Err(error.to_string()),
            };
            write(&answer.unwrap_or_else(|why| json!({ "nack": why })));
        }
    }));
    ExitCode::SUCCESS
}

/// Carries a command out; returns the answer, or why there is no such thing here.
async fn carry_out(
    driver: Driver,
    command: Command,
    end: &mut Option<End>,
    executor: &Arc<Executor<'static>>,
) -> Result<Value, String> {
    let error = match (command, end) {
        (Command::Describe {}, _) => {
            let mut can = vec![
                "client",
                "server",
                "none",
                "deflate",
                "snappy",
                "zstd",
                "limits",
                "cancel",
                "idle",
                "batch-delay",
                "close",
                "frames",
                "oneway",
                "server-close-codes",
                "failure-codes",
                "hello-fails",
            ];
            if tls::is_there() {
                can.extend(["tls", "tls-required"]);
            }
            let version = env!("CARGO_PKG_VERSION");
            return Ok(json!({ "name": driver.name(), "version": version, "profile": "tcp", "can": can }));
        }
        (Command::New { role, config, connect }, end) => {
            match end.take() {
                Some(End::Client(client)) => client.teller.end(),
                Some(End::Server(server)) => server.teller.end(),
                None => {}
            }
            match (role.as_str(), connect) {
                ("client", Some(addr)) => *end = Some(End::Client(ClientEnd::new(driver, executor, addr, &config)?)),
                ("server", None) => {
                    let (server, addr) = ServerEnd::new(driver, executor, &config)?;
                    *end = Some(End::Server(server));
                    return Ok(json!({ "listen": addr.to_string() }));
                }
                (role, _) => return Err(format!("no role {role:?} with this address")),
            }
            None
        }
        (Command::Request { now, tag, message, deadline }, Some(End::Client(client))) => {
            let after = deadline.map(|deadline| deadline.saturating_sub(now));
            client.request(tag, &message, after).await?
        }
        (Command::Oneway { message }, Some(End::Client(client))) => client.oneway(&message).await?,
        (Command::Cancel { tag }, Some(End::Client(client))) => {
            client.cancel(tag).await;
            None
        }
        (Command::Respond { ticket, status, fields, body }, Some(End::Server(server))) => {
            server.respond(ticket, common::response(status, &fields, &body)?)?
        }
        (Command::Close {}, Some(end)) => {
            // Threads have their own pace: what came before must be known, and this, before the next command is.
            driver.keep_pace().await;
            match end {
                End::Client(client) => client.close(),
                End::Server(server) => server.close(),
            }
            driver.keep_pace().await;
            None
        }
        _ => return Err("not for this role".into()),
    };
    Ok(error.map_or_else(|| json!({}), |code| json!({ "error": code })))
}
