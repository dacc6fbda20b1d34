//! A stream of HTTP/1 requests that ends where two readers could delimit them differently (R-proxy-strict).
//!
//! hyper reads some heads more kindly than others do who may stand before this proxy, and does not tell: of
//! `Content-Length` and `Transfer-Encoding` together the latter counts, two equal `Content-Length` are one, a bare LF ends
//! a line. So each head is looked at on its way to hyper, and the first byte that makes it doubtful becomes one that hyper
//! answers with 400 and a close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use memchr::memchr;
use smol::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::counted::Counted;
use crate::driver::Charge;

/// What no head and no chunk can contain, and the end of a head: hyper looks at a whole one only.
const POISON: &[u8] = b"\0\r\n\r\n";
/// So much of a head may come though memory is used up: then there is an answer to most requests.
const FREE_HEAD_BYTES: usize = 4 * 1024;
/// How much is read to see whether there is anything.
const AHEAD_BYTES: usize = 1024;
/// What of a line is kept: more than any framing field has that is well-formed.
const LINE_BYTES: usize = 128;

/// A stream that hyper reads requests from.
#[derive(Debug)]
pub(crate) struct Strict {
    stream: Counted,
    activity: Arc<Activity>,
    guard: Guard,
    /// What is left to be read instead of what comes.
    poison: Option<&'static [u8]>,
    /// What was read already, and is to be read first.
    ahead: Bytes,
    /// What the connection takes, and the head that is under way.
    charge: Charge,
    base: usize,
}

impl Strict {
    /// `base` is what the connection takes in any case.
    pub(crate) fn new(stream: Counted, activity: Arc<Activity>, mut charge: Charge, base: usize) -> Self {
        charge.set(base);
        Self { stream, activity, guard: Guard::default(), poison: None, ahead: Bytes::new(), charge, base }
    }

    pub(crate) fn into_inner(self) -> Counted {
        self.stream
    }

    /// What it takes in any case, from now on.
    pub(crate) fn set_base(&mut self, bytes: usize) {
        self.base = bytes;
        self.charge.set(self.base + self.guard.head_bytes);
    }

    /// Gives back what was read from it.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Ready when there is something to read, or an end, or an error.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let mut buf = [0; AHEAD_BYTES];
        let n = ready!(Pin::new(&mut *self).poll_read(cx, &mut buf))?;
        self.ahead = Bytes::copy_from_slice(&buf[..n]);
        Poll::Ready(Ok(n > 0))
    }

    fn read_poison(&mut self, buf: &mut [u8]) -> Option<usize> {
        let poison = self.poison.as_mut()?;
        let n = poison.len().min(buf.len());
        buf[..n].copy_from_slice(&poison[..n]);
        *poison = &poison[n..];
        Some(n)
    }
}

impl AsyncRead for Strict {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.len());
            buf[..n].copy_from_slice(&self.ahead.split_to(n));
            return Poll::Ready(Ok(n));
        }
        if let Some(n) = self.read_poison(buf) {
            return Poll::Ready(Ok(n));
        }
        let n = ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let good = self.guard.pass(&buf[..n]);
        let held = self.base + self.guard.head_bytes;
        self.charge.set(held);
        self.activity.set_in_head(self.guard.head_bytes > 0);
        if self.guard.head_bytes > FREE_HEAD_BYTES && self.charge.budget().is_full() {
            self.charge.budget().note_shed();
            return Poll::Ready(Err(io::Error::other("there is no memory for its head")));
        }
        if good < n {
            self.poison = Some(POISON);
            if good == 0 {
                return Poll::Ready(Ok(self.read_poison(buf).unwrap_or_default()));
            }
        }
        Poll::Ready(Ok(good))
    }
}

impl AsyncWrite for Strict {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Follows requests as far as it takes to know where their heads are. What hyper refuses anyway it need not.
#[derive(Debug, Default)]
struct Guard {
    state: State,
    /// The beginning of the line under way, if it came in pieces or is kept.
    line: Vec<u8>,
    /// The line under way is longer than what is kept of it.
    is_cut: bool,
    /// Bytes of the head under way.
    head_bytes: usize,
    lengths: usize,
    length: u64,
    codings: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before or in the line that begins a request.
    #[default]
    Start,
    Fields,
    Body {
        left: u64,
    },
    ChunkSize,
    ChunkData {
        left: u64,
    },
    /// The line end behind the data of a chunk.
    ChunkEnd,
    Trailers,
    /// hyper, or the handler, refuses this request, and closes.
    Refused,
}

impl Guard {
    /// How many of these bytes may be read: fewer than all if the next one makes the request doubtful.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                State::Refused => return bytes.len(),
                State::Body { left } | State::ChunkData { left } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= n as u64;
                    at += n;
                    match self.state {
                        State::Body { left: 0 } => self.state = State::Start,
                        State::ChunkData { left: 0 } => self.state = State::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    let end = memchr(b'\n', rest);
                    let piece = end.map_or(rest, |end| &rest[..end]);
                    let is_head = matches!(self.state, State::Start | State::Fields);
                    self.keep(piece);
                    let Some(end) = end else {
                        self.head_bytes += if is_head { rest.len() } else { 0 };
                        return bytes.len();
                    };
                    self.head_bytes += if is_head { end + 1 } else { 0 };
                    let line = std::mem::take(&mut self.line);
                    let is_good = self.end_line(&line);
                    self.line = line;
                    self.line.clear();
                    self.is_cut = false;
                    if !is_good {
                        return at + end;
                    }
                    at += end + 1;
                }
            }
        }
        at
    }

    /// Keeps the beginning of a line, and its last byte, which tells whether it ends as it should.
    fn keep(&mut self, piece: &[u8]) {
        let room = LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            self.is_cut = true;
            self.line.truncate(LINE_BYTES);
            self.line.extend(piece.last());
        }
    }

    /// A line is whole, but for its LF; whether it leaves no doubt.
    fn end_line(&mut self, line: &[u8]) -> bool {
        let Some(line) = line.strip_suffix(b"\r") else { return false };
        match self.state {
            State::Start if line.is_empty() => true,
            State::Start => {
                self.state = State::Fields;
                (self.lengths, self.codings) = (0, 0);
                true
            }
            State::Fields if line.is_empty() => {
                self.end_head();
                true
            }
            State::Fields => self.see_field(line),
            State::ChunkSize => match chunk_size(line).filter(|_| !self.is_cut) {
                None => false,
                Some(0) => {
                    self.state = State::Trailers;
                    true
                }
                Some(left) => {
                    self.state = State::ChunkData { left };
                    true
                }
            },
            State::ChunkEnd => {
                self.state = State::ChunkSize;
                line.is_empty()
            }
            State::Trailers => {
                if line.is_empty() {
                    self.state = State::Start;
                }
                true
            }
            State::Body { .. } | State::ChunkData { .. } | State::Refused => true,
        }
    }

    fn see_field(&mut self, line: &[u8]) -> bool {
        let Some(colon) = memchr(b':', line) else {
            // hyper refuses it.
            return true;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            let digits = value.iter().all(u8::is_ascii_digit) && !self.is_cut;
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            let Some(length) = length.filter(|_| digits) else { return false };
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.codings += 1;
            if self.is_cut || self.codings > 1 || !value.eq_ignore_ascii_case(b"chunked") {
                // The handler says that it has no other; or hyper, that it makes no sense. A length beside it is no help.
                self.codings = usize::MAX / 2;
            }
        }
        self.lengths + self.codings.min(1) <= 1
    }

    fn end_head(&mut self) {
        self.head_bytes = 0;
        self.state = match (self.codings, self.lengths) {
            (0, 0) => State::Start,
            (0, _) if self.length == 0 => State::Start,
            (0, _) => State::Body { left: self.length },
            (1, _) => State::ChunkSize,
            _ => State::Refused,
        };
    }
}

/// The size that begins a line; extensions may follow.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    let digits = std::str::from_utf8(&line[..digits]).ok()?;
    u64::from_str_radix(digits, 16).ok().filter(|_| rest.is_empty() || rest.starts_with(b";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of it may be read, whole and in pieces of each size.
    fn passed(stream: &str) -> usize {
        let whole = Guard::default().pass(stream.as_bytes());
        for size in 1..40 {
            let mut guard = Guard::default();
            let mut passed = 0;
            for piece in stream.as_bytes().chunks(size) {
                let good = guard.pass(piece);
                passed += good;
                if good < piece.len() {
                    break;
                }
            }
            assert_eq!(passed, whole, "in pieces of {size}: {stream:?}");
        }
        whole
    }

    fn is_good(stream: &str) -> bool {
        passed(stream) == stream.len()
    }

    #[test]
    fn what_is_clear_passes() {
        for good in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\t3 \r\n\r\nabcPOST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\na \r\n0123456789\r\n00\r\n\r\n",
        ] {
            assert!(is_good(good), "{good:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1000), "y".repeat(1000));
        assert!(is_good(&long));
    }

    #[test]
    fn what_is_doubtful_ends_there() {
        let head = "POST / HTTP/1.1\r\nHost: h\r\n";
        for bad in [
            "Content-Length: 3\r\nContent-Length: 3\r",
            "Content-Length: 3\r\nContent-Length: 4\r",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r",
            "Transfer-Encoding: gzip\r\nContent-Length: 3\r",
            "content-length: 3, 3\r",
            "Content-Length: +3\r",
            "Content-Length: \r",
            "Content-Length: 99999999999999999999\r",
            "X: y",
            "X: y\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r",
            "Transfer-Encoding: chunked\r\n\r\n0x3\r",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\r",
            "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y",
        ] {
            let stream = format!("{head}{bad}\nand more\r\n\r\n");
            assert_eq!(passed(&stream), head.len() + bad.len(), "{stream:?}");
        }
        assert_eq!(passed("GET / HTTP/1.1\nHost: h\r\n\r\n"), 14);
        // Also behind a request that was clear.
        let before = "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(passed(&format!("{before}GET / HTTP/1.1\n")), before.len() + 14);
    }
}
