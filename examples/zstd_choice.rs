//! The figures behind the choices for zstd in spec/rationale.md, for your own traffic: what a window saves and costs, and
//! what a dictionary would.
//!
//! ```text
//! cargo run --release --features zstd --example zstd_choice < RECORDS
//! ```
//!
//! RECORDS has one body a line; each is sent as a POST with a head of 180 bytes, in one stream, flushed after every message
//! or every ten.

use std::io::BufRead;

use zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, DictAttachPref, InBuffer, OutBuffer, Strategy};

/// Fewer make no dictionary.
const LEAST_MESSAGES: usize = 200;

/// What the stream came to.
struct Stream {
    wire: usize,
    /// Bytes that the compressor and the decompressor held in the end.
    memory: (usize, usize),
}

fn main() {
    let messages: Vec<_> = std::io::stdin().lock().lines().map(|line| message(&line.expect("text"))).collect();
    if messages.len() < LEAST_MESSAGES {
        eprintln!("usage: zstd_choice < RECORDS, at least {LEAST_MESSAGES} lines of them");
        std::process::exit(2);
    }
    let plain: usize = messages.iter().map(Vec::len).sum();
    println!("{} messages, {plain} bytes\n", messages.len());

    println!("| window | level | times smaller, each flushed | ten together | KiB sender | KiB receiver |");
    println!("|---|---|---|---|---|---|");
    for window in 17..=23 {
        for level in [1, 3, 6, 9] {
            let (one, ten) = (stream(&messages, 1, level, window, None), stream(&messages, 10, level, window, None));
            let times = |wire: usize| plain as f64 / wire as f64;
            let (sender, receiver) = (ten.memory.0 / 1024, ten.memory.1 / 1024);
            println!(
                "| 2^{window} | {level} | {:.2} | {:.2} | {sender} | {receiver} |",
                times(one.wire),
                times(ten.wire)
            );
        }
    }

    let (training, rest) = messages.split_at(messages.len() / 2);
    let sizes: Vec<_> = training.iter().map(Vec::len).collect();
    let mut dictionary = Vec::with_capacity(64 * 1024);
    zstd_safe::train_from_buffer(&mut dictionary, &training.concat(), &sizes).expect("enough to train from");
    println!("\n| level | messages | in a batch | bytes | with a dictionary of {} bytes | saved |", dictionary.len());
    println!("|---|---|---|---|---|---|");
    for level in [1, 3, 4, 5, 6] {
        for count in [100, rest.len()] {
            for batch in [1, 10] {
                let some = &rest[..count.min(rest.len())];
                let without = stream(some, batch, level, 21, None).wire;
                let with = stream(some, batch, level, 21, Some(&dictionary)).wire;
                let saved = 100.0 - 100.0 * with as f64 / without as f64;
                println!("| {level} | {} | {batch} | {without} | {with} | {saved:.1} % |", some.len());
            }
        }
    }
}

fn message(body: &str) -> Vec<u8> {
    let head = format!(
        "POST /auctions?provider=1 HTTP/1.1\r\nHost: bidder.example\r\nUser-Agent: Mozilla/5.0 (exchange)\r\n\
         Content-Type: application/json\r\nAccept: */*\r\nX-Openrtb-Version: 2.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [b"\x01\0\0\0", head.as_bytes(), body.as_bytes()].concat()
}

/// What libzstd takes for streams of which it does not know the length: chains, hashes, searches, shortest match, target.
fn parameters(level: i32) -> (u32, u32, u32, u32, u32, Strategy) {
    match level {
        1 => (13, 14, 1, 7, 0, Strategy::ZSTD_fast),
        3 => (16, 17, 1, 5, 0, Strategy::ZSTD_dfast),
        4 => (18, 18, 1, 5, 0, Strategy::ZSTD_dfast),
        5 => (18, 19, 3, 5, 2, Strategy::ZSTD_greedy),
        _ => (18, 19, 3, 5, 4, Strategy::ZSTD_lazy),
    }
}

fn stream(messages: &[Vec<u8>], batch: usize, level: i32, window: u32, dictionary: Option<&[u8]>) -> Stream {
    let (mut compressor, mut decompressor) = (CCtx::create(), DCtx::create());
    compressor.set_parameter(CParameter::CompressionLevel(level)).expect("a level");
    compressor.set_parameter(CParameter::WindowLog(window)).expect("a window");
    decompressor.set_parameter(DParameter::WindowLogMax(window)).expect("a window");
    if let Some(dictionary) = dictionary {
        // Else libzstd chooses for a stream as short as the dictionary.
        let (chain, hash, search, shortest, target, strategy) = parameters(level);
        for parameter in [
            CParameter::ChainLog(chain),
            CParameter::HashLog(hash),
            CParameter::SearchLog(search),
            CParameter::MinMatch(shortest),
            CParameter::TargetLength(target),
            CParameter::Strategy(strategy),
            CParameter::ForceAttachDict(DictAttachPref::ForceLoad),
        ] {
            compressor.set_parameter(parameter).expect("libzstd's own");
        }
        compressor.load_dictionary(dictionary).expect("a dictionary");
        decompressor.load_dictionary(dictionary).expect("a dictionary");
    }
    let (mut sent, mut received, mut wire_bytes, mut step) = (0, 0, 0, vec![0; 64 * 1024]);
    for messages in messages.chunks(batch) {
        let plain = messages.concat();
        let mut wire = Vec::with_capacity(zstd_safe::compress_bound(plain.len()) + 64);
        let mut input = InBuffer::around(&plain);
        while compressor.compress_stream2(&mut OutBuffer::around(&mut wire), &mut input, ZSTD_e_flush).expect("room")
            > 0
        {}
        sent += plain.len();
        let mut input = InBuffer::around(&wire);
        while received < sent {
            let mut output = OutBuffer::around(&mut step[..]);
            decompressor.decompress_stream(&mut output, &mut input).expect("what was compressed");
            received += output.pos();
        }
        wire_bytes += wire.len();
    }
    Stream { wire: wire_bytes, memory: (compressor.sizeof(), decompressor.sizeof()) }
}
