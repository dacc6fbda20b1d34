//! Frames in: the decompressed stream cut into ids and messages (spec/04-frames.md).
//!
//! What delimits a message stands behind [`FrameReader::next`]; nothing above it knows that version 0 has no frame
//! length.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use nom::bytes::streaming::{tag, take_while_m_n};
use nom::sequence::terminated;
use nom::{IResult, Parser};

use super::compress::STEP_BYTES;
use super::config::Limits;
use super::error::{ErrorKind, MessageError, Place};
use super::message::{Length, Outline, Then};

const ID_BYTES: usize = 4;
/// Short heads, up to a quarter of this, share pieces of memory of this length: who keeps one for long keeps no more than
/// that with it, which is about what the map of its fields takes.
const PIECE_BYTES: usize = 1024;

/// A frame. Its head, if the message is not refused, is to be had with [`FrameReader::take_head`].
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) id: u32,
    /// Why the message is refused, if it is.
    pub(crate) refused: Option<MessageError>,
    /// Bytes of the head.
    pub(crate) head_bytes: usize,
    /// Empty where the message is refused.
    pub(crate) body: Bytes,
    /// A HEAD request, refused or not.
    pub(crate) is_head: bool,
    /// A response whose sender has shown that it keeps R-head-response.
    pub(crate) keeps_head_rule: bool,
    /// Nothing after this frame can be read (R-read-head-response).
    pub(crate) is_last: bool,
}

impl Frame {
    /// Refuses the message, unless it is already.
    fn refuse(&mut self, error: MessageError) {
        self.refused.get_or_insert(error);
    }
}

pub(crate) struct FrameReader<H> {
    state: State,
    /// What is free of the piece of memory for short heads.
    piece: BytesMut,
    /// The head of the current message. It is long, and lies here until the frame is complete.
    head: H,
    /// Number of the current frame, from 1.
    frame: u64,
    /// Where the current frame began in the stream.
    begin: u64,
    /// Bytes taken from the stream.
    offset: u64,
    /// Bytes taken for the current message: all of them count, also those that are dropped.
    used: u64,
    /// Bodies that are not here yet are refused (R-limit-memory).
    sheds: bool,
}

enum State {
    Id,
    /// `scanned` bytes of the buffer hold no end of the head; 0 if its start line has not begun.
    Head {
        id: u32,
        scanned: usize,
    },
    Body {
        frame: Frame,
        left: u64,
    },
    Chunks {
        frame: Frame,
        body: BytesMut,
        part: Part,
    },
    /// After an error or a last frame.
    Stopped {
        id: Option<u32>,
    },
}

/// What of a chunked body comes next.
#[derive(Clone, Copy)]
enum Part {
    Size,
    Data { left: u64 },
    LineEnd,
    LastLineEnd,
}

impl<H: Default> FrameReader<H> {
    pub(crate) fn new() -> Self {
        let (state, head) = (State::Id, H::default());
        Self { state, piece: BytesMut::new(), head, frame: 1, begin: 0, offset: 0, used: 0, sheds: false }
    }

    /// Refuses bodies that are not here yet, or does so no longer.
    pub(crate) fn shed(&mut self, shed: bool) {
        self.sheds = shed;
    }

    /// What it holds of a body beside what waits in `plain`.
    pub(crate) fn buffered_bytes(&self) -> usize {
        if let State::Chunks { body, .. } = &self.state { body.capacity() } else { 0 }
    }

    /// Takes the next frame from `plain`, or as much of it as is there. `parse` is given a frame's id, a head, and what to
    /// make of that.
    pub(crate) fn next(
        &mut self,
        plain: &mut BytesMut,
        limits: &Limits,
        parse: impl Fn(u32, &Bytes, &mut H) -> Result<Outline, ErrorKind>,
    ) -> Result<Option<Frame>, ErrorKind> {
        let next = self.try_next(plain, limits, parse);
        if next.is_err() {
            self.state = State::Stopped { id: self.id() };
        }
        next
    }

    fn try_next(
        &mut self,
        plain: &mut BytesMut,
        limits: &Limits,
        parse: impl Fn(u32, &Bytes, &mut H) -> Result<Outline, ErrorKind>,
    ) -> Result<Option<Frame>, ErrorKind> {
        loop {
            match self.state {
                State::Id => {
                    let Some(id) = plain.first_chunk::<ID_BYTES>() else { return Ok(None) };
                    let id = u32::from_le_bytes(*id);
                    self.pass(plain, ID_BYTES);
                    self.used = 0;
                    self.state = State::Head { id, scanned: 0 };
                }
                State::Head { id, scanned } => {
                    let Some(bytes) = self.head_bytes(plain, id, scanned, limits)? else { return Ok(None) };
                    let outline = parse(id, &bytes, &mut self.head)?;
                    if outline.then == Then::NextHead {
                        self.state = State::Head { id, scanned: 0 };
                        continue;
                    }
                    let mut frame = Frame {
                        id,
                        refused: outline.refused,
                        head_bytes: bytes.len(),
                        body: Bytes::new(),
                        is_head: outline.is_head,
                        keeps_head_rule: outline.keeps_head_rule,
                        is_last: outline.then == Then::Ambiguous,
                    };
                    let left = match outline.length {
                        Length::Chunked => {
                            self.state = State::Chunks { frame, body: BytesMut::new(), part: Part::Size };
                            continue;
                        }
                        Length::Unstated => 0,
                        Length::Fixed(length) => length,
                    };
                    self.afford(left, limits)?;
                    if left > limits.body_bytes as u64 {
                        frame.refuse(MessageError::BodyTooLarge);
                    }
                    return Ok(self.body(frame, plain, left));
                }
                State::Body { .. } | State::Chunks { .. } => {
                    let stopped = State::Stopped { id: self.id() };
                    let state = std::mem::replace(&mut self.state, stopped);
                    return self.rest(state, plain, limits);
                }
                State::Stopped { .. } => return Ok(None),
            }
        }
    }

    /// Goes on with a message whose head was read before, or whose body comes in chunks.
    fn rest(&mut self, state: State, plain: &mut BytesMut, limits: &Limits) -> Result<Option<Frame>, ErrorKind> {
        match state {
            State::Body { frame, left } => return Ok(self.body(frame, plain, left)),
            State::Chunks { mut frame, mut body, mut part } => {
                if self.chunks(plain, &mut frame, &mut body, &mut part, limits)? {
                    return Ok(Some(self.finish(frame, body.freeze())));
                }
                self.state = State::Chunks { frame, body, part };
            }
            other => self.state = other,
        }
        Ok(None)
    }

    /// Takes the `left` bytes of a frame's body; `None` while they are not there. A refused message's body is dropped as it
    /// comes; any other waits until it is whole.
    fn body(&mut self, mut frame: Frame, plain: &mut BytesMut, mut left: u64) -> Option<Frame> {
        let here = left.min(plain.len() as u64);
        if self.sheds && here < left {
            frame.refuse(MessageError::Overload);
        }
        if frame.refused.is_some() {
            self.pass(plain, here as usize);
            left -= here;
            if left == 0 {
                return Some(self.finish(frame, Bytes::new()));
            }
        } else if here == left {
            let body = self.take(plain, here as usize);
            return Some(self.finish(frame, body));
        } else {
            make_room(plain, left);
        }
        self.state = State::Body { frame, left };
        None
    }

    /// The head of the frame that was read last, which has no body. Of no use if the message is refused.
    pub(crate) fn head_mut(&mut self) -> &mut H {
        &mut self.head
    }

    /// The same, to be kept.
    pub(crate) fn take_head(&mut self) -> H {
        std::mem::take(&mut self.head)
    }

    /// Whether the stream, with `plain` still to be taken, stands inside a frame.
    pub(crate) fn is_inside_frame(&self, plain: &[u8]) -> bool {
        !matches!(self.state, State::Id) || !plain.is_empty()
    }

    /// Where an error met now was found.
    pub(crate) fn place(&self) -> Place {
        Place::Frame { frame: self.frame, id: self.id(), at: self.begin }
    }

    /// The id of the current frame, once it is there.
    fn id(&self) -> Option<u32> {
        match &self.state {
            State::Id => None,
            State::Head { id, .. } => Some(*id),
            State::Body { frame, .. } | State::Chunks { frame, .. } => Some(frame.id),
            State::Stopped { id } => *id,
        }
    }

    /// Takes `n` bytes, in memory that is theirs alone: a small message that is kept for long must not keep the large
    /// buffer that it came in.
    fn take(&mut self, plain: &mut BytesMut, n: usize) -> Bytes {
        if n <= STEP_BYTES {
            let bytes = Bytes::copy_from_slice(&plain[..n]);
            self.pass(plain, n);
            return bytes;
        }
        // The buffer was grown for these bytes: they keep it, and what is behind them moves.
        let behind = BytesMut::from(&plain[n..]);
        let mut bytes = std::mem::replace(plain, behind);
        bytes.truncate(n);
        self.count(n);
        bytes.freeze()
    }

    /// The same for a head, which is to be shared by the values of its fields: short ones lie close together, so that they
    /// need no memory of their own to count who shares them.
    fn take_head_bytes(&mut self, plain: &mut BytesMut, n: usize) -> Bytes {
        if n > PIECE_BYTES / 4 {
            return self.take(plain, n);
        }
        if self.piece.capacity() < n {
            self.piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        self.piece.extend_from_slice(&plain[..n]);
        self.pass(plain, n);
        self.piece.split().freeze()
    }

    /// Passes over `n` bytes.
    fn pass(&mut self, plain: &mut BytesMut, n: usize) {
        plain.advance(n);
        self.count(n);
    }

    fn count(&mut self, n: usize) {
        self.offset += n as u64;
        self.used += n as u64;
    }

    /// How many more bytes the current message may take; an error if it has taken too many (R-limit-message).
    fn room(&self, limits: &Limits) -> Result<u64, ErrorKind> {
        limits.message_bytes.checked_sub(self.used).ok_or(ErrorKind::MessageTooLarge(limits.message_bytes))
    }

    /// Checks that the current message may take `more` bytes.
    fn afford(&self, more: u64, limits: &Limits) -> Result<(), ErrorKind> {
        if more > self.room(limits)? { Err(ErrorKind::MessageTooLarge(limits.message_bytes)) } else { Ok(()) }
    }

    /// Checks `length` bytes of a head, which may go on if it `is_open`, against both limits. The one that is passed
    /// first decides, however many bytes came at once.
    fn check_head(&self, length: usize, is_open: bool, limits: &Limits) -> Result<(), ErrorKind> {
        let room = self.room(limits)?;
        if length as u64 > room && room < limits.head_bytes as u64 {
            return Err(ErrorKind::MessageTooLarge(limits.message_bytes));
        }
        if length > limits.head_bytes || (is_open && length == limits.head_bytes) {
            return Err(ErrorKind::HeadTooLarge(limits.head_bytes));
        }
        Ok(())
    }

    /// The current frame is complete.
    fn finish(&mut self, mut frame: Frame, body: Bytes) -> Frame {
        if frame.is_last {
            self.state = State::Stopped { id: Some(frame.id) };
        } else {
            self.frame += 1;
            self.begin = self.offset;
            self.state = State::Id;
        }
        if frame.refused.is_none() {
            frame.body = body;
        }
        frame
    }

    /// Takes a head from `plain`, or notes how far there is none.
    fn head_bytes(
        &mut self,
        plain: &mut BytesMut,
        id: u32,
        scanned: usize,
        limits: &Limits,
    ) -> Result<Option<Bytes>, ErrorKind> {
        if scanned == 0 {
            // Empty lines before the start line are no part of the head, but of the message (R-read-empty-lines).
            let lines = blank_lines(plain);
            self.pass(plain, lines);
        }
        let (end, scanned) = match &plain[..] {
            // An empty line may be under way.
            [] | [b'\r'] => (None, 0),
            begun => head_end(begun, scanned),
        };
        self.check_head(end.unwrap_or(plain.len()), end.is_none(), limits)?;
        match end {
            Some(end) => Ok(Some(self.take_head_bytes(plain, end))),
            None => {
                self.state = State::Head { id, scanned };
                Ok(None)
            }
        }
    }

    /// Takes parts of a chunked body (R-read-chunked); returns whether it is complete.
    fn chunks(
        &mut self,
        plain: &mut BytesMut,
        frame: &mut Frame,
        body: &mut BytesMut,
        part: &mut Part,
        limits: &Limits,
    ) -> Result<bool, ErrorKind> {
        loop {
            *part = match *part {
                Part::Size => {
                    let Some((size, line)) = self.line(plain, limits, chunk_size)? else { return Ok(false) };
                    if size > i64::MAX as u64 {
                        return Err(ErrorKind::ChunkedBody);
                    }
                    self.pass(plain, line);
                    self.afford(size, limits)?;
                    if body.len() as u64 + size > limits.body_bytes as u64 {
                        frame.refuse(MessageError::BodyTooLarge);
                        *body = BytesMut::new();
                    }
                    if size == 0 { Part::LastLineEnd } else { Part::Data { left: size } }
                }
                Part::Data { left: 0 } => Part::LineEnd,
                Part::Data { left } => {
                    let here = left.min(plain.len() as u64);
                    if here == 0 {
                        return Ok(false);
                    }
                    if self.sheds {
                        frame.refuse(MessageError::Overload);
                        *body = BytesMut::new();
                    }
                    if frame.refused.is_none() {
                        body.extend_from_slice(&plain[..here as usize]);
                    }
                    self.pass(plain, here as usize);
                    Part::Data { left: left - here }
                }
                end @ (Part::LineEnd | Part::LastLineEnd) => {
                    let Some((_, taken)) = self.line(plain, limits, line_end)? else { return Ok(false) };
                    self.pass(plain, taken);
                    if matches!(end, Part::LastLineEnd) {
                        return Ok(true);
                    }
                    Part::Size
                }
            };
        }
    }

    /// What `parse` finds at the start of `plain`, and how many bytes it takes, once they are there. It is shown no
    /// more than the message may take, so that the first byte beyond decides, however many came at once.
    fn line<T>(
        &self,
        plain: &[u8],
        limits: &Limits,
        parse: impl Fn(&[u8]) -> IResult<&[u8], T>,
    ) -> Result<Option<(T, usize)>, ErrorKind> {
        let room = usize::try_from(self.room(limits)?).unwrap_or(usize::MAX);
        let shown = &plain[..plain.len().min(room)];
        match parse(shown) {
            Ok((rest, found)) => Ok(Some((found, shown.len() - rest.len()))),
            Err(nom::Err::Incomplete(_)) if shown.len() < plain.len() => {
                Err(ErrorKind::MessageTooLarge(limits.message_bytes))
            }
            Err(nom::Err::Incomplete(_)) => Ok(None),
            Err(_) => Err(ErrorKind::ChunkedBody),
        }
    }
}

/// Makes room in `plain` for the next step of a long body: it doubles towards the `want` bytes that were announced, since a peer can
/// announce what never comes, and goes no further than these and a step behind them.
fn make_room(plain: &mut BytesMut, want: u64) {
    if want <= STEP_BYTES as u64 || plain.capacity() - plain.len() >= STEP_BYTES {
        return;
    }
    let missing = usize::try_from(want).unwrap_or(usize::MAX).saturating_sub(plain.len());
    // Not `reserve`, which would double what is there however little is missing.
    let mut grown = BytesMut::with_capacity(plain.len() + missing.min(plain.len()) + STEP_BYTES);
    grown.extend_from_slice(plain);
    *plain = grown;
}

/// A chunk's size and its line end; no extensions (R-read-chunked).
fn chunk_size(plain: &[u8]) -> IResult<&[u8], u64> {
    let digits = take_while_m_n(1, 16, |b: u8| b.is_ascii_hexdigit());
    let digit = |b: &u8| (*b as char).to_digit(16).unwrap_or_default() as u64;
    terminated(digits, tag(&b"\r\n"[..]))
        .map(|digits: &[u8]| digits.iter().fold(0, |n, b| n << 4 | digit(b)))
        .parse(plain)
}

/// The end of a line between chunks.
fn line_end(plain: &[u8]) -> IResult<&[u8], ()> {
    tag(&b"\r\n"[..]).map(drop).parse(plain)
}

/// The length of the empty lines at the start.
fn blank_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

/// The end of the head (just after its empty line), looked for from `from`, where a line may be under way; and from
/// where to look next time.
fn head_end(bytes: &[u8], from: usize) -> (Option<usize>, usize) {
    let mut at = from;
    while let Some(lf) = memchr(b'\n', &bytes[at..]).map(|n| at + n) {
        match &bytes[lf + 1..] {
            [b'\n', ..] => return (Some(lf + 2), lf),
            [b'\r', b'\n', ..] => return (Some(lf + 3), lf),
            // The next line may prove to be empty: look at this line end again.
            [] | [b'\r'] => return (None, lf),
            _ => at = lf + 1,
        }
    }
    (None, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_body_grows_by_doubling_and_not_beyond_what_was_announced() {
        const WANT: usize = 10 << 20;
        let mut plain = BytesMut::new();
        let mut grown = 0;
        while plain.len() < WANT {
            let before = plain.capacity();
            make_room(&mut plain, WANT as u64);
            grown += usize::from(plain.capacity() != before);
            assert!(plain.capacity() <= WANT + STEP_BYTES && plain.capacity() <= 2 * plain.len() + STEP_BYTES);
            let step = STEP_BYTES.min(WANT - plain.len());
            plain.resize(plain.len() + step, 0);
        }
        assert!(grown <= 9, "{grown}");
    }
}
