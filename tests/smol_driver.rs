//! The smol driver over real sockets on loopback.

#![cfg(feature = "smol")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drivers are tested with real time and sockets"
)]

use std::future::Future;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use httpteleport::driver::smol::{Client, ClientError, ClientOptions, Peer, Server, ServerOptions};
use httpteleport::proto::Compression;
use smol::net::TcpListener;
use smol::{Executor, Timer};

type Ex = Arc<Executor<'static>>;

fn run<F: Future<Output = ()>>(test: impl FnOnce(Ex) -> F) {
    let executor: Ex = Arc::new(Executor::new());
    let limit = async {
        Timer::after(Duration::from_secs(60)).await;
        panic!("the test hangs");
    };
    smol::block_on(executor.clone().run(smol::future::or(test(executor), limit)));
}

async fn echo(request: Request<Bytes>, _peer: Peer) -> Response<Bytes> {
    Response::new(request.into_body())
}

async fn start<H, F>(ex: &Ex, options: ServerOptions, handler: H) -> (Server, String)
where
    H: Fn(Request<Bytes>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = Server::new(ex.clone(), options);
    let serving = server.clone();
    ex.spawn(async move { serving.serve(listener, handler).await }).detach();
    (server, addr)
}

fn post(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post("http://h.example/echo").body(body.into()).unwrap()
}

fn head() -> Request<Bytes> {
    Request::head("http://h.example/").body(Bytes::new()).unwrap()
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

#[test]
fn many_callers_share_a_link_in_every_pair_of_compressions() {
    run(|ex| async move {
        for (ours, theirs) in Compression::ALL.iter().flat_map(|a| Compression::ALL.iter().map(move |b| (*a, *b))) {
            let mut options = ServerOptions::default();
            options.connection.config.compression = theirs;
            let (server, addr) = start(&ex, options, |request, peer| async move {
                // Answers out of order.
                let wait = u64::from(request.body()[0] % 4);
                Timer::after(Duration::from_millis(wait)).await;
                echo(request, peer).await
            })
            .await;
            let mut options = ClientOptions::default();
            options.connection.config.compression = ours;
            let client = Client::new(ex.clone(), addr, options);
            let calls: Vec<_> = (0..200u32)
                .map(|i| {
                    let client = client.clone();
                    ex.spawn(async move {
                        let body: Vec<u8> = (0..i * 37 + 1).flat_map(|n| (n ^ i).to_le_bytes()).collect();
                        let response = client.request(post(body.clone()), soon()).await.unwrap();
                        assert!(response.body() == &body);
                    })
                })
                .collect();
            for call in calls {
                call.await;
            }
            assert_eq!(client.pending_requests(), 0);
            // The server counts a turn of its loop later.
            while server.stats().frames_out < 200 {
                Timer::after(Duration::from_millis(1)).await;
            }
            assert_eq!(client.stats().wire_out, server.stats().wire_in);
            assert_eq!(client.stats().plain_in, server.stats().plain_out);
        }
    });
}

#[test]
fn large_bodies_pass_both_ways() {
    run(|ex| async move {
        let (_server, addr) = start(&ex, ServerOptions::default(), echo).await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let body: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17) as u8).collect();
        let response = client.request(post(body.clone()), soon()).await.unwrap();
        assert!(response.body() == &body);
    });
}

#[test]
fn heads_travel_on_a_link_of_their_own() {
    run(|ex| async move {
        let (_server, addr) = start(&ex, ServerOptions::default(), |request, _| async move {
            let length = if request.method() == "HEAD" { 12_345 } else { 2 };
            let body = if length == 2 { Bytes::from("ok") } else { Bytes::new() };
            Response::builder().header("content-length", length).body(body).unwrap()
        })
        .await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        for _ in 0..3 {
            let response = client.request(head(), soon()).await.unwrap();
            assert_eq!(response.headers()["content-length"], "12345");
            assert!(response.body().is_empty());
        }
        assert_eq!(client.request(post("x"), soon()).await.unwrap().body(), "ok");
    });
}

#[test]
fn an_ambiguous_answer_to_head_harms_nobody_else() {
    // R-head-alone: a peer that answers as deployed originals do, with a length and no certain body.
    run(|ex| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let original = ex.spawn(async move {
            use smol::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 2048];
                stream.write_all(b"httpteleport\x00\x01\x00").await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(b"\r\n\r\n") {
                    let n = stream.read(&mut bytes).await.unwrap();
                    seen.extend_from_slice(&bytes[..n]);
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
                stream.write_all(&[&seen[15..19], answer].concat()).await.unwrap();
            }
        });
        let mut options = ClientOptions::default();
        options.connection.config.compression = Compression::None;
        let client = Client::new(ex.clone(), addr, options);
        let heads: Vec<_> = (0..5)
            .map(|_| {
                let client = client.clone();
                ex.spawn(async move { client.request(head(), soon()).await })
            })
            .collect();
        for head in heads {
            assert_eq!(head.await.unwrap().headers()["content-length"], "7");
        }
        drop(original);
    });
}

#[test]
fn a_deadline_ends_a_request_and_nothing_else() {
    run(|ex| async move {
        let (_server, addr) = start(&ex, ServerOptions::default(), |request, peer| async move {
            if request.body() == "slow" {
                Timer::after(Duration::from_secs(30)).await;
            }
            echo(request, peer).await
        })
        .await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let error = client.request(post("slow"), Some(Instant::now() + Duration::from_millis(50))).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { maybe_delivered: true }), "{error:?}");
        assert_eq!(client.request(post("fast"), soon()).await.unwrap().body(), "fast");
    });
}

#[test]
fn dropping_the_future_gives_the_request_up() {
    run(|ex| async move {
        let (_server, addr) = start(&ex, ServerOptions::default(), |_, _| std::future::pending()).await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let call = client.request(post("x"), None);
        let gave_up = smol::future::or(async { call.await.is_err() }, async {
            Timer::after(Duration::from_millis(50)).await;
            true
        });
        assert!(gave_up.await);
        assert_eq!(client.pending_requests(), 0);
    });
}

#[test]
fn a_panicking_handler_is_answered_for() {
    run(|ex| async move {
        let (_server, addr) = start(&ex, ServerOptions::default(), |request, peer| async move {
            assert_ne!(request.body(), "panic");
            echo(request, peer).await
        })
        .await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let response = client.request(post("panic"), soon()).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(client.request(post("calm"), soon()).await.unwrap().body(), "calm");
    });
}

#[test]
fn above_the_concurrency_limit_the_answer_is_429() {
    run(|ex| async move {
        let options = ServerOptions { concurrency: 10, ..ServerOptions::default() };
        let (release, held) = smol::channel::bounded::<()>(1);
        let (_server, addr) = start(&ex, options, move |_, _| {
            let held = held.clone();
            async move {
                let _ = held.recv().await;
                Response::new(Bytes::from("done"))
            }
        })
        .await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let call = || {
            let client = client.clone();
            ex.spawn(async move { client.request(post("x"), soon()).await.unwrap() })
        };
        let ten: Vec<_> = (0..10).map(|_| call()).collect();
        let hundred: Vec<_> = (0..100).map(|_| call()).collect();
        for more in hundred {
            assert_eq!(more.await.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        release.close();
        for held in ten {
            assert_eq!(held.await.body(), "done");
        }
    });
}

#[test]
fn nobody_to_dial_is_told_to_every_caller() {
    run(|ex| async move {
        let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let client = Client::new(ex.clone(), addr.clone(), ClientOptions::default());
        for _ in 0..100 {
            match client.request(post("x"), soon()).await {
                Err(ClientError::Connect { addr: named, .. }) => assert_eq!(named, addr),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_broken_link_fails_what_was_delivered_and_is_replaced() {
    run(|ex| async move {
        let (server, addr) = start(&ex, ServerOptions::default(), echo).await;
        let client = Client::new(ex.clone(), addr.clone(), ClientOptions::default());
        client.request(post("one"), soon()).await.unwrap();
        server.shutdown(Instant::now() + Duration::from_secs(5)).await;
        let error = client.request(post("two"), soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");

        let listener = TcpListener::bind(&addr).await.unwrap();
        let server = Server::new(ex.clone(), ServerOptions::default());
        ex.spawn(async move { server.serve(listener, echo).await }).detach();
        Timer::after(Duration::from_millis(1200)).await;
        assert_eq!(client.request(post("three"), soon()).await.unwrap().body(), "three");
    });
}

#[test]
fn shutdown_drains() {
    run(|ex| async move {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let (server, addr) = start(&ex, ServerOptions::default(), move |request, peer| {
            let count = count.clone();
            async move {
                Timer::after(Duration::from_millis(200)).await;
                count.fetch_add(1, Ordering::Relaxed);
                echo(request, peer).await
            }
        })
        .await;
        let client = Client::new(ex.clone(), addr, ClientOptions::default());
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                ex.spawn(async move { client.request(post("x"), soon()).await })
            })
            .collect();
        Timer::after(Duration::from_millis(100)).await;
        server.shutdown(Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(handled.load(Ordering::Relaxed), 20);
        for call in calls {
            assert_eq!(call.await.unwrap().body(), "x");
        }
    });
}

#[test]
fn strangers_are_turned_away_and_named() {
    run(|ex| async move {
        let (server, addr) = start(&ex, ServerOptions::default(), echo).await;
        let (ends, seen) = smol::channel::unbounded();
        server.on_link_end(move |_, error| ends.try_send(error.map(ToString::to_string)).unwrap());
        let client = Client::new(ex.clone(), addr.clone(), ClientOptions::default());
        client.request(post("x"), soon()).await.unwrap();
        for (bytes, word) in [
            (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], "HTTP"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "TLS"),
            (b"something else", "no teleport hello"),
        ] {
            let addr = addr.clone();
            let answer = smol::unblock(move || {
                let mut stream = std::net::TcpStream::connect(addr).unwrap();
                stream.write_all(bytes).unwrap();
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                answer
            })
            .await;
            assert_eq!(answer, b"", "R-hello-no-answer");
            let error = seen.recv().await.unwrap().unwrap();
            assert!(error.contains(word), "{error}");
        }
        // The link that was up is none the worse.
        assert_eq!(client.request(post("y"), soon()).await.unwrap().body(), "y");
    });
}
