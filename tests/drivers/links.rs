//! Links: how they are made, how they end, and what becomes of the requests on them.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{ClientError, ClientOptions, PeerAddr, ServerOptions};
use httpteleport::proto::Compression;

use crate::harness::*;

/// A relay that cuts each of the first so many connections as soon as a request has passed it.
fn cutting_relay(to: &str, cuts: usize) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let addr = relay(to, move |number, up, piece| {
        count.fetch_max(number + 1, Ordering::SeqCst);
        // What comes down after the hello is an answer.
        let is_answer = !up && piece.len() != 15;
        (number >= cuts || !is_answer).then_some(piece)
    });
    (addr, connections)
}

fn put() -> Request<Bytes> {
    Request::put("http://h.example/").body(Bytes::from("x")).unwrap()
}

both! {
    fn several_links_share_the_requests<D>() {
        let peers = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        let seen = peers.clone();
        let (_server, addr) = D::server(ServerOptions::default(), move |request, peer| {
            seen.lock().unwrap().insert(peer.addr.to_string());
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default().links(3));
        at_once(30, |_| drop(client.request(post("x"), LONG).unwrap()));
        assert_eq!(peers.lock().unwrap().len(), 3);
    }

    fn unix_sockets<D>() {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("teleport-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = D::new_server(ServerOptions::default());
        let serving = server.serve_unix(listener, Arc::new(|request, peer| {
            assert_eq!((&peer.addr, peer.addr.ip()), (&PeerAddr::Unix, None));
            assert_eq!(peer.compression, Compression::Deflate);
            echo(request)
        }));
        let client = D::client(&format!("unix:{}", path.display()), ClientOptions::default());
        at_once(10, |_| assert_eq!(client.request(post("x"), LONG).unwrap().body(), "x"));
        // Nobody can come by this way any more, not even to wake it.
        std::fs::remove_file(&path).unwrap();
        server.shutdown(soon());
        serving.wait();
        let error = client.request(post("x"), LONG).unwrap_err();
        assert!(error.to_string().contains("unix:"), "{error}");
    }

    fn what_may_have_been_delivered_is_not_repeated<D>() {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = runs.clone();
        let (_server, to) = D::server(ServerOptions::default(), move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let (addr, connections) = cutting_relay(&to, 1);
        let client = D::client(&addr, ClientOptions::default());
        let error = client.request(put(), LONG).unwrap_err();
        assert!(matches!(error, ClientError::Link { maybe_delivered: true, .. }), "{error:?}");
        assert!(error.to_string().contains("may have reached the server"), "{error}");
        assert_eq!((runs.load(Ordering::SeqCst), connections.load(Ordering::SeqCst)), (1, 1));
        // The next link is dialled at once.
        client.request(put(), LONG).unwrap();
    }

    fn what_its_caller_allows_is_repeated_but_not_for_ever<D>() {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = runs.clone();
        let (_server, to) = D::server(ServerOptions::default(), move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let options = ClientOptions::default().retry_if(|request| request.method().is_idempotent());
        let (addr, _) = cutting_relay(&to, 2);
        let client = D::client(&addr, options.clone());
        client.request(put(), LONG).unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);

        let (addr, connections) = cutting_relay(&to, usize::MAX);
        let client = D::client(&addr, options);
        assert!(client.request(put(), LONG).unwrap_err().maybe_delivered());
        assert_eq!(connections.load(Ordering::SeqCst), 3);
        assert!(client.request(post("x"), LONG).unwrap_err().maybe_delivered());
        assert_eq!(connections.load(Ordering::SeqCst), 4);
    }

    fn what_was_not_delivered_goes_to_the_next_link<D>() {
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        // The first connection ends with the hello, while the request waits for its batch.
        let addr = relay(&to, |number, up, piece| (number > 0 || up || piece.len() == 15).then_some(piece));
        let cut = Arc::new(AtomicBool::new(false));
        let first = cut.clone();
        let addr = relay(&addr, move |number, up, piece| {
            let is_hello = piece.len() == 15;
            if number == 0 && !up && is_hello {
                std::thread::sleep(50 * MS);
                first.store(true, Ordering::SeqCst);
                return None;
            }
            Some(piece)
        });
        let client = D::client(&addr, ClientOptions::default().reconnect_pause(MS, MS));
        // A hello that failed fails who waited for it; the next request has its link.
        let error = client.request(post("x"), LONG).unwrap_err();
        assert!(!error.maybe_delivered() && cut.load(Ordering::SeqCst), "{error}");
        std::thread::sleep(10 * MS);
        client.request(post("x"), LONG).unwrap();
    }

    fn a_server_that_comes_back_is_found<D>() {
        let (server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        let client = D::client(&addr, ClientOptions::default().reconnect_pause(20 * MS, 40 * MS));
        client.request(post("one"), LONG).unwrap();
        server.shutdown(soon());
        // Its socket may be there a moment longer.
        let refused = || matches!(client.request(post("two"), LONG), Err(ClientError::Connect { .. }));
        eventually("that nobody is there", refused);
        let again = D::new_server(ServerOptions::default());
        again.serve(TcpListener::bind(&addr).unwrap(), Arc::new(|request, _| echo(request)));
        eventually("an answer", || client.request(post("three"), LONG).is_ok());
    }

    fn pauses_grow_and_requests_in_them_fail_at_once<D>() {
        // R-reconnect-pause
        let peer = Greeter::new(b"");
        let client = D::client(&peer.addr, pausing(ClientOptions::default()));
        let failed = AtomicUsize::new(0);
        peer.assert_pauses(|| {
            client.request(get("/"), LONG).unwrap_err();
            failed.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(MS);
        });
        let failed = failed.into_inner();
        assert!(failed > 20, "{failed}");
    }

    fn shutdown_drains<D>() {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let (server, addr) = D::server(ServerOptions::default(), move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(200 * MS);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert_eq!(client.request(post("x"), LONG).unwrap().body(), "x"));
            }
            eventually("that all are in handlers", || handled.load(Ordering::SeqCst) == 20);
            server.shutdown(soon());
        });
    }

    fn shutdown_drains_until_its_deadline<D>() {
        // Longer than the drain time-out ...
        let options = ServerOptions::default().drain_timeout(50 * MS);
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let (server, addr) = D::server(options, move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(500 * MS);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.request(post("x"), LONG));
            eventually("that it is in its handler", || handled.load(Ordering::SeqCst) == 1);
            server.shutdown(soon());
            assert_eq!(call.join().unwrap().unwrap().body(), "x");
        });

        // ... and shorter: links are gone then, whether their handlers or their peers keep them.
        let (gate, ends) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let (hold, count) = (gate.clone(), ends.clone());
        let (server, addr) = D::server(ServerOptions::default(), move |request, _| {
            if request.body() == "held" {
                hold.wait();
            }
            Response::new(vec![7; 32 << 20].into())
        });
        server.on_link_end(move |_, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let client = D::client(&addr, plain());
        let mut deaf = std::net::TcpStream::connect(&addr).unwrap();
        deaf.write_all(&[HELLO, b"\x01\0\0\0GET / HTTP/1.1\r\n\r\n"].concat()).unwrap();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.request(post("held"), LONG));
            eventually("that both are handled", || server.stats().frames_in == 2);
            std::thread::sleep(100 * MS);
            let begin = Instant::now();
            server.shutdown(begin + 300 * MS);
            assert!(begin.elapsed() < 2 * S);
            assert!(call.join().unwrap().unwrap_err().maybe_delivered());
            eventually("the end of both links", || ends.load(Ordering::SeqCst) == 2);
            assert!(begin.elapsed() < 2 * S, "{:?}", begin.elapsed());
        });
        gate.open();
    }

    fn closing_waits_until_its_deadline<D>() {
        let gate = Gate::default();
        let hold = gate.clone();
        let (_server, addr) = D::server(ServerOptions::default(), move |request, _| {
            match &request.body()[..] {
                b"held" => hold.wait(),
                _ => std::thread::sleep(500 * MS),
            }
            echo(request)
        });
        // Longer than the drain time-out ...
        let client = D::client(&addr, ClientOptions::default().drain_timeout(50 * MS));
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.request(post("x"), LONG));
            eventually("that it is under way", || client.stats().frames_out == 1);
            client.close(soon());
            assert_eq!(call.join().unwrap().unwrap().body(), "x");
        });
        // ... and shorter: in a handler, on the way to one who does not read, and while dialling.
        let deaf = raw_server(|_, mut stream| {
            stream.write_all(HELLO).unwrap();
            std::thread::sleep(30 * S);
        });
        let ends_in_time = |client: D::Client, body: Vec<u8>, maybe_delivered: bool| {
            std::thread::scope(|scope| {
                let call = scope.spawn(|| client.request(post(body), LONG));
                eventually("that it waits", || client.pending_requests() == 1);
                std::thread::sleep(300 * MS);
                let begin = Instant::now();
                client.close(begin + 300 * MS);
                let error = call.join().unwrap().unwrap_err();
                assert_eq!(error.maybe_delivered(), maybe_delivered, "{error}");
                assert!(begin.elapsed() < 2 * S, "{:?}", begin.elapsed());
            });
        };
        ends_in_time(D::client(&addr, ClientOptions::default()), b"held".to_vec(), true);
        ends_in_time(D::client(&deaf, plain()), vec![7; 32 << 20], true);
        let slow = D::slow_dialler(&addr, 10 * S, ClientOptions::default().connect_timeout(LONG));
        ends_in_time(slow, b"x".to_vec(), false);
        gate.open();
    }

    fn a_server_on_all_addresses_stops_serving_when_told<D>() {
        for all in ["0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(all) else { continue };
            let port = listener.local_addr().unwrap().port();
            let server = D::new_server(ServerOptions::default());
            let serving = server.serve(listener, Arc::new(|request, _| echo(request)));
            let client = D::client(&format!("127.0.0.1:{port}"), ClientOptions::default());
            client.request(post("x"), LONG).unwrap();
            server.shutdown(soon());
            // Nobody else connects and wakes it by that.
            serving.wait();
            eventually("that nobody listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        }
    }

    fn a_server_that_shares_its_port_stops_serving_when_told<D>() {
        // Whoever would wake it by a connection may reach the other.
        use socket2::{Domain, Socket, Type};
        let listen = |addr: std::net::SocketAddr| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&addr.into()).unwrap();
            socket.listen(128).unwrap();
            TcpListener::from(socket)
        };
        for _ in 0..4 {
            let first = listen("127.0.0.1:0".parse().unwrap());
            let second = listen(first.local_addr().unwrap());
            let (one, other) = (D::new_server(ServerOptions::default()), D::new_server(ServerOptions::default()));
            let ends = one.serve(first, Arc::new(|request, _| echo(request)));
            let others = other.serve(second, Arc::new(|request, _| echo(request)));
            std::thread::sleep(20 * MS);
            one.shutdown(soon());
            ends.wait();
            other.shutdown(soon());
            others.wait();
        }
    }

    fn a_lane_that_pauses_gets_no_requests<D>() {
        let (_server, addr) = D::server(ServerOptions::default().links(1), |request, _| echo(request));
        let client = D::client(&addr, ClientOptions::default().links(2).reconnect_pause(5 * S, 5 * S));
        client.request(post("x"), LONG).unwrap();
        let failed = AtomicUsize::new(0);
        for _ in 0..20 {
            at_once(4, |_| {
                if client.request(post("x"), LONG).is_err() {
                    failed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Those that went there to find out.
        assert!(failed.load(Ordering::SeqCst) <= 4, "{failed:?}");
    }

    fn who_waits_for_a_dial_that_fails_goes_to_a_link_that_is_up<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        let dials = Arc::new(AtomicUsize::new(0));
        let count = dials.clone();
        // Only the first gets through; each other takes its time.
        let dial = move || {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return TcpStream::connect(&addr);
            }
            std::thread::sleep(S);
            Err(std::io::ErrorKind::ConnectionRefused.into())
        };
        for wait in [false, true] {
            dials.store(0, Ordering::SeqCst);
            let options = ClientOptions::default().links(2).reconnect_pause(200 * MS, 200 * MS).wait_for_link(wait);
            let client = D::dialler(dial.clone(), options);
            client.request(post("first"), LONG).unwrap();
            // Some of them wait where there is no link.
            at_once(10, |_| drop(client.request(post("x"), LONG).unwrap()));
            assert_eq!(dials.load(Ordering::SeqCst), 2);
            // Who comes later does not wait for the next dial, which fails, too.
            let is_quick = || {
                let begin = Instant::now();
                client.request(post("x"), LONG).unwrap();
                assert!(begin.elapsed() < 500 * MS, "{:?}", begin.elapsed());
            };
            while dials.load(Ordering::SeqCst) < 3 {
                at_once(4, |_| is_quick());
            }
            at_once(10, |_| is_quick());
            assert_eq!(client.pending_requests(), 0);
        }
    }

    fn a_peer_that_says_hello_and_no_more_is_not_dialled_as_fast_as_it_hangs_up<D>() {
        // R-reconnect-pause
        let peer = Greeter::new(HELLO);
        let client = D::client(&peer.addr, pausing(ClientOptions::default()));
        peer.assert_pauses(|| drop(client.request(post("x"), 100 * MS).unwrap_err()));
    }

    fn requests_can_wait_for_better_times<D>() {
        let (port, addr) = closed_port();
        let options = ClientOptions::default().reconnect_pause(20 * MS, 40 * MS).wait_for_link(true);
        let client = D::client(&addr.to_string(), options);
        let error = client.request(post("x"), 200 * MS).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { maybe_delivered: false }), "{error:?}");
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.request(post("x"), LONG));
            std::thread::sleep(300 * MS);
            let server = D::new_server(ServerOptions::default());
            port.listen(16).unwrap();
            server.serve(port.into(), Arc::new(|request, _| echo(request)));
            assert_eq!(call.join().unwrap().unwrap().body(), "x");
            server.shutdown(soon());
        });
    }

    fn panics_of_the_program_end_no_link_and_nobody_waits<D>() {
        let (server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        server.on_link_start(|| panic!("at a start"));
        server.on_link_end(|_, _, _| panic!("at an end"));
        let client = D::client(&addr, ClientOptions::default());
        client.request(post("x"), LONG).unwrap();
        client.close(soon());

        let (addr, _) = cutting_relay(&addr, 1);
        let client = D::client(&addr, ClientOptions::default().retry_if(|_| panic!("at a repetition")));
        assert!(client.request(put(), LONG).unwrap_err().maybe_delivered());
        client.request(put(), LONG).unwrap();
        client.close(soon());
        let begin = Instant::now();
        server.shutdown(soon());
        assert!(begin.elapsed() < 5 * S);

        let error = D::panicking_dialler().request(put(), LONG).unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }) && error.to_string().contains("panicked"), "{error}");
    }

    fn closing_waits_for_what_is_in_flight<D>() {
        let (_server, addr) = D::server(ServerOptions::default(), |request, _| {
            std::thread::sleep(200 * MS);
            echo(request)
        });
        let client = D::client(&addr, ClientOptions::default());
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.request(post("x"), LONG));
            eventually("that it is under way", || client.stats().frames_out == 1);
            client.close(soon());
            assert!(matches!(client.request(post("y"), LONG), Err(ClientError::Closed)));
            assert_eq!(call.join().unwrap().unwrap().body(), "x");
        });
    }

    fn the_last_client_takes_its_links_along<D>() {
        let (client, server) = D::pair(ClientOptions::default().links(2), ServerOptions::default());
        let ends = Arc::new(AtomicUsize::new(0));
        let count = ends.clone();
        server.on_link_end(move |_, error, _| {
            assert_eq!(error, None);
            count.fetch_add(1, Ordering::SeqCst);
        });
        at_once(4, |_| drop(client.request(post("x"), LONG).unwrap()));
        drop(client.clone());
        client.request(post("y"), LONG).unwrap();
        drop(client);
        eventually("that both links end", || ends.load(Ordering::SeqCst) == 2);
    }

    fn links_above_the_limit_are_closed<D>() {
        let (_server, addr) = D::server(ServerOptions::default().links(1), |request, _| echo(request));
        let first = D::client(&addr, ClientOptions::default());
        first.request(post("x"), LONG).unwrap();
        let second = D::client(&addr, ClientOptions::default());
        second.request(post("x"), LONG).unwrap_err();
        first.request(post("x"), LONG).unwrap();
    }

    fn strangers_are_turned_away_and_named<D>() {
        let (server, addr) = D::server(ServerOptions::default(), |request, _| echo(request));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let told = ends.clone();
        server.on_link_end(move |_, error, _| told.lock().unwrap().push(error.map(ToString::to_string)));
        let client = D::client(&addr, ClientOptions::default());
        client.request(post("x"), LONG).unwrap();
        for (bytes, word) in [
            (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], "HTTP"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "TLS"),
            (b"something else", "no teleport hello"),
        ] {
            let mut stream = std::net::TcpStream::connect(&addr).unwrap();
            stream.write_all(bytes).unwrap();
            let mut answer = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
            assert_eq!(answer, b"", "R-hello-no-answer");
            eventually("the end of its link", || !ends.lock().unwrap().is_empty());
            let error = ends.lock().unwrap().remove(0).unwrap();
            assert!(error.contains(word), "{error}");
        }
        // The link that was up is none the worse.
        assert_eq!(client.request(post("y"), LONG).unwrap().body(), "y");
    }

    fn a_link_that_is_made_of_single_bytes<D>() {
        let (_server, to) = D::server(ServerOptions::default().read_buffer(256), |request, _| echo(request));
        let near = raw_server(move |_, near| {
            let far = std::net::TcpStream::connect(&to).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                to.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(std::io::Read::read(&mut from, &mut byte), Ok(1)) && to.write_all(&byte).is_ok() {}
                });
            }
        });
        let client = D::client(&near, ClientOptions::default());
        at_once(5, |n| assert_eq!(client.request(post(vec![b'x'; n * 100]), LONG).unwrap().body().len(), n * 100));
    }
}

#[test]
fn one_thread_has_many_calls_under_way() {
    let (_server, addr) = Thread::server(ServerOptions::default(), |request, _| echo(request));
    let client = Thread::client(&addr, ClientOptions::default().max_batch_delay(5 * MS));
    let calls: Vec<_> = (0..500).map(|n| client.start(post(n.to_string()), LONG)).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap().body(), n.to_string().as_bytes());
    }
    assert!(client.stats().batches_out < 100, "they share batches: {:?}", client.stats());
    assert_eq!(client.pending_requests(), 0);
}

#[test]
fn a_dial_that_hangs_has_one_thread() {
    let dials = Arc::new(AtomicUsize::new(0));
    let count = dials.clone();
    let dial = move || -> std::io::Result<std::net::TcpStream> {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(60 * S);
        Err(std::io::ErrorKind::TimedOut.into())
    };
    let options = ClientOptions::default().connect_timeout(10 * MS).reconnect_pause(MS, MS);
    let client = httpteleport::driver::thread::Client::with_dial("nowhere", dial, options);
    for _ in 0..20 {
        client.request(post("x"), LONG).unwrap_err();
        std::thread::sleep(2 * MS);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stream_that_panics_ends_its_link() {
    struct Panics(std::net::TcpStream, bool);
    impl httpteleport::driver::thread::Stream for Panics {
        fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
            assert!(self.1, "a read");
            std::io::Read::read(&mut &self.0, buffer)
        }
        fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
            assert!(!self.1, "a write");
            Write::write(&mut &self.0, bytes)
        }
        fn set_write_timeout(&self, timeout: std::time::Duration) -> std::io::Result<()> {
            self.0.set_write_timeout(Some(timeout))
        }
        fn shutdown(&self, how: std::net::Shutdown) -> std::io::Result<()> {
            self.0.shutdown(how)
        }
    }
    let (_server, addr) = Thread::server(ServerOptions::default(), |request, _| echo(request));
    for writes in [false, true] {
        let addr = addr.clone();
        let dial = move || Ok(Panics(std::net::TcpStream::connect(&addr)?, writes));
        let client = httpteleport::driver::thread::Client::with_dial("there", dial, ClientOptions::default());
        let begin = Instant::now();
        for _ in 0..2 {
            client.request(post("x"), LONG).unwrap_err();
            std::thread::sleep(300 * MS);
        }
        client.close(soon());
        assert!(begin.elapsed() < 5 * S);
    }
}

struct Named<L>(L);

impl httpteleport::driver::thread::Listener for Named<TcpListener> {
    type Stream = std::net::TcpStream;

    fn accept(&self) -> std::io::Result<(std::net::TcpStream, PeerAddr)> {
        httpteleport::driver::thread::Listener::accept(&self.0)
            .map(|(stream, _)| (stream, PeerAddr::Other("me".into())))
    }

    fn wake(&self) {
        httpteleport::driver::thread::Listener::wake(&self.0);
    }
}

impl httpteleport::driver::smol::Listener for Named<::smol::net::TcpListener> {
    type Stream = ::smol::net::TcpStream;

    async fn accept(&self) -> std::io::Result<(::smol::net::TcpStream, PeerAddr)> {
        self.0.accept().await.map(|(stream, _)| (stream, PeerAddr::Other("me".into())))
    }
}

#[test]
fn listeners_of_the_program_say_who_has_come() {
    let answer = |_: Request<Bytes>, peer: httpteleport::driver::Peer| {
        assert_eq!(peer.addr.ip(), None);
        Response::new(Bytes::from(peer.addr.to_string()))
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = Thread::new_server(ServerOptions::default());
    let serving = server.clone();
    let thread = std::thread::spawn(move || serving.serve(Named(listener), answer));
    assert_eq!(Thread::client(&addr, plain()).request(get("/"), LONG).unwrap().body(), "me");
    server.shutdown(soon());
    thread.join().unwrap().unwrap();

    let listener = ::smol::block_on(::smol::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = Smol::new_server(ServerOptions::default());
    let client = Smol::client(&addr, plain());
    ::smol::block_on(::smol::future::or(
        async {
            server.serve(Named(listener), move |request, peer| async move { answer(request, peer) }).await.unwrap()
        },
        async { assert_eq!(client.request(get("/"), LONG).await.unwrap().body(), "me") },
    ));
}
