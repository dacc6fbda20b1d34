//! Zstandard frames (spec/03-compression.md, 3.6), written and cut by the suite's own code. Only the content of blocks is
//! read by a library, which is not the core's.

use ruzstd::decoding::FrameDecoder;

/// The magic number of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A header that says nothing but the window, 2^21.
const HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
/// The most plain bytes of a block.
const BLOCK: usize = 128 << 10;
/// The largest window.
const WINDOW: u64 = 1 << 21;

/// Appends `plain` as raw blocks, behind a frame header if the stream begins.
pub fn encode(plain: &[u8], is_first: bool, wire: &mut Vec<u8>) {
    if is_first {
        wire.extend_from_slice(&HEADER);
    }
    for block in plain.chunks(BLOCK) {
        wire.extend_from_slice(&((block.len() as u32) << 3).to_le_bytes()[..3]);
        wire.extend_from_slice(block);
    }
}

/// Reads a stream.
#[derive(Default)]
pub struct Decoder {
    /// The whole stream: the library gives nothing out before the window is full or the frame ends, so that for each
    /// output it is given all of it again, with an end.
    wire: Vec<u8>,
    /// How much of it is whole blocks and frames.
    whole: usize,
    /// How many plain bytes were given out.
    given: usize,
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
        self.wire.extend_from_slice(wire);
        let walked = walk(&self.wire)?;
        if walked.whole == self.whole {
            return Ok(());
        }
        self.whole = walked.whole;
        let ended = [&self.wire[..self.whole], walked.end].concat();
        let mut all = Vec::with_capacity(walked.blocks * BLOCK);
        let read = FrameDecoder::new().decode_all_to_vec(&ended, &mut all);
        read.map_err(|error| ("R-zstd-frames", format!("no valid Zstandard frames: {error}")))?;
        plain.extend_from_slice(all.get(self.given..).unwrap_or_default());
        self.given = all.len();
        Ok(())
    }

    /// Whether no block or header has begun and is not complete.
    pub fn is_at_boundary(&self) -> bool {
        self.whole == self.wire.len()
    }
}

/// Where the whole blocks of a stream end, and what has to follow so that it is whole frames.
struct Walked {
    whole: usize,
    end: &'static [u8],
    blocks: usize,
}

/// Goes over headers, blocks and frames.
fn walk(wire: &[u8]) -> Result<Walked, Wrong> {
    let mut walked = Walked { whole: 0, end: b"", blocks: 1 };
    // Bytes of the checksum of the frame that is open.
    let mut open = None;
    loop {
        let rest = &wire[walked.whole..];
        let length = match open {
            Some(checksum) => {
                let Some(header) = rest.first_chunk::<3>() else { break };
                let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
                let content = match header >> 1 & 3 {
                    1 => 1,
                    3 => return Err(("R-zstd-frames", "a block of type 3".into())),
                    _ => header as usize >> 3,
                };
                let is_last = header & 1 == 1;
                let length = 3 + content + if is_last { checksum } else { 0 };
                if rest.len() < length {
                    break;
                }
                if is_last {
                    open = None;
                }
                walked.blocks += 1;
                length
            }
            None => {
                let Some(magic) = rest.first_chunk::<4>() else { break };
                if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
                    let Some(length) = rest[4..].first_chunk::<4>() else { break };
                    8 + u32::from_le_bytes(*length) as usize
                } else if *magic == MAGIC {
                    let Some((length, checksum)) = frame_header(&rest[4..])? else { break };
                    open = Some(checksum);
                    4 + length
                } else {
                    return Err(("R-zstd-frames", format!("{magic:02x?} where a frame should begin")));
                }
            }
        };
        if rest.len() < length {
            break;
        }
        walked.whole += length;
        walked.end = match open {
            None => b"",
            Some(0) => b"\x01\0\0",
            Some(_) => b"\x01\0\0\0\0\0\0",
        };
    }
    Ok(walked)
}

/// Length of a frame header without its magic number, and of the checksum behind the frame; `None` if it is not whole.
fn frame_header(bytes: &[u8]) -> Result<Option<(usize, usize)>, Wrong> {
    let Some(&descriptor) = bytes.first() else { return Ok(None) };
    let is_single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(is_single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let length = 1 + usize::from(!is_single) + dictionary + size;
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let window = match is_single {
        true => number(&header[length - size..]) + if size == 2 { 256 } else { 0 },
        false => {
            let base = 1u64 << (10 + (header[1] >> 3));
            base + base / 8 * u64::from(header[1] & 7)
        }
    };
    if window > WINDOW {
        return Err(("R-zstd-window", format!("a window of {window} bytes")));
    }
    let begin = 1 + usize::from(!is_single);
    match number(&header[begin..begin + dictionary]) {
        0 => Ok(Some((length, if descriptor & 4 == 0 { 0 } else { 4 }))),
        id => Err(("R-zstd-dictionary", format!("the dictionary {id}"))),
    }
}
