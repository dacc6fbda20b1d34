//! Compression 3: Zstandard frames (RFC 8878), every batch ended by the end of a block.
//!
//! Where frames and blocks begin and end is this module's work, what is in a block is libzstd's. It is given one unit at
//! a time: a header, or bytes of one block. So the rules about headers are judged here, before it allocates anything; and
//! an error in a block, with which it loses what the same call has decoded, costs nothing of the block before. It finds
//! faults of a raw block only as bytes of the block come, however many come at once: what its header tells, its length and
//! the content of the frame, is judged here too, so that no verdict depends on how the input was cut (R-cut-any).

use bytes::BytesMut;
use zstd_safe::zstd_sys::ZSTD_EndDirective::{self, ZSTD_e_end, ZSTD_e_flush};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, DictAttachPref, InBuffer, OutBuffer, Strategy};

use super::STEP_BYTES;
use crate::proto::config::Dictionary;
use crate::proto::error::ErrorKind;

/// The largest window, as a power of 2 (R-zstd-window).
const WINDOW_LOG: u32 = 21;
/// Room that is always offered to the compressor, for headers and the end of a frame.
const ROOM: usize = 64;

pub(crate) struct Encoder {
    compressor: CCtx<'static>,
    /// A frame has begun.
    is_inside_frame: bool,
    /// The level from the next batch on, if it changes.
    next_level: Option<u8>,
    level: u8,
    dictionary: Option<Dictionary>,
    history: History,
}

/// What libzstd 1.5.7 takes for the levels 1 to 9 where it does not know how much is to come: logarithms of its chains,
/// hashes and searches, the shortest match, the target length. With a dictionary, and nothing said, it chooses for
/// streams as short as that, and makes more bytes of long ones than without; also where it attaches the dictionary with
/// tables of its own (`ForceLoad` has it not).
const PARAMETERS: [(u32, u32, u32, u32, u32, Strategy); 9] = [
    (13, 14, 1, 7, 0, Strategy::ZSTD_fast),
    (15, 16, 1, 6, 0, Strategy::ZSTD_fast),
    (16, 17, 1, 5, 0, Strategy::ZSTD_dfast),
    (18, 18, 1, 5, 0, Strategy::ZSTD_dfast),
    (18, 19, 3, 5, 2, Strategy::ZSTD_greedy),
    (18, 19, 3, 5, 4, Strategy::ZSTD_lazy),
    (19, 20, 4, 5, 8, Strategy::ZSTD_lazy),
    (19, 20, 4, 5, 16, Strategy::ZSTD_lazy2),
    (20, 21, 4, 5, 16, Strategy::ZSTD_lazy2),
];

/// How much of a window was ever filled. libzstd asks for all of one at once; what nothing was written to takes no memory.
struct History {
    window: usize,
    filled: usize,
}

impl History {
    fn note(&mut self, bytes: usize) {
        self.filled = self.filled.saturating_add(bytes);
    }

    /// What `allocated`, of which the window is a part, takes.
    fn taken_of(&self, allocated: usize) -> usize {
        allocated.saturating_sub(self.window.saturating_sub(self.filled))
    }
}

impl Encoder {
    pub(super) fn new(level: u8, dictionary: Option<&Dictionary>) -> Self {
        let mut compressor = CCtx::create();
        let window = compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG));
        debug_assert!(window.is_ok(), "the window is one that libzstd has");
        let history = History { window: 1 << WINDOW_LOG, filled: 0 };
        let dictionary = dictionary.cloned();
        Self { compressor, is_inside_frame: false, next_level: Some(level), level, dictionary, history }
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        self.history.taken_of(self.compressor.sizeof())
    }

    /// libzstd takes another level in the middle of a frame, without an error and without any effect (unless it has
    /// threads of its own): the frame ends, and another begins with the next batch.
    pub(super) fn set_level(&mut self, level: u8) {
        self.next_level = (level != self.level || !self.is_inside_frame).then_some(level);
    }

    pub(super) fn encode(&mut self, batch: &[u8], wire: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        if let Some(level) = self.next_level.take() {
            if std::mem::take(&mut self.is_inside_frame) {
                self.compress(&[], wire, ZSTD_e_end);
            }
            self.level = level;
            self.prepare_frame();
        }
        self.is_inside_frame = true;
        self.history.note(batch.len());
        self.compress(batch, wire, ZSTD_e_flush);
    }

    /// Between frames the parameters are free.
    fn prepare_frame(&mut self) {
        let Self { compressor, dictionary, level, .. } = self;
        let set = compressor.set_parameter(CParameter::CompressionLevel(i32::from(*level)));
        debug_assert!(set.is_ok(), "a level that libzstd has");
        let Some(dictionary) = dictionary else { return };
        let (chain, hash, search, shortest, target, strategy) = PARAMETERS[usize::from(*level).clamp(1, 9) - 1];
        let parameters = [
            CParameter::ChainLog(chain),
            CParameter::HashLog(hash),
            CParameter::SearchLog(search),
            CParameter::MinMatch(shortest),
            CParameter::TargetLength(target),
            CParameter::Strategy(strategy),
            CParameter::ForceAttachDict(DictAttachPref::ForceLoad),
        ];
        let set = parameters.into_iter().try_for_each(|parameter| compressor.set_parameter(parameter).map(drop));
        debug_assert!(set.is_ok(), "they are libzstd's own");
        // Again with each level: what it makes of a dictionary is for the parameters of that time.
        let loaded = compressor.load_dictionary(dictionary.as_bytes());
        debug_assert!(loaded.is_ok(), "it was tried when it was made");
    }

    fn compress(&mut self, plain: &[u8], wire: &mut Vec<u8>, end: ZSTD_EndDirective) {
        let mut input = InBuffer::around(plain);
        loop {
            // With room for all of it libzstd writes here at once, and not first to a buffer of its own.
            wire.reserve(ROOM + zstd_safe::compress_bound(plain.len() - input.pos()));
            let at = wire.len();
            let left = self.compressor.compress_stream2(&mut OutBuffer::around_pos(wire, at), &mut input, end);
            debug_assert!(left.is_ok(), "memory is all that a compressor can lack");
            if !matches!(left, Ok(1..)) {
                return;
            }
        }
    }
}

/// What the next bytes of the wire are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// The magic number of a frame, or the start of a skippable frame.
    Magic,
    /// The rest of a frame's header.
    FrameHeader,
    BlockHeader,
    /// Content of a block, so many bytes.
    Block(u32),
    /// The checksum behind the last block, so many bytes.
    Checksum(u32),
    /// The length of a skippable frame, with its magic number before.
    SkippableHeader,
    /// Content of a skippable frame, so many bytes.
    Skipped(u32),
}

pub(crate) struct Decoder {
    /// Made for the first frame.
    decompressor: Option<DCtx<'static>>,
    dictionaries: Vec<Dictionary>,
    /// The id of that which all frames need, 0 for none, once the first has said it.
    needs: Option<u32>,
    /// Where the decompressor writes: it needs initialised memory, which is made once.
    step: Box<[u8]>,
    unit: Unit,
    /// The bytes of a header, until it is whole.
    header: Vec<u8>,
    /// What the header of the frame under way says.
    frame: FrameHeader,
    /// The block under way is the last of its frame.
    is_last: bool,
    /// Of the largest window so far.
    history: History,
    /// The decompressor may hold more than it has given out.
    may_have_more: bool,
    error: Option<ErrorKind>,
}

/// Bytes of a magic number.
const MAGIC_BYTES: usize = 4;
const MAGIC: [u8; MAGIC_BYTES] = 0xfd2f_b528_u32.to_le_bytes();
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: u32 = 4;
/// Types of blocks.
const REPEATED: u32 = 1;
const COMPRESSED: u32 = 2;
const RESERVED: u32 = 3;
/// The most bytes of a block, and of its content, in a window that is no smaller.
const MAX_BLOCK_BYTES: u64 = 128 << 10;

impl Decoder {
    pub(super) fn new(dictionaries: &[Dictionary]) -> Self {
        Self {
            decompressor: None,
            dictionaries: dictionaries.to_vec(),
            needs: None,
            step: vec![0; STEP_BYTES / 4].into(),
            unit: Unit::Magic,
            header: Vec::new(),
            frame: FrameHeader::default(),
            is_last: false,
            history: History { window: 0, filled: 0 },
            may_have_more: false,
            error: None,
        }
    }

    /// How many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        let allocated = self.decompressor.as_ref().map_or(0, |decompressor| decompressor.sizeof());
        self.history.taken_of(allocated) + self.step.len()
    }

    /// The dictionary that the stream needs, if it does and has said so.
    pub(super) fn dictionary(&self) -> Option<&Dictionary> {
        self.dictionaries.iter().find(|dictionary| self.needs == Some(dictionary.id()))
    }

    /// Whether anything but a whole block, or a whole frame, came last (R-eof-truncated).
    pub(super) fn is_inside_unit(&self) -> bool {
        !matches!(self.unit, Unit::Magic | Unit::BlockHeader) || !self.header.is_empty()
    }

    pub(super) fn decode(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        let mut taken = 0;
        let result = loop {
            let rest = &wire[taken..];
            let before = plain.len();
            match self.decode_some(rest, plain) {
                Ok(step) => {
                    taken += step;
                    // One write of the decompressor's is enough, and headers alone are none.
                    if plain.len() > before || (step == 0 && !self.may_have_more) {
                        break Ok(taken);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        match result {
            Err(error) => {
                self.error = Some(error.clone());
                // It is told with the next call if something came before it.
                if taken > 0 { Ok(taken) } else { Err(error) }
            }
            ok => ok,
        }
    }

    /// Takes bytes of one unit, or gives out what the decompressor still holds.
    fn decode_some(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if self.may_have_more {
            let before = plain.len();
            self.decompress(&[], plain)?;
            if plain.len() > before {
                return Ok(0);
            }
        }
        match self.unit {
            Unit::Block(left) | Unit::Checksum(left) => {
                let piece = &wire[..wire.len().min(left as usize)];
                if piece.is_empty() && left > 0 {
                    return Ok(0);
                }
                let taken = self.decompress(piece, plain)?;
                self.note_content(taken as u32);
                Ok(taken)
            }
            Unit::Skipped(left) => {
                let taken = wire.len().min(left as usize);
                self.note_content(taken as u32);
                Ok(taken)
            }
            Unit::Magic | Unit::FrameHeader | Unit::BlockHeader | Unit::SkippableHeader => {
                let taken = wire.len().min(self.header_bytes() - self.header.len());
                self.header.extend_from_slice(&wire[..taken]);
                if taken > 0 && self.header.len() == self.header_bytes() {
                    self.judge_header(plain)?;
                }
                Ok(taken)
            }
        }
    }

    /// Gives libzstd bytes of the unit under way; returns how many it took.
    fn decompress(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        let decompressor = self.decompressor.get_or_insert_with(decompressor);
        let mut input = InBuffer::around(wire);
        let mut output = OutBuffer::around(&mut self.step[..]);
        let result = decompressor.decompress_stream(&mut output, &mut input);
        let made = output.pos();
        result.map_err(|_| ErrorKind::ZstdCorrupt)?;
        // A buffer that was larger for a frame before lets libzstd go beyond the content of this one.
        self.frame.note_content(made)?;
        plain.extend_from_slice(&self.step[..made]);
        self.history.note(made);
        self.may_have_more = made == self.step.len();
        Ok(input.pos())
    }

    /// Judges the dictionary of a frame that is to begin, 0 for none; has the decompressor know it if the frame is the first.
    fn judge_dictionary(&mut self, id: u32) -> Result<(), ErrorKind> {
        match self.needs {
            Some(first) if first == id => return Ok(()),
            // To load one takes far longer than a short frame, of which there could be many.
            Some(_) => return Err(ErrorKind::ZstdDictionary(id)),
            None => {}
        }
        if id != 0 {
            let known = self.dictionaries.iter().find(|dictionary| dictionary.id() == id);
            let dictionary = known.ok_or(ErrorKind::ZstdDictionary(id))?;
            let decompressor = self.decompressor.get_or_insert_with(decompressor);
            let loaded = decompressor.load_dictionary(dictionary.as_bytes());
            debug_assert!(loaded.is_ok(), "it was tried when it was made");
        }
        self.needs = Some(id);
        Ok(())
    }

    /// How long the header under way is, as far as it tells.
    fn header_bytes(&self) -> usize {
        match self.unit {
            Unit::BlockHeader => BLOCK_HEADER_BYTES,
            Unit::SkippableHeader => MAGIC_BYTES + 4,
            Unit::FrameHeader => match self.header.get(MAGIC_BYTES) {
                None => MAGIC_BYTES + 1,
                Some(&descriptor) => FrameHeader::bytes(descriptor),
            },
            _ => MAGIC_BYTES,
        }
    }

    /// The header under way is as long as it told.
    fn judge_header(&mut self, plain: &mut BytesMut) -> Result<(), ErrorKind> {
        match self.unit {
            Unit::Magic => {
                self.unit = match self.header[..] {
                    [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Unit::SkippableHeader,
                    _ if self.header == MAGIC => Unit::FrameHeader,
                    _ => return Err(ErrorKind::ZstdCorrupt),
                };
                return Ok(());
            }
            // Its first byte has just told how long it is.
            Unit::FrameHeader if self.header.len() < self.header_bytes() => return Ok(()),
            Unit::FrameHeader => {
                let (frame, dictionary) = FrameHeader::check(&self.header[MAGIC_BYTES..])?;
                self.frame = frame;
                self.judge_dictionary(dictionary)?;
                self.history.window = self.history.window.max(self.frame.window as usize);
                self.unit = Unit::BlockHeader;
            }
            Unit::BlockHeader => {
                let header = u32::from_le_bytes([self.header[0], self.header[1], self.header[2], 0]);
                let (kind, size) = (header >> 1 & 3, header >> 3);
                self.is_last = header & 1 == 1;
                self.frame.check_block(kind, size, self.is_last)?;
                // A block of one repeated byte states how often.
                self.unit = Unit::Block(if kind == REPEATED { 1 } else { size });
            }
            _ => {
                let length = self.header[MAGIC_BYTES..].iter().rev().fold(0, |length, b| length << 8 | u32::from(*b));
                self.unit = Unit::Skipped(length);
                self.header.clear();
                self.note_content(0);
                return Ok(());
            }
        }
        let header = std::mem::take(&mut self.header);
        if self.decompress(&header, plain)? < header.len() {
            return Err(ErrorKind::ZstdCorrupt);
        }
        self.header = header;
        self.header.clear();
        if self.unit == Unit::Block(0) {
            self.note_content(0);
        }
        Ok(())
    }

    /// So many bytes of the unit under way have been taken; behind its last one there is another.
    fn note_content(&mut self, taken: u32) {
        self.unit = match self.unit {
            Unit::Block(left) if left > taken => Unit::Block(left - taken),
            Unit::Block(_) if !self.is_last => Unit::BlockHeader,
            Unit::Block(_) if self.frame.has_checksum => Unit::Checksum(CHECKSUM_BYTES),
            Unit::Checksum(left) if left > taken => Unit::Checksum(left - taken),
            Unit::Skipped(left) if left > taken => Unit::Skipped(left - taken),
            _ => Unit::Magic,
        };
    }
}

fn decompressor() -> DCtx<'static> {
    let mut decompressor = DCtx::create();
    let window = decompressor.set_parameter(DParameter::WindowLogMax(WINDOW_LOG));
    debug_assert!(window.is_ok(), "the window is one that libzstd has");
    decompressor
}

/// What of a frame's header concerns this module.
#[derive(Default)]
struct FrameHeader {
    has_checksum: bool,
    window: u64,
    /// How much of the content is still to come, if the header said how much there is.
    content_left: Option<u64>,
}

impl FrameHeader {
    /// Bytes of the fields behind the descriptor: window, dictionary id, content size.
    fn fields(descriptor: u8) -> (usize, usize, usize) {
        let is_single_segment = descriptor & 0x20 != 0;
        let content_size = match descriptor >> 6 {
            0 => usize::from(is_single_segment),
            flag => 1 << flag,
        };
        (usize::from(!is_single_segment), [0, 1, 2, 4][usize::from(descriptor & 3)], content_size)
    }

    /// Bytes of the header with this descriptor, magic number included.
    fn bytes(descriptor: u8) -> usize {
        let (window, dictionary, content_size) = Self::fields(descriptor);
        MAGIC_BYTES + 1 + window + dictionary + content_size
    }

    /// Judges a whole header, given without its magic number (R-zstd-judge). Returns the id of its dictionary, too; 0 if it
    /// needs none.
    fn check(header: &[u8]) -> Result<(Self, u32), ErrorKind> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (&descriptor, rest) = header.split_first().ok_or(ErrorKind::ZstdCorrupt)?;
        let (window, dictionary, content_size) = Self::fields(descriptor);
        let (window_bytes, rest) = rest.split_at(window);
        let (dictionary, content) = rest.split_at(dictionary);
        if descriptor & 0x08 != 0 {
            return Err(ErrorKind::ZstdCorrupt);
        }
        // With two bytes sizes begin at 256.
        let content_size = (content_size > 0).then(|| number(content) + if content_size == 2 { 256 } else { 0 });
        // There is always one or the other.
        let window = match window_bytes.first() {
            Some(&window) => (8 + u64::from(window & 7)) << (7 + (window >> 3)),
            None => content_size.unwrap_or_default(),
        };
        if window > 1 << WINDOW_LOG {
            return Err(ErrorKind::ZstdWindow(window));
        }
        let frame = Self { has_checksum: descriptor & 0x04 != 0, window, content_left: content_size };
        // The field has at most four bytes.
        Ok((frame, number(dictionary) as u32))
    }

    /// Judges the header of a block (R-zstd-judge). What a compressed block holds it does not tell.
    fn check_block(&self, kind: u32, size: u32, is_last: bool) -> Result<(), ErrorKind> {
        let size = u64::from(size);
        let fits = match self.content_left {
            Some(left) if kind != COMPRESSED => size <= left && (size == left || !is_last),
            _ => true,
        };
        // libzstd takes a compressed block of no bytes for an empty one.
        let is_empty = kind == COMPRESSED && size == 0;
        if kind == RESERVED || is_empty || size > self.window.min(MAX_BLOCK_BYTES) || !fits {
            return Err(ErrorKind::ZstdCorrupt);
        }
        Ok(())
    }

    /// So much more of the content has been decoded.
    fn note_content(&mut self, bytes: usize) -> Result<(), ErrorKind> {
        if let Some(left) = &mut self.content_left {
            *left = left.checked_sub(bytes as u64).ok_or(ErrorKind::ZstdCorrupt)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::decode_cut;
    use super::*;
    use crate::proto::config::{Compression, DictionaryError};

    const TEXT: &[u8] = b"GET /a HTTP/1.1\r\nHost: h.example\r\n\r\n";

    /// A frame header with the largest window.
    const HEADER: &[u8] = b"\x28\xb5\x2f\xfd\x00\x58";

    /// A block header.
    fn block(kind: u32, size: usize, is_last: bool) -> Vec<u8> {
        let header = (size as u32) << 3 | kind << 1 | u32::from(is_last);
        header.to_le_bytes()[..BLOCK_HEADER_BYTES].to_vec()
    }

    fn raw(content: &[u8], is_last: bool) -> Vec<u8> {
        [block(0, content.len(), is_last), content.to_vec()].concat()
    }

    /// The header of a frame that states how long its content is.
    fn frame_of(size: u32) -> Vec<u8> {
        [&b"\x28\xb5\x2f\xfd\x80\x58"[..], &size.to_le_bytes()].concat()
    }

    fn skippable(content: &[u8]) -> Vec<u8> {
        [b"\x5a\x2a\x4d\x18", &(content.len() as u32).to_le_bytes()[..], content].concat()
    }

    /// What `wire` decodes to, under several cuts, which must not matter.
    fn decode(wire: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
        let whole = decode_cut(Compression::Zstd, wire, std::iter::empty());
        for cut in [1, 2, 3, 7] {
            assert!(decode_cut(Compression::Zstd, wire, std::iter::repeat_n(cut, wire.len())) == whole, "cut {cut}");
        }
        whole
    }

    fn is_inside_unit(wire: &[u8]) -> bool {
        let (mut decoder, mut plain) = (Decoder::new(&[]), BytesMut::new());
        let mut rest = wire;
        while !rest.is_empty() {
            rest = &rest[decoder.decode(rest, &mut plain).unwrap()..];
        }
        decoder.is_inside_unit()
    }

    #[test]
    fn a_window_takes_memory_as_it_is_filled() {
        let (mut encoder, mut decoder) = (Encoder::new(3, None), Decoder::new(&[]));
        let mut exchange = |bytes: usize| {
            let (mut wire, mut plain, batch) = (Vec::new(), BytesMut::new(), vec![b'x'; bytes]);
            encoder.encode(&batch, &mut wire);
            let mut taken = 0;
            while taken < wire.len() || plain.len() < bytes {
                taken += decoder.decode(&wire[taken..], &mut plain).unwrap();
            }
            (encoder.memory(), decoder.memory())
        };
        const WINDOW: usize = 1 << WINDOW_LOG;
        let begun = exchange(10_000);
        let full = exchange(WINDOW);
        assert_eq!((full.0 - begun.0, full.1 - begun.1), (WINDOW - 10_000, WINDOW - 10_000), "{begun:?} {full:?}");
        assert_eq!(exchange(WINDOW), full);
        println!("one link: {} bytes at first, {} then", begun.0 + begun.1, full.0 + full.1);
    }

    #[test]
    fn a_batch_ends_at_the_end_of_a_block_in_one_frame() {
        // R-zstd-flush, R-zstd-frames, R-zstd-window
        let mut encoder = Encoder::new(3, None);
        let (mut wire, mut all) = (Vec::new(), Vec::new());
        for n in [1, 10, 1000, 70_000, 1_000_000] {
            let batch: Vec<u8> = (0..n).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            encoder.encode(&batch, &mut wire);
            all.extend(batch);
            assert!(!is_inside_unit(&wire));
            assert_eq!(decode_cut(Compression::Zstd, &wire, std::iter::empty()).1, None);
        }
        assert!(decode(&wire) == (all, None));
        // No content size, no checksum, no dictionary; the window is the largest.
        assert!(wire.starts_with(HEADER));
        assert_eq!(wire.windows(4).filter(|w| *w == MAGIC).count(), 1);
    }

    #[test]
    fn another_level_begins_another_frame_and_an_equal_one_does_not() {
        let text = TEXT.repeat(50);
        let mut encoder = Encoder::new(3, None);
        let (mut wire, mut all) = (Vec::new(), Vec::new());
        for level in [3, 3, 1, 9, 9, 4] {
            encoder.set_level(level);
            encoder.encode(&text, &mut wire);
            all.extend_from_slice(&text);
        }
        // Changed, and changed back, before anything left.
        encoder.set_level(1);
        encoder.set_level(4);
        encoder.encode(&text, &mut wire);
        all.extend_from_slice(&text);
        assert!(decode(&wire) == (all, None));
        assert_eq!(wire.windows(4).filter(|w| *w == MAGIC).count(), 4);
    }

    /// Text in which much occurs again, and not at once.
    fn repetitive_text() -> String {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let line = |random: &mut dyn FnMut(u64) -> u64| {
            format!("{{\"user\":\"{:04x}\",\"page\":\"/{}/{}\"}}\n", random(3000) * 21, random(40) * 7919, random(9))
        };
        (0..10_000).map(|_| line(&mut random)).collect()
    }

    #[test]
    fn a_level_counts() {
        let text = repetitive_text();
        let size = |level: u8, change: Option<u8>| {
            let mut encoder = Encoder::new(level, None);
            change.into_iter().for_each(|level| encoder.set_level(level));
            let mut wire = Vec::new();
            text.as_bytes().chunks(10_000).for_each(|batch| encoder.encode(batch, &mut wire));
            wire.len()
        };
        assert!(size(9, None) < size(1, None));
        assert_eq!((size(1, Some(9)), size(9, Some(1))), (size(9, None), size(1, None)));
    }

    /// A dictionary for messages of this kind; some of its own for each `seed`.
    fn dictionary(seed: u64) -> Dictionary {
        dictionary_of(16 * 1024, seed)
    }

    fn dictionary_of(length: usize, seed: u64) -> Dictionary {
        let samples: Vec<_> = (seed * 7919..).take(2000).map(message).collect();
        let sizes: Vec<_> = samples.iter().map(Vec::len).collect();
        let mut bytes = Vec::with_capacity(length);
        zstd_safe::train_from_buffer(&mut bytes, &samples.concat(), &sizes).unwrap();
        Dictionary::new(bytes).unwrap()
    }

    fn message(n: u64) -> Vec<u8> {
        let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("POST /{} HTTP/1.1\r\nHost: h{}.example\r\nAccept: */*\r\nX-Id: {random:x}\r\n\r\n", n % 97, n % 7)
            .into_bytes()
    }

    /// What `wire` decodes to, in pieces of this size, for one who has these dictionaries.
    fn decode_with(dictionaries: &[Dictionary], wire: &[u8], cut: usize) -> (Vec<u8>, Option<ErrorKind>) {
        let (mut decoder, mut plain) = (Decoder::new(dictionaries), BytesMut::new());
        for mut piece in wire.chunks(cut) {
            loop {
                let before = plain.len();
                match decoder.decode(piece, &mut plain) {
                    Err(error) => return (plain.to_vec(), Some(error)),
                    Ok(0) if plain.len() == before => break,
                    Ok(taken) => piece = &piece[taken..],
                }
            }
        }
        (plain.to_vec(), None)
    }

    #[test]
    fn frames_name_their_dictionary_and_only_who_has_it_reads_them() {
        // R-zstd-dictionary
        let (ours, other) = (dictionary(1), dictionary(2));
        assert_ne!(ours.id(), other.id());
        let (mut encoder, mut wire, mut all) = (Encoder::new(3, Some(&ours)), Vec::new(), Vec::new());
        for n in 0..400 {
            // Each frame, at each level, with the same one.
            encoder.set_level(1 + (n / 40) as u8 % 9);
            encoder.encode(&message(n), &mut wire);
            all.extend(message(n));
        }
        let id = ours.id().to_le_bytes();
        assert_eq!(wire[4..10], [0x03, 0x58, id[0], id[1], id[2], id[3]]);
        for cut in [usize::MAX, 1, 7] {
            let known = [other.clone(), ours.clone()];
            assert!(decode_with(&known, &wire, cut) == (all.clone(), None), "{cut}");
            let unknown = Some(ErrorKind::ZstdDictionary(ours.id()));
            assert_eq!(decode_with(std::slice::from_ref(&other), &wire, cut), (Vec::new(), unknown));
            // All frames need the same, or all none.
            let none = [HEADER, &raw(TEXT, true)].concat();
            let wrong = |id| Some(ErrorKind::ZstdDictionary(id));
            assert_eq!(decode_with(&known, &[&none[..], &wire].concat(), cut), (TEXT.to_vec(), wrong(ours.id())));
            let ended = [&wire[..], &block(0, 0, true)].concat();
            assert!(decode_with(&known, &[&ended[..], &none].concat(), cut) == (all.clone(), wrong(0)));
            let mut another = Vec::new();
            Encoder::new(1, Some(&other)).encode(&message(1), &mut another);
            assert!(decode_with(&known, &[&ended[..], &another].concat(), cut) == (all.clone(), wrong(other.id())));
            assert!(decode_with(&known, &[&ended[..], &wire].concat(), cut) == ([&all[..], &all].concat(), None));
        }
    }

    #[test]
    fn a_frame_that_does_not_name_its_dictionary_is_read_without() {
        let ours = dictionary(1);
        let mut wire = Vec::new();
        Encoder::new(3, Some(&ours)).encode(&message(2), &mut wire);
        wire[4] = 0;
        wire.drain(6..10);
        assert_eq!(decode_with(std::slice::from_ref(&ours), &wire, 1).1, Some(ErrorKind::ZstdCorrupt));
    }

    #[test]
    fn a_dictionary_makes_fewer_bytes_at_first_and_later() {
        let ours = dictionary(1);
        let size = |level, dictionary, messages: std::ops::Range<u64>| {
            let (mut encoder, mut wire) = (Encoder::new(level, dictionary), Vec::new());
            messages.for_each(|n| encoder.encode(&message(n), &mut wire));
            wire.len()
        };
        for level in 1..=9 {
            let messages = 100_000..100_100;
            let (without, with) = (size(level, None, messages.clone()), size(level, Some(&ours), messages));
            assert!(with < without, "level {level}: {with} of {without}");
        }
        // Later, tables as small as a dictionary would show, with which much is not found again.
        let small = dictionary_of(2 * 1024, 1);
        let many: Vec<_> = (0..30_000u64).map(|n| message(n.wrapping_mul(n) % 9973)).collect();
        let size = |level, dictionary| {
            let (mut encoder, mut wire) = (Encoder::new(level, dictionary), Vec::new());
            many.iter().for_each(|message| encoder.encode(message, &mut wire));
            wire.len()
        };
        for level in 1..=9 {
            let (without, with) = (size(level, None), size(level, Some(&small)));
            assert!(with < without, "level {level}: {with} of {without}");
        }
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        let good = dictionary(1);
        let error = |bytes: &[u8]| Dictionary::new(bytes).unwrap_err();
        assert_eq!(error(b""), DictionaryError::Format);
        assert_eq!(error(b"{\"id\":\"1\"}"), DictionaryError::Format);
        assert_eq!(error(&[&good.as_bytes()[..4], &[0; 200]].concat()), DictionaryError::Format, "without an id");
        assert_eq!(error(&good.as_bytes()[..12]), DictionaryError::Corrupt);
        assert_eq!(error(&vec![0; Dictionary::MAX_BYTES + 1]), DictionaryError::TooLong);
        assert_eq!(Dictionary::new(good.as_bytes()), Ok(good));
    }

    #[test]
    fn libzstd_ignores_another_level_inside_a_frame() {
        // Why `set_level` ends the frame. If this fails, it need not any more.
        let text = repetitive_text();
        let wire = |change: bool| {
            let mut encoder = Encoder::new(1, None);
            let mut wire = Vec::new();
            for (at, batch) in text.as_bytes().chunks(10_000).enumerate() {
                if at == 1 && change {
                    assert!(encoder.compressor.set_parameter(CParameter::CompressionLevel(9)).is_ok());
                }
                encoder.encode(batch, &mut wire);
            }
            wire
        };
        assert!(wire(true) == wire(false));
    }

    #[test]
    fn frames_follow_one_another_and_skippable_ones_are_skipped() {
        // R-zstd-read, R-zstd-skip: a whole frame; a frame of a single segment with a checksum; one that goes on.
        let single = b"\x28\xb5\x2f\xfd\x24\x05\x29\0\0hello\x88\x2a\x7a\x26";
        let mut with_checksum = zstd_with_checksum(b"hello");
        let wire = [
            &skippable(b"")[..],
            HEADER,
            &raw(b"", false),
            &raw(TEXT, false),
            &raw(b"", true),
            &skippable(b"\x28\xb5\x2f\xfd"),
            &with_checksum,
            HEADER,
            &block(1, 70_000, false),
            b"x",
            &raw(TEXT, false),
        ]
        .concat();
        let plain = [TEXT, b"hello", &[b'x'; 70_000], TEXT].concat();
        assert_eq!(with_checksum.len(), single.len());
        assert!(decode(&wire) == (plain, None));
        assert!(!is_inside_unit(&wire));
        // The checksum is checked, after what it is about.
        *with_checksum.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&with_checksum), (b"hello".to_vec(), Some(ErrorKind::ZstdCorrupt)));
    }

    fn zstd_with_checksum(plain: &[u8]) -> Vec<u8> {
        let mut compressor = CCtx::create();
        compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
        let mut wire = Vec::with_capacity(100);
        compressor.compress2(&mut wire, plain).unwrap();
        wire
    }

    #[test]
    fn windows_dictionaries_and_headers_are_judged_before_anything_else() {
        let judge = |header: &[u8]| decode(&[&MAGIC[..], header].concat()).1;
        // R-zstd-window: 2^21 and an eighth, 2^22, the largest there is; a single segment of one byte more.
        assert_eq!(judge(b"\x00\x58"), None);
        assert_eq!(judge(b"\x00\x59"), Some(ErrorKind::ZstdWindow((1 << 21) + (1 << 18))));
        assert_eq!(judge(b"\x00\x60"), Some(ErrorKind::ZstdWindow(1 << 22)));
        assert_eq!(judge(b"\x00\xff"), Some(ErrorKind::ZstdWindow(15 << 38)));
        assert_eq!(judge(b"\xa0\x00\x00\x20\x00"), None);
        assert_eq!(judge(b"\xa0\x01\x00\x20\x00"), Some(ErrorKind::ZstdWindow((1 << 21) + 1)));
        assert_eq!(judge(b"\xe0\0\0\0\0\0\0\0\x80"), Some(ErrorKind::ZstdWindow(1 << 63)));
        assert_eq!(judge(b"\x60\xff\xff"), None, "256 are added");
        // R-zstd-dictionary
        assert_eq!(judge(b"\x01\x58\x00"), None);
        assert_eq!(judge(b"\x01\x58\x07"), Some(ErrorKind::ZstdDictionary(7)));
        assert_eq!(judge(b"\x02\x58\x07\x01"), Some(ErrorKind::ZstdDictionary(0x0107)));
        assert_eq!(judge(b"\x03\x58\xff\xff\xff\xff"), Some(ErrorKind::ZstdDictionary(u32::MAX)));
        // R-zstd-judge: corrupt, window, dictionary; and not before the header is whole.
        assert_eq!(judge(b"\x09\x60\x07"), Some(ErrorKind::ZstdCorrupt));
        assert_eq!(judge(b"\x01\x60\x07"), Some(ErrorKind::ZstdWindow(1 << 22)));
        assert_eq!(judge(b"\x09\x60"), None);
        // The magic number, with its fourth byte.
        assert_eq!(decode(b"\x28\xb5\x2f").1, None);
        assert_eq!(decode(b"\x28\xb5\x2f\xfe").1, Some(ErrorKind::ZstdCorrupt));
        assert_eq!(decode(b"\x60\x2a\x4d\x18").1, Some(ErrorKind::ZstdCorrupt));
    }

    #[test]
    fn what_came_before_a_corrupt_block_is_kept() {
        // R-zstd-read, R-error-after-good
        let good = [HEADER, &raw(TEXT, false)].concat();
        let corrupt: [&[u8]; 6] = [
            &block(3, 5, false),              // a type that is none
            &block(2, 0, false),              // compressed to nothing
            &block(0, (128 << 10) + 1, true), // larger than a block can be
            &[&block(1, (128 << 10) + 1, true)[..], b"x"].concat(),
            &[&block(2, 2, false)[..], b"\xff\xff"].concat(),
            &[&raw(b"", true)[..], b"\x00\x00\x00\x00"].concat(), // no frame behind the last block
        ];
        for corrupt in corrupt {
            let wire = [&good[..], corrupt, TEXT].concat();
            assert_eq!(decode(&wire), (TEXT.to_vec(), Some(ErrorKind::ZstdCorrupt)), "{corrupt:02x?}");
        }
    }

    #[test]
    fn the_content_of_a_frame_is_what_its_header_says() {
        // R-zstd-read, R-zstd-judge, R-cut-any: nothing of a block is given whose header tells that it does not fit.
        let (text, corrupt) = (TEXT.len() as u32, Some(ErrorKind::ZstdCorrupt));
        let whole = [frame_of(text), raw(TEXT, true)].concat();
        assert_eq!(decode(&whole), (TEXT.to_vec(), None));
        let repeated = |is_last| [block(1, 7, is_last), b"x".to_vec()].concat();
        // Too long, and too short at the end.
        for (size, block) in [(text + 6, repeated(true)), (text + 6, repeated(false)), (text + 8, repeated(true))] {
            let wire = [frame_of(size), raw(TEXT, false), block].concat();
            assert_eq!(decode(&wire), (TEXT.to_vec(), corrupt.clone()), "{size}");
        }
        for (size, is_last) in [(2 * text - 1, false), (2 * text - 1, true), (2 * text + 1, true), (text, false)] {
            let wire = [frame_of(size), raw(TEXT, false), raw(TEXT, is_last)].concat();
            assert_eq!(decode(&wire), (TEXT.to_vec(), corrupt.clone()), "{size}");
        }
        assert_eq!(decode(&[frame_of(text), raw(TEXT, false), raw(b"", true)].concat()), (TEXT.to_vec(), None));
        assert_eq!(decode(&[frame_of(text + 1), raw(TEXT, false), raw(b"", true)].concat()), (TEXT.to_vec(), corrupt));
    }

    #[test]
    fn a_compressed_block_cannot_go_beyond_the_content_of_its_frame() {
        // libzstd does not mind when a frame before has left it a larger buffer.
        let compressed = |content: &[u8]| {
            let (mut encoder, mut wire) = (Encoder::new(3, None), Vec::new());
            encoder.encode(content, &mut wire);
            wire.split_off(HEADER.len())
        };
        let long = TEXT.repeat(100);
        let before = [HEADER, &raw(b"", true)].concat();
        let within = [frame_of(long.len() as u32), compressed(&long), raw(b"", true)].concat();
        assert!(decode(&[&before[..], &within].concat()) == (long.clone(), None));
        for size in [1, long.len() as u32 - 1] {
            let beyond = [frame_of(size), compressed(&long)].concat();
            for before in [&before[..], b""] {
                let wire = [before, &beyond].concat();
                assert_eq!(decode(&wire), (Vec::new(), Some(ErrorKind::ZstdCorrupt)), "{size}");
            }
        }
    }

    #[test]
    fn no_block_is_longer_than_its_window() {
        // R-zstd-judge: with the header; a window of 2^10.
        let header = b"\x28\xb5\x2f\xfd\x00\x00";
        for kind in [0, 1, 2] {
            assert_eq!(decode(&[&header[..], &block(kind, 1024, false)].concat()).1, None);
            assert_eq!(decode(&[&header[..], &block(kind, 1025, false)].concat()).1, Some(ErrorKind::ZstdCorrupt));
        }
    }

    #[test]
    fn an_end_is_clean_between_blocks_and_between_frames_only() {
        // R-eof-clean, R-eof-truncated
        let mut wire = skippable(b"ab");
        let mut clean = vec![0, wire.len()];
        for piece in [HEADER.to_vec(), raw(TEXT, false), block(1, 9, true), b"x".to_vec(), zstd_with_checksum(b"hello")]
        {
            wire.extend(piece);
            clean.push(wire.len());
        }
        // Behind the header of the last block but one, its content is missing; one with a checksum begins in between.
        clean.retain(|at| !wire[..*at].ends_with(&block(1, 9, true)));
        let single = wire.len() - zstd_with_checksum(b"hello").len();
        clean.push(single + 6);
        for at in 0..=wire.len() {
            assert_eq!(!is_inside_unit(&wire[..at]), clean.contains(&at), "{at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_the_library_writes_in_whole_is_read(
            part in proptest::collection::vec(any::<u8>(), 0..3000),
            times in 1usize..200,
            level in 1i32..19,
            checksum in any::<bool>(),
            sized in any::<bool>(),
            window in 10u32..=WINDOW_LOG,
            cuts in proptest::collection::vec(1usize..5000, 0..50),
        ) {
            let plain = part.repeat(times);
            let mut compressor = CCtx::create();
            compressor.set_parameter(CParameter::CompressionLevel(level)).unwrap();
            compressor.set_parameter(CParameter::WindowLog(window)).unwrap();
            compressor.set_parameter(CParameter::ChecksumFlag(checksum)).unwrap();
            compressor.set_parameter(CParameter::ContentSizeFlag(sized)).unwrap();
            let mut wire = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
            compressor.compress2(&mut wire, &plain).unwrap();
            let once = wire.clone();
            wire.extend_from_slice(&once);
            let (decoded, error) = decode_cut(Compression::Zstd, &wire, cuts.into_iter());
            prop_assert_eq!(error, None);
            prop_assert!(decoded == plain.repeat(2));
        }

        #[test]
        fn anything_behind_a_good_start_is_survived(
            start in 0usize..5,
            wire in proptest::collection::vec(any::<u8>(), 0..400),
            cuts in proptest::collection::vec(1usize..50, 0..50),
        ) {
            let starts = [HEADER.to_vec(), [HEADER, &block(2, 300, false)].concat(), skippable(TEXT), MAGIC.to_vec(),
                [HEADER, &raw(TEXT, false), &block(2, 200, true)].concat()];
            let wire = [&starts[start][..], &wire].concat();
            let whole = decode_cut(Compression::Zstd, &wire, std::iter::empty());
            prop_assert!(whole == decode_cut(Compression::Zstd, &wire, cuts.into_iter()));
            prop_assert!(whole == decode_cut(Compression::Zstd, &wire, std::iter::repeat_n(1, wire.len())));
        }
    }
}
