//! `/metrics`: the figures as OpenMetrics text, which Prometheus scrapes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{IoCounters, Snapshot};
use crate::proto::Stats;

/// The states of an upstream, each a series of its own.
const STATES: [&str; 5] = ["up", "starting", "ejected", "unhealthy", "leaving"];

type Labels<'a> = Vec<(&'static str, &'a str)>;

pub(super) fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("httptp");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.encode_requests(&mut page)?;
        self.encode_connections(&mut page)?;
        self.encode_links(&mut page)?;
        self.encode_recompressed(&mut page)?;
        self.encode_upstreams(&mut page)
    }
}

impl Snapshot {
    fn encode_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        let by_outcome = [
            ("response", stats.responses),
            ("refused", stats.refused),
            ("timeout", stats.timeouts),
            ("upstream_error", stats.upstream_errors),
        ]
        .map(|(outcome, n)| (vec![("outcome", outcome)], n));
        page.counters("requests", "Requests answered, by what the answer was.", by_outcome)?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.responses);
        let by_class = classes.map(|(class, n)| (vec![("class", class)], n));
        page.counters(
            "responses",
            "Answers by the class of their status, those of the proxy itself included.",
            by_class,
        )?;
        page.gauge("requests_in_flight", "Requests whose answer has not left yet.", stats.in_flight as f64)?;
        page.gauge(
            "memory_held_bytes",
            "Memory that messages take, and what compression keeps for links.",
            stats.memory_held as f64,
        )?;
        page.gauge("memory_peak_bytes", "The most that they took.", stats.memory_peak as f64)?;
        let help = "The memory that messages may take; infinite without a budget.";
        page.gauge("memory_budget_bytes", help, self.memory_budget.map_or(f64::INFINITY, |bytes| bytes as f64))?;
        let help = "Messages refused for want of memory: new ones from three quarters of the budget on.";
        page.counters("memory_shed", help, [(vec![], stats.memory_shed)])?;
        page.counters("upstream_retries", "Requests sent again, to another upstream.", [(vec![], self.retries)])?;
        let help = "From the head of a request until its answer was there.";
        let latency = (vec![], self.latency.sum.as_secs_f64(), self.latency.by_powers());
        page.histograms("request_duration_seconds", help, [latency])?;
        let started = self.identity.started_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        page.gauge("start_time_seconds", "When it started, in seconds since 1970.", started.as_secs_f64())?;
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        page.gauges("build_info", "1, with the version of the program.", [(version, 1.0)])
    }

    fn encode_connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sides = [("in", &*self.inward), ("out", &*self.outward)];
        let open = sides.map(|(side, io)| (vec![("side", side)], io.open() as f64));
        page.gauges("connections", "Connections open now.", open)?;
        let refused = [
            ("address", self.stats.forbidden_connections),
            ("limit", self.stats.excess_connections),
            ("proxy_header", self.stats.headerless_connections),
            ("memory", self.stats.shed_connections),
        ]
        .map(|(reason, n)| (vec![("reason", reason)], n));
        page.counters("connections_refused", "Connections closed before anything was asked, by the reason.", refused)?;
        // What each counter is, in one label; its value.
        type Figures = fn(&IoCounters) -> [(&'static str, &AtomicU64); 2];
        let families: [(&str, &str, &'static str, Figures); 4] = [
            ("connections_opened", "Connections accepted or dialled, and those that failed.", "result", |io| {
                [("success", &io.opened), ("error", &io.failed)]
            }),
            ("connection_bytes", "Bytes on connections of all kinds, as on the wire.", "direction", |io| {
                [("read", &io.bytes_read), ("written", &io.bytes_written)]
            }),
            ("connection_calls", "Reads and writes on connections.", "direction", |io| {
                [("read", &io.reads), ("written", &io.writes)]
            }),
            ("connection_errors", "Reads and writes that failed.", "direction", |io| {
                [("read", &io.read_errors), ("written", &io.write_errors)]
            }),
        ];
        for (name, help, label, figures) in families {
            let series = sides.iter().flat_map(|(side, io)| {
                figures(io).map(|(what, counter)| (vec![("side", *side), (label, what)], load(counter)))
            });
            page.counters(name, help, series)?;
        }
        Ok(())
    }

    fn encode_links(&self, page: &mut Page<'_>) -> fmt::Result {
        let inward = self.stats.in_links.map(|stats| (vec![("side", "in")], stats));
        let outward = self.upstreams.iter().filter(|upstream| !upstream.links.is_empty()).map(|upstream| {
            let mut sum = Stats::default();
            upstream.links.iter().for_each(|link| sum.add(*link, Stats::default()));
            (vec![("side", "out"), ("upstream", upstream.addr.as_str())], sum)
        });
        let links: Vec<(Labels<'_>, Stats)> = inward.into_iter().chain(outward).collect();
        let bytes = links.iter().flat_map(|(labels, stats)| {
            [
                (with(labels, &[("direction", "sent"), ("stage", "plain")]), stats.plain_out),
                (with(labels, &[("direction", "sent"), ("stage", "wire")]), stats.wire_out),
                (with(labels, &[("direction", "received"), ("stage", "plain")]), stats.plain_in),
                (with(labels, &[("direction", "received"), ("stage", "wire")]), stats.wire_in),
            ]
        });
        page.counters("link_bytes", "Bytes on links, before compression (plain) and on the wire.", bytes)?;
        let frames = links.iter().flat_map(|(labels, stats)| {
            [
                (with(labels, &[("direction", "sent")]), stats.frames_out),
                (with(labels, &[("direction", "received")]), stats.frames_in),
            ]
        });
        page.counters("link_frames", "Requests and responses on links.", frames)?;
        let batches = links.iter().map(|(labels, stats)| {
            let last = stats.batch_sizes.len() - 1;
            let bounds = stats
                .batch_sizes
                .iter()
                .enumerate()
                .map(|(power, count)| (if power == last { f64::INFINITY } else { (1u64 << power) as f64 }, *count));
            (labels.clone(), stats.frames_out as f64, bounds.collect())
        });
        page.histograms("link_batch_frames", "How many messages left in each batch.", batches)
    }

    fn encode_recompressed(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(stats) = &self.stats.recompress else { return Ok(()) };
        let decoded = [("exact", stats.decoded_exactly), ("content", stats.decoded_freely)];
        let help = "Coded bodies that were decoded for the link, by how the other end restores them.";
        page.counters("recompress_decoded", help, decoded.map(|(how, n)| (vec![("how", how)], n)))?;
        let bytes = [("coded", stats.coded_bytes), ("decoded", stats.decoded_bytes)];
        let help = "Bytes of these bodies, as they came (coded) and as they went into the link (decoded).";
        page.counters("recompress_bytes", help, bytes.map(|(stage, n)| (vec![("stage", stage)], n)))?;
        let restored =
            [("exact", stats.restored_exactly), ("content", stats.restored_freely), ("not", stats.not_restored)];
        let help = "Bodies from the link that were coded again; or could not be and went on without a coding.";
        page.counters("recompress_restored", help, restored.map(|(how, n)| (vec![("how", how)], n)))?;
        let passed = stats.passed().map(|(reason, n)| (vec![("reason", reason)], n));
        page.counters("recompress_passed", "Coded bodies that passed as they were, by the reason.", passed)
    }

    fn encode_upstreams(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = || self.upstreams.iter().map(|upstream| (vec![("upstream", upstream.addr.as_str())], upstream));
        let states = all().flat_map(|(labels, upstream)| {
            STATES.map(|state| {
                let labels: Labels<'_> = labels.iter().copied().chain([("state", state)]).collect();
                (labels, f64::from(u8::from(upstream.state == state)))
            })
        });
        page.gauges("upstream_state", "1 for the state that the upstream is in.", states)?;
        let pending = all().map(|(labels, upstream)| (labels, f64::from(upstream.pending)));
        page.gauges("upstream_pending", "Requests in hand at the upstream.", pending)?;
        let latency = all().filter_map(|(labels, upstream)| Some((labels, upstream.latency?.as_secs_f64())));
        page.gauges("upstream_latency_seconds", "The moving mean of its latency.", latency)?;
        let share = all().map(|(labels, upstream)| (labels, upstream.failure_share));
        page.gauges("upstream_failure_share", "The share of failures among its last answers.", share)?;
        let requests = all().map(|(labels, upstream)| (labels, upstream.requests));
        page.counters("upstream_requests", "Requests sent to the upstream.", requests)?;
        let failures = all().map(|(labels, upstream)| (labels, upstream.failures));
        page.counters("upstream_failures", "Those not answered, or with 502, 503 or 504.", failures)?;
        let ejections = all().map(|(labels, upstream)| (labels, upstream.ejections));
        page.counters("upstream_ejections", "How often the upstream was ejected.", ejections)
    }
}

/// These labels, and some more.
fn with<'l>(labels: &Labels<'l>, more: &[(&'static str, &'static str)]) -> Labels<'l> {
    labels.iter().copied().chain(more.iter().copied()).collect()
}

/// Writes families.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            match labels.is_empty() {
                true => family.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                false => family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Each with its sum and with the count of each bucket, by its upper bound.
    fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, f64, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum, buckets) in series {
            let count = buckets.iter().map(|(_, count)| count).sum();
            match labels.is_empty() {
                true => family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                false => {
                    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}
