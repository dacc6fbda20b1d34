//! What a proxy shows of itself: figures for Prometheus and for the tools of the original, and a page for people.
//!
//! Requests only add to atomics; everything else happens when somebody looks. All that is shown comes from one
//! [`Snapshot`].

mod histogram;
mod io;
mod listener;
mod openmetrics;
mod original;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use http::StatusCode;

pub(crate) use histogram::Histogram;
use histogram::Latencies;
pub(crate) use io::{Counted, IoCounters};
pub(crate) use listener::MetricsListener;

use super::{ProxyStats, StatsReader, UpstreamStats};

/// What became of the requests so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) shed_connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) upstream_errors: AtomicU64,
    /// As the original counts: requests that were to go to an upstream, and what became of them.
    pub(crate) forwarded: AtomicU64,
    pub(crate) not_200: AtomicU64,
    pub(crate) other_errors: AtomicU64,
    /// Answers by the first digit of their status, from 1.
    pub(crate) by_class: [AtomicU64; 5],
    /// From the head of a request until its answer was there, for those that were to go to an upstream.
    pub(crate) latency: Histogram,
    /// The connections that requests come in by, and those that they go out by.
    pub(crate) inward: Arc<IoCounters>,
    pub(crate) outward: Arc<IoCounters>,
}

impl Counters {
    pub(crate) fn new(inward: Arc<IoCounters>, outward: Arc<IoCounters>) -> Self {
        Self { inward, outward, ..Self::default() }
    }

    /// A request was answered, by whomever.
    pub(crate) fn count_status(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.checked_sub(1).and_then(|at| self.by_class.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request was answered by the proxy itself.
    pub(crate) fn count_refusal(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::GATEWAY_TIMEOUT => &self.timeouts,
            StatusCode::BAD_GATEWAY => &self.upstream_errors,
            _ => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that was to go to an upstream has an answer: of the upstream, or of the proxy.
    pub(crate) fn count_forwarded(&self, answer: Result<StatusCode, StatusCode>) {
        let counter = match answer {
            Ok(StatusCode::OK) | Err(StatusCode::GATEWAY_TIMEOUT) => return,
            Ok(_) => &self.not_200,
            Err(_) => &self.other_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// All figures at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    stats: ProxyStats,
    upstreams: Vec<UpstreamStats>,
    retries: u64,
    latency: Latencies,
    forwarded: u64,
    not_200: u64,
    other_errors: u64,
    responses: [u64; 5],
    inward: Arc<IoCounters>,
    outward: Arc<IoCounters>,
    identity: Arc<Identity>,
    /// The budget for memory, if there is one.
    memory_budget: Option<usize>,
}

/// What does not change while a proxy runs.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The line with which it says what it does.
    pub(crate) line: String,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
}

impl Snapshot {
    pub(crate) fn take(reader: &StatsReader, identity: &Arc<Identity>) -> Self {
        let counters = &reader.handler.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let memory_budget = Some(reader.handler.memory().limit()).filter(|limit| *limit < usize::MAX);
        Self {
            stats: reader.read(),
            upstreams: reader.upstreams(),
            retries: reader.handler.upstreams().retries(),
            latency: counters.latency.snapshot(),
            forwarded: load(&counters.forwarded),
            not_200: load(&counters.not_200),
            other_errors: load(&counters.other_errors),
            responses: counters.by_class.each_ref().map(load),
            inward: counters.inward.clone(),
            outward: counters.outward.clone(),
            identity: identity.clone(),
            memory_budget,
        }
    }
}
