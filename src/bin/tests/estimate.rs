//! From traffic through the program to an estimate of it: `--record`, then `httptp estimate`.

// Callers and origins are real sockets in real time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::origin;
use serde_json::Value;

/// A file of its own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("httptp-{}-{name}", std::process::id())))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn sample(name: &str) -> String {
    format!("{}/../../tests/data/estimate/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn estimate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_httptp")).arg("estimate").args(args).output().unwrap()
}

/// The outcome of a setup.
fn outcome<'v>(estimate: &'v Value, compression: &str, level: Option<u64>, delay_ms: u64) -> &'v Value {
    let outcomes = estimate["outcomes"].as_array().unwrap();
    let is_it = |outcome: &&Value| {
        outcome["compression"] == compression && outcome["level"].as_u64() == level && outcome["delay_ms"] == delay_ms
    };
    outcomes.iter().find(is_it).unwrap()
}

#[test]
fn samples_of_each_kind_are_estimated() {
    for (name, requests) in [("recording.jsonl", 60), ("shop.har", 11), ("bodies.jsonl", 20)] {
        let output = estimate(&[&sample(name), "--json"]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let estimate: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(estimate["requests"], requests, "{name}");
        assert_eq!(estimate["outcomes"].as_array().unwrap().len(), 6 * 4);
        let times = |compression, level| outcome(&estimate, compression, level, 0)["times_smaller"].as_f64().unwrap();
        let (none, flate, zstd) = (times("none", None), times("flate", Some(6)), times("zstd", Some(3)));
        assert!((0.9..1.0).contains(&none) && flate > 2.0 && zstd > 2.0, "{name}: {none} {flate} {zstd}");
        let [at_once, later] = [0, 5].map(|delay| &outcome(&estimate, "zstd", Some(3), delay)["batches"]);
        assert!(later.as_u64() <= at_once.as_u64(), "{name}");
    }
}

#[test]
fn the_table_and_the_plot_say_the_same() {
    let plot = Scratch::new("plot.svg");
    let output = estimate(&[&sample("recording.jsonl"), "--plot", plot.0.to_str().unwrap()]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("60 requests in 0.0 s, by method and path 1 different;"), "{table}");
    for part in ["Times smaller on the link, by batch delay", "CPU of both ends", "zstd 6", "flate 6", "snappy", "5 ms"]
    {
        assert!(table.contains(part), "{table}");
    }
    let svg = plot.text();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.matches("<polyline").count() == 12);
    assert!(svg.contains("recording.jsonl: 60 requests"));
}

#[test]
fn a_bad_file_is_told_in_one_line() {
    let bad = Scratch::new("bad.jsonl");
    std::fs::write(&bad.0, "{\"a\":1}\n{\"a\":\n").unwrap();
    for (file, expected) in [(bad.0.to_str().unwrap(), ": line 2: no JSON: "), ("/nowhere/at/all", ": No such file")] {
        let output = estimate(&[file]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && line.contains(expected) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn what_was_recorded_can_be_estimated() {
    let origin = origin("HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 12\r\n\r\n{\"ok\":true}\n");
    let recording = Scratch::new("recording.jsonl");
    let mut program = Command::new(env!("CARGO_BIN_EXE_httptp"))
        .args(["--in=127.0.0.1:0", "--out-type=http", &format!("--out={origin}"), "--expvar-addr="])
        .arg(format!("--record={}", recording.0.display()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(program.stderr.take().unwrap());
    let mut lines = log.lines().map_while(Result::ok);
    let line = lines.by_ref().find(|line| line.contains("listening on ")).unwrap();
    let addr = line.split("listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(lines.next().unwrap().contains("passwords and cookies included"));
    let mut caller = TcpStream::connect(addr).unwrap();
    for n in 0..30 {
        let request =
            format!("GET /things/{n}?q=1 HTTP/1.1\r\nHost: h\r\nCookie: secret\r\nConnection: keep-alive\r\n\r\n");
        caller.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"true}\n") {
            caller.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
    }
    let stopped = Command::new("kill").args(["-TERM", &program.id().to_string()]).status().unwrap();
    assert!(stopped.success() && program.wait().unwrap().success());
    assert_eq!(recording.0.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = recording.text();
    assert_eq!(text.lines().count(), 30);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["request"]["target"], "/things/0?q=1");
    assert_eq!(first["response"]["text"], "{\"ok\":true}\n");
    let estimate: Value = serde_json::from_slice(&estimate(&[recording.0.to_str().unwrap(), "--json"]).stdout).unwrap();
    assert_eq!((&estimate["requests"], &estimate["refused"]), (&30.into(), &0.into()));
}
