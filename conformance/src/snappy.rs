//! The Snappy framing format (spec/03-compression.md, 3.4), read by the suite's own code: chunks, checksums, blocks.
//! Only the compressor of blocks is a library's.

/// The stream identifier chunk.
pub const STREAM_ID: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";

/// The most plain bytes of a chunk.
const CHUNK: usize = 65_536;

/// Appends `plain` as chunks.
///
/// # Errors
///
/// The compressor does not do what it promises: a defect of the suite.
pub fn encode(plain: &[u8], wire: &mut Vec<u8>) -> Result<(), String> {
    for piece in plain.chunks(CHUNK) {
        let block = snap::raw::Encoder::new().compress_vec(piece).map_err(|error| error.to_string())?;
        let (kind, data) = if block.len() < piece.len() { (0, &block[..]) } else { (1, piece) };
        let length = (data.len() + 4) as u32;
        wire.push(kind);
        wire.extend_from_slice(&length.to_le_bytes()[..3]);
        wire.extend_from_slice(&masked_crc(piece).to_le_bytes());
        wire.extend_from_slice(data);
    }
    Ok(())
}

/// The masked CRC-32C of a chunk's plain bytes.
pub fn masked_crc(plain: &[u8]) -> u32 {
    let crc = !plain.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Reads chunks.
#[derive(Default)]
pub struct Decoder {
    /// Bytes of a chunk that is not complete.
    chunk: Vec<u8>,
    has_begun: bool,
}

/// The rule that is broken, and what is wrong.
type Wrong = (&'static str, String);

impl Decoder {
    /// Takes wire bytes and appends what they hold.
    ///
    /// # Errors
    ///
    /// The sender has broken a rule.
    pub fn take(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Result<(), Wrong> {
        self.chunk.extend_from_slice(wire);
        let mut at = 0;
        while let Some(header) = self.chunk[at..].first_chunk::<4>() {
            let length = u32::from_le_bytes([header[1], header[2], header[3], 0]) as usize;
            let Some(payload) = self.chunk.get(at + 4..at + 4 + length) else { break };
            let is_id = self.chunk[at..].starts_with(STREAM_ID) && length == 6;
            match header[0] {
                0xff if is_id => {}
                0xff => return Err(("R-snappy-stream-id", "a stream identifier that is none".into())),
                _ if !self.has_begun => {
                    return Err(("R-snappy-stream-id", format!("a chunk {:02x} before the identifier", header[0])));
                }
                0 | 1 => data(header[0], payload, plain)?,
                0xfe => {}
                other => return Err(("R-snappy-write-chunks", format!("a chunk of type {other:02x}"))),
            }
            self.has_begun = true;
            at += 4 + length;
        }
        self.chunk.drain(..at);
        Ok(())
    }

    /// Whether no chunk has begun and is not complete.
    pub fn is_at_boundary(&self) -> bool {
        self.chunk.is_empty()
    }
}

fn data(kind: u8, payload: &[u8], plain: &mut Vec<u8>) -> Result<(), Wrong> {
    let Some((crc, data)) = payload.split_first_chunk::<4>() else {
        return Err(("R-snappy-write-chunks", "a data chunk without a checksum".into()));
    };
    let before = plain.len();
    if kind == 1 {
        plain.extend_from_slice(data);
    } else {
        block(data, plain).ok_or_else(|| ("R-snappy-write-chunks", "a block that is not valid".to_owned()))?;
    }
    if plain.len() - before > CHUNK {
        return Err(("R-snappy-write-chunks", "a chunk of more than 65,536 plain bytes".into()));
    }
    if masked_crc(&plain[before..]) != u32::from_le_bytes(*crc) {
        return Err(("R-snappy-write-chunks", "a checksum that does not match".into()));
    }
    Ok(())
}

/// Appends the plain bytes of a block; `None` if it is corrupt.
fn block(mut data: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    let start = plain.len();
    let (mut length, mut shift) = (0u64, 0);
    loop {
        let byte = take(&mut data, 1)?[0];
        length |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        } else if shift > 28 {
            return None;
        }
    }
    while !data.is_empty() {
        let tag = take(&mut data, 1)?[0];
        let upper = usize::from(tag >> 2);
        let (length, offset) = match tag & 3 {
            0 => {
                let length = if upper < 60 { upper } else { little(take(&mut data, upper - 59)?) };
                plain.extend_from_slice(take(&mut data, length.checked_add(1)?)?);
                continue;
            }
            1 => (4 + (upper & 7), (usize::from(tag >> 5) << 8) | little(take(&mut data, 1)?)),
            2 => (1 + upper, little(take(&mut data, 2)?)),
            _ => (1 + upper, little(take(&mut data, 4)?)),
        };
        let from = (plain.len() - start).checked_sub(offset).filter(|_| offset > 0)? + start;
        for at in from..from + length {
            plain.push(plain[at]);
        }
    }
    ((plain.len() - start) as u64 == length).then_some(())
}

fn take<'d>(data: &mut &'d [u8], length: usize) -> Option<&'d [u8]> {
    let (taken, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(taken)
}

fn little(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        let masked = 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(b"123456789"), masked);
    }

    #[test]
    fn corrupt_blocks_are_noticed() {
        let corrupt: [&[u8]; 5] = [b"", b"\x02\x00a", b"\x04\x01\x01", b"\x01\x04ab", b"\x05\x00a\x01\x00"];
        for block_ in corrupt {
            assert_eq!(block(block_, &mut Vec::new()), None, "{block_:?}");
        }
        let mut plain = b"before".to_vec();
        assert_eq!(block(b"\x09\x00a\x11\x01", &mut plain), Some(()));
        assert_eq!(plain, b"beforeaaaaaaaaa");
    }
}
