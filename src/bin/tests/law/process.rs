//! The processes: started, killed, stopped and looked into.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::origin;
use crate::chaos::eventually;

pub struct Process {
    name: &'static str,
    addr: SocketAddr,
    figures: SocketAddr,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    program: std::path::PathBuf,
    child: Mutex<Option<Child>>,
}

/// What a process has of the system.
#[derive(Clone, Copy)]
pub struct Holding {
    pub memory_kib: u64,
    pub descriptors: usize,
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB and {} descriptors", self.memory_kib, self.descriptors)
    }
}

/// A port that is free now, and stays so but for bad luck.
fn port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Process {
    pub fn origin(executed: &Path) -> Self {
        let addr = port();
        let environment =
            vec![(origin::ADDR, addr.to_string()), (origin::EXECUTED, executed.to_string_lossy().into_owned())];
        let arguments = ["--ignored", "--exact", "origin_process", "--nocapture"].map(String::from).to_vec();
        Self::new("origin", addr, addr, std::env::current_exe().unwrap(), arguments, environment)
    }

    pub fn far(origin: SocketAddr) -> Self {
        Self::proxy("far", &["--in-type=teleport", "--out-type=http"], origin)
    }

    pub fn near(far: SocketAddr) -> Self {
        Self::proxy("near", &["--in-type=http", "--out-type=teleport", "--out-pass-time-left"], far)
    }

    fn proxy(name: &'static str, types: &[&str], out: SocketAddr) -> Self {
        let (addr, figures) = (port(), port());
        let mut arguments: Vec<String> = types.iter().map(|argument| (*argument).to_owned()).collect();
        arguments.extend([
            format!("--in={addr}"),
            format!("--out={out}"),
            format!("--expvar-addr={figures}"),
            "--out-timeout=2s".to_owned(),
            "--log-level=error".to_owned(),
        ]);
        Self::new(name, addr, figures, env!("CARGO_BIN_EXE_httptp").into(), arguments, Vec::new())
    }

    fn new(
        name: &'static str,
        addr: SocketAddr,
        figures: SocketAddr,
        program: std::path::PathBuf,
        arguments: Vec<String>,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let process = Self { name, addr, figures, arguments, environment, program, child: Mutex::new(None) };
        process.start();
        process
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts it, and waits until it listens.
    pub fn start(&self) {
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
        eventually(self.name, || TcpStream::connect(self.addr).is_ok());
    }

    /// Kills it, with no time for anything.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn id(&self) -> u32 {
        self.child.lock().unwrap().as_ref().expect("it runs").id()
    }

    pub fn holding(&self) -> Holding {
        let folder = format!("/proc/{}", self.id());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory_kib = memory.trim().trim_end_matches(" kB").parse().unwrap();
        Holding { memory_kib, descriptors: std::fs::read_dir(format!("{folder}/fd")).unwrap().count() }
    }

    /// One of its figures.
    pub fn figure(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(self.figures).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // One that is stopped dies, too.
            eprintln!("{} ends", self.name);
        }
        self.kill();
    }
}
