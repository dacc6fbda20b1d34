//! A teleport server that echoes: `cargo run --example server -- 127.0.0.1:8043 flate`.
//!
//! Talk to it with `cargo run --example client`, with `httptp --out-type teleport`, or with any client of the original.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::smol::Server;
use httpteleport::driver::{Peer, ServerOptions};
use httpteleport::proto::Compression;

/// Answers with the request's body, or its target if there is none, and with its `X-Req-Id`.
async fn echo(request: Request<Bytes>, _peer: Peer) -> Response<Bytes> {
    let mut response = Response::builder().header("x-echo-path", request.uri().to_string());
    if let Some(id) = request.headers().get("x-req-id") {
        response = response.header("x-req-id", id);
    }
    let body = if request.body().is_empty() { request.uri().to_string().into() } else { request.into_body() };
    response.body(body).unwrap_or_default()
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8043".into());
    let compression = match args.next().as_deref() {
        None | Some("flate") => Compression::Deflate,
        Some("none") => Compression::None,
        Some("snappy") => Compression::Snappy,
        Some(other) => return Err(format!("unknown compression {other:?}: flate, none or snappy").into()),
    };
    let executor = Arc::new(smol::Executor::new());
    let server = Server::new(executor.clone(), ServerOptions::default().compression(compression));
    server.on_link_end(|peer, error, _| match error {
        Some(error) => eprintln!("{}: {error}", peer.addr),
        None => eprintln!("{}: closed", peer.addr),
    });
    smol::block_on(executor.run(async {
        let listener = smol::net::TcpListener::bind(&addr).await?;
        println!("listening on {}", listener.local_addr()?);
        server.serve(listener, echo).await
    }))?;
    Ok(())
}
