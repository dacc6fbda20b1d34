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
use httpteleport::driver::smol::{Client, Server};
use httpteleport::driver::{ClientError, ClientOptions, Peer, ServerOptions};
use httpteleport::proto::{Compression, Limits};
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
    H: Fn(Request<Bytes>, Peer) -> F + Send + Sync + 'static,
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
        let options = ClientOptions::default().compression(Compression::None);
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

/// A peer on plain sockets, for what the driver's own ends never do: each connection is given to `serve`, with its
/// number from 0.
fn raw_server(serve: impl Fn(usize, std::net::TcpStream) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, serve) = (connections.clone(), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (number, serve) = (count.fetch_add(1, Ordering::SeqCst), serve.clone());
            std::thread::spawn(move || serve(number, stream.unwrap()));
        }
    });
    (addr, connections)
}

/// A hello without compression and without TLS.
const HELLO: &[u8] = b"httpteleport\x00\x01\x00";

fn plain_client(ex: &Ex, addr: &str, change: impl FnOnce(ClientOptions) -> ClientOptions) -> Client {
    let options = ClientOptions::default().compression(Compression::None);
    Client::new(ex.clone(), addr, change(options))
}

/// Reads until `n` bytes have come.
fn read(stream: &mut std::net::TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads frames without bodies up to the end of the `n`th.
fn read_frames(stream: &mut std::net::TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.windows(4).filter(|w| w == b"\r\n\r\n").count() < n {
        bytes.extend(read(stream, 1));
    }
    bytes
}

fn get() -> Request<Bytes> {
    Request::get("http://h.example/").body(Bytes::new()).unwrap()
}

/// A response frame.
fn answer(id: u32, body: &str) -> Vec<u8> {
    let message = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    [&id.to_le_bytes()[..], message.as_bytes()].concat()
}

/// Reads until the peer closes, and then waits for the test's end.
fn hold(mut stream: std::net::TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

#[test]
fn what_a_broken_link_may_have_delivered_is_not_sent_again() {
    // R-no-blind-retry, R-fail-in-flight
    run(|ex| async move {
        let (addr, connections) = raw_server(|number, mut stream| {
            stream.write_all(HELLO).unwrap();
            read(&mut stream, HELLO.len());
            read_frames(&mut stream, 2);
            if number > 0 {
                stream.write_all(&answer(1, "again")).unwrap();
                hold(stream);
            }
        });
        let client = plain_client(&ex, &addr, |options| options);
        let calls = [(), ()].map(|()| {
            let client = client.clone();
            ex.spawn(async move { client.request(get(), soon()).await })
        });
        for call in calls {
            let error = call.await.unwrap_err();
            assert!(matches!(error, ClientError::Link { maybe_delivered: true, .. }), "{error:?}");
        }
        Timer::after(Duration::from_millis(300)).await;
        assert_eq!(connections.load(Ordering::SeqCst), 1, "nothing was left to connect for");
    });
}

#[test]
fn what_a_broken_link_surely_did_not_deliver_goes_to_the_next() {
    run(|ex| async move {
        let (addr, connections) = raw_server(|number, mut stream| {
            read(&mut stream, HELLO.len());
            stream.write_all(HELLO).unwrap();
            if number == 0 {
                // The request waits for its batch, which is long in coming.
                return;
            }
            read_frames(&mut stream, 1);
            stream.write_all(&answer(1, "here")).unwrap();
            hold(stream);
        });
        let client = plain_client(&ex, &addr, |options| options.max_batch_delay(Duration::from_millis(500)));
        assert_eq!(client.request(get(), soon()).await.unwrap().body(), "here");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_client_does_not_wait_at_the_end_of_a_broken_link() {
    // R-deadline: other requests must not be late because one server misbehaves and does not hang up
    run(|ex| async move {
        let (addr, _) = raw_server(|number, mut stream| {
            stream.write_all(HELLO).unwrap();
            read(&mut stream, HELLO.len());
            read_frames(&mut stream, 1);
            let bytes = if number < 4 { b"\x01\0\0\0garbage\r\n\r\n".to_vec() } else { answer(1, "fine") };
            stream.write_all(&bytes).unwrap();
            std::thread::sleep(Duration::from_secs(30));
        });
        let client = plain_client(&ex, &addr, |options| options);
        let start = Instant::now();
        for _ in 0..4 {
            assert!(client.request(get(), soon()).await.is_err());
        }
        assert_eq!(client.request(get(), soon()).await.unwrap().body(), "fine");
        // A server would linger for a second each time.
        assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    });
}

#[test]
fn an_answer_is_not_destroyed_by_what_comes_after_a_bad_frame() {
    // R-server-linger, R-server-drain
    run(|ex| async move {
        let options = ServerOptions::default().compression(Compression::None);
        let (_server, addr) = start(&ex, options, |request, peer| async move {
            Timer::after(Duration::from_millis(100)).await;
            echo(request, peer).await
        })
        .await;
        let received = smol::unblock(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            stream.write_all(HELLO).unwrap();
            stream.write_all(b"\x01\0\0\0POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
            stream.write_all(b"\x02\0\0\0garbage\r\n\r\n").unwrap();
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(&[b'x'; 1000]).expect("the server still reads");
            }
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("no reset");
            received
        })
        .await;
        assert!(received.ends_with(b"\r\n\r\nhi"), "{:?}", String::from_utf8_lossy(&received));
    });
}

#[test]
fn giving_up_makes_room_for_others() {
    run(|ex| async move {
        let (addr, _) = raw_server(|_, mut stream| {
            stream.write_all(HELLO).unwrap();
            read(&mut stream, HELLO.len());
            read_frames(&mut stream, 2);
            stream.write_all(&answer(2, "second")).unwrap();
            hold(stream);
        });
        let client = plain_client(&ex, &addr, |options| options.max_pending_requests(1));
        {
            let first = client.request(get(), soon());
            let wait = async {
                Timer::after(Duration::from_millis(200)).await;
            };
            smol::future::or(async { drop(first.await) }, wait).await;
        }
        assert_eq!(client.request(get(), soon()).await.unwrap().body(), "second");
    });
}

#[test]
fn responses_wait_for_a_slow_link_and_too_many_are_cut_short() {
    // R-limit-output
    run(|ex| async move {
        const SIZE: usize = 4 << 20;
        let limits = Limits { output_bytes: SIZE, ..Limits::default() };
        let options = ServerOptions::default().waiting_bytes(2 * SIZE).compression(Compression::None).limits(limits);
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let (_server, addr) = start(&ex, options, move |_, _| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                Response::new(Bytes::from(vec![b'x'; SIZE]))
            }
        })
        .await;
        let received = smol::unblock(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            stream.write_all(HELLO).unwrap();
            for id in 1..=20u32 {
                stream.write_all(&[&id.to_le_bytes()[..], b"GET / HTTP/1.1\r\n\r\n"].concat()).unwrap();
            }
            // Meanwhile all handlers are done.
            std::thread::sleep(Duration::from_millis(1000));
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        })
        .await;
        assert_eq!(handled.load(Ordering::SeqCst), 20);
        let count = |what: &[u8]| received.windows(what.len()).filter(|w| *w == what).count();
        let (ok, shed) = (count(b"HTTP/1.1 200"), count(b"HTTP/1.1 503"));
        assert_eq!(ok + shed, 20, "every request has its answer");
        // One in the output, two waiting, and what the sockets took meanwhile.
        assert!((3..12).contains(&ok), "{ok} whole responses");
        assert!(received.len() > ok * SIZE);
    });
}

#[test]
fn oneways_in_handlers_hold_a_limited_amount() {
    // R-limit-held
    run(|ex| async move {
        let options = ServerOptions::default().limits(Limits { held_bytes: 1 << 20, ..Limits::default() });
        let running = Arc::new(AtomicUsize::new(0));
        let (started, go) = (running.clone(), Arc::new(AtomicUsize::new(0)));
        let (gate, open) = smol::channel::bounded::<()>(1);
        let ended = go.clone();
        let (_server, addr) = start(&ex, options, move |request, _| {
            let (started, ended, open) = (started.clone(), ended.clone(), open.clone());
            async move {
                started.fetch_add(request.body().len(), Ordering::SeqCst);
                let _ = open.recv().await;
                ended.fetch_add(1, Ordering::SeqCst);
                Response::new(Bytes::new())
            }
        })
        .await;
        smol::unblock(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            stream.write_all(HELLO).unwrap();
            // Unread, it would make a reset of the end.
            read(&mut stream, HELLO.len());
            let body = vec![b'x'; 100_000];
            let oneway = [b"\0\0\0\0POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", &body[..]].concat();
            std::thread::spawn(move || (0..100).for_each(|_| stream.write_all(&oneway).unwrap()));
        })
        .await;
        Timer::after(Duration::from_millis(500)).await;
        let held = running.load(Ordering::SeqCst);
        assert!((1 << 20..2 << 20).contains(&held), "{held} bytes in handlers");
        gate.close();
        while go.load(Ordering::SeqCst) < 100 {
            Timer::after(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_oneway_that_finds_no_server_says_so() {
    // 4.3: handed to the transport, or failed before that
    run(|ex| async move {
        let (addr, connections) = raw_server(|_, mut stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            hold(stream);
        });
        let client = plain_client(&ex, &addr, |options| options);
        let error = client.oneway(get(), soon()).await.unwrap_err();
        assert!(matches!(error, ClientError::Link { maybe_delivered: false, .. }), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        let (addr, _) = raw_server(|_, stream| hold(stream));
        let client = plain_client(&ex, &addr, |options| options);
        let error = client.oneway(get(), Some(Instant::now() + Duration::from_millis(100))).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { maybe_delivered: false }), "{error:?}");
    });
}
