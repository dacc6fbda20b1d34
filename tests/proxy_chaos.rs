//! Near proxy, a relay that harms, far proxy: each request has one outcome, no answer but its own, and runs no more often
//! than it may. `src/bin/tests/law.rs` is the same for processes that are killed, and for a million requests.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod chaos;
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use chaos::{ALL, Chaos, Relay};
use common::{Caller, Origin, Running, http_config};
use httpteleport::proto::Compression;
use httpteleport::proxy::Kind;

const CALLERS: usize = 8;
const EACH: usize = 60;

#[test]
fn each_request_has_one_outcome_and_no_answer_but_its_own() {
    for (seed, compression) in [(11, Compression::None), (12, Compression::Deflate), (13, Compression::Zstd)] {
        let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..CALLERS * EACH).map(|_| AtomicUsize::new(0)).collect());
        let count = runs.clone();
        let origin = Origin::answering(move |request| {
            let number: usize = request.start_line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            if let Some(runs) = count.get(number) {
                runs.fetch_add(1, Ordering::SeqCst);
            }
            let text = format!("answer to {number}: {}", request.body);
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
        });
        let mut far = http_config(origin.addr());
        far.inbound.kind = Kind::Teleport;
        far.inbound.compression = compression;
        let far = Running::start(far);
        let relay = Relay::start(far.addr(), Chaos { seed, harms: ALL.to_vec(), within: 40_000 });
        let mut near = http_config(relay.addr());
        near.outbound.kind = Kind::Teleport;
        near.outbound.compression = compression;
        near.outbound.timeout = Some(Duration::from_secs(1));
        let near = Running::start(near);
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (near, runs, answered) = (&near, &runs, &answered);
                scope.spawn(move || {
                    let mut connection = Caller::of(near);
                    for number in caller * EACH..(caller + 1) * EACH {
                        let method = if number.is_multiple_of(3) { "PUT" } else { "POST" };
                        let body = format!("question {number};").repeat(number % 70 + 1);
                        let answer = connection.exchange(&format!(
                            "{method} /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        ));
                        if answer.status == 200 {
                            assert_eq!(answer.body, format!("answer to {number}: {body}"), "the answer is another's");
                            assert!(runs[number].load(Ordering::SeqCst) >= 1);
                            answered.fetch_add(1, Ordering::SeqCst);
                        } else {
                            assert!(matches!(answer.status, 502..=504), "{answer:?}");
                            assert!(answer.body.starts_with("httptp: "), "{answer:?}");
                        }
                    }
                });
            }
        });
        for (number, runs) in runs.iter().enumerate().filter(|(number, _)| number % 3 > 0) {
            assert!(runs.load(Ordering::SeqCst) <= 1, "seed {seed}: POST {number} ran again");
        }
        assert!(
            relay.counts().1 > 0 && answered.load(Ordering::SeqCst) > CALLERS * EACH / 3,
            "seed {seed}: {answered:?}"
        );
        near.wait_for(|stats| stats.in_flight == 0);
        relay.calm_down();
        relay.end_all();
        far.wait_for(|stats| stats.in_flight == 0);
        near.wait_for(|stats| stats.memory_held < 1024 * 1024);
        chaos::eventually("peace", || {
            Caller::of(&near).exchange("GET /999999 HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
        });
    }
}
