//! Content codings: decoding a body whole, within a limit, and coding one again.

use std::io;

use brotli::enc::BrotliEncoderParams;
use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Compression, Decompress, FlushDecompress, Status};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::wrap::{self, Wrap};

/// How many bytes are decoded at a time.
const STEP_BYTES: usize = 64 * 1024;
/// The largest window of zstd in HTTP is 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;
/// How hard to code a body again if the bytes are free: what servers do by default, or less.
const DEFLATE_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: i32 = 4;
const BROTLI_LGWIN: i32 = 22;

/// A content coding (RFC 9110, section 8.4.1; RFC 7932; RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// DEFLATE in zlib's form.
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    pub(super) const ALL: [Self; 4] = [Self::Gzip, Self::Deflate, Self::Brotli, Self::Zstd];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|coding| coding.name() == name)
    }
}

/// Why a body was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// More than the limit would come out.
    TooLarge,
    /// It is not what it is said to be, is cut, or something follows.
    Malformed,
}

/// A body without its coding.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) plain: Vec<u8>,
    /// What is around the one DEFLATE stream that it was, if it was one.
    pub(super) wrap: Option<Wrap>,
}

/// Decodes all of `coded`, if no more than `limit` bytes come out and none is left over.
pub(super) fn decode(coding: Coding, coded: &[u8], limit: usize) -> Result<Decoded, Undecodable> {
    match coding {
        Coding::Gzip => wrap::decode_gzip(coded, limit),
        Coding::Deflate => wrap::decode_zlib(coded, limit),
        Coding::Brotli => decode_brotli(coded, limit).map(|plain| Decoded { plain, wrap: None }),
        Coding::Zstd => decode_zstd(coded, limit).map(|plain| Decoded { plain, wrap: None }),
    }
}

/// Codes `plain`, in whatever way is usual.
pub(super) fn encode(coding: Coding, plain: &[u8]) -> Option<Vec<u8>> {
    match coding {
        Coding::Gzip => wrap::encode_gzip(plain, Compression::new(DEFLATE_LEVEL)),
        Coding::Deflate => wrap::encode_zlib(plain, Compression::new(DEFLATE_LEVEL)),
        Coding::Brotli => encode_brotli(plain, BROTLI_QUALITY, BROTLI_LGWIN, 0),
        Coding::Zstd => encode_zstd(plain, ZstdForm { level: ZSTD_LEVEL, has_size: true, has_checksum: false }),
    }
}

/// Appends to `plain` what the DEFLATE stream at the beginning of `coded` decodes to. Returns how long that stream is.
pub(super) fn inflate(coded: &[u8], plain: &mut Vec<u8>, limit: usize) -> Result<usize, Undecodable> {
    let mut inflater = Decompress::new(false);
    loop {
        reserve(plain, limit)?;
        let taken = inflater.total_in() as usize;
        let before = (taken, plain.len());
        let rest = coded.get(taken..).unwrap_or_default();
        let status = inflater.decompress_vec(rest, plain, FlushDecompress::None);
        let status = status.map_err(|_| Undecodable::Malformed)?;
        if plain.len() > limit {
            return Err(Undecodable::TooLarge);
        }
        if status == Status::StreamEnd {
            return Ok(inflater.total_in() as usize);
        }
        if before == (inflater.total_in() as usize, plain.len()) {
            return Err(Undecodable::Malformed);
        }
    }
}

/// Makes room for one more step, and one byte more than the limit: then there is too much if that is used.
fn reserve(plain: &mut Vec<u8>, limit: usize) -> Result<(), Undecodable> {
    if plain.len() > limit {
        return Err(Undecodable::TooLarge);
    }
    plain.reserve_exact(grown(plain.len(), limit) - plain.len());
    Ok(())
}

/// The next size of a buffer: twice as large, and one byte more than the limit at most.
fn grown(len: usize, limit: usize) -> usize {
    len.saturating_mul(2).max(STEP_BYTES).min(limit.saturating_add(1)).max(len + 1)
}

fn decode_zstd(coded: &[u8], limit: usize) -> Result<Vec<u8>, Undecodable> {
    let mut decompressor = DCtx::create();
    let window = decompressor.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
    window.map_err(|_| Undecodable::Malformed)?;
    let mut plain = Vec::new();
    let mut input = InBuffer::around(coded);
    loop {
        reserve(&mut plain, limit)?;
        let before = (input.pos(), plain.len());
        let at = plain.len();
        let left = decompressor.decompress_stream(&mut OutBuffer::around_pos(&mut plain, at), &mut input);
        let left = left.map_err(|_| Undecodable::Malformed)?;
        if plain.len() > limit {
            return Err(Undecodable::TooLarge);
        }
        let is_all = input.pos() == coded.len();
        if is_all && left == 0 {
            return Ok(plain);
        }
        if before == (input.pos(), plain.len()) {
            return Err(Undecodable::Malformed);
        }
    }
}

fn decode_brotli(coded: &[u8], limit: usize) -> Result<Vec<u8>, Undecodable> {
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new_strict(alloc(), alloc(), alloc());
    let (mut left, mut at, mut total) = (coded.len(), 0, 0);
    let mut plain: Vec<u8> = Vec::new();
    let mut filled = 0;
    loop {
        let size = grown(filled, limit);
        plain.resize(size, 0);
        let mut room = size - filled;
        let result = BrotliDecompressStream(
            &mut left,
            &mut at,
            coded,
            &mut room,
            &mut filled,
            &mut plain,
            &mut total,
            &mut state,
        );
        if filled > limit {
            return Err(Undecodable::TooLarge);
        }
        match result {
            BrotliResult::ResultSuccess if left == 0 => {
                plain.truncate(filled);
                return Ok(plain);
            }
            BrotliResult::NeedsMoreOutput => {}
            _ => return Err(Undecodable::Malformed),
        }
    }
}

pub(super) fn encode_brotli(plain: &[u8], quality: i32, lgwin: i32, size_hint: usize) -> Option<Vec<u8>> {
    let params = BrotliEncoderParams { quality, lgwin, size_hint, ..BrotliEncoderParams::default() };
    let mut coded = Vec::with_capacity(plain.len() / 4);
    let mut rest: &[u8] = plain;
    let written: io::Result<usize> = brotli::BrotliCompress(&mut rest, &mut coded, &params);
    written.ok().map(|_| coded)
}

/// What one can choose of a zstd frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ZstdForm {
    pub(super) level: i32,
    /// The header tells the size of the content, which the encoder knew from the beginning.
    pub(super) has_size: bool,
    pub(super) has_checksum: bool,
}

pub(super) fn encode_zstd(plain: &[u8], form: ZstdForm) -> Option<Vec<u8>> {
    use zstd_safe::zstd_sys::ZSTD_EndDirective::{ZSTD_e_continue, ZSTD_e_end};
    let mut compressor = CCtx::create();
    compressor.set_parameter(CParameter::CompressionLevel(form.level)).ok()?;
    compressor.set_parameter(CParameter::ChecksumFlag(form.has_checksum)).ok()?;
    let mut coded = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    if form.has_size {
        compressor.compress2(&mut coded, plain).ok()?;
        return Some(coded);
    }
    // Whoever does not know the size gives the content away before saying that it was all.
    let mut input = InBuffer::around(plain);
    let (mut end, mut more) = (ZSTD_e_continue, true);
    while more {
        coded.reserve(STEP_BYTES);
        let at = coded.len();
        let left = compressor.compress_stream2(&mut OutBuffer::around_pos(&mut coded, at), &mut input, end).ok()?;
        more = end as u32 == ZSTD_e_continue as u32 || left > 0;
        if input.pos() == plain.len() {
            end = ZSTD_e_end;
        }
    }
    Some(coded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("{{\"n\":{n},\"square\":{}}}\n", n.wrapping_mul(n)).into_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn each_coding_there_and_back_at_any_size() {
        for coding in Coding::ALL {
            for len in [0, 1, 100, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 1_000_000] {
                let plain = text(len);
                let coded = encode(coding, &plain).unwrap();
                assert!(decode(coding, &coded, len).unwrap().plain == plain, "{coding:?} {len}");
                if len > 0 {
                    assert_eq!(decode(coding, &coded, len - 1).unwrap_err(), Undecodable::TooLarge, "{coding:?} {len}");
                }
            }
        }
    }

    #[test]
    fn what_is_cut_or_goes_on_is_malformed() {
        for coding in Coding::ALL {
            let coded = encode(coding, &text(5_000)).unwrap();
            for end in 0..coded.len() {
                let cut = decode(coding, &coded[..end], 10_000);
                // Of zstd nothing at all is no frame too many.
                assert_eq!(cut.unwrap_err(), Undecodable::Malformed, "{coding:?} {end}");
            }
            for more in [&b"\0"[..], b"garbage and more of it"] {
                let longer = [&coded, more].concat();
                assert_eq!(decode(coding, &longer, 10_000).unwrap_err(), Undecodable::Malformed, "{coding:?}");
            }
        }
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_the_limit() {
        let plain = vec![0; 4_000_000];
        for coding in Coding::ALL {
            let coded = encode(coding, &plain).unwrap();
            assert!(coded.len() < 10_000);
            assert_eq!(decode(coding, &coded, 1 << 18).unwrap_err(), Undecodable::TooLarge, "{coding:?}");
        }
        assert!(grown(0, 10) == 11 && grown(11, 10) == 12 && grown(STEP_BYTES, usize::MAX) == 2 * STEP_BYTES);
    }

    #[test]
    fn a_window_that_is_too_large_for_http_is_refused() {
        let mut compressor = CCtx::create();
        compressor.set_parameter(CParameter::WindowLog(24)).unwrap();
        compressor.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
        let mut coded = vec![0; 1 << 16];
        let plain = vec![7; 17 << 20];
        let end = zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_end;
        let mut out = Vec::with_capacity(1 << 20);
        compressor.compress_stream2(&mut OutBuffer::around(&mut out), &mut InBuffer::around(&plain), end).unwrap();
        coded.clear();
        assert_eq!(decode(Coding::Zstd, &out, 20 << 20).unwrap_err(), Undecodable::Malformed);
    }
}
