//! A teleport client: `cargo run --example client -- 127.0.0.1:8043 /some/path`. A third argument says how many requests
//! it sends at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use httpteleport::driver::ClientOptions;
use httpteleport::driver::smol::Client;

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8043".into());
    let path = args.next().unwrap_or_else(|| "/".into());
    if !path.starts_with('/') {
        return Err(format!("{path:?} is no path: it begins with a slash").into());
    }
    let count =
        args.next().map_or(Ok(1), |count| count.parse::<usize>().map_err(|error| format!("{count:?}: {error}")))?;
    let executor = Arc::new(smol::Executor::new());
    let client = Client::new(executor.clone(), addr.clone(), ClientOptions::default());
    smol::block_on(executor.run(async {
        let mut responses = Vec::new();
        for _ in 0..count {
            let request = Request::get(format!("http://{addr}{path}")).body(Bytes::new())?;
            let client = client.clone();
            responses.push(executor.spawn(async move { client.request(request, Duration::from_secs(3)).await }));
        }
        for response in responses {
            println!("{:?}", response.await?.map(|body| String::from_utf8_lossy(&body).into_owned()));
        }
        let stats = client.stats();
        println!("{} bytes of HTTP, {} on the wire", stats.plain_out + stats.plain_in, stats.wire_out + stats.wire_in);
        Ok(())
    }))
}
