//! A link between this project's own client and server is recorded, and the core does it again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use httpteleport::driver::smol::{Client, Server};
use httpteleport::driver::{ClientOptions, ServerOptions};
use httpteleport::proto::Compression;
use smol::Executor;
use smol::net::TcpListener;
use teleport_conformance::core_profile::Core;
use teleport_conformance::run::{TIMEOUT, run};
use teleport_conformance::scenario::{Scenario, parse};
use teleport_conformance::shim::Shim;

/// Records a link, on which `traffic` happens, from the viewpoint of a role.
fn recorded(
    role: &str,
    compression: Compression,
    more: &[&str],
    traffic: fn(Client, Arc<Executor<'static>>),
) -> Scenario {
    let executor = Arc::new(Executor::new());
    let server = Server::new(Arc::clone(&executor), ServerOptions::default().compression(compression));
    let listener = smol::block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let handler = |request: Request<Bytes>, _| async move {
        let mut response = Response::new(request.body().clone());
        response.headers_mut().insert("x-path", request.uri().path().parse().unwrap());
        if request.uri().path() == "/gone" {
            *response.status_mut() = StatusCode::NO_CONTENT;
            *response.body_mut() = Bytes::new();
        }
        response
    };
    executor.spawn(async move { server.serve(listener, handler).await }).detach();
    // The server goes on when the client has ended, until it has seen that.
    let (go, over) = smol::channel::bounded::<()>(1);
    let running = Arc::clone(&executor);
    std::thread::spawn(move || smol::block_on(running.run(over.recv())));

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("teleport-record-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    let out: PathBuf = folder.join("messages/recorded-link.scn");
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
    command.args(["record", "--listen", "127.0.0.1:0", "--to", &to, "--role", role, "--title", "One link", "--out"]);
    let mut recorder = command.arg(&out).args(more).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(recorder.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("listening on ").unwrap().to_owned();

    let client = Client::new(Arc::clone(&executor), addr, ClientOptions::default().compression(compression));
    traffic(client, executor);
    assert!(recorder.wait().unwrap().success());
    drop(go);
    let text = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    parse(Path::new("cases/messages/recorded-link.scn"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn request(method: Method, path: &str, body: Vec<u8>) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(path).header("Host", "h.example").header("X-One", "1");
    request.body(Bytes::from(body)).unwrap()
}

/// An ordinary exchange, closed by the client.
fn exchange(client: Client, executor: Arc<Executor<'static>>) {
    smol::block_on(executor.run(async {
        let big = (0..40_000_u32).map(|n| ((n * n) >> 7) as u8).collect();
        let bodies =
            [(Method::GET, "/a", vec![]), (Method::POST, "/b?c=d", big), (Method::PUT, "/\u{7e}", b"\"\\\0".into())];
        for (method, path, body) in bodies {
            let response = client.request(request(method, path, body.clone()), None).await.unwrap();
            assert_eq!(response.body(), &body);
        }
        let many: Vec<_> = (0..20)
            .map(|n| {
                let (client, path) = (client.clone(), format!("/many/{n}"));
                executor.spawn(async move { client.request(request(Method::GET, &path, vec![]), None).await })
            })
            .collect();
        for one in many {
            one.await.unwrap();
        }
        client.request(request(Method::DELETE, "/gone", vec![]), None).await.unwrap();
        client.close(Instant::now() + Duration::from_secs(5)).await;
    }));
}

#[test]
fn the_core_does_again_what_was_recorded() {
    let command = format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"));
    let mut core = Core::new(Shim::start(&command, TIMEOUT).unwrap());
    for compression in [Compression::None, Compression::Deflate, Compression::Snappy] {
        for role in ["server", "client"] {
            let scenario = recorded(role, compression, &[], exchange);
            let words = |word: &str| scenario.steps.iter().filter(|step| step.source.contains(word)).count();
            assert_eq!((words("send frame"), words("closed clean"), scenario.title.as_str()), (24, 1, "One link"));
            run(&scenario, &mut core).unwrap_or_else(|stop| panic!("{role} {compression:?}: {stop:?}"));
        }
    }
}

#[test]
fn a_recording_has_its_bounds() {
    let command = format!("'{}'", env!("CARGO_BIN_EXE_teleport-shim-core"));
    let mut core = Core::new(Shim::start(&command, TIMEOUT).unwrap());
    // What comes after so many bytes passes, and is not recorded.
    let scenario = recorded("server", Compression::None, &["--most", "300"], exchange);
    let last = scenario.steps.last().unwrap();
    assert!(last.source.contains("still open") && scenario.steps.len() < 12, "{scenario:?}");
    run(&scenario, &mut core).unwrap_or_else(|stop| panic!("{stop:?}"));
    // A link that nobody ends is ended.
    let scenario = recorded("client", Compression::None, &["--seconds", "1"], |client, executor| {
        smol::block_on(executor.run(async {
            client.request(request(Method::GET, "/a", vec![]), None).await.unwrap();
            smol::Timer::after(Duration::from_millis(1_500)).await;
        }));
    });
    assert!(scenario.steps.last().unwrap().source.contains("still open"));
    run(&scenario, &mut core).unwrap_or_else(|stop| panic!("{stop:?}"));
}

#[test]
fn a_file_that_could_be_no_case_is_refused_at_once() {
    for out in ["messages/Upper.scn", "messages/a.txt", "no-area/a.scn"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_teleport-conformance"));
        let output = command.args(["record", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--out", out]).output();
        assert_eq!(output.unwrap().status.code(), Some(2), "{out}");
    }
}
