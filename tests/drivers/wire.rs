//! Peers on plain sockets, which do what the drivers' own ends never do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::Response;
use httpteleport::driver::{ClientError, Overflow, ServerOptions, request_timeout};
use httpteleport::proto::{Compression, Limits};

use crate::harness::*;

/// Says hello, and takes the peer's.
fn greet(stream: &mut TcpStream) {
    stream.write_all(HELLO).unwrap();
    read(stream, HELLO.len());
}

/// Reads until `n` bytes have come.
fn read(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads frames without bodies up to the end of the `n`th.
fn read_frames(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.windows(4).filter(|window| window == b"\r\n\r\n").count() < n {
        bytes.extend(read(stream, 1));
    }
    bytes
}

/// A response frame.
fn answer(id: u32, body: &str) -> Vec<u8> {
    let message = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    [&id.to_le_bytes()[..], message.as_bytes()].concat()
}

/// Reads until the peer closes.
fn hold(mut stream: TcpStream) {
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// A [`raw_server`] that counts its connections.
fn counting_server(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let addr = raw_server(move |number, stream| {
        count.fetch_add(1, Ordering::SeqCst);
        serve(number, stream);
    });
    (addr, connections)
}

both! {
    fn a_handler_that_is_late_holds_nobody_up_in_a_line<D>() {
        // R-handler-late
        let options = ServerOptions::default().pipeline(true).handler_timeout(100 * MS, request_timeout("late"));
        let (running, gate) = (Arc::new(AtomicUsize::new(0)), Gate::default());
        let (count, hold) = (running.clone(), gate.clone());
        let (_server, addr) = D::server(options, move |request, _| {
            let held = request.uri().path() == "/held";
            // Those that are late go on; of the others there is one at a time.
            assert!(held || count.fetch_add(1, Ordering::SeqCst) == 0);
            if held {
                hold.wait();
            } else {
                std::thread::sleep(5 * MS);
                count.fetch_sub(1, Ordering::SeqCst);
            }
            Response::default()
        });
        let client = D::client(&addr, plain());
        client.oneway(get("/held")).unwrap();
        assert_eq!(client.request(get("/held"), LONG).unwrap().status().as_u16(), 408);
        at_once(10, |n| {
            if n == 5 {
                gate.open();
            }
            assert_eq!(client.request(get("/"), LONG).unwrap().status().as_u16(), 200);
        });
    }

    fn an_ambiguous_answer_to_head_harms_nobody_else<D>() {
        // R-head-alone: a peer that answers as deployed originals do, with a length and no certain body.
        let addr = raw_server(|_, mut stream| {
            greet(&mut stream);
            let frame = read_frames(&mut stream, 1);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
            stream.write_all(&[&frame[..4], answer].concat()).unwrap();
        });
        let client = D::client(&addr, plain());
        at_once(5, |_| {
            let mut head = get("/");
            *head.method_mut() = http::Method::HEAD;
            assert_eq!(client.request(head, LONG).unwrap().headers()["content-length"], "7");
        });
    }

    fn what_a_broken_link_may_have_delivered_is_not_sent_again<D>() {
        // R-no-blind-retry, R-fail-in-flight
        let (addr, connections) = counting_server(|number, mut stream| {
            greet(&mut stream);
            read_frames(&mut stream, 2);
            if number > 0 {
                stream.write_all(&answer(1, "again")).unwrap();
                hold(stream);
            }
        });
        let client = D::client(&addr, plain());
        at_once(2, |_| {
            let error = client.request(get("/"), LONG).unwrap_err();
            assert!(matches!(error, ClientError::Link { maybe_delivered: true, .. }), "{error:?}");
        });
        std::thread::sleep(300 * MS);
        assert_eq!(connections.load(Ordering::SeqCst), 1, "nothing was left to connect for");
    }

    fn what_was_delivered_once_stays_so_whatever_ends_its_repetition<D>() {
        // R-fail-in-flight: the mark is the request's, not that of its last link.
        let options = || plain().retry_if(|_| true).reconnect_pause(MS, MS);
        let deliver = |mut stream: TcpStream| {
            greet(&mut stream);
            read_frames(&mut stream, 1);
        };
        // No link is to be had any more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            deliver(stream);
        });
        let error = D::client(&addr, options()).request(get("/"), LONG).unwrap_err();
        server.join().unwrap();
        assert!(error.maybe_delivered() && error.to_string().contains("cannot connect"), "{error}");

        // The next one says no hello: until the deadline, and until that of the hello.
        let addr = raw_server(move |number, stream| if number == 0 { deliver(stream) } else { hold(stream) });
        let error = D::client(&addr, options()).request(get("/"), 200 * MS).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { maybe_delivered: true }), "{error:?}");
        let addr = raw_server(move |number, stream| if number == 0 { deliver(stream) } else { hold(stream) });
        let error = D::client(&addr, options().hello_timeout(200 * MS)).request(get("/"), LONG).unwrap_err();
        assert!(matches!(error, ClientError::Link { maybe_delivered: true, .. }), "{error:?}");

        // Too much is pending there.
        let (addr, connections) =
            counting_server(move |number, stream| if number == 0 { deliver(stream) } else { hold(stream) });
        let client = D::client(&addr, options().max_pending_requests(1).overflow(Overflow::Oldest));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| client.request(get("/"), LONG).unwrap_err());
            eventually("that it was sent again", || connections.load(Ordering::SeqCst) == 2);
            client.request(get("/"), 200 * MS).unwrap_err();
            let error = first.join().unwrap();
            assert!(error.maybe_delivered() && error.to_string().contains("pending"), "{error}");
        });
    }

    fn what_a_broken_link_surely_did_not_deliver_goes_to_the_next<D>() {
        let (addr, connections) = counting_server(|number, mut stream| {
            greet(&mut stream);
            if number == 0 {
                // The request waits for its batch, which is long in coming.
                return;
            }
            read_frames(&mut stream, 1);
            stream.write_all(&answer(1, "here")).unwrap();
            hold(stream);
        });
        let client = D::client(&addr, plain().max_batch_delay(500 * MS));
        assert_eq!(client.request(get("/"), LONG).unwrap().body(), "here");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    fn a_client_does_not_wait_at_the_end_of_a_broken_link<D>() {
        // R-deadline: other requests must not be late because one server misbehaves and does not hang up
        let addr = raw_server(|number, mut stream| {
            greet(&mut stream);
            read_frames(&mut stream, 1);
            let bytes = if number < 4 { b"\x01\0\0\0garbage\r\n\r\n".to_vec() } else { answer(1, "fine") };
            stream.write_all(&bytes).unwrap();
            std::thread::sleep(30 * S);
        });
        let client = D::client(&addr, plain());
        let begin = Instant::now();
        for _ in 0..4 {
            client.request(get("/"), LONG).unwrap_err();
        }
        assert_eq!(client.request(get("/"), LONG).unwrap().body(), "fine");
        // A server would linger for a second each time.
        assert!(begin.elapsed() < 3500 * MS, "{:?}", begin.elapsed());
    }

    fn an_answer_is_not_destroyed_by_what_comes_after_a_bad_frame<D>() {
        // R-server-linger, R-server-drain
        let (_server, addr) = D::server(ServerOptions::default().compression(Compression::None), |request, _| {
            std::thread::sleep(100 * MS);
            echo(request)
        });
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(HELLO).unwrap();
        stream.write_all(b"\x01\0\0\0POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        stream.write_all(b"\x02\0\0\0garbage\r\n\r\n").unwrap();
        for _ in 0..20 {
            std::thread::sleep(20 * MS);
            stream.write_all(&[b'x'; 1000]).expect("the server still reads");
        }
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("no reset");
        assert!(received.ends_with(b"\r\n\r\nhi"), "{:?}", String::from_utf8_lossy(&received));
    }

    fn giving_up_what_has_left_makes_room_for_others<D>() {
        let addr = raw_server(|_, mut stream| {
            greet(&mut stream);
            read_frames(&mut stream, 2);
            stream.write_all(&answer(2, "second")).unwrap();
            hold(stream);
        });
        let client = D::client(&addr, plain().max_pending_requests(1));
        client.give_up(get("/"), 200 * MS);
        assert_eq!(client.request(get("/"), LONG).unwrap().body(), "second");
    }

    fn responses_wait_for_a_slow_link_and_too_many_are_cut_short<D>() {
        // R-limit-output
        const SIZE: usize = 4 << 20;
        let limits = Limits { output_bytes: SIZE, ..Limits::default() };
        let options = ServerOptions::default().waiting_bytes(SIZE).compression(Compression::None).limits(limits);
        let options = options.write_timeout(60 * S);
        let (handled, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, end) = (handled.clone(), ended.clone());
        let gate = Gate::default();
        let late = gate.clone();
        let (server, addr) = D::server(options, move |_, _| {
            if count.fetch_add(1, Ordering::SeqCst) < 10 {
                std::thread::sleep(500 * MS);
            } else {
                late.wait();
            }
            end.fetch_add(1, Ordering::SeqCst);
            Response::new(vec![b'x'; SIZE].into())
        });
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(HELLO).unwrap();
        for id in 1..=20u32 {
            stream.write_all(&[&id.to_le_bytes()[..], b"GET / HTTP/1.1\r\n\r\n"].concat()).unwrap();
        }
        // Meanwhile handlers fill what there is room for. The others end when nothing has been taken for some seconds.
        eventually("the end of the first handlers", || ended.load(Ordering::SeqCst) == 10);
        loop {
            let before = server.stats().plain_out;
            std::thread::sleep(4 * S);
            if server.stats().plain_out == before && before > 0 {
                break;
            }
        }
        gate.open();
        eventually("the end of all handlers", || ended.load(Ordering::SeqCst) == 20);
        std::thread::sleep(500 * MS);
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        let count = |what: &[u8]| received.windows(what.len()).filter(|window| *window == what).count();
        let (ok, shed) = (count(b"HTTP/1.1 200"), count(b"HTTP/1.1 503"));
        assert_eq!((ok + shed, handled.load(Ordering::SeqCst)), (20, 20), "every request has its answer");
        // Ten were there before it was clear that nobody reads.
        assert_eq!((ok, shed), (10, 10));
        assert!(received.len() > ok * SIZE);
    }

    fn who_reads_gets_every_response_however_many_bytes_they_are<D>() {
        // R-limit-output: far more than may wait, for a client that reads as fast as it can.
        const SIZE: usize = 1 << 20;
        let limits = Limits { output_bytes: SIZE, ..Limits::default() };
        let options = ServerOptions::default().waiting_bytes(4 * SIZE).compression(Compression::None).limits(limits);
        let (_server, addr) = D::server(options.workers(4), move |_, _| Response::new(vec![b'x'; SIZE].into()));
        let client = D::client(&addr, plain());
        at_once(100, |_| {
            let response = client.request(get("/"), LONG).unwrap();
            assert_eq!((response.status().as_u16(), response.body().len()), (200, SIZE));
        });
    }

    fn oneways_in_handlers_hold_a_limited_amount<D>() {
        // R-limit-held
        let options = ServerOptions::default().limits(Limits { held_bytes: 1 << 20, ..Limits::default() });
        let (gate, begun, ended) = (Gate::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (hold, bytes, count) = (gate.clone(), begun.clone(), ended.clone());
        let (_server, addr) = D::server(options, move |request, _| {
            bytes.fetch_add(request.body().len(), Ordering::SeqCst);
            hold.wait();
            count.fetch_add(1, Ordering::SeqCst);
            Response::default()
        });
        let mut stream = TcpStream::connect(addr).unwrap();
        greet(&mut stream);
        let body = vec![b'x'; 100_000];
        let oneway = [b"\0\0\0\0POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", &body[..]].concat();
        std::thread::spawn(move || (0..100).for_each(|_| stream.write_all(&oneway).unwrap()));
        eventually("that they hold as much as they may", || begun.load(Ordering::SeqCst) >= 1 << 20);
        std::thread::sleep(300 * MS);
        let held = begun.load(Ordering::SeqCst);
        assert!(held < 2 << 20, "{held} bytes in handlers");
        gate.open();
        eventually("that all are handled", || ended.load(Ordering::SeqCst) == 100);
    }

    fn a_oneway_that_finds_no_server_says_so<D>() {
        // 4.3: handed to the transport, or failed before that
        let (addr, connections) = counting_server(|_, mut stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            hold(stream);
        });
        let error = D::client(&addr, plain()).oneway(get("/")).unwrap_err();
        assert!(matches!(error, ClientError::Link { maybe_delivered: false, .. }), "{error:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        let client = D::client(&raw_server(|_, stream| hold(stream)), plain().timeout(100 * MS));
        let error = client.oneway(get("/")).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { maybe_delivered: false }), "{error:?}");
    }
}
