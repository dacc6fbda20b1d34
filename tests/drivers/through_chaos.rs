//! Through a relay that harms: what must hold all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request};
use httpteleport::driver::{ClientError, ClientOptions, ServerOptions};

use crate::chaos::{ALL, Chaos, Harm, Relay};
use crate::harness::*;

both! {
    fn each_request_has_one_outcome_and_no_answer_but_its_own<D>() {
        const CALLERS: usize = 8;
        const EACH: usize = 40;
        for seed in 1..=3 {
            let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..CALLERS * EACH).map(|_| AtomicUsize::new(0)).collect());
            let count = runs.clone();
            let (_server, addr) = D::server(ServerOptions::default(), move |request, _| {
                let number: usize = request.uri().path()[1..].parse().unwrap();
                count[number].fetch_add(1, Ordering::SeqCst);
                echo(request)
            });
            let chaos = Chaos { seed, harms: ALL.to_vec(), within: 60_000 };
            let relay = Relay::start(addr.parse().unwrap(), chaos);
            let options = ClientOptions::default().timeout(S).read_timeout(500 * MS).links(2);
            let options = options.retry_if(|request| request.method() == Method::PUT);
            let client = D::client(&relay.addr().to_string(), options);
            let answered = AtomicUsize::new(0);
            at_once(CALLERS, |caller| {
                for n in 0..EACH {
                    let number = caller * EACH + n;
                    let method = if number.is_multiple_of(3) { Method::PUT } else { Method::POST };
                    let body = format!("question {number};").repeat(number % 70 + 1);
                    let request = Request::builder().method(&method).uri(format!("http://h/{number}"));
                    match client.request(request.body(body.clone().into()).unwrap(), None) {
                        Ok(response) => {
                            assert_eq!(response.body(), body.as_bytes(), "the answer is another's");
                            assert!(runs[number].load(Ordering::SeqCst) >= 1);
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(ClientError::Send(error)) => panic!("{error}"),
                        // It is told that it can have run if it has.
                        Err(error) => assert!(error.maybe_delivered() || runs[number].load(Ordering::SeqCst) == 0),
                    }
                }
            });
            for (number, runs) in runs.iter().enumerate().filter(|(number, _)| number % 3 > 0) {
                assert!(runs.load(Ordering::SeqCst) <= 1, "seed {seed}: POST {number} ran again");
            }
            assert_eq!(client.pending_requests(), 0);
            let (_, harmed) = relay.counts();
            assert!(harmed > 0 && answered.load(Ordering::SeqCst) > CALLERS * EACH / 3, "seed {seed}: {answered:?}");
            relay.calm_down();
            relay.end_all();
            let ask = || client.request(Request::post("http://h/0").body("peace".into()).unwrap(), None);
            eventually("peace", || ask().is_ok_and(|response| response.body() == "peace"));
        }
    }

    fn a_link_that_nothing_comes_by_is_given_up_though_nobody_waits_long<D>() {
        // Each request times out, and between them nobody waits; something on the way acknowledges all for the peer.
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        let chaos = Chaos { seed: 1, harms: vec![Harm::HalfOpen], within: 4_000 };
        let relay = Relay::start(addr.parse().unwrap(), chaos);
        let client = D::client(&relay.addr().to_string(), plain().timeout(200 * MS).read_timeout(2 * S));
        eventually("a link that works", || client.request(post("x"), None).is_ok());
        eventually("a link that is dead", || client.request(post("x".repeat(1000)), None).is_err());
        assert_eq!(relay.counts().0, 1);
        relay.calm_down();
        eventually("another link", || {
            std::thread::sleep(100 * MS);
            client.request(post("x"), None).is_ok()
        });
        assert_eq!(relay.counts().0, 2);
    }
}
