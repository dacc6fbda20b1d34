//! The drivers that this project does not ship, which its examples show, judged as servers of which only the address is
//! known.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use teleport_conformance::scenario::{Role, read_all};
use teleport_conformance::suite::{Options, Target, Verdict, run_all};

/// Ends the process when a test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program of an example, built without any feature: it needs the core and nothing else.
fn build(name: &str) -> PathBuf {
    build_with(name, &[])
}

fn build_with(name: &str, features: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--no-default-features", "--example", name]);
    cargo.args(features).args(["--message-format", "json-render-diagnostics"]).current_dir(root);
    let output = cargo.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{name} is not built");
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().unwrap_or_else(|| panic!("{name} has no program"))
}

fn passes_as_a_server(name: &str) {
    let mut child = Command::new(build(name)).args(["serve", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _running = Running(child);
    let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();

    let (scenarios, errors) = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let servers: Vec<_> = scenarios.iter().filter(|scenario| scenario.role == Role::Server).collect();
    let options = Options { target: Target::Server(addr), ..Options::of_shim("") };
    let (_, outcomes) = run_all(&servers, &options).unwrap();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.verdict.failure().is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Pass)).count();
    assert!(passed >= 100, "{passed} cases");
}

#[test]
fn the_example_on_tokio_is_a_conformant_server() {
    passes_as_a_server("tokio_driver");
}

#[test]
fn the_example_on_mio_is_a_conformant_server() {
    passes_as_a_server("mio_driver");
}

#[test]
fn the_example_on_tokio_talks_to_itself() {
    let output = Command::new(build("tokio_driver")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for id in 1..=3 {
        assert!(said.contains(&format!("{id}: b\"GET /world b\\\"\\\"\"")), "{said}");
    }
}

#[test]
fn the_example_client_is_conformant() {
    let program = build_with("client", &["--features", "smol"]);
    let (scenarios, errors) = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let clients: Vec<_> = scenarios.iter().filter(|scenario| scenario.role == Role::Client).collect();
    let command = format!("'{}' {{addr}} /some/path", program.display());
    let options = Options { target: Target::Client(command), ..Options::of_shim("") };
    let (_, outcomes) = run_all(&clients, &options).unwrap();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.verdict.failure().is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Pass)).count();
    assert!(passed >= 70, "{passed} cases");
}
