//! Requests to measure with: from a file of bodies, or made up from a seed as `httptp demo` makes them.

#[path = "../../src/proxy/demo/bids.rs"]
#[allow(unused, reason = "only the requests are wanted here")]
mod bids;

use bytes::Bytes;
use http::Request;

use super::args::Args;

/// Requests, and where they come from.
pub struct Corpus {
    pub name: String,
    pub requests: Vec<Request<Bytes>>,
}

impl Corpus {
    /// `--corpus FILE` or `TELEPORT_CORPUS`: one body a line, may be xz. Else bid requests from a seed.
    pub fn of(args: &Args, most: usize) -> Self {
        let file = args.value("corpus").map(str::to_owned).or_else(|| std::env::var("TELEPORT_CORPUS").ok());
        match file {
            Some(file) => Self::read(&file, most),
            None => Self::made_up(most),
        }
    }

    /// Bid requests of 1 to 2 KB, always the same.
    pub fn made_up(count: usize) -> Self {
        let mut bids = bids::Bids::new(1);
        let mut body = String::new();
        let mut next = || {
            bids.next(&mut body);
            body.clone()
        };
        let requests = (0..count).map(|_| post(next().into_bytes())).collect();
        Self { name: "made-up bid requests (seed 1)".to_owned(), requests }
    }

    fn read(file: &str, most: usize) -> Self {
        let bytes = if file.ends_with(".xz") {
            let output = std::process::Command::new("xz").args(["-dc", file]).output();
            output.expect("xz can be run").stdout
        } else {
            std::fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}"))
        };
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let requests: Vec<_> = lines.take(most).map(|line| post(line.to_vec())).collect();
        assert!(!requests.is_empty(), "{file} has no bodies");
        let name = std::path::Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, requests }
    }
}

/// A request as a proxy sends it on.
fn post(body: Vec<u8>) -> Request<Bytes> {
    Request::post("/bid?src=partner")
        .header("host", "rtb.example.com")
        .header("content-type", "application/json")
        .header("x-openrtb-version", "2.5")
        .header("user-agent", "bidder/1.0")
        .header("accept-encoding", "identity")
        .body(Bytes::from(body))
        .expect("it is well formed")
}
