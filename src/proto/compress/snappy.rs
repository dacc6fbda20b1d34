//! Compression 2: the snappy framing format. Chunks are this module's work, blocks are `snap`'s.

use bytes::{Buf, BytesMut};
use nom::bytes::complete::tag;
use nom::number::complete::{le_u24, le_u32, u8};
use nom::{IResult, Parser};

use crate::proto::error::ErrorKind;

/// The chunk that opens a stream (R-snappy-stream-id).
const STREAM_ID: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";
const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const IDENTIFIER: u8 = 0xff;
/// Most plain bytes in a chunk.
const MAX_BLOCK: usize = 64 * 1024;
const HEADER_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;
/// Longest content of a compressed chunk: the checksum and the longest block that 64 KiB compress to.
const MAX_COMPRESSED: usize = CHECKSUM_BYTES + 76_490;

pub(crate) struct Encoder {
    blocks: snap::raw::Encoder,
    started: bool,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { blocks: snap::raw::Encoder::new(), started: false }
    }

    pub(super) fn encode(&mut self, batch: &[u8], wire: &mut Vec<u8>) {
        for block in batch.chunks(MAX_BLOCK) {
            if !self.started {
                self.started = true;
                wire.extend_from_slice(STREAM_ID);
            }
            self.encode_chunk(block, wire);
        }
    }

    fn encode_chunk(&mut self, block: &[u8], wire: &mut Vec<u8>) {
        let start = wire.len();
        let content = start + HEADER_BYTES + CHECKSUM_BYTES;
        wire.resize(content + snap::raw::max_compress_len(block.len()), 0);
        let made = self.blocks.compress(block, &mut wire[content..]);
        debug_assert!(made.is_ok(), "the block is small enough and the room large enough");
        // A block that hardly shrinks goes as it is: the receiver is spared the work.
        let kind = match made {
            Ok(made) if made < block.len() - block.len() / 8 => {
                wire.truncate(content + made);
                COMPRESSED
            }
            _ => {
                wire.truncate(content);
                wire.extend_from_slice(block);
                UNCOMPRESSED
            }
        };
        let length = (wire.len() - start - HEADER_BYTES) as u32;
        wire[start..start + HEADER_BYTES].copy_from_slice(&(length << 8 | u32::from(kind)).to_le_bytes());
        wire[start + HEADER_BYTES..content].copy_from_slice(&masked_crc(block).to_le_bytes());
    }
}

/// CRC-32C as the framing format masks it, so that a checksum over checksums keeps its worth.
fn masked_crc(block: &[u8]) -> u32 {
    crc32c::crc32c(block).rotate_right(15).wrapping_add(0xa282_ead8)
}

pub(crate) struct Decoder {
    blocks: snap::raw::Decoder,
    started: bool,
    /// The chunk that is arriving, header included. Never longer than the longest chunk that must be kept.
    chunk: BytesMut,
    /// Content of a skippable chunk still to pass over.
    skip: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { blocks: snap::raw::Decoder::new(), started: false, chunk: BytesMut::new(), skip: 0 }
    }

    pub(super) fn is_inside_chunk(&self) -> bool {
        self.skip > 0 || !self.chunk.is_empty()
    }

    pub(super) fn decode(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        if self.skip > 0 {
            let taken = self.skip.min(wire.len());
            self.skip -= taken;
            return Ok(taken);
        }
        if self.chunk.len() < HEADER_BYTES {
            let taken = self.fill(wire, HEADER_BYTES);
            if let Ok((_, (kind, length))) = header(&self.chunk) {
                self.begin(kind, length)?;
            }
            return Ok(taken);
        }
        let Ok((_, (kind, length))) = header(&self.chunk) else {
            return Ok(0);
        };
        let whole = HEADER_BYTES + length as usize;
        let taken = self.fill(wire, whole);
        if self.chunk.len() == whole {
            self.chunk.advance(HEADER_BYTES);
            self.finish(kind, plain)?;
            self.chunk.clear();
        }
        Ok(taken)
    }

    /// Moves bytes from `wire` to the chunk until it has `want`; returns how many.
    fn fill(&mut self, wire: &[u8], want: usize) -> usize {
        let taken = want.saturating_sub(self.chunk.len()).min(wire.len());
        self.chunk.extend_from_slice(&wire[..taken]);
        taken
    }

    /// Judges a chunk by its header, before any of its content is kept.
    fn begin(&mut self, kind: u8, length: u32) -> Result<(), ErrorKind> {
        if !self.started && kind != IDENTIFIER {
            return Err(ErrorKind::SnappyStreamId);
        }
        let allowed = match kind {
            COMPRESSED => CHECKSUM_BYTES..=MAX_COMPRESSED,
            UNCOMPRESSED => CHECKSUM_BYTES..=CHECKSUM_BYTES + MAX_BLOCK,
            IDENTIFIER if length as usize + HEADER_BYTES != STREAM_ID.len() => {
                return Err(ErrorKind::SnappyStreamId);
            }
            IDENTIFIER => return Ok(()),
            0x02..=0x7f => return Err(ErrorKind::SnappyChunkType(kind)),
            0x80..=0xfe => {
                self.skip = length as usize;
                self.chunk.clear();
                return Ok(());
            }
        };
        if allowed.contains(&(length as usize)) { Ok(()) } else { Err(ErrorKind::SnappyChunkLength(length)) }
    }

    /// Decodes the content of a whole chunk that [`Decoder::begin`] let pass.
    fn finish(&mut self, kind: u8, plain: &mut BytesMut) -> Result<(), ErrorKind> {
        if kind == IDENTIFIER {
            self.started = true;
            let id: IResult<&[u8], &[u8]> = tag(&STREAM_ID[HEADER_BYTES..]).parse(&self.chunk[..]);
            return id.map(drop).map_err(|_| ErrorKind::SnappyStreamId);
        }
        let (block, crc) = checksum(&self.chunk).map_err(|_| ErrorKind::SnappyCorrupt)?;
        let start = plain.len();
        if kind == COMPRESSED {
            let made = snap::raw::decompress_len(block).map_err(|_| ErrorKind::SnappyCorrupt)?;
            if made > MAX_BLOCK {
                return Err(ErrorKind::SnappyCorrupt);
            }
            plain.resize(start + made, 0);
            if self.blocks.decompress(block, &mut plain[start..]).is_err() {
                plain.truncate(start);
                return Err(ErrorKind::SnappyCorrupt);
            }
        } else {
            plain.extend_from_slice(block);
        }
        if masked_crc(&plain[start..]) != crc {
            plain.truncate(start);
            return Err(ErrorKind::SnappyChecksum);
        }
        Ok(())
    }
}

/// A chunk's type and the length of its content.
fn header(bytes: &[u8]) -> IResult<&[u8], (u8, u32)> {
    (u8, le_u24).parse(bytes)
}

fn checksum(bytes: &[u8]) -> IResult<&[u8], u32> {
    le_u32(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode_cut;
    use super::*;
    use crate::proto::config::Compression;

    const HELLO_CHUNK: &[u8] = b"\x01\x09\x00\x00\xbb\x1f\x1c\x19hello";

    fn decode(parts: &[&[u8]]) -> (Vec<u8>, Option<ErrorKind>) {
        let wire = parts.concat();
        let whole = decode_cut(Compression::Snappy, &wire, std::iter::empty());
        let bytewise = decode_cut(Compression::Snappy, &wire, std::iter::repeat_n(1, wire.len()));
        assert_eq!(whole, bytewise);
        whole
    }

    #[test]
    fn the_stream_identifier_is_written_once() {
        let mut encoder = Encoder::new();
        let mut wire = Vec::new();
        encoder.encode(b"hello", &mut wire);
        assert_eq!(wire, [&STREAM_ID[..], HELLO_CHUNK].concat());
        wire.clear();
        encoder.encode(b"hello", &mut wire);
        assert_eq!(wire, HELLO_CHUNK);
    }

    #[test]
    fn chunks_of_each_kind() {
        let hello = b"hello".to_vec();
        let padding: &[u8] = b"\xfe\x03\x00\x00abc";
        let long_skippable = [&b"\x80\x00\x00\x02"[..], &[7; 0x02_0000]].concat();
        assert_eq!(decode(&[STREAM_ID, HELLO_CHUNK]), (hello.clone(), None));
        assert_eq!(decode(&[STREAM_ID, padding, HELLO_CHUNK]), (hello.clone(), None));
        assert_eq!(decode(&[STREAM_ID, b"\xfe\x00\x00\x00", HELLO_CHUNK]), (hello.clone(), None));
        assert_eq!(decode(&[STREAM_ID, &long_skippable, HELLO_CHUNK]), (hello.clone(), None));
        assert_eq!(decode(&[STREAM_ID, STREAM_ID, HELLO_CHUNK]), (hello, None));
    }

    #[test]
    fn each_fault_has_its_code() {
        let mut bad_crc = HELLO_CHUNK.to_vec();
        bad_crc[4] ^= 1;
        let cases: [(&[&[u8]], ErrorKind); 9] = [
            (&[HELLO_CHUNK], ErrorKind::SnappyStreamId),
            (&[b"\xff\x06\x00\x00sNaPpX"], ErrorKind::SnappyStreamId),
            (&[b"\xff\x05\x00\x00sNaPp"], ErrorKind::SnappyStreamId),
            (&[STREAM_ID, &bad_crc], ErrorKind::SnappyChecksum),
            (&[STREAM_ID, b"\x02\x01\x00\x00\x00"], ErrorKind::SnappyChunkType(2)),
            (&[STREAM_ID, b"\x7f\x00\x00\x00"], ErrorKind::SnappyChunkType(0x7f)),
            (&[STREAM_ID, b"\x00\x03\x00\x00abc"], ErrorKind::SnappyChunkLength(3)),
            (&[STREAM_ID, b"\x01\x05\x00\x01"], ErrorKind::SnappyChunkLength(0x01_0005)),
            (&[STREAM_ID, b"\x00\x06\x00\x00abcd\xff\xff"], ErrorKind::SnappyCorrupt),
        ];
        for (parts, error) in cases {
            assert_eq!(decode(parts), (Vec::new(), Some(error)), "{parts:x?}");
        }
    }

    #[test]
    fn a_block_of_the_greatest_size_passes() {
        let block: Vec<u8> = (0..MAX_BLOCK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut wire = Vec::new();
        Encoder::new().encode(&block, &mut wire);
        assert!(decode(&[&wire]) == (block, None));
    }
}
