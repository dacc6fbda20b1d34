//! What comes on a connection of HTTP/1 requests, and what hyper gets to read of it (R-proxy-strict). No I/O here.
//!
//! hyper reads some heads more kindly than others do who may stand before this proxy, and does not tell: of
//! `Content-Length` and `Transfer-Encoding` together the latter counts, two equal `Content-Length` are one, a bare LF ends
//! a line. And what it refuses it refuses by itself, without a word. So each head is looked at on its way to hyper, which
//! gets it whole, and without empty lines before it. In place of one that is refused it gets a request that stands for it,
//! whose answer says why and is the last; and for the first byte that makes a body doubtful one that ends it with an
//! error.

use bytes::Bytes;
use memchr::memchr;

use super::request_head::{self, Framing, Refused};

/// What ends a chunked body with an error wherever a reader is but in the data of a chunk, also behind a CR that has come.
const POISON: &[u8] = b"\r\0";
/// What of a line inside a body is kept: more than any that is well-formed.
const LINE_BYTES: usize = 128;

/// Lets requests pass until one is in doubt. How the bytes are cut makes no difference.
#[derive(Debug)]
pub(crate) struct Gate {
    guard: Guard,
    /// What is left to be read instead of what comes; once that is read, the end.
    poison: Option<&'static [u8]>,
    /// What is to be read first.
    ahead: Bytes,
    /// The beginning of a head whose end has not come.
    held: Vec<u8>,
}

impl Gate {
    /// Heads are no larger than `max_head_bytes`.
    pub(crate) fn new(max_head_bytes: usize) -> Self {
        let guard = Guard { max_head_bytes, ..Guard::default() };
        Self { guard, poison: None, ahead: Bytes::new(), held: Vec::new() }
    }

    /// How many bytes it holds of a head whose end has not come.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Whether something is to be read before more comes.
    pub(crate) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Takes back what was read from it.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.ahead = if self.ahead.is_empty() { bytes } else { [bytes, self.ahead.clone()].concat().into() };
    }

    /// Reads what is to be read before more comes; `None` if there is nothing, `Some(0)` at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Option<usize> {
        if self.is_ahead() {
            let n = self.ahead.len().min(buf.len());
            buf[..n].copy_from_slice(&self.ahead.split_to(n));
            return Some(n);
        }
        let poison = self.poison.as_mut()?;
        let n = poison.len().min(buf.len());
        buf[..n].copy_from_slice(&poison[..n]);
        *poison = &poison[n..];
        Some(n)
    }

    /// Takes what has come when there was nothing to [`read`](Self::read). So many of these bytes, mostly all, are to be
    /// read as they are; what of the others can be read already is to be read next. And which request is refused, counted
    /// from 1, if one is.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, Option<(u64, Refused)>) {
        let is_start = self.held.is_empty();
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(if is_start { &[] } else { bytes });
        let (mut passed, mut stop) = self.guard.pass(if is_start { bytes } else { &input });
        if is_start && passed == bytes.len() {
            return (passed, None);
        }
        let (mut ahead, mut at, mut good) = (Vec::new(), passed, 0);
        if is_start {
            (at, good) = (0, passed);
            input.extend_from_slice(&bytes[passed..]);
        } else {
            ahead.extend_from_slice(&input[..passed]);
        }
        let mut refusal = None;
        loop {
            match stop {
                Stop::End => break,
                Stop::Changed { taken, head } => {
                    ahead.extend_from_slice(&head);
                    at += taken;
                }
                Stop::Refused(refused) => {
                    ahead.extend_from_slice(&refused.stand_in);
                    refusal = Some((self.guard.heads + 1, refused));
                    self.poison = Some(&[]);
                    at = input.len();
                    break;
                }
                Stop::Doubt => {
                    self.poison = Some(POISON);
                    at = input.len();
                    break;
                }
            }
            (passed, stop) = self.guard.pass(&input[at..]);
            ahead.extend_from_slice(&input[at..at + passed]);
            at += passed;
        }
        if at < input.len() {
            input.drain(..at);
            self.held = input;
        }
        self.ahead = ahead.into();
        (good, refusal)
    }

    /// Refuses the head whose end has not come, for want of memory. Which request that is, counted from 1.
    pub(crate) fn give_up(&mut self) -> (u64, Refused) {
        let refused = Refused::no_memory(&std::mem::take(&mut self.held));
        self.ahead = [&self.ahead[..], &refused.stand_in].concat().into();
        self.poison = Some(&[]);
        (self.guard.heads + 1, refused)
    }
}

/// Follows requests as far as it takes to know where their heads are.
#[derive(Debug, Default)]
struct Guard {
    state: State,
    max_head_bytes: usize,
    /// So much of the head under way was looked at, and there its last line begins.
    seen: usize,
    line_start: usize,
    /// Heads that were good.
    heads: u64,
    /// The beginning of the line under way inside a body, if it came in pieces or is kept.
    line: Vec<u8>,
    /// The line under way is longer than what is kept of it.
    is_cut: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before or in a head.
    #[default]
    Head,
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
}

/// Why not all passes as it is.
#[derive(Debug)]
enum Stop {
    /// All does that has come, but for a head that is not whole.
    End,
    /// A head, of so many bytes, is to be read in other words; or an empty line before one, in none.
    Changed { taken: usize, head: Vec<u8> },
    /// A head is refused.
    Refused(Refused),
    /// The next byte makes a body doubtful.
    Doubt,
}

impl Guard {
    /// How many of these bytes may be read as they are, and what is behind them.
    fn pass(&mut self, bytes: &[u8]) -> (usize, Stop) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                State::Body { left } | State::ChunkData { left } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= n as u64;
                    at += n;
                    match self.state {
                        State::Body { left: 0 } => self.state = State::Head,
                        State::ChunkData { left: 0 } => self.state = State::ChunkEnd,
                        _ => {}
                    }
                }
                State::Head => match self.read_head(rest) {
                    Ok(0) => return (at, Stop::End),
                    Ok(n) => at += n,
                    Err(stop) => return (at, stop),
                },
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let end = memchr(b'\n', rest);
                    self.keep(end.map_or(rest, |end| &rest[..end]));
                    let Some(end) = end else { return (bytes.len(), Stop::End) };
                    let line = std::mem::take(&mut self.line);
                    let is_good = self.end_line(&line);
                    self.line = line;
                    self.line.clear();
                    self.is_cut = false;
                    if !is_good {
                        return (at + end, Stop::Doubt);
                    }
                    at += end + 1;
                }
            }
        }
        (at, Stop::End)
    }

    /// The length of the head at the beginning of `bytes`; 0 if it is not whole. Of several faults the one counts that is
    /// seen first, byte by byte.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let max = self.max_head_bytes;
        let is_first_line = self.line_start == 0 && !bytes.starts_with(b"\r\n");
        if is_first_line && request_head::is_none(&bytes[..bytes.len().min(max)]) {
            return Err(Stop::Refused(Refused::bad(
                bytes,
                "what came is no request of HTTP/1, which begins with a method",
            )));
        }
        while let Some(at) = memchr(b'\n', &bytes[self.seen..]) {
            let end = self.seen + at;
            if end > max {
                break;
            }
            let line = &bytes[self.line_start..end];
            if line.last() != Some(&b'\r') {
                let reason = "a line in the head of the request ends in a bare LF";
                return Err(Stop::Refused(Refused::bad(&bytes[..=end], reason)));
            }
            let (is_empty, is_first) = (line.len() == 1, self.line_start == 0);
            (self.seen, self.line_start) = (end + 1, end + 1);
            if is_empty {
                (self.seen, self.line_start) = (0, 0);
                // hyper would count what is empty as a part of the head behind it.
                let dropped = Stop::Changed { taken: end + 1, head: Vec::new() };
                return if is_first { Err(dropped) } else { self.end_head(&bytes[..end + 1]) };
            }
        }
        self.seen = bytes.len();
        if bytes.len() > max {
            return Err(Stop::Refused(Refused::large(&bytes[..=max], max)));
        }
        Ok(0)
    }

    /// A head is whole.
    fn end_head(&mut self, head: &[u8]) -> Result<usize, Stop> {
        let clear = request_head::check(head, self.max_head_bytes).map_err(Stop::Refused)?;
        self.heads += 1;
        self.state = match clear.framing {
            Framing::Length(0) => State::Head,
            Framing::Length(left) => State::Body { left },
            Framing::Chunked => State::ChunkSize,
        };
        match clear.changed {
            None => Ok(head.len()),
            Some(changed) => Err(Stop::Changed { taken: head.len(), head: changed }),
        }
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

    /// A line inside a body is whole, but for its LF; whether it leaves no doubt.
    fn end_line(&mut self, line: &[u8]) -> bool {
        let Some(line) = line.strip_suffix(b"\r") else { return false };
        match self.state {
            State::ChunkSize => match chunk_size(line).filter(|_| !self.is_cut) {
                None => return false,
                Some(0) => self.state = State::Trailers,
                Some(left) => self.state = State::ChunkData { left },
            },
            State::ChunkEnd => {
                self.state = State::ChunkSize;
                return line.is_empty();
            }
            State::Trailers if line.is_empty() => self.state = State::Head,
            _ => {}
        }
        true
    }
}

/// The size that begins a line; extensions may follow, of which nobody must take a part for a line end.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let extension = rest.iter().find(|b| !matches!(b, b' ' | b'\t'));
    let is_good = matches!(extension, None | Some(b';')) && !rest.iter().any(|b| b.is_ascii_control() && *b != b'\t');
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok().filter(|_| is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may be read of it, in pieces of a size; with what status its end is refused, 0 for none, 1 for a body in doubt;
    /// and what is said of it.
    fn read(stream: &[u8], size: usize) -> (Vec<u8>, u16, String) {
        let (mut gate, mut room, mut read) = (Gate::new(2048), vec![0; size], Vec::new());
        let (mut status, mut said, mut last) = (1, String::new(), POISON.to_vec());
        for piece in stream.chunks(size) {
            let (n, refusal) = gate.take(piece);
            read.extend_from_slice(&piece[..n]);
            if let Some((number, refused)) = refusal {
                assert!(request_head::check(&refused.stand_in, 2048).is_ok(), "hyper reads what stands for a request");
                status = refused.status.as_u16();
                said = format!("{number}: {}: {}", refused.reason, refused.stand_in.escape_ascii());
                last = refused.stand_in;
            }
            while let Some(n) = gate.read(&mut room) {
                read.extend_from_slice(&room[..n]);
                if n == 0 {
                    return (read.strip_suffix(&last[..]).expect("it is the last").to_vec(), status, said);
                }
            }
        }
        (read, 0, said)
    }

    /// The same, in pieces of any size.
    fn passed(stream: impl AsRef<[u8]>) -> (Vec<u8>, u16) {
        let stream = stream.as_ref();
        let whole = read(stream, stream.len());
        for size in 1..40 {
            assert_eq!(read(stream, size), whole, "in pieces of {size}: {:?}", String::from_utf8_lossy(stream));
        }
        (whole.0, whole.1)
    }

    #[test]
    fn what_was_before_a_head_that_is_given_up_is_read_first() {
        let (first, second) = ("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", "GET /2 HTTP/1.1\r\nX: x");
        let mut gate = Gate::new(2048);
        // In two pieces, so that the first request is not passed at once.
        assert_eq!(gate.take(&first.as_bytes()[..10]).0, 0);
        assert_eq!(gate.take(&[&first.as_bytes()[10..], second.as_bytes()].concat()).0, 0);
        let (number, refused) = gate.give_up();
        assert_eq!((number, refused.status.as_u16(), gate.held_bytes()), (2, 503, 0));
        assert!(refused.stand_in.starts_with(b"GET /2 HTTP/1.1\r\n"));
        let mut room = [0; 1024];
        let n = gate.read(&mut room).unwrap();
        assert_eq!(room[..n], [first.as_bytes(), &refused.stand_in].concat());
        assert_eq!(gate.read(&mut room), Some(0));
    }

    #[test]
    fn what_is_clear_passes() {
        for good in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\t3 \r\n\r\nabcPOST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\na \r\n0123456789\r\n00\r\n\r\n",
            "OPTIONS * HTTP/1.0\r\n\r\nGET http://h:1/a?b HTTP/1.1\r\nX:\r\n\r\n",
        ] {
            assert_eq!(passed(good), (good.into(), 0), "{good:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1000), "y".repeat(1000));
        assert_eq!(passed(&long), (long.into(), 0));
    }

    #[test]
    fn empty_lines_before_a_head_are_dropped() {
        let (one, other) = ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\r\n", "GET /b HTTP/1.1\r\n\r\n");
        for lines in ["\r\n", "\r\n\r\n", &"\r\n".repeat(2000)] {
            let stream = format!("{lines}{one}{lines}{other}{lines}");
            assert_eq!(passed(stream), (format!("{one}{other}").into(), 0));
        }
        let large = format!("\r\nGET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(2048 - 23));
        assert_eq!(passed(&large), (large[2..].into(), 0));
    }

    #[test]
    fn heads_that_are_doubtful_are_refused() {
        let before = "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        let head = "POST / HTTP/1.1\r\nHost: h\r\n";
        for (bad, status) in [
            ("Content-Length: 3\r\nContent-Length: 3\r\n", 400),
            ("Content-Length: 3\r\nContent-Length: 4\r\n", 400),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
            ("Transfer-Encoding: gzip\r\nContent-Length: 3\r\n", 400),
            ("Transfer-Encoding: gzip\r\n", 501),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
            ("content-length: 3, 3\r\n", 400),
            ("Content-Length: +3\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 99999999999999999999\r\n", 400),
            ("Content-Length : 3\r\n", 400),
            ("X: y\n", 400),
            ("X: y\r\n\n", 400),
            ("X: y\r\n z\r\n", 400),
            ("X: \0\r\n", 400),
            ("X: a\rb\r\n", 400),
            ("X\r\n", 400),
        ] {
            let stream = format!("{before}{head}{bad}\r\nand more\r\n\r\n");
            assert_eq!(passed(&stream), (before.into(), status), "{stream:?}");
        }
        for (bad, status) in [
            ("GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
            ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400),
            ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("\x16\x03\x01", 400),
            ("httpteleport\0", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET http://<h>/ HTTP/1.1\r\n\r\n", 400),
        ] {
            let stream = format!("{before}{bad}");
            assert_eq!(passed(&stream), (before.into(), status), "{stream:?}");
        }
    }

    #[test]
    fn heads_that_are_too_large_are_431() {
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(2048));
        assert_eq!(passed(&endless), (vec![], 431));
        let whole = |n: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(n - 23));
        assert_eq!(passed(whole(2048)), (whole(2048).into(), 0));
        assert_eq!(passed(whole(2049)), (vec![], 431));
        let fields = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(passed(fields(128)), (fields(128).into(), 0));
        assert_eq!(passed(fields(129)), (vec![], 431));
    }

    #[test]
    fn of_two_faults_the_first_one_counts_however_it_is_cut() {
        let long = "y".repeat(3000);
        for (bad, status) in [
            (format!("G(T / HTTP/1.1\r\nX: {long}\r\n\r\n"), 400),
            (format!("GET\r\nX: {long}\r\n\r\n"), 400),
            (format!("{long}( / HTTP/1.1\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nX: {long}\n\r\n"), 431),
            (format!("GET / HTTP/1.1\nX: {long}\r\n\r\n"), 400),
            (format!("GET /{long} HTTP/1.1\r\nX: y\r\n\r\n"), 431),
            ("GET\n / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("\n\r\n".to_owned(), 400),
            ("\rx".to_owned(), 400),
            ("\r / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ] {
            assert_eq!(passed(&bad), (vec![], status), "{bad:?}");
        }
    }

    #[test]
    fn bodies_that_are_doubtful_end_there() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in
            ["3", "3\r\nabc", "3\r\nabcd\r", "0x3\r", "3\r\nabc\r\n\r", "0\r\nX: y", "3;a\rb\r", "3;\0\r", "3\x0c\r"]
        {
            let stream = format!("{head}{bad}\nand more\r\n\r\n");
            assert_eq!(passed(&stream), (format!("{head}{bad}").into(), 1), "{stream:?}");
        }
    }

    #[test]
    fn targets_that_a_uri_has_no_place_for_are_encoded() {
        let body = "POST /`a HTTP/1.1\r\nContent-Length: 4\r\n\r\n\"<>`GET /<\"> HTTP/1.1\r\nX: <\r\n\r\n";
        let encoded = "POST /%60a HTTP/1.1\r\nContent-Length: 4\r\n\r\n\"<>`GET /%3C%22%3E HTTP/1.1\r\nX: <\r\n\r\n";
        assert_eq!(passed(body), (encoded.into(), 0));
        let binary = b"GET http://h/\xff?\xc3\xa4#<# HTTP/1.1\r\n\r\n";
        assert_eq!(passed(binary), (b"GET http://h/%FF?%C3%A4#%3C# HTTP/1.1\r\n\r\n".to_vec(), 0));
        // It is refused by what it becomes.
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "<".repeat(700));
        assert_eq!(passed(&long), (vec![], 431));
    }
}
