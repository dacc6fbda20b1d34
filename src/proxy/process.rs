//! The process around a proxy: the threads that run the tasks, the signals that end them, and the log.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use smol::Executor;
use tracing::level_filters::LevelFilter;
use tracing::{Level, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::access_log;
use super::crew::Crew;
use super::reactor::{self, Watched, Way};

/// The exit status after a second signal, as a shell reports SIGINT.
const INTERRUPTED: i32 = 130;

/// Runs `executor` on at most `threads` threads, one for each core unless said, until `main`, which runs on it too, is over.
pub(crate) fn run<T: Send + 'static>(
    executor: &Arc<Executor<'static>>,
    threads: Option<usize>,
    main: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    #[cfg(target_os = "linux")]
    raise_descriptor_limit();
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| n.get()));
    let crew = reactor::start().and_then(|()| Crew::start(executor, threads.max(1)));
    let crew = crew.map_err(|error| format!("cannot start threads: {error}"))?;
    let result = smol::future::block_on(executor.spawn(main));
    drop(crew);
    Ok(result)
}

/// Half of the memory that the process may have; `None` where that cannot be found out.
pub(crate) fn default_memory_budget() -> Option<usize> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    // A limit counts for all below it.
    let groups = fs::read_to_string("/proc/self/cgroup").ok();
    let group = groups.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/")));
    let limits = group
        .into_iter()
        .flat_map(|group| Path::new("/sys/fs/cgroup").join(group).ancestors().map(limit_of).collect::<Vec<_>>());
    limits.flatten().chain(machine).min().map(|bytes| bytes / 2)
}

/// What `/proc/meminfo` says of all memory, in bytes.
fn total_memory(meminfo: &str) -> Option<usize> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The limit of a control group, if it has one.
fn limit_of(group: &Path) -> Option<usize> {
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
}

/// Catches SIGINT and SIGTERM. The returned future ends at the first one; at the second the process exits at once.
pub(crate) fn until_signal() -> Result<impl Future<Output = ()> + Send + 'static, String> {
    catch_signals().map_err(|error| format!("cannot catch signals: {error}"))
}

fn catch_signals() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (receiver, sender) = UnixStream::pair()?;
    let is_second = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, INTERRUPTED, is_second.clone())?;
        flag::register(signal, is_second.clone())?;
        pipe::register(signal, sender.try_clone()?)?;
    }
    let receiver = watch(receiver)?;
    Ok(async move {
        // An error could only mean that signals no longer come by this way; then it is time to end as well.
        let _ = receiver.with(Way::In, |mut pipe| pipe.read(&mut [0])).await;
    })
}

fn watch(receiver: UnixStream) -> io::Result<Watched<mio::net::UnixStream>> {
    receiver.set_nonblocking(true)?;
    Watched::new(mio::net::UnixStream::from_std(receiver))
}

/// SIGHUPs, from when it is made.
pub(crate) struct Hangups(Watched<mio::net::UnixStream>);

impl Hangups {
    /// Catches SIGHUP, which would end the process otherwise.
    pub(crate) fn catch() -> Result<Self, String> {
        let catch = || {
            let (receiver, sender) = UnixStream::pair()?;
            pipe::register(SIGHUP, sender)?;
            watch(receiver)
        };
        catch().map(Self).map_err(|error: io::Error| format!("cannot catch signals: {error}"))
    }

    /// Waits for the next one. Several that have come meanwhile are one.
    pub(crate) async fn next(&self) {
        if self.0.with(Way::In, |mut pipe| pipe.read(&mut [0; 64])).await.is_err() {
            // Signals no longer come by this way.
            std::future::pending::<()>().await;
        }
    }
}

/// Takes as many descriptors as the process may have. The lower limit that it starts with, often 1,024, is there for programs
/// that cannot have more.
#[cfg(target_os = "linux")]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    // Else it goes on with what it has.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Tells the service manager that has started this process, if one wants to know (NOTIFY_SOCKET).
pub(crate) fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!("the service manager cannot be told how this process is doing: {error}");
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// What is logged, and what is more important.
    pub(crate) level: Level,
    pub(crate) format: LogFormat,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text.
    Human,
    /// A JSON object.
    Json,
}

/// Logs to stderr, one line per thing.
pub(crate) fn log_to_stderr(log: Log) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(log.level)
        // A line that cannot be written is lost. To tell that would be to write, too, and to panic when that fails: a full
        // disk must not end requests.
        .log_internal_errors(false)
        .with_target(false);
    // It fails if somebody has already set up logging, who then gets the lines.
    let _ = match log.format {
        LogFormat::Human => subscriber.finish().with(who_may_log(log.level)).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).finish().with(who_may_log(log.level)).try_init(),
    };
}

/// Libraries may from `debug` on: some warn of whatever a peer does, as often as it does it.
fn who_may_log(level: Level) -> Targets {
    let own = [env!("CARGO_PKG_NAME"), access_log::TARGET].map(|own| (own, level));
    let others = if level >= Level::DEBUG { LevelFilter::from(level) } else { LevelFilter::OFF };
    Targets::new().with_targets(own).with_default(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_library_fills_the_log() {
        assert!(who_may_log(Level::WARN).would_enable(module_path!(), &Level::WARN));
        assert!(!who_may_log(Level::WARN).would_enable(module_path!(), &Level::INFO));
        // What h2 says of each PING that it has not asked for.
        assert!(!who_may_log(Level::INFO).would_enable("h2::proto::ping_pong", &Level::WARN));
        assert!(who_may_log(Level::DEBUG).would_enable("h2::proto::ping_pong", &Level::WARN));
    }

    #[test]
    fn all_memory_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       24676812 kB\nMemFree: 1 kB\n"), Some(24_676_812 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}
