//! The figures under the names that the original gives them, in its two formats.
//!
//! `inRequest...` counts requests that were to go to an upstream: what is refused before, such as a body that is too
//! large, is not among them. `...Conns` is how many are open now, although the original calls it a counter, too.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::Snapshot;
use crate::proxy::cli::hidden;

/// How often `/prometheus` was asked for.
static PROMETHEUS_CALLS: AtomicU64 = AtomicU64::new(0);

/// `/prometheus`: text, sorted by name.
pub(super) fn prometheus(snapshot: &Snapshot) -> String {
    PROMETHEUS_CALLS.fetch_add(1, Ordering::Relaxed);
    let mut text = String::new();
    for (name, value) in figures(snapshot) {
        // Writing to a string does not fail.
        let _ = write!(text, "# TYPE {name} counter\n{name} {value}\n");
    }
    text
}

/// `/expvar`: one JSON object.
pub(super) fn expvar(snapshot: &Snapshot) -> String {
    let mut object: Map<String, Value> =
        figures(snapshot).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    object.insert("cmdline".to_owned(), hidden(args).into());
    format!("{:#}\n", Value::Object(object))
}

fn figures(snapshot: &Snapshot) -> Vec<(&'static str, u64)> {
    let Snapshot { stats, inward, outward, .. } = snapshot;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut figures = vec![
        ("inRequestStart", snapshot.forwarded),
        ("inRequestSuccess", stats.responses),
        ("inRequestNon200", snapshot.not_200),
        ("inRequestTimeoutError", stats.timeouts),
        ("inRequestOtherError", snapshot.other_errors),
        ("inAcceptSuccess", load(&inward.opened)),
        ("inAcceptError", load(&inward.failed)),
        ("inConns", inward.open()),
        ("inBytesRead", load(&inward.bytes_read)),
        ("inBytesWritten", load(&inward.bytes_written)),
        ("inReadCalls", load(&inward.reads)),
        ("inWriteCalls", load(&inward.writes)),
        ("inReadError", load(&inward.read_errors)),
        ("inWriteError", load(&inward.write_errors)),
        ("outDialSuccess", load(&outward.opened)),
        ("outDialError", load(&outward.failed)),
        ("outConns", outward.open()),
        ("outBytesRead", load(&outward.bytes_read)),
        ("outBytesWritten", load(&outward.bytes_written)),
        ("outReadCalls", load(&outward.reads)),
        ("outWriteCalls", load(&outward.writes)),
        ("outReadError", load(&outward.read_errors)),
        ("outWriteError", load(&outward.write_errors)),
        ("prometheusHandlerCalls", load(&PROMETHEUS_CALLS)),
    ];
    figures.sort_unstable();
    figures
}
