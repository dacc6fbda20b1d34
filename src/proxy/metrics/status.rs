//! `/status`: the figures that the page draws, as JSON. Sums only: whoever looks twice gets rates from the difference.

use serde_json::{Value, json};

use super::Snapshot;
use crate::proto::Stats;
use crate::proxy::UpstreamStats;

pub(super) fn json(snapshot: &Snapshot) -> String {
    let stats = &snapshot.stats;
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "what": snapshot.identity.line,
        "uptime_seconds": snapshot.identity.started.elapsed().as_secs_f64(),
        "requests": stats.requests,
        "responses": stats.responses,
        "refused": stats.refused,
        "timeouts": stats.timeouts,
        "upstream_errors": stats.upstream_errors,
        "retries": snapshot.retries,
        "in_flight": stats.in_flight,
        "memory": { "held": stats.memory_held, "peak": stats.memory_peak, "budget": snapshot.memory_budget,
            "shed": stats.memory_shed },
        "connections": { "in": snapshot.inward.open(), "out": snapshot.outward.open() },
        // The microseconds below which the values of a bucket are, and how many they are.
        "latency": snapshot.latency.buckets,
        "links": { "in": stats.in_links.map(link), "out": stats.out_links.map(link) },
        "recompress": stats.recompress.map(|stats| json!({
            "coded_bytes": stats.coded_bytes,
            "decoded_bytes": stats.decoded_bytes,
            "decoded": { "exact": stats.decoded_exactly, "content": stats.decoded_freely },
            "restored": { "exact": stats.restored_exactly, "content": stats.restored_freely, "not": stats.not_restored },
        })),
        "upstreams": snapshot.upstreams.iter().map(upstream).collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

fn upstream(upstream: &UpstreamStats) -> Value {
    json!({
        "name": upstream.name,
        "addr": upstream.addr,
        "state": upstream.state,
        "pending": upstream.pending,
        "requests": upstream.requests,
        "failures": upstream.failures,
        "latency_ms": upstream.latency.map(|latency| latency.as_secs_f64() * 1e3),
        "failure_share": upstream.failure_share,
        "ejections": upstream.ejections,
        "links": upstream.links.iter().copied().map(link).collect::<Vec<_>>(),
    })
}

fn link(stats: Stats) -> Value {
    json!({
        "plain": stats.plain_in + stats.plain_out,
        "wire": stats.wire_in + stats.wire_out,
        "frames_out": stats.frames_out,
        "frames_in": stats.frames_in,
        "batches_out": stats.batches_out,
    })
}
