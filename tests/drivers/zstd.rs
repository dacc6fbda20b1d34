//! A client that prefers zstd, at servers that know it, that do not, and that do not say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use httpteleport::driver::{ClientOptions, ServerOptions};
use httpteleport::proto::Compression;

use crate::harness::*;

const LONG: Duration = Duration::from_secs(20);

/// The compression byte of each hello that came.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A server as the original is one: to a compression that it does not know it says its hello, and closes. Behind it is
/// one of ours, at `to`.
fn original(to: &str) -> (String, Heard) {
    let (heard, to) = (Heard::default(), to.to_owned());
    let log = heard.clone();
    let addr = raw_server(move |_, mut near: TcpStream| {
        let mut hello = [0; 15];
        near.read_exact(&mut hello).unwrap();
        log.lock().unwrap().push(hello[13]);
        if hello[13] > 2 {
            near.write_all(b"httpteleport\x00\x00\x00").unwrap();
            return;
        }
        let mut far = TcpStream::connect(&to).unwrap();
        far.write_all(&hello).unwrap();
        let (mut up, mut down) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut up, &mut far));
        let _ = std::io::copy(&mut down, &mut near);
        let _ = near.shutdown(std::net::Shutdown::Both);
    });
    (addr, heard)
}

fn auto() -> ClientOptions {
    ClientOptions::default().prefer_zstd(true)
}

/// A listener that notes the hellos on their way to `to`.
fn noting(to: &str) -> (String, Heard) {
    let heard = Heard::default();
    let log = heard.clone();
    let first = Mutex::new(std::collections::BTreeSet::new());
    let addr = relay(to, move |number, up, piece| {
        if first.lock().unwrap().insert((number, up)) {
            log.lock().unwrap().push(piece[13]);
        }
        Some(piece)
    });
    (addr, heard)
}

both! {
    fn both_prefer_zstd_and_have_it<D>() {
        let (_server, to) = D::server(ServerOptions::default().prefer_zstd(true), |request, _| echo(request));
        let (addr, heard) = noting(&to);
        let client = D::client(&addr, auto());
        let begin = Instant::now();
        for n in 0..50 {
            let body = format!("message {n}, and a text that is always the same").repeat(20);
            assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(*heard.lock().unwrap(), [3, 3]);
        let stats = client.stats();
        assert!(stats.plain_out > 10 * stats.wire_out && stats.plain_in > 10 * stats.wire_in, "{stats:?}");
    }

    fn a_server_that_prefers_zstd_spares_others<D>() {
        // R-zstd-server
        let (_server, to) = D::server(ServerOptions::default().prefer_zstd(true), |request, _| echo(request));
        for compression in [Compression::Deflate, Compression::None, Compression::Snappy] {
            let (addr, heard) = noting(&to);
            let client = D::client(&addr, ClientOptions::default().compression(compression));
            assert_eq!(client.request(post("a"), LONG).unwrap().body(), "a");
            assert_eq!(*heard.lock().unwrap(), [compression.code(), 0]);
        }
    }

    fn a_server_that_does_not_know_it_is_dialled_again_and_remembered<D>() {
        // R-zstd-client, R-zstd-fallback
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let (addr, heard) = original(&to);
        let client = D::client(&addr, auto());
        // Many at once: none is lost, whatever its method, and none sent twice.
        at_once(30, |n| {
            let body = n.to_string();
            assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
        });
        client.oneway(post("b")).unwrap();
        assert_eq!(*heard.lock().unwrap(), [3, 0]);
        // Another lane knows what the first has learned.
        assert!(client.request(http::Request::head("http://h.example/").body(Default::default()).unwrap(), LONG).is_ok());
        assert_eq!(*heard.lock().unwrap(), [3, 0, 0]);
    }

    fn a_oneway_is_not_lost_on_the_way_to_a_server_that_does_not_know_it<D>() {
        let (tell, told) = std::sync::mpsc::channel();
        let tell = Mutex::new(tell);
        let (_server, to) = D::server(ServerOptions::default(), move |request, _| {
            tell.lock().unwrap().send(request.body().clone()).unwrap();
            echo(request)
        });
        let (addr, heard) = original(&to);
        D::client(&addr, auto()).oneway(post("one")).unwrap();
        assert_eq!(told.recv_timeout(LONG).unwrap(), "one");
        assert_eq!(*heard.lock().unwrap(), [3, 0]);
    }

    fn zstd_is_tried_again_after_a_while<D>() {
        // R-zstd-fallback
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let (addr, heard) = original(&to);
        // A second is the least: a client must not dial in circles.
        let client = D::client(&addr, auto().idle_timeout(100 * MS).zstd_retry(Duration::ZERO));
        let begin = Instant::now();
        eventually("another try", || {
            // The next link is made after this one has ended of idleness, or in the middle of a request if all is slow.
            let _ = client.request(post("a"), LONG);
            assert!(heard.lock().unwrap().starts_with(&[3, 0]));
            std::thread::sleep(150 * MS);
            heard.lock().unwrap()[2..].contains(&3)
        });
        assert!(begin.elapsed() >= Duration::from_secs(1));
    }

    fn a_server_that_knows_it_and_compresses_otherwise_is_given_time<D>() {
        // R-zstd-client: 250 ms, once for the link
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let (addr, heard) = noting(&to);
        let client = D::client(&addr, auto());
        let begin = Instant::now();
        assert_eq!(client.request(post("a"), LONG).unwrap().body(), "a");
        assert!(begin.elapsed() >= 250 * MS);
        assert_eq!(client.request(post("b"), LONG).unwrap().body(), "b");
        assert_eq!(*heard.lock().unwrap(), [3, 0]);
    }

    fn who_was_told_to_send_zstd_does_not_fall_back<D>() {
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let (addr, heard) = original(&to);
        let client = D::client(&addr, ClientOptions::default().compression(Compression::Zstd));
        assert!(client.request(post("a"), LONG).is_err());
        assert_eq!(heard.lock().unwrap()[0], 3);
        assert!(!heard.lock().unwrap().contains(&0));
    }

    fn a_share_for_compressing_that_is_too_small_lowers_the_level<D>() {
        let client = ClientOptions::default().compression(Compression::Zstd).level(9);
        let server = ServerOptions::default().compression(Compression::Zstd).level(9);
        for limits_client in [true, false] {
            let share = |is_limited: bool| is_limited.then_some(0.000_001);
            let server = server.clone().max_compress_share(share(!limits_client));
            let (_server, to) = D::server(server, |request, _| echo(request));
            let frames = Arc::new(Mutex::new([0, 0]));
            let count = frames.clone();
            let addr = relay(&to, move |_, up, piece| {
                // Another level begins another Zstandard frame.
                let frames = piece.windows(4).filter(|w| w == b"\x28\xb5\x2f\xfd").count();
                count.lock().unwrap()[usize::from(!up)] += frames;
                Some(piece)
            });
            let client = D::client(&addr, client.clone().max_compress_share(share(limits_client)));
            eventually("9, 4, 2 and 1", || {
                assert_eq!(client.request(post("a"), LONG).unwrap().body(), "a");
                frames.lock().unwrap()[usize::from(!limits_client)] == 4
            });
            // Each direction for itself.
            assert_eq!(frames.lock().unwrap()[usize::from(limits_client)], 1);
        }
    }
}
