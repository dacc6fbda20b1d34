//! A driver that this crate does not ship: client and server on tokio, one task a connection, on nothing but
//! `httpteleport::proto`. The guide `own_io` tells the steps. `cargo run --example tokio_driver` has both ends talk, and
//! behind `--` it takes `serve 127.0.0.1:8043` or `get 127.0.0.1:8043 http://far.example/world`.

#![allow(clippy::disallowed_methods, reason = "a driver is where the time comes from")]

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::{ClientConnection, ClientEvent, Connection, ResponseToken, ServerConnection, ServerEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Carries a connection over a stream. What it tells goes to `deliver`, what the program wants comes by `commands`, and
/// `obey` hands it over; without commands it goes on with what there is.
async fn drive<C: Connection, Q>(
    mut connection: C,
    mut stream: TcpStream,
    commands: &mut mpsc::UnboundedReceiver<Q>,
    mut obey: impl FnMut(&mut C, Q),
    mut deliver: impl FnMut(&mut C, C::Event),
) {
    let (mut input, mut output, mut written, mut eof) = (Vec::with_capacity(1 << 16), Vec::new(), 0, false);
    let (mut reader, mut writer) = stream.split();
    loop {
        // 1. What is to be written; a new batch only when the last one has gone.
        if written == output.len() {
            output.clear();
            written = 0;
            connection.poll_transmit(Instant::now(), &mut output);
        }
        // 2. What has happened. An event may want something in turn.
        let mut any = false;
        while let Some(event) = connection.poll_event() {
            any = true;
            deliver(&mut connection, event);
        }
        if any {
            continue;
        }
        if connection.is_closed() && written == output.len() {
            let _ = writer.shutdown().await;
            return;
        }
        // What it did not take before it takes once it wants to read again.
        if !input.is_empty() && connection.wants_read() {
            let taken = connection.handle_input(Instant::now(), &input);
            input.drain(..taken);
            continue;
        }
        // 3. Wait, 4. and tell what happened.
        let timer = connection.poll_timeout();
        let room = connection.wants_read() && input.is_empty() && !eof;
        tokio::select! {
            Some(command) = commands.recv() => obey(&mut connection, command),
            result = writer.write(&output[written..]), if written < output.len() => match result {
                Ok(n) if n > 0 => written += n,
                _ => {
                    written = output.len();
                    connection.handle_transport_error(Instant::now());
                }
            },
            result = reader.read_buf(&mut input), if room => match result {
                Ok(0) => {
                    eof = true;
                    connection.handle_eof(Instant::now());
                }
                Ok(_) => {}
                Err(_) => connection.handle_transport_error(Instant::now()),
            },
            () = sleep_until(timer), if timer.is_some() => connection.handle_timeout(Instant::now()),
            else => return,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    tokio::time::sleep_until(at.unwrap_or_else(Instant::now).into()).await;
}

/// Answers every request with what it was.
async fn serve(listener: TcpListener) -> io::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (answers, mut answered) = mpsc::unbounded_channel::<(ResponseToken, Response<Bytes>)>();
        let answer = |connection: &mut ServerConnection, (token, response): (ResponseToken, _)| {
            // A program that cares sends something else instead, or waits if the output is full.
            let sent = connection.send_response(Instant::now(), token, &response);
            sent.unwrap_or_else(|rejected| connection.discard(rejected.token));
        };
        let handle = move |connection: &mut ServerConnection, event| match event {
            ServerEvent::Request { token, request } => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    let body = format!("{} {} {:?}", request.method(), request.uri(), request.body());
                    let _ = answers.send((token, Response::new(body.into())));
                });
            }
            // This driver offers no TLS.
            ServerEvent::StartTls => connection.handle_transport_error(Instant::now()),
            _ => {}
        };
        let connection = ServerConnection::new(Default::default(), Instant::now());
        tokio::spawn(async move { drive(connection, stream, &mut answered, answer, handle).await });
    }
}

/// Sends a request some times over one link, and prints what comes of it.
async fn get(addr: &str, uri: &str) -> Result<(), Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut connection = ClientConnection::new(Default::default(), Instant::now());
    let deadline = Some(Instant::now() + Duration::from_secs(3));
    for _ in 0..3 {
        connection.send_request(Instant::now(), &Request::get(uri).body(Bytes::new())?, deadline)?;
    }
    // It closes when what is in flight has ended. A program that has more to send would do so by commands.
    connection.close(Instant::now());
    let deliver = |connection: &mut ClientConnection, event| match event {
        ClientEvent::Response { id, response } => println!("{}: {:?}", id.get(), response.body()),
        ClientEvent::Failed { id, error } => println!("{}: {error}", id.get()),
        ClientEvent::StartTls => connection.handle_transport_error(Instant::now()),
        _ => {}
    };
    drive(connection, stream, &mut mpsc::unbounded_channel::<()>().1, |_, ()| (), deliver).await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", addr] => serve(TcpListener::bind(addr).await?).await?,
        ["get", addr, uri] => get(addr, uri).await?,
        [] => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let addr = listener.local_addr()?.to_string();
            tokio::spawn(serve(listener));
            get(&addr, "http://far.example/world").await?;
        }
        _ => return Err("usage: tokio_driver [serve ADDR | get ADDR URI]".into()),
    }
    Ok(())
}
