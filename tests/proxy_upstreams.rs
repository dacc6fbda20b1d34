//! Several upstreams: how requests spread, and what becomes of them when upstreams fail, hang, go and return.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Caller, Origin, Running, http_config};
use httpteleport::proxy::{HealthCheck, Kind, ProxyConfig, Retry};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn named(name: &'static str) -> Origin {
    Origin::answering(move |_| ok(name))
}

fn unavailable() -> Origin {
    Origin::answering(|_| "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".into())
}

/// An address at which nobody listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn before(addrs: &[SocketAddr]) -> ProxyConfig {
    let mut config = http_config(addrs[0]);
    config.outbound.addr = addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    config
}

#[test]
fn each_gets_its_share() {
    let origins = [(); 3].map(|()| {
        Origin::answering(|_| {
            thread::sleep(Duration::from_millis(5));
            ok("")
        })
    });
    let proxy = Running::start(before(&origins.each_ref().map(Origin::addr)));
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut caller = Caller::of(&proxy);
                (0..20).for_each(|_| assert_eq!(caller.exchange(GET).status, 200));
            });
        }
    });
    for origin in &origins {
        // A third, more or less by what a busy machine makes of their latency.
        assert!(origin.requests() >= 24, "{}", origin.requests());
    }
}

#[test]
fn what_surely_did_not_arrive_goes_to_another() {
    let origin = named("a");
    let proxy = Running::start(before(&[nowhere(), origin.addr(), nowhere()]));
    let mut caller = Caller::of(&proxy);
    for _ in 0..20 {
        assert_eq!(caller.exchange(GET).status, 200);
        assert_eq!(caller.exchange(POST).status, 200);
    }
    assert_eq!(origin.requests(), 40);
    let upstreams = proxy.upstreams();
    assert!(upstreams.iter().all(|upstream| upstream.requests == upstream.failures || upstream.failures == 0));
}

/// An upstream that reads a request and closes, as one does that crashes.
fn crashing() -> Origin {
    Origin::answering(|_| String::new()).closing()
}

#[test]
fn what_may_have_arrived_is_repeated_only_if_that_is_allowed() {
    let lost = |retry: Retry, request: &str| {
        let (bad, good) = (crashing(), named("good"));
        let mut config = before(&[bad.addr(), good.addr()]);
        config.outbound.retry = retry;
        let proxy = Running::start(config);
        let mut caller = Caller::of(&proxy);
        let lost = (0..12).filter(|_| caller.exchange(request).status == 502).count();
        assert!(bad.requests() >= 1);
        lost
    };
    assert_eq!(lost(Retry::Idempotent, GET), 0);
    assert_eq!(lost(Retry::All, POST), 0);
    // Others are preferred to one that has failed, and at last it is ejected.
    assert!((1..=5).contains(&lost(Retry::Idempotent, POST)));
    assert!((1..=5).contains(&lost(Retry::Unsent, GET)));
}

#[test]
fn a_response_that_has_begun_is_not_asked_for_again() {
    let bad = Origin::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut".into()).closing();
    let good = named("good");
    let mut config = before(&[bad.addr(), good.addr()]);
    config.outbound.retry = Retry::All;
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    let statuses: Vec<_> = (0..2).map(|_| caller.exchange(GET).status).collect();
    assert!(statuses.contains(&502), "{statuses:?}");
}

#[test]
fn one_that_fails_fast_gets_next_to_nothing() {
    let (bad, good) = (unavailable(), named("good"));
    let proxy = Running::start(before(&[bad.addr(), good.addr()]));
    let mut caller = Caller::of(&proxy);
    let failed = (0..100).filter(|_| caller.exchange(GET).status != 200).count();
    assert!((1..=5).contains(&failed), "{failed}");
    assert_eq!(bad.requests(), failed);
}

#[test]
fn one_that_hangs_costs_no_more_than_its_first_time_outs() {
    let hanging = Origin::answering(|_| {
        thread::sleep(Duration::from_secs(60));
        String::new()
    });
    let good = named("good");
    let mut config = before(&[hanging.addr(), good.addr()]);
    config.outbound.timeout = Some(Duration::from_millis(500));
    let proxy = Running::start(config);
    let failed: usize = thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut caller = Caller::of(&proxy);
                    let start = Instant::now();
                    let mut failed = 0;
                    while start.elapsed() < Duration::from_millis(1_400) {
                        match caller.exchange(GET).status {
                            200 => {}
                            504 => failed += 1,
                            status => panic!("{status}"),
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                    failed
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert!((1..=12).contains(&failed), "{failed} of {}", good.requests() + failed);
    assert!(good.requests() > 20 * failed, "{failed} {}", good.requests());
}

#[test]
fn one_that_comes_back_is_used_again() {
    let is_up = Arc::new(AtomicBool::new(false));
    let seen = is_up.clone();
    let bad = Origin::answering(move |_| match seen.load(Ordering::SeqCst) {
        true => ok("back"),
        false => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".into(),
    });
    let good = named("good");
    let mut config = before(&[bad.addr(), good.addr()]);
    config.outbound.slow_start = Duration::ZERO;
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    for _ in 0..20 {
        caller.exchange(GET);
    }
    is_up.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let mut back = 0;
    while back < 10 {
        back += usize::from(caller.exchange(GET).body == "back");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", proxy.upstreams());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn health_checks_keep_requests_away() {
    let is_up = Arc::new(AtomicBool::new(true));
    let seen = is_up.clone();
    // Requests fare well either way: only the check tells.
    let moody = Origin::answering(move |request| match request.start_line.contains("/healthz") {
        true if !seen.load(Ordering::SeqCst) => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into(),
        _ => ok("moody"),
    });
    let good = named("good");
    for kind in [Kind::Http, Kind::Teleport] {
        is_up.store(true, Ordering::SeqCst);
        let fars: Vec<_> = [&moody, &good]
            .map(|origin| {
                let mut far = http_config(origin.addr());
                far.inbound.kind = Kind::Teleport;
                Running::start(far)
            })
            .into();
        let addrs = match kind {
            Kind::Http => [moody.addr(), good.addr()],
            _ => [fars[0].addr(), fars[1].addr()],
        };
        let mut config = before(&addrs);
        config.outbound.kind = kind;
        config.outbound.slow_start = Duration::ZERO;
        config.outbound.health_check =
            Some(HealthCheck { path: "/healthz".into(), interval: Duration::from_millis(50), rise: 2, fall: 2 });
        let proxy = Running::start(config);
        let mut caller = Caller::of(&proxy);
        let wait_for_state = |state: &str| {
            let start = Instant::now();
            while proxy.upstreams()[0].state != state {
                assert!(start.elapsed() < Duration::from_secs(20), "{:?}", proxy.upstreams());
                thread::sleep(Duration::from_millis(5));
            }
        };
        let mut answers = || (0..10).filter(|_| caller.exchange(GET).body == "moody").count();
        assert!(answers() > 0, "{kind}");
        is_up.store(false, Ordering::SeqCst);
        wait_for_state("unhealthy");
        assert_eq!(answers(), 0, "{kind}");
        is_up.store(true, Ordering::SeqCst);
        wait_for_state("up");
        assert!(answers() > 0, "{kind}");
    }
}

#[test]
fn several_links_to_one_upstream_all_carry_load() {
    let origin = named("a");
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    let far = Running::start(far);
    let mut near = http_config(far.addr());
    near.outbound.kind = Kind::Teleport;
    near.outbound.links = 4;
    let near = Running::start(near);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut caller = Caller::of(&near);
                (0..50).for_each(|_| assert_eq!(caller.exchange(GET).status, 200));
            });
        }
    });
    near.wait_for(|stats| stats.out_links.is_some_and(|link| link.frames_in == 400));
    let links = near.upstreams().remove(0).links;
    assert_eq!(links.len(), 4);
    assert!(links.iter().all(|link| link.frames_out > 20), "{links:?}");
}

#[test]
fn links_that_the_far_proxy_refuses_take_no_requests() {
    let origin = named("a");
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    far.inbound.max_conns = 2;
    let far = Running::start(far);
    let mut near = http_config(far.addr());
    near.outbound.kind = Kind::Teleport;
    near.outbound.links = 6;
    let near = Running::start(near);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut caller = Caller::of(&near);
                for _ in 0..50 {
                    let answer = caller.exchange(POST);
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            });
        }
    });
    assert!(far.stats().excess_connections > 0);
}

#[test]
fn a_rolling_restart_of_far_proxies_loses_nothing() {
    // R-goodbye: the list of them is fixed, what their links had to carry is on its way, and a POST must not be repeated.
    let origin = named("a");
    let far_config = |addr: Option<SocketAddr>| {
        let mut far = http_config(origin.addr());
        far.inbound.kind = Kind::Teleport;
        if let Some(addr) = addr {
            far.inbound.addr = addr.to_string();
        }
        far
    };
    let mut fars: Vec<_> = (0..3).map(|_| Running::start(far_config(None))).collect();
    let addrs: Vec<_> = fars.iter().map(Running::addr).collect();
    let mut near = before(&addrs);
    near.outbound.kind = Kind::Teleport;
    near.outbound.retry = Retry::Unsent;
    let near = Running::start(near);
    let is_over = AtomicBool::new(false);
    let (sent, lost) = thread::scope(|scope| {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut caller = Caller::of(&near);
                    let (mut sent, mut lost) = (0, Vec::new());
                    while !is_over.load(Ordering::SeqCst) {
                        let answer = caller.exchange(POST);
                        sent += 1;
                        if answer.status != 200 {
                            lost.push(answer.body);
                        }
                    }
                    (sent, lost)
                })
            })
            .collect();
        for _ in 0..2 {
            for (far, addr) in fars.iter_mut().zip(&addrs) {
                thread::sleep(Duration::from_millis(200));
                std::mem::replace(far, Running::start(far_config(None))).stop();
                thread::sleep(Duration::from_millis(200));
                *far = Running::start(far_config(Some(*addr)));
            }
        }
        thread::sleep(Duration::from_millis(200));
        is_over.store(true, Ordering::SeqCst);
        callers.into_iter().map(|caller| caller.join().unwrap()).fold((0, Vec::new()), |mut sum, (sent, lost)| {
            sum.0 += sent;
            sum.1.extend(lost);
            sum
        })
    });
    assert!(sent > 100 && lost.is_empty(), "{} of {sent}: {:?}", lost.len(), lost.first());
    assert_eq!(origin.requests(), sent, "each was answered once");
}

#[test]
fn unix_sockets_are_balanced_too() {
    let origins = [named("a"), named("b")];
    let dir = std::env::temp_dir().join(format!("httptp-upstreams-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let fronts: Vec<_> = origins
        .iter()
        .enumerate()
        .map(|(number, origin)| {
            let mut front = http_config(origin.addr());
            front.inbound.kind = Kind::Unix;
            front.inbound.addr = dir.join(number.to_string()).display().to_string();
            Running::start(front)
        })
        .collect();
    let mut config = http_config(nowhere());
    config.outbound.kind = Kind::Unix;
    config.outbound.addr = ["0", "1"].map(|name| dir.join(name).display().to_string()).join(",");
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    for _ in 0..20 {
        assert_eq!(caller.exchange(GET).status, 200);
    }
    assert!(origins.iter().all(|origin| origin.requests() > 0));
    drop(fronts);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn the_far_proxy_waits_no_longer_than_the_near_one_says() {
    let origin = Origin::answering(|request| {
        if request.start_line.contains("/slow") {
            thread::sleep(Duration::from_secs(20));
        }
        ok("late")
    });
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    let far = Running::start(far);
    let mut near = http_config(far.addr());
    near.outbound.kind = Kind::Teleport;
    near.outbound.pass_time_left = true;
    near.outbound.timeout = Some(Duration::from_millis(300));
    let near = Running::start(near);
    let mut caller = Caller::of(&near);
    // What a caller says is not passed on.
    let answer = caller.exchange("GET / HTTP/1.1\r\nHost: h\r\nTeleport-Time-Left: 1\r\n\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(origin.next_request().field("teleport-time-left"), None);
    assert_eq!(caller.exchange("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").status, 504);
    // Its own time would be thirty seconds.
    far.wait_for(|stats| stats.timeouts == 1 && stats.in_flight == 0);
    assert_eq!(origin.next_request().field("teleport-time-left"), None);
}
