//! What a proxy shows of itself: figures in three formats, the page, and the access log.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{Caller, Origin, Running, http_config};
use httpteleport::proxy::{Kind, ProxyConfig, StartError};
use serde_json::Value;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn ok() -> Origin {
    Origin::answering(|request| match request.start_line.contains("/missing") {
        true => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
        false => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
    })
}

fn shown(mut config: ProxyConfig) -> Running {
    config.seeing.metrics_addr = Some("127.0.0.1:0".into());
    Running::start(config)
}

/// The body at a path of the listener for figures, which must be there.
fn get(addr: SocketAddr, path: &str) -> String {
    let (status, body) = ask(addr, "GET", path);
    assert_eq!(status, 200, "{path}");
    body
}

fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// Samples by their names with labels.
fn samples(text: &str) -> HashMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.into(), value.parse().unwrap()))
        .collect()
}

#[test]
fn who_asks_for_figures_waits_for_nobody_who_asks_for_none() {
    let origin = ok();
    let proxy = shown(http_config(origin.addr()));
    let mut silent: Vec<_> = (0..100).map(|_| TcpStream::connect(proxy.metrics_addr()).unwrap()).collect();
    assert_eq!(get(proxy.metrics_addr(), "/healthz"), "alive\n");
    // The oldest have been closed.
    assert!(matches!(silent[0].read(&mut [0]), Ok(0) | Err(_)));
}

/// Each figure that the original exports: the table of its counters.
const ORIGINAL: [&str; 23] = [
    "inRequestStart",
    "inRequestSuccess",
    "inRequestNon200",
    "inRequestTimeoutError",
    "inRequestOtherError",
    "inAcceptSuccess",
    "inAcceptError",
    "inConns",
    "inBytesRead",
    "inBytesWritten",
    "inReadCalls",
    "inWriteCalls",
    "inReadError",
    "inWriteError",
    "outConns",
    "outBytesRead",
    "outBytesWritten",
    "outReadCalls",
    "outWriteCalls",
    "outReadError",
    "outWriteError",
    "outDialSuccess",
    "outDialError",
];

#[test]
fn the_originals_figures_under_their_names() {
    let origin = ok();
    let mut config = http_config(origin.addr());
    config.inbound.max_body_bytes = 10;
    let proxy = shown(config);
    let mut caller = Caller::of(&proxy);
    for _ in 0..3 {
        assert_eq!(caller.exchange(GET).status, 200);
    }
    assert_eq!(caller.exchange("GET /missing HTTP/1.1\r\nHost: h\r\n\r\n").status, 404);
    let large = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n{}", "x".repeat(11));
    assert_eq!(Caller::of(&proxy).exchange(&large).status, 413);

    let addr = proxy.metrics_addr();
    let figures = samples(&get(addr, "/prometheus"));
    for name in ORIGINAL {
        assert!(figures.contains_key(name), "{name}");
    }
    let expvar: Value = serde_json::from_str(&get(addr, "/expvar")).unwrap();
    assert!(ORIGINAL.iter().all(|name| expvar[*name].is_u64()));
    // What is refused before it would go to an upstream is not among the requests of the original.
    let requests = ORIGINAL[..5].iter().map(|name| figures[*name] as u64).collect::<Vec<_>>();
    assert_eq!(requests, [4, 4, 1, 0, 0]);
    assert_eq!((figures["inAcceptSuccess"], figures["outDialSuccess"], figures["outConns"]), (2.0, 1.0, 1.0));
    assert!(figures["inBytesRead"] > 4.0 * GET.len() as f64 && figures["outBytesWritten"] > 0.0);
    assert!(figures["inReadCalls"] >= 4.0 && figures["outWriteCalls"] >= 4.0);
}

#[test]
fn errors_are_counted_as_the_original_does() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = shown(http_config(nowhere));
    assert_eq!(Caller::of(&proxy).exchange(GET).status, 502);
    let slow = Origin::answering(|_| {
        thread::sleep(Duration::from_secs(5));
        String::new()
    });
    let mut config = http_config(slow.addr());
    config.outbound.timeout = Some(Duration::from_millis(50));
    let late = shown(config);
    assert_eq!(Caller::of(&late).exchange(GET).status, 504);

    let figures = samples(&get(proxy.metrics_addr(), "/prometheus"));
    let of_late = samples(&get(late.metrics_addr(), "/prometheus"));
    assert_eq!((figures["inRequestOtherError"], figures["outDialError"]), (1.0, 1.0));
    assert_eq!((of_late["inRequestTimeoutError"], of_late["inRequestOtherError"]), (1.0, 0.0));
}

#[test]
fn figures_of_links_and_upstreams() {
    let origin = ok();
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    let far = shown(far);
    let mut near = http_config(far.addr());
    near.outbound.kind = Kind::Teleport;
    let near = shown(near);
    let mut caller = Caller::of(&near);
    for _ in 0..50 {
        assert_eq!(caller.exchange(GET).status, 200);
    }
    near.wait_for(|stats| stats.out_links.is_some_and(|link| link.frames_in == 50));
    far.wait_for(|stats| stats.in_links.is_some_and(|link| link.frames_out == 50));
    let text = get(near.metrics_addr(), "/metrics");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let figures = samples(&text);
    let upstream = format!("upstream=\"{}\"", far.addr());
    let link = |direction: &str, stage: &str| {
        figures
            [&format!("httptp_link_bytes_total{{side=\"out\",{upstream},direction=\"{direction}\",stage=\"{stage}\"}}")]
    };
    let stats = near.stats().out_links.unwrap();
    assert_eq!((link("sent", "plain"), link("sent", "wire")), (stats.plain_out as f64, stats.wire_out as f64));
    assert!(link("sent", "plain") > 2.0 * link("sent", "wire"));
    assert_eq!(figures["httptp_requests_total{outcome=\"response\"}"], 50.0);
    assert_eq!(figures["httptp_responses_total{class=\"2xx\"}"], 50.0);
    assert_eq!(figures["httptp_responses_total{class=\"5xx\"}"], 0.0);
    assert!(figures.keys().any(|name| name.starts_with("httptp_build_info{version=")));
    assert_eq!(figures["httptp_request_duration_seconds_count"], 50.0);
    assert_eq!(figures["httptp_request_duration_seconds_bucket{le=\"+Inf\"}"], 50.0);
    assert_eq!(figures[&format!("httptp_upstream_state{{{upstream},state=\"up\"}}")], 1.0);
    assert_eq!(figures[&format!("httptp_upstream_requests_total{{{upstream}}}")], 50.0);
    let batches = &figures[&format!("httptp_link_batch_frames_count{{side=\"out\",{upstream}}}")];
    assert_eq!(*batches, stats.batches_out as f64);

    let of_far = samples(&get(far.metrics_addr(), "/metrics"));
    assert_eq!(of_far["httptp_link_frames_total{side=\"in\",direction=\"sent\"}"], 50.0);
    assert_eq!(of_far["httptp_connections{side=\"in\"}"], 1.0);

    let status: Value = serde_json::from_str(&get(near.metrics_addr(), "/status")).unwrap();
    assert_eq!((&status["responses"], &status["upstreams"][0]["state"]), (&50.into(), &"up".into()));
    assert!(status["links"]["out"]["plain"].as_u64() > status["links"]["out"]["wire"].as_u64());
    let counted: u64 = status["latency"].as_array().unwrap().iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(counted, 50);
}

#[test]
fn the_page_brings_all_that_it_needs() {
    let proxy = shown(http_config(ok().addr()));
    let addr = proxy.metrics_addr();
    let page = get(addr, "/");
    assert!(page.starts_with("<!doctype html>"));
    for outside in ["https://", "//cdn", "@import", "<link rel=\"stylesheet\"", "<script src"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(ask(addr, "GET", "/nothing").0, 404);
    assert_eq!(ask(addr, "POST", "/").0, 405);
}

#[test]
fn a_busy_address_is_an_error_only_if_it_was_asked_for() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = ok();
    let mut config = http_config(origin.addr());
    config.seeing.metrics_addr = Some(busy.local_addr().unwrap().to_string());
    let error = Running::try_start(config.clone()).err().unwrap();
    assert!(matches!(error, StartError::Metrics { .. }) && error.to_string().contains("--expvar-addr"), "{error}");
    config.seeing.metrics_optional = true;
    let proxy = Running::start(config);
    assert_eq!(Caller::of(&proxy).exchange(GET).status, 200);
}

#[test]
fn looking_harms_nobody_and_ends_with_the_proxy() {
    let proxy = shown(http_config(ok().addr()));
    let addr = proxy.metrics_addr();
    let mut open = TcpStream::connect(addr).unwrap();
    write!(open, "GET /status HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    open.read_exact(&mut [0; 12]).unwrap();
    proxy.stop();
    open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest);
    let start = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_trace_is_passed_on_and_made_only_on_wish() {
    let origin = ok();
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let with_trace = format!("GET / HTTP/1.1\r\nHost: h\r\ntraceparent: {given}\r\n\r\n");
    let mut config = http_config(origin.addr());
    let plain = Running::start(config.clone());
    config.seeing.make_traceparent = true;
    let making = Running::start(config);
    for (proxy, request, seen) in [(&plain, GET, false), (&plain, &with_trace, true), (&making, &with_trace, true)] {
        Caller::of(proxy).exchange(request);
        assert_eq!(origin.next_request().field("traceparent"), seen.then(|| given.to_owned()));
    }
    Caller::of(&making).exchange(GET);
    let made = origin.next_request().field("traceparent").unwrap();
    assert_eq!((made.len(), &made[..3], &made[53..]), (55, "00-", "00"), "{made}");
}
