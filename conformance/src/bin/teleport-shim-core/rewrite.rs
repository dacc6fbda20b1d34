//! How faults change bytes. They need not see through every cut: one replay that shows the fault is enough.

use teleport_conformance::snappy::{STREAM_ID, masked_crc};

/// Changes what the core is fed; `before` bytes came earlier.
pub(crate) fn input(mutant: &str, data: &mut [u8], before: usize) {
    let is_hello = before == 0 && data.len() >= 15;
    match mutant {
        "magic-half-checked" if is_hello && data.starts_with(b"httptele") => data[8..12].copy_from_slice(b"port"),
        "version-unchecked" if is_hello => data[12] = 0,
        "compression-unchecked" if is_hello && data[13] > 3 => data[13] = 1,
        "get-length-accepted" => {
            // Only in the head of the GET.
            let (begin, head) = (rfind(data, b"GET "), b"\r\n\r\n");
            if let Some(begin) = begin
                && let Some(end) = find(&data[begin..], head)
            {
                replace(&mut data[begin..begin + end], b"Content-Length:", b"X-ontent-Length:", 1);
            }
        }
        "last-length-wins" => {
            let head = find(data, b"\r\n\r\n").unwrap_or(data.len());
            if count(&data[..head], b"Content-Length:") > 1 {
                replace(data, b"Content-Length:", b"X-ontent-Length:", 1);
            }
        }
        "chunked-beats-length" if find(data, b"Transfer-Encoding: chunked").is_some() => {
            replace(data, b"Content-Length:", b"X-ontent-Length:", 1);
        }
        "goodbye-ignored" => replace(data, b"\0\0\0\0HTTP/1.1 503", b"\0\0\0\0HTTP/1.1 500", usize::MAX),
        "goodbye-by-its-field-alone" => replace(data, b"\0\0\0\0HTTP/1.1 200", b"\0\0\0\0HTTP/1.1 503", usize::MAX),
        "http-1-2-accepted" => replace(data, b"HTTP/1.2", b"HTTP/1.1", usize::MAX),
        "continue-is-final" => replace(data, b"HTTP/1.1 100", b"HTTP/1.1 204", usize::MAX),
        "early-hints-accepted" => replace(data, b"HTTP/1.1 103", b"HTTP/1.1 204", usize::MAX),
        "fold-with-colon-accepted" => replace(data, b"\r\n X: y", b"\r\nXX: y", 1),
        "status-line-lower-case" => replace(data, b"http/1.1 ", b"HTTP/1.1 ", usize::MAX),
        "slash-in-a-token" => {
            replace(data, b"G/T ", b"GET ", usize::MAX);
            replace(data, b"X/A: ", b"X-A: ", usize::MAX);
        }
        "chunk-end-unchecked" => replace(data, b"abcd\rx", b"abcd\r\n", 1),
        "snappy-checksum-unchecked" => chunks(data, |kind, payload| {
            if *kind > 1 || payload.len() < 4 {
                return;
            }
            let (crc, content) = payload.split_at_mut(4);
            let plain = match kind {
                0 => snap::raw::Decoder::new().decompress_vec(content).ok(),
                _ => Some(content.to_vec()),
            };
            if let Some(plain) = plain {
                crc.copy_from_slice(&masked_crc(&plain).to_le_bytes());
            }
        }),
        "snappy-padding-is-an-error" => chunks(data, |kind, _| {
            if *kind == 0xfe {
                *kind = 2;
            }
        }),
        "zstd-skippable-is-an-error" => zstd_headers(data, b"\x2a\x4d\x18", |header| header[2] = 0),
        "zstd-window-unchecked" => zstd_headers(data, b"\x28\xb5\x2f\xfd", |header| match header {
            // A single segment of one byte more than may be.
            [_, _, _, _, 0xa0, low, _, high, ..] if *high >= 0x20 => *low = 0,
            [_, _, _, _, descriptor, window, ..] if *descriptor & 0x20 == 0 && *window > 0x58 => *window = 0x58,
            _ => {}
        }),
        "zstd-dictionary-ignored" => zstd_headers(data, b"\x28\xb5\x2f\xfd", |header| {
            if let [_, _, _, _, descriptor, _, rest @ ..] = header
                && *descriptor & 0x20 == 0
            {
                let length = [0, 1, 2, 4][usize::from(*descriptor & 3)];
                rest.iter_mut().take(length).for_each(|byte| *byte = 0);
            }
        }),
        _ => {}
    }
}

/// Goes over what looks like headers of Zstandard frames.
fn zstd_headers(data: &mut [u8], magic: &[u8], mut change: impl FnMut(&mut [u8])) {
    for at in 0..data.len() {
        if data[at..].starts_with(magic) {
            let end = data.len().min(at + 10);
            change(&mut data[at..end]);
        }
    }
}

/// Changes what the core sends.
pub(crate) fn output(mutant: &str, out: &mut Vec<u8>, is_first: bool) {
    match mutant {
        "no-sync-flush" if out.ends_with(&[0, 0, 0xff, 0xff]) => out.truncate(out.len() - 4),
        "second-hello" if is_first => out.extend_from_within(..15),
        "tls-byte-2" if is_first && out[14] == 1 => out[14] = 2,
        "zstd-window-of-4-mib" => zstd_headers(out, b"\x28\xb5\x2f\xfd", |header| {
            if let [_, _, _, _, 0, window, ..] = header {
                *window = 0x60;
            }
        }),
        "snappy-stream-id-missing" => {
            if let Some(at) = find(out, STREAM_ID) {
                out.drain(at..at + STREAM_ID.len());
            }
        }
        _ => {}
    }
}

/// Goes over the chunks of a snappy stream, hello or not before them.
fn chunks(data: &mut [u8], mut change: impl FnMut(&mut u8, &mut [u8])) {
    let mut at = find(data, STREAM_ID).unwrap_or(data.len());
    while let Some(header) = data.get(at..at + 4) {
        let length = usize::from(header[1]) | usize::from(header[2]) << 8 | usize::from(header[3]) << 16;
        let Some(chunk) = data.get_mut(at..at + 4 + length) else { return };
        let (header, payload) = chunk.split_at_mut(4);
        change(&mut header[0], payload);
        at += 4 + length;
    }
}

/// Where a text begins.
pub(crate) fn find(data: &[u8], text: &[u8]) -> Option<usize> {
    data.windows(text.len()).position(|window| window == text)
}

fn rfind(data: &[u8], text: &[u8]) -> Option<usize> {
    data.windows(text.len()).rposition(|window| window == text)
}

fn count(data: &[u8], text: &[u8]) -> usize {
    data.windows(text.len()).filter(|window| *window == text).count()
}

/// Replaces a text by one of the same length, so many times.
fn replace(data: &mut [u8], text: &[u8], by: &[u8], times: usize) {
    for _ in 0..times {
        let Some(at) = find(data, text) else { return };
        data[at..at + text.len()].copy_from_slice(&by[..text.len()]);
    }
}
