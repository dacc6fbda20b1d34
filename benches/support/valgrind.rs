//! Counts by valgrind: a bench runs itself under it, once for `n` and once for twice as many operations, and the difference is
//! theirs alone. The same on any machine, however busy it is.

use std::process::Command;

/// The instructions of one operation.
pub fn instructions(n: u64, args: impl Fn(u64) -> Vec<String>) -> f64 {
    each(n, &["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"], args, |report| {
        let line = report.lines().find(|line| line.contains("refs:"))?;
        line.rsplit(' ').next()?.replace(',', "").parse().ok()
    })
}

/// The allocations of one operation, of all threads.
pub fn allocations(n: u64, args: impl Fn(u64) -> Vec<String>) -> f64 {
    each(n, &["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"], args, |report| {
        let (_, usage) = report.split_once("total heap usage: ")?;
        usage.split_once(" allocs")?.0.replace(',', "").parse().ok()
    })
}

fn each(n: u64, tool: &[&str], args: impl Fn(u64) -> Vec<String>, read: impl Fn(&str) -> Option<u64>) -> f64 {
    let program = std::env::current_exe().expect("this program has a path");
    let run = |n: u64| {
        // Without the environment, whose size would count.
        let output = Command::new("valgrind").args(tool).arg(&program).args(args(n)).env_clear().output();
        let report = output.expect("valgrind can be run").stderr;
        let report = String::from_utf8_lossy(&report);
        read(&report).unwrap_or_else(|| panic!("valgrind said: {report}"))
    };
    let (once, twice) = (run(n), run(2 * n));
    twice.saturating_sub(once) as f64 / n as f64
}
