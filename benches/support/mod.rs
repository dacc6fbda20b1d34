//! What the benches have in common: clocks, allocations, a link in memory, and what is sent over it.

#![allow(dead_code, unreachable_pub, reason = "a part of each bench, and no bench uses all of it")]
#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

pub mod args;
pub mod codec;
pub mod corpus;
pub mod memory;
pub mod pair;
pub mod plot;
pub mod valgrind;

use std::time::{Duration, Instant};

/// The answer of the original's benchmark: 261 bytes.
pub const ORIGINAL_BODY: &str = "Hello world foobar baz aaa bbb ccc ddd eee gklj kljsdfsdf\
    sdfasdaf asdf asdf dsa fasd fdasf afsgfdsg ertytrshdsf fds gf\
    dfagsf asglsdkflaskdflkqowqiot asdkljlp 0293 4u09u0sd9fulksj lksfj lksdfj sdf\
    sfjkko9u iodjsf-[9j lksdjf;lkasdj02r fsd fhjas;klfj asd;lfjwjfsd; ";

/// What a measurement cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub wall: Duration,
    /// Of all threads.
    pub cpu: Duration,
}

impl Cost {
    /// Nanoseconds for each of `n`.
    pub fn wall_ns(&self, n: u64) -> f64 {
        self.wall.as_nanos() as f64 / n as f64
    }

    pub fn cpu_ns(&self, n: u64) -> f64 {
        self.cpu.as_nanos() as f64 / n as f64
    }
}

/// Runs `work` so many times. The round with the least CPU counts: whatever else the machine does only adds to it.
pub fn measure(rounds: usize, mut work: impl FnMut()) -> Cost {
    let round = |_| {
        let (begin, cpu) = (Instant::now(), cpu_time());
        work();
        Cost { wall: begin.elapsed(), cpu: cpu_time() - cpu }
    };
    (0..rounds.max(1)).map(round).min_by_key(|cost| cost.cpu).expect("there is a round")
}

/// The CPU time of this process.
pub fn cpu_time() -> Duration {
    cpu_time::ProcessTime::now().as_duration()
}

/// One line on where and when this was measured.
pub fn provenance() -> String {
    let run = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let commit = run("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    let date = run("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    format!(
        "{}; {cores} of its cores; {}; commit {}",
        cpu.map_or("unknown CPU", |(_, name)| name),
        date.as_deref().unwrap_or("unknown date"),
        commit.as_deref().unwrap_or("unknown"),
    )
}
