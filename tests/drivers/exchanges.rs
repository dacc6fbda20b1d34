//! Requests and their answers: whatever the options, each caller gets its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use httpteleport::driver::{ClientOptions, ServerOptions};
use httpteleport::proto::{Compression, Limits};

use crate::harness::*;

/// Ten callers, each with ten requests: GET, whose Host is answered, and POST, whose body is.
fn exchange(client: &impl Client) {
    at_once(10, |caller| {
        for n in 0..10 {
            let body = format!("{caller}-{n}-{}", "x".repeat(n * 100));
            let response = client.request(post(body.clone()), LONG).unwrap();
            assert_eq!(response.body(), body.as_bytes());
            assert_eq!(client.request(get("/host"), LONG).unwrap().body(), "h.example");
        }
    });
    assert_eq!(client.pending_requests(), 0);
}

fn answer(request: http::Request<Bytes>) -> Response<Bytes> {
    if request.uri().path() == "/host" {
        return Response::new(request.headers()["host"].as_bytes().to_vec().into());
    }
    echo(request)
}

fn exchange_with<D: Driver>(client: ClientOptions, server: ServerOptions) {
    let (server, addr) = D::server(server, |request, _| answer(request));
    exchange(&D::client(&addr, client));
    server.shutdown(soon());
}

both! {
    fn one_caller_after_another<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| answer(request));
        let client = D::client(&addr, ClientOptions::default());
        for n in 0..100u32 {
            let body = vec![n as u8; n as usize];
            assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
            assert_eq!(client.request(get("/host"), LONG).unwrap().body(), "h.example");
        }
    }

    fn every_pair_of_compressions<D>() {
        for ours in Compression::ALL {
            for theirs in Compression::ALL {
                let server = ServerOptions::default().compression(theirs);
                exchange_with::<D>(ClientOptions::default().compression(ours), server);
            }
        }
    }

    fn a_batch_delay_on_either_side_or_both<D>() {
        let (client, server) = (ClientOptions::default(), ServerOptions::default());
        exchange_with::<D>(client.clone().max_batch_delay(10 * MS), server.clone());
        exchange_with::<D>(client.clone(), server.clone().max_batch_delay(10 * MS));
        exchange_with::<D>(client.max_batch_delay(10 * MS), server.max_batch_delay(10 * MS));
    }

    fn small_buffers<D>() {
        let client = ClientOptions::default().read_buffer(256).write_buffer(100).max_batch_delay(5 * MS);
        exchange_with::<D>(client, ServerOptions::default().read_buffer(256).write_buffer(1));
    }

    fn answers_out_of_order<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| {
            std::thread::sleep(u32::from(request.body()[0] % 30) * MS);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        at_once(60, |caller| {
            let body = vec![(caller * 7) as u8; 1 + caller * 50];
            assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
        });
    }

    fn many_clients_of_one_server<D>() {
        let (server, addr) = D::server(ServerOptions::default(), |request, _| answer(request));
        at_once(10, |_| exchange(&D::client(&addr, ClientOptions::default())));
        server.shutdown(soon());
    }

    fn large_bodies_both_ways<D>() {
        let (client, _server) = D::pair(ClientOptions::default(), ServerOptions::default());
        let body: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17) as u8).collect();
        at_once(3, |_| assert!(client.request(post(body.clone()), LONG).unwrap().body() == &body));
    }

    fn a_thousand_callers_at_once<D>() {
        // More than one link's output takes.
        let limits = Limits { output_bytes: 256 << 10, ..Limits::default() };
        let options = ClientOptions::default().compression(Compression::Snappy).limits(limits);
        let (client, _server) = D::pair(options, ServerOptions::default());
        at_once(1000, |caller| {
            let size = [1, 10, 100, 1_000, 2_000, 5_000, 10_000, 20_000][caller % 8];
            let body = vec![caller as u8; size];
            assert!(client.request(post(body.clone()), 2 * LONG).unwrap().body() == &body);
        });
        assert_eq!(client.pending_requests(), 0);
    }

    fn heads_have_lengths_and_no_bodies<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| {
            let length = if request.method() == "HEAD" { 12_345 } else { 2 };
            let body = if length == 2 { Bytes::from("ok") } else { Bytes::new() };
            Response::builder().header("content-length", length).body(body).unwrap()
        });
        let client = D::client(&addr, ClientOptions::default());
        let mut head = get("/");
        *head.method_mut() = http::Method::HEAD;
        for _ in 0..3 {
            let response = client.request(head.clone(), LONG).unwrap();
            assert_eq!(response.headers()["content-length"], "12345");
            assert!(response.body().is_empty());
        }
        assert_eq!(client.request(post("x"), LONG).unwrap().body(), "ok");
    }

    fn both_ends_count_the_same<D>() {
        let (client, server) = D::pair(ClientOptions::default(), ServerOptions::default());
        at_once(10, |n| drop(client.request(post(vec![b'x'; n * 1000]), LONG).unwrap()));
        eventually("that all is counted", || server.stats().frames_out == 10);
        assert_eq!(client.stats().wire_out, server.stats().wire_in);
        assert_eq!(client.stats().plain_in, server.stats().plain_out);
    }

    fn a_oneway_is_handled_and_not_answered<D>() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tell = seen.clone();
        let (_server, addr) = D::server(ServerOptions::default().pipeline(true), move |request, _| {
            tell.lock().unwrap().push(request.body().clone());
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        for body in ["one", "two"] {
            client.oneway(post(body)).unwrap();
        }
        assert_eq!(client.request(post("three"), LONG).unwrap().body(), "three");
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
        assert_eq!((client.pending_requests(), client.stats().frames_in), (0, 1));
    }

    fn a_panicking_handler_is_answered_for<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| {
            assert_ne!(request.body(), "panic");
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        for _ in 0..3 {
            let response = client.request(post("panic"), LONG).unwrap();
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(client.request(post("calm"), LONG).unwrap().body(), "calm");
    }

    fn what_cannot_be_sent_is_answered_for<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |_, _| {
            Response::builder().status(103).body(Bytes::new()).unwrap()
        });
        let client = D::client(&addr, ClientOptions::default());
        let response = client.request(get("/"), LONG).unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(String::from_utf8_lossy(response.body()).contains("only final responses"), "{response:?}");
    }

    fn a_long_line_keeps_its_order<D>() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (tell, running, peak) = (seen.clone(), now.clone(), most.clone());
        let (_server, addr) = D::server(ServerOptions::default().pipeline(true), move |request, _| {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tell.lock().unwrap().push(request.uri().path().to_owned());
            running.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        for n in 0..3000 {
            client.oneway(get(&format!("/{n}"))).unwrap();
        }
        client.request(get("/last"), LONG).unwrap();
        let want: Vec<_> = (0..3000).map(|n| format!("/{n}")).chain(["/last".to_owned()]).collect();
        assert!(*seen.lock().unwrap() == want);
        at_once(50, |_| (0..20).for_each(|_| drop(client.request(get("/"), LONG).unwrap())));
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    fn requests_of_a_link_can_be_handled_in_their_order<D>() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, peak) = (running.clone(), most.clone());
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = order.clone();
        let (_server, addr) = D::server(ServerOptions::default().pipeline(true), move |request, _| {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(2 * MS);
            seen.lock().unwrap().push(request.uri().path().to_owned());
            now.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        // One link's are handled one by one, in order ...
        let client = D::client(&addr, ClientOptions::default());
        for n in 0..20 {
            client.oneway(get(&format!("/{n}"))).unwrap();
        }
        at_once(20, |_| drop(client.request(get("/last"), LONG).unwrap()));
        assert_eq!(most.load(Ordering::SeqCst), 1);
        let first: Vec<_> = (0..20).map(|n| format!("/{n}")).collect();
        assert_eq!(order.lock().unwrap()[..20], first);
        // ... and different links' at once.
        at_once(10, |_| {
            let client = D::client(&addr, ClientOptions::default());
            (0..10).for_each(|_| drop(client.request(get("/"), LONG).unwrap()));
        });
        assert!(most.load(Ordering::SeqCst) > 1);
    }
}
