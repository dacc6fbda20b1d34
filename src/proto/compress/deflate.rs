//! Compression 0: raw DEFLATE, every batch ended by a sync flush.

use bytes::BytesMut;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::STEP_BYTES;
use crate::proto::error::ErrorKind;

/// Room that is always offered to the deflater: a sync flush must not meet a nearly full buffer, or it is written
/// twice.
const ROOM: usize = 256;

pub(crate) struct Encoder {
    deflater: Compress,
}

impl Encoder {
    pub(super) fn new(level: u8) -> Self {
        Self { deflater: Compress::new(flate2::Compression::new(u32::from(level)), false) }
    }

    pub(super) fn set_level(&mut self, level: u8) {
        // Refused where the new level works in another way than the old one. Behind a sync flush another deflater can go
        // on just as well: it only has no history to refer to.
        if self.deflater.set_level(flate2::Compression::new(u32::from(level))).is_err() {
            *self = Self::new(level);
        }
    }

    pub(super) fn encode(&mut self, mut batch: &[u8], wire: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        loop {
            wire.reserve(ROOM + batch.len() / 4);
            let before = self.deflater.total_in();
            let result = self.deflater.compress_vec(batch, wire, FlushCompress::Sync);
            debug_assert!(result.is_ok(), "a deflater that was never finished accepts any input");
            let taken = (self.deflater.total_in() - before) as usize;
            batch = &batch[taken..];
            // Output with room to spare is how the deflater says that the flush is complete.
            if result.is_err() || wire.len() < wire.capacity() {
                return;
            }
        }
    }
}

pub(crate) struct Decoder {
    inflater: Decompress,
    /// Where the inflater writes: it needs initialised memory, which is made once.
    step: Box<[u8]>,
    ended: bool,
    /// The latest wire bytes, the last one lowest: at a flush point they are `00 00 ff ff`.
    tail: u32,
}

/// What a sync flush leaves at the end of the wire (R-deflate-sync-flush).
const FLUSH_POINT: u32 = 0x0000_ffff;

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflater: Decompress::new(false), step: vec![0; STEP_BYTES / 4].into(), ended: false, tail: FLUSH_POINT }
    }

    /// Whether the wire ends where no sender that keeps the rules stops (R-eof-deflate).
    pub(super) fn is_between_flushes(&self) -> bool {
        self.tail != FLUSH_POINT
    }

    pub(super) fn decode(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        if self.ended {
            return Err(ErrorKind::DeflateEnded);
        }
        let (taken, made) = (self.inflater.total_in(), self.inflater.total_out());
        let result = self.inflater.decompress(wire, &mut self.step, FlushDecompress::Sync);
        let taken = (self.inflater.total_in() - taken) as usize;
        let made = (self.inflater.total_out() - made) as usize;
        // What was decoded before an error counts: the error must not depend on how the input was cut.
        plain.extend_from_slice(&self.step[..made]);
        self.tail = wire[taken.saturating_sub(4)..taken].iter().fold(self.tail, |tail, b| tail << 8 | u32::from(*b));
        match result {
            // The final block is reported with the next call, after what it held.
            Ok(Status::StreamEnd) if made > 0 || taken > 0 => {
                self.ended = true;
                Ok(taken)
            }
            Ok(Status::StreamEnd) => Err(ErrorKind::DeflateEnded),
            Ok(Status::Ok | Status::BufError) => Ok(taken),
            Err(_) => Err(ErrorKind::DeflateCorrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::decode_cut;
    use super::*;
    use crate::proto::config::Compression;

    #[test]
    fn a_batch_ends_with_a_sync_flush_on_a_byte_boundary() {
        // R-deflate-sync-flush
        let mut encoder = Encoder::new(6);
        for n in [1, 10, 1000, 70_000, 1_000_000] {
            let batch: Vec<u8> = (0..n).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let mut wire = Vec::new();
            encoder.encode(&batch, &mut wire);
            assert!(wire.ends_with(&[0, 0, 0xff, 0xff]));
        }
    }

    #[test]
    fn a_final_block_ends_the_stream_after_its_content() {
        // R-deflate-no-final: `03 00` is an empty final block.
        let mut wire = Vec::new();
        Encoder::new(6).encode(b"hello", &mut wire);
        wire.extend([0x03, 0x00, 0xaa]);
        for cut in [1, 2, 3, 1000] {
            let (plain, error) = decode_cut(Compression::Deflate, &wire, std::iter::repeat_n(cut, wire.len()));
            assert_eq!((&plain[..], error), (&b"hello"[..], Some(ErrorKind::DeflateEnded)));
        }
    }

    #[test]
    fn stored_fixed_and_dynamic_blocks_are_read() {
        use flate2::{Compress, Compression as Level};
        let text = b"GET /a HTTP/1.1\r\nHost: h.example\r\n\r\n".repeat(40);
        for level in 0..=9 {
            let mut wire = Vec::with_capacity(1 << 16);
            Compress::new(Level::new(level), false).compress_vec(&text, &mut wire, FlushCompress::Sync).unwrap();
            let (plain, error) = decode_cut(Compression::Deflate, &wire, std::iter::empty());
            assert_eq!(error, None);
            assert!(plain == text);
        }
    }
}
