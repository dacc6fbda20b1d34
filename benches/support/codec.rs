//! Codecs as such, without the core.

use std::fmt;
use std::io::{Cursor, Read, Write};

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use httpteleport::proto::Compression;

use super::cpu_time;

/// A compression and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None,
    Snappy,
    Deflate(u8),
    #[cfg(feature = "zstd")]
    Zstd(u8),
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Snappy => f.write_str("snappy"),
            Self::Deflate(level) => write!(f, "deflate-{level}"),
            #[cfg(feature = "zstd")]
            Self::Zstd(level) => write!(f, "zstd-{level}"),
        }
    }
}

impl Codec {
    /// All that a link can be given.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::None, Self::Snappy];
        all.extend((1..=9).map(Self::Deflate));
        #[cfg(feature = "zstd")]
        all.extend((1..=9).map(Self::Zstd));
        all
    }

    pub fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Snappy => Compression::Snappy,
            Self::Deflate(_) => Compression::Deflate,
            #[cfg(feature = "zstd")]
            Self::Zstd(_) => Compression::Zstd,
        }
    }

    pub fn level(self) -> Option<u8> {
        match self {
            Self::None | Self::Snappy => None,
            Self::Deflate(level) => Some(level),
            #[cfg(feature = "zstd")]
            Self::Zstd(level) => Some(level),
        }
    }

    /// Compresses and decompresses batches as one stream, flushed after each; returns the CPU seconds of each way. Snappy is
    /// the framing format as `snap` has it, checksums included, as on a link.
    pub fn bare(self, batches: &[Vec<u8>]) -> (f64, f64) {
        match self {
            Self::None => timed(
                batches,
                |batch, wire| wire.extend_from_slice(batch),
                |wire, plain| {
                    plain.extend_from_slice(wire);
                },
            ),
            Self::Snappy => bare_snappy(batches),
            Self::Deflate(level) => {
                let mut deflater = Compress::new(flate2::Compression::new(level.into()), false);
                let mut inflater = Decompress::new(false);
                let compress = |mut batch: &[u8], wire: &mut Vec<u8>| {
                    loop {
                        wire.reserve(256 + batch.len() / 2);
                        let before = deflater.total_in();
                        deflater.compress_vec(batch, wire, FlushCompress::Sync).expect("any input is good");
                        batch = &batch[(deflater.total_in() - before) as usize..];
                        if wire.len() < wire.capacity() {
                            return;
                        }
                    }
                };
                timed(batches, compress, |mut wire, plain| {
                    loop {
                        plain.reserve(16 * 1024);
                        let before = inflater.total_in();
                        inflater.decompress_vec(wire, plain, FlushDecompress::Sync).expect("it was compressed");
                        wire = &wire[(inflater.total_in() - before) as usize..];
                        if wire.is_empty() && plain.len() < plain.capacity() {
                            return;
                        }
                    }
                })
            }
            #[cfg(feature = "zstd")]
            Self::Zstd(level) => bare_zstd(batches, level),
        }
    }
}

fn bare_snappy(batches: &[Vec<u8>]) -> (f64, f64) {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    let mut decoder = snap::read::FrameDecoder::new(Cursor::new(Vec::new()));
    let mut block = vec![0; 64 * 1024];
    let compress = |batch: &[u8], wire: &mut Vec<u8>| {
        wire.reserve(256 + batch.len() / 2);
        std::mem::swap(encoder.get_mut(), wire);
        encoder.write_all(batch).expect("a vector takes all");
        encoder.flush().expect("a vector takes all");
        std::mem::swap(encoder.get_mut(), wire);
    };
    timed(batches, compress, |wire, plain| {
        let input = decoder.get_mut();
        input.set_position(0);
        input.get_mut().clear();
        input.get_mut().extend_from_slice(wire);
        // That its input ends is no end of the stream: the next batch goes on.
        loop {
            match decoder.read(&mut block).expect("it was compressed") {
                0 => return,
                made => plain.extend_from_slice(&block[..made]),
            }
        }
    })
}

#[cfg(feature = "zstd")]
fn bare_zstd(batches: &[Vec<u8>], level: u8) -> (f64, f64) {
    use zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush;
    use zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer};
    let (mut encoder, mut decoder) = (CCtx::create(), DCtx::create());
    encoder.set_parameter(CParameter::CompressionLevel(level.into())).expect("it is a level");
    // As on a link, whose decoders have a window of 2 MiB.
    encoder.set_parameter(CParameter::WindowLog(21)).expect("it is a window");
    let compress = |batch: &[u8], wire: &mut Vec<u8>| {
        let mut input = InBuffer::around(batch);
        loop {
            let position = wire.len();
            wire.reserve(256 + batch.len() / 2);
            let mut output = OutBuffer::around_pos(wire, position);
            let left = encoder.compress_stream2(&mut output, &mut input, ZSTD_e_flush).expect("any input is good");
            if left == 0 && input.pos() == batch.len() {
                return;
            }
        }
    };
    timed(batches, compress, |wire, plain| {
        let mut input = InBuffer::around(wire);
        loop {
            let position = plain.len();
            plain.reserve(16 * 1024);
            let mut output = OutBuffer::around_pos(plain, position);
            decoder.decompress_stream(&mut output, &mut input).expect("it was compressed");
            if input.pos() == wire.len() && plain.len() < plain.capacity() {
                return;
            }
        }
    })
}

fn timed(
    batches: &[Vec<u8>],
    mut compress: impl FnMut(&[u8], &mut Vec<u8>),
    mut decompress: impl FnMut(&[u8], &mut Vec<u8>),
) -> (f64, f64) {
    let begin = cpu_time();
    let compressed = batches.iter().map(|batch| {
        let mut wire = Vec::new();
        compress(batch, &mut wire);
        wire
    });
    let compressed: Vec<Vec<u8>> = compressed.collect();
    let middle = cpu_time();
    let mut plain = Vec::new();
    for (wire, batch) in compressed.iter().zip(batches) {
        plain.clear();
        decompress(wire, &mut plain);
        assert_eq!(plain.len(), batch.len());
    }
    ((middle - begin).as_secs_f64(), (cpu_time() - middle).as_secs_f64())
}
