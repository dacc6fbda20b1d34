//! The process of a shim: started by a shell command, talked to in lines, ended when it hangs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running shim. Dropping it ends the process.
pub(crate) struct Process {
    stdin: ChildStdin,
    /// Gone once somebody else reads it.
    stdout: Option<BufReader<ChildStdout>>,
    watch: Arc<Watch>,
    timeout: Duration,
}

/// What the watchdog looks at: a shim that hangs must not hang the run.
struct Watch {
    child: Mutex<Child>,
    deadline: Mutex<Option<Instant>>,
    has_fired: AtomicBool,
    is_over: AtomicBool,
}

impl Watch {
    fn set(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    fn kill(&self) {
        end(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn guard(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.has_fired.store(true, Ordering::Relaxed);
                self.kill();
                return;
            }
        }
    }
}

/// Ends the shell that was started, and whatever it started: all are in a group of their own.
pub(crate) fn end(child: &mut Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
    let _ = child.kill();
    let _ = child.wait();
}

impl Process {
    /// Starts a process by a shell command; every answer must come within `timeout`.
    pub(crate) fn start(
        command: &str,
        timeout: Duration,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self, String> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .envs(environment)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the shim has no stdin or stdout".into());
        };
        let watch = Arc::new(Watch {
            child: Mutex::new(child),
            deadline: Mutex::new(None),
            has_fired: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let guard = Arc::clone(&watch);
        std::thread::spawn(move || guard.guard());
        Ok(Self { stdin, stdout: Some(BufReader::new(stdout)), watch, timeout })
    }

    /// Writes a line that is not waited for.
    pub(crate) fn write(&mut self, line: &[u8]) -> Result<(), String> {
        self.watch.set(Some(Instant::now() + self.timeout));
        let done = self.stdin.write_all(line);
        self.watch.set(None);
        self.outcome(done.map(|()| 1))
    }

    /// Writes a line and reads the one that answers it.
    pub(crate) fn exchange(&mut self, line: &[u8], answer: &mut String) -> Result<(), String> {
        answer.clear();
        let Some(stdout) = &mut self.stdout else { return Err("somebody else reads the shim's answers".into()) };
        self.watch.set(Some(Instant::now() + self.timeout));
        let done = self.stdin.write_all(line).and_then(|()| stdout.read_line(answer));
        self.watch.set(None);
        self.outcome(done)
    }

    /// What it writes, for a thread that reads it from now on.
    pub(crate) fn take_stdout(&mut self) -> Option<BufReader<ChildStdout>> {
        self.stdout.take()
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn outcome(&self, done: std::io::Result<usize>) -> Result<(), String> {
        match done {
            _ if self.watch.has_fired.load(Ordering::Relaxed) => {
                Err(format!("the shim did not answer within {} ms", self.timeout.as_millis()))
            }
            Ok(0) => Err("the shim has ended".into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err("the shim has ended".into()),
            Err(error) => Err(format!("the shim cannot be talked to: {error}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watch.is_over.store(true, Ordering::Relaxed);
        self.watch.kill();
    }
}
