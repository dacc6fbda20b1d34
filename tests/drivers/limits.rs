//! What is too late and what is too much.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use httpteleport::driver::{
    ClientError, ClientOptions, LinkRefused, MemoryBudget, Overflow, ServerOptions, request_timeout,
};
use httpteleport::proto::{Compression, Limits, SendError};

use crate::harness::*;

/// Says hello, and then nothing, for ever.
fn silent_server() -> String {
    raw_server(|_, mut stream| {
        stream.write_all(HELLO).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// Why links of a server were refused.
fn refusals_of(server: &impl Server) -> Arc<Mutex<Vec<LinkRefused>>> {
    let refused = Arc::new(Mutex::new(Vec::new()));
    let told = refused.clone();
    server.on_link_refused(move |peer, why| {
        assert!(peer.ip().is_some());
        told.lock().unwrap().push(why);
    });
    refused
}

both! {
    fn a_deadline_ends_a_request_and_nothing_else<D>() {
        let gate = Gate::default();
        let hold = gate.clone();
        let (_server, addr) = D::server(ServerOptions::default(), move |request, _| {
            if request.body() == "slow" {
                hold.wait();
            }
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default().timeout(200 * MS));
        let is_late = |outcome: Outcome| {
            assert!(matches!(outcome, Err(ClientError::Timeout { maybe_delivered: true })), "{outcome:?}");
        };
        // By the clock, from now, and by the options.
        is_late(client.request(post("slow"), Instant::now() + 200 * MS));
        is_late(client.request(post("slow"), 200 * MS));
        is_late(client.request(post("slow"), None));
        at_once(10, |_| is_late(client.request(post("slow"), 200 * MS)));
        // One of its own goes before that of the options.
        assert_eq!(client.request(post("fast"), LONG).unwrap().body(), "fast");
        gate.open();
    }

    fn a_handler_that_never_answers_gives_each_caller_a_timeout<D>() {
        let gate = Gate::default();
        let hold = gate.clone();
        let (server, addr) = D::server(ServerOptions::default(), move |request, _| {
            hold.wait();
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        at_once(10, |_| {
            for _ in 0..10 {
                let outcome = client.request(post("x"), 10 * MS);
                assert!(matches!(outcome, Err(ClientError::Timeout { .. })), "{outcome:?}");
            }
        });
        assert_eq!(client.pending_requests(), 0);
        gate.open();
        server.shutdown(soon());
    }

    fn a_handler_that_takes_too_long_is_answered_for<D>() {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let options = ServerOptions::default().handler_timeout(MS, request_timeout("timeout!"));
        let (_server, addr) = D::server(options, move |request, _| {
            std::thread::sleep(if request.body() == "quick" { Duration::ZERO } else { 300 * MS });
            count.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        at_once(10, |_| {
            let response = client.request(post("slow"), LONG).unwrap();
            assert_eq!((response.status(), &response.body()[..]), (StatusCode::REQUEST_TIMEOUT, &b"timeout!"[..]));
        });
        // The handlers go on, and what they answer goes to nobody.
        assert!(ended.load(Ordering::SeqCst) < 10);
        eventually("that they end", || ended.load(Ordering::SeqCst) == 10);
        while client.request(post("quick"), LONG).unwrap().status() != StatusCode::OK {}
        assert_eq!(client.stats().frames_in, client.stats().frames_out);
    }

    fn above_the_concurrency_limit_the_answer_is_429<D>() {
        let (gate, running) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let (hold, count) = (gate.clone(), running.clone());
        let (_server, addr) = D::server(ServerOptions::default().concurrency(10), move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            hold.wait();
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| assert_eq!(client.request(post("held"), LONG).unwrap().body(), "held"));
            }
            eventually("that ten are in handlers", || running.load(Ordering::SeqCst) == 10);
            at_once(100, |_| {
                assert_eq!(client.request(post("more"), LONG).unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
            });
            gate.open();
        });
    }

    fn nobody_to_dial_is_told_to_every_caller<D>() {
        let (_port, addr) = closed_port();
        let addr = addr.to_string();
        let client = D::client(&addr, ClientOptions::default());
        at_once(100, |_| match client.request(post("x"), LONG) {
            Err(ClientError::Connect { addr: named, .. }) => assert_eq!(named, addr),
            other => panic!("{other:?}"),
        });
        // So is who has little time, and nobody takes much more.
        at_once(100, |_| {
            let begin = Instant::now();
            let outcome = client.request(post("x"), 50 * MS);
            let is_told = matches!(outcome, Err(ClientError::Connect { .. } | ClientError::Timeout { .. }));
            assert!(is_told && begin.elapsed() < 10 * S, "{outcome:?} after {:?}", begin.elapsed());
        });
    }

    fn a_dial_that_hangs_keeps_no_caller<D>() {
        let client = D::slow_dialler("127.0.0.1:1", 30 * S, ClientOptions::default().connect_timeout(600 * MS));
        at_once(50, |_| {
            let outcome = client.request(post("x"), 50 * MS);
            assert!(matches!(outcome, Err(ClientError::Timeout { maybe_delivered: false })), "{outcome:?}");
        });
        // Who has more time learns of the dial itself.
        let error = client.request(post("x"), LONG).unwrap_err();
        assert!(error.to_string().contains("a slow way") && !error.maybe_delivered(), "{error}");
    }

    fn of_too_many_requests_the_newest_fails<D>() {
        let client = D::client(&silent_server(), plain().max_pending_requests(3));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(matches!(client.request(get("/"), S), Err(ClientError::Timeout { .. }))));
            }
            eventually("that three wait", || client.pending_requests() == 3);
            std::thread::sleep(50 * MS);
            for _ in 0..3 {
                let outcome = client.request(get("/"), LONG);
                let Err(ClientError::Send(SendError::PendingOverflow(3))) = outcome else { panic!("{outcome:?}") };
            }
        });
    }

    fn of_too_many_requests_the_oldest_that_has_not_left_fails_if_so_wished<D>() {
        // While dialling, and in a batch that waits.
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        let options = plain().max_pending_requests(2).overflow(Overflow::Oldest).max_batch_delay(S);
        for (dial, before) in [(S, Duration::ZERO), (Duration::ZERO, 300 * MS)] {
            let client = D::slow_dialler(&addr, dial, options.clone());
            let failed = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for n in 0..5 {
                    if n == 1 {
                        std::thread::sleep(before);
                    }
                    let (client, failed) = (&client, &failed);
                    scope.spawn(move || match client.request(post(n.to_string()), LONG) {
                        Ok(response) => assert!(n >= 3 && response.body() == n.to_string().as_bytes(), "{n}"),
                        Err(ClientError::Send(SendError::PendingOverflow(2))) => {
                            assert!(n < 3, "{n}");
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                        other => panic!("{n}: {other:?}"),
                    });
                    std::thread::sleep(50 * MS);
                }
            });
            assert_eq!(failed.load(Ordering::SeqCst), 3);
        }
    }

    fn giving_up_makes_room<D>() {
        let client = D::client(&silent_server(), plain().max_pending_requests(1).max_batch_delay(LONG));
        for _ in 0..5 {
            // Nothing of it has left, and so its place is free at once.
            client.give_up(get("/"), 50 * MS);
            assert_eq!(client.pending_requests(), 0);
        }
        let outcome = client.request(get("/"), 50 * MS);
        assert!(matches!(outcome, Err(ClientError::Timeout { maybe_delivered: false })), "{outcome:?}");
    }

    fn what_comes_from_a_dead_server_is_not_waited_for<D>() {
        let client = D::client(&silent_server(), plain().read_timeout(200 * MS));
        let error = client.request(get("/"), LONG).unwrap_err();
        assert!(error.to_string().contains("nothing came from the peer") && error.maybe_delivered(), "{error}");
    }

    fn a_link_that_waits_for_nothing_is_not_dead<D>() {
        let (client, server) = D::pair(ClientOptions::default().read_timeout(500 * MS), ServerOptions::default());
        let ends = Arc::new(AtomicUsize::new(0));
        let count = ends.clone();
        server.on_link_end(move |_, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..2 {
            client.request(post("x"), LONG).unwrap();
            std::thread::sleep(S);
        }
        assert_eq!(ends.load(Ordering::SeqCst), 0);
    }

    fn a_server_closes_links_that_say_nothing_if_so_wished<D>() {
        let (client, server) = D::pair(ClientOptions::default(), ServerOptions::default().read_timeout(200 * MS));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let told = ends.clone();
        server.on_link_end(move |_, _, transport| told.lock().unwrap().extend(transport.map(ToString::to_string)));
        client.request(post("x"), LONG).unwrap();
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert!(ends.lock().unwrap()[0].contains("nothing came"), "{ends:?}");
        // The client sees the end a moment later.
        eventually("an answer by the next link", || client.request(post("y"), LONG).is_ok());
    }

    fn a_peer_that_does_not_read_is_given_up<D>() {
        // One reads nothing at all, the other a byte now and then.
        for pause in [100 * S, 20 * MS] {
            let addr = raw_server(move |_, mut stream| {
                stream.write_all(HELLO).unwrap();
                loop {
                    std::thread::sleep(pause);
                    if !matches!(stream.read(&mut [0; 10]), Ok(n) if n > 0) {
                        return;
                    }
                }
            });
            let limits = Limits { output_bytes: 64 << 20, ..Limits::default() };
            let client = D::client(&addr, plain().write_timeout(300 * MS).limits(limits));
            std::thread::scope(|scope| {
                // More than the sockets between them take.
                let large = scope.spawn(|| client.request(post(vec![7; 32 << 20]), LONG).unwrap_err());
                // Its link cannot write, and yet others' deadlines are kept.
                eventually("that it is under way", || client.pending_requests() == 1);
                let outcome = client.request(get("/"), 50 * MS);
                assert!(matches!(outcome, Err(ClientError::Timeout { .. })), "{outcome:?}");
                let error = large.join().unwrap();
                assert!(error.to_string().contains("does not read") && error.maybe_delivered(), "{error}");
            });
        }
    }

    fn callers_wait_for_room_in_the_output<D>() {
        // R-limit-output: nobody is lost because others' bodies are large and the way is slow.
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let addr = relay(&to, |_, up, piece| {
            std::thread::sleep(if up { MS } else { Duration::ZERO });
            Some(piece)
        });
        let limits = Limits { output_bytes: 256 << 10, ..Limits::default() };
        let client = D::client(&addr, plain().limits(limits));
        at_once(40, |n| {
            let body = vec![n as u8; 1 + n * 10_000];
            if n % 4 == 0 {
                client.oneway(post(body)).unwrap();
            } else {
                assert!(client.request(post(body.clone()), LONG).unwrap().body() == &body);
            }
        });
    }

    fn who_waits_for_room_in_the_output_is_under_deadline_and_limit<D>() {
        let addr = raw_server(|_, mut stream| {
            stream.write_all(HELLO).unwrap();
            std::thread::sleep(30 * S);
        });
        let limits = Limits { output_bytes: 64 << 10, pending_requests: 3, ..Limits::default() };
        for overflow in [Overflow::Newest, Overflow::Oldest] {
            let client = D::client(&addr, plain().limits(limits.clone()).overflow(overflow).write_timeout(LONG));
            std::thread::scope(|scope| {
                // It is on its way for as long as it may be, and fills the output.
                scope.spawn(|| client.request(post(vec![7; 32 << 20]), 2 * S).unwrap_err());
                eventually("that it is under way", || client.stats().plain_out > 0);
                let outcome = client.request(get("/"), 50 * MS);
                assert!(matches!(outcome, Err(ClientError::Timeout { maybe_delivered: false })), "{outcome:?}");
                client.give_up(get("/"), 50 * MS);
                let mut calls = Vec::new();
                for _ in 0..3 {
                    calls.push(scope.spawn(|| client.request(get("/"), S).unwrap_err()));
                    std::thread::sleep(50 * MS);
                }
                let loser = if overflow == Overflow::Newest { 2 } else { 0 };
                for (n, call) in calls.into_iter().enumerate() {
                    match call.join().unwrap() {
                        ClientError::Send(SendError::PendingOverflow(3)) => assert_eq!(n, loser),
                        error => assert!(matches!(error, ClientError::Timeout { .. }) && n != loser, "{n}: {error}"),
                    }
                }
            });
        }
    }

    fn what_finds_no_memory_is_answered_503_and_the_rest_as_ever<D>() {
        // R-limit-memory
        const MIB: usize = 1 << 20;
        let (gate, budget) = (Gate::default(), MemoryBudget::new(8 * MIB));
        let hold = gate.clone();
        let options = ServerOptions::default().compression(Compression::None).memory_budget(budget.clone());
        let (_server, addr) = D::server(options, move |request, _| {
            hold.wait();
            echo(request)
        });
        let client = D::client(&addr, plain());
        let (shed, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..30 {
                let (client, shed, answered) = (&client, &shed, &answered);
                scope.spawn(move || {
                    let response = client.request(post(vec![b'x'; MIB]), LONG).unwrap();
                    match response.status() {
                        StatusCode::OK => answered.fetch_add(1, Ordering::SeqCst),
                        StatusCode::SERVICE_UNAVAILABLE => {
                            assert_eq!(response.headers()["retry-after"], "1");
                            shed.fetch_add(1, Ordering::SeqCst)
                        }
                        other => panic!("{other}"),
                    };
                });
            }
            eventually("that some find no memory", || budget.shed() > 0);
            gate.open();
        });
        let (shed, answered) = (shed.into_inner(), answered.into_inner());
        assert!(shed > 0 && answered > 0 && shed as u64 == budget.shed(), "{shed} {answered} {budget:?}");
        assert!(budget.peak() < 10 * MIB, "{budget:?}");
        assert_eq!(client.request(post("x"), LONG).unwrap().status(), StatusCode::OK);
        drop(client);
        eventually("that all comes back", || budget.held() == 0);
    }

    fn quiet_links_leave_memory_to_those_that_ask<D>() {
        // R-limit-memory
        let budget = MemoryBudget::new(2 << 20);
        let (server, addr) = D::server(ServerOptions::default().memory_budget(budget.clone()), |request, _| echo(request));
        let refused = refusals_of(&server);
        let client = D::client(&addr, ClientOptions::default());
        client.request(post("x"), LONG).unwrap();
        // Others have been answered once, and say no more, until there is room for no more of them.
        let mut quiet = Vec::new();
        while !budget.is_crowded() {
            quiet.push(D::client(&addr, ClientOptions::default()));
            assert_eq!(quiet[quiet.len() - 1].request(post("x"), LONG).unwrap().status(), StatusCode::OK);
        }
        assert!(quiet.len() < 10);
        let too_many = D::client(&addr, ClientOptions::default());
        assert_eq!(refused.lock().unwrap()[..], []);
        assert!(matches!(too_many.request(post("x"), LONG), Err(ClientError::Link { maybe_delivered: false, .. })));
        let refused = refused.lock().unwrap().clone();
        assert!(!refused.is_empty() && refused.iter().all(|why| *why == LinkRefused::NoMemory), "{refused:?}");
        for _ in 0..3 {
            let response = client.request(post(vec![b'x'; 100_000]), LONG).unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        drop(quiet.pop());
        eventually("that one may come again", || !budget.is_crowded());
        let another = D::client(&addr, ClientOptions::default());
        assert_eq!(another.request(post("x"), LONG).unwrap().status(), StatusCode::OK);
        assert_eq!(budget.shed(), 0);
    }

    fn whoever_runs_a_server_is_told_of_links_that_it_refuses<D>() {
        let (server, addr) = D::server(ServerOptions::default().links(1), |request, _| echo(request));
        let refused = refusals_of(&server);
        let client = D::client(&addr, ClientOptions::default());
        client.request(post("x"), LONG).unwrap();
        assert!(matches!(TcpStream::connect(&addr).unwrap().read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(refused.lock().unwrap()[..], [LinkRefused::TooMany(1)]);
        // Whoever comes when it shuts down is nobody's concern.
        server.shutdown(soon());
        assert_eq!(refused.lock().unwrap().len(), 1);
    }

    fn a_link_that_has_failed_keeps_nobody_until_the_peer_reads<D>() {
        let addr = raw_server(|number, mut stream| {
            stream.write_all(HELLO).unwrap();
            let mut hello = [0; HELLO.len()];
            stream.read_exact(&mut hello).unwrap();
            if number > 0 {
                return;
            }
            // Some of the request has come, and the rest is not read.
            stream.read_exact(&mut [0; 100]).unwrap();
            stream.write_all(b"\x01\0\0\0no response\r\n\r\n").unwrap();
            std::thread::sleep(LONG);
        });
        let client = D::client(&addr, plain().write_timeout(LONG * 10));
        let begin = Instant::now();
        let outcome = client.request(post(vec![b'x'; 16 << 20]), None);
        assert!(matches!(outcome, Err(ClientError::Link { maybe_delivered: true, .. })), "{outcome:?}");
        assert!(begin.elapsed() < LONG, "it has waited for the peer");
    }

    fn a_server_does_not_give_up_whom_it_does_not_read<D>() {
        let (gate, ends) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let (hold, ended) = (gate.clone(), ends.clone());
        let limits = Limits { held_bytes: 1_000, ..Limits::server() };
        let options = ServerOptions::default().limits(limits).read_timeout(100 * MS);
        let (server, addr) = D::server(options, move |request, _| {
            hold.wait();
            echo(request)
        });
        server.on_link_end(move |_, _, _| {
            ended.fetch_add(1, Ordering::SeqCst);
        });
        let client = D::client(&addr, plain());
        client.oneway(post(vec![b'x'; 2_000])).unwrap();
        std::thread::sleep(500 * MS);
        assert_eq!(ends.load(Ordering::SeqCst), 0);
        // Once it reads again, it waits no longer than it should.
        gate.open();
        eventually("that it is given up", || ends.load(Ordering::SeqCst) == 1);
    }

    fn workers_have_a_bound<D>() {
        // The driver on tasks has no workers, and passes all the same: what is tested is that all are answered.
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, peak) = (running.clone(), most.clone());
        let (_server, addr) = D::server(ServerOptions::default().workers(2), move |_, _| {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(10 * MS);
            now.fetch_sub(1, Ordering::SeqCst);
            Response::default()
        });
        let client = D::client(&addr, ClientOptions::default());
        at_once(20, |_| assert_eq!(client.request(get("/"), LONG).unwrap().status(), StatusCode::OK));
        let most = most.load(Ordering::SeqCst);
        assert!(most <= if std::any::type_name::<D>() == std::any::type_name::<Thread>() { 2 } else { 20 }, "{most}");
    }
}

#[test]
fn a_long_line_of_slow_requests_leaves_its_worker_to_others() {
    let options = ServerOptions::default().pipeline(true).workers(1).handler_timeout(S, request_timeout("late"));
    let (server, addr) = Thread::server(options, |_, _| {
        std::thread::sleep(20 * MS);
        Response::default()
    });
    let (long, short) = (Thread::client(&addr, plain()), Thread::client(&addr, plain()));
    for client in [&long, &short] {
        client.request(get("/"), LONG).unwrap();
    }
    for _ in 0..100 {
        long.oneway(get("/"), None).unwrap();
    }
    eventually("all to be there", || server.stats().frames_in == 102);
    assert_eq!(short.request(get("/"), LONG).unwrap().status().as_u16(), 200);
}

#[test]
fn a_request_that_was_late_before_it_began_stops_no_line() {
    let options = ServerOptions::default().pipeline(true).workers(2).handler_timeout(200 * MS, request_timeout("late"));
    let busy = Gate::default();
    let hold = busy.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tell = seen.clone();
    let (_server, addr) = Thread::server(options, move |request, _| {
        tell.lock().unwrap().push(request.uri().path().to_owned());
        if request.uri().path() == "/busy" {
            hold.wait();
        }
        Response::default()
    });
    let others = [0; 2].map(|_| Thread::client(&addr, plain()));
    let client = Thread::client(&addr, plain());
    for other in &others {
        other.oneway(get("/busy"), None).unwrap();
    }
    eventually("that no worker is free", || seen.lock().unwrap().len() == 2);
    assert_eq!(client.request(get("/late"), LONG).unwrap().status().as_u16(), 408);
    busy.open();
    for _ in 0..10 {
        assert_eq!(client.request(get("/"), LONG).unwrap().status().as_u16(), 200);
    }
    // It was answered before it could begin.
    assert!(!seen.lock().unwrap().contains(&"/late".to_owned()));
}
