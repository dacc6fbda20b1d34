//! Streams of HTTP/1 requests that are mostly good, made of an arbitrary script: what chance alone seldom writes.

use arbitrary::{Arbitrary, Unstructured};

#[derive(Arbitrary, Debug)]
struct Script<'a> {
    damages: Vec<Damage>,
    asked: Vec<Ask<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Ask<'a> {
    empty_lines: u8,
    method: Method<'a>,
    target: Target<'a>,
    version: u8,
    before: Vec<Field<'a>>,
    content: Content<'a>,
    behind: Vec<Field<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Method<'a> {
    Known(u8),
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Target<'a> {
    Known(u8),
    Path(&'a [u8]),
    Absolute(&'a [u8], &'a [u8]),
    Long(u8, u32),
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Field<'a> {
    Known(u8),
    Length(u8),
    Coding(u8),
    Other(&'a [u8], &'a [u8]),
    Line(&'a [u8]),
    Many(u8),
    LongName(u32),
    LongValue(u16),
}

#[derive(Arbitrary, Debug)]
enum Content<'a> {
    None,
    Fixed(&'a [u8]),
    /// Pieces, how each is introduced, and what follows the last.
    Chunked(Vec<(&'a [u8], u8)>, u8),
}

/// Done to the whole stream in the end.
#[derive(Arbitrary, Debug)]
enum Damage {
    Set(u16, u8),
    Insert(u16, u8),
    Delete(u16, u8),
    Copy(u16, u16, u8),
    Cut(u16),
}

const METHODS: &[&str] = &["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "PRI", "G~T"];
const TARGETS: &[&str] =
    &["/", "*", "/a?b=c", "http://h/", "http://h:1?q", "h:443", "/%3C", "/a#b", "//h/", "https://h#f", "http://u@h/"];
const FIELDS: &[&str] = &[
    "Host: h",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: x, Close",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "TE: trailers",
    "Trailer: x",
    "X:",
    "X:\t \t",
    "x: \u{e4}\t \u{e4} ",
    "Keep-Alive: timeout=1",
];
const LENGTHS: &[&str] = &[
    "0",
    "1",
    "05",
    "+1",
    "-1",
    "1 ",
    "\t1",
    "1,1",
    "1, 1",
    "",
    "0x1",
    "1 1",
    "18446744073709551615",
    "18446744073709551606",
    "18446744073709551616",
    "1\u{b}",
];
const CODINGS: &[&str] =
    &["chunked", "Chunked", "gzip", "gzip, chunked", "chunked, chunked", "identity", "", "chunked;q=1", "\u{b}chunked"];
const INTRODUCTIONS: &[&str] = &["", ";", ";a=b", " ", "\t;x", " ; a=\"b\"", "\u{b}", "\u{c}", ";\r", "x", ";a\0"];
const TRAILERS: &[&str] = &["", "X: y\r\n", "X: y\r\nContent-Length: 3\r\n", "X\r\n", " x\r\n", "X: y\n", "X: \ry\r\n"];
/// What readers take for the end of something.
const SEPARATORS: &[&str] =
    &["\r\n", "\n", "\r", " ", "\t", ":", "\0", "\r\n\r\n", "\n\n", "\r\n ", ": ", " :", "\u{b}", "0"];

/// So many requests at most.
const MOST_ASKED: usize = 16;

/// Writes what the script says.
pub fn write(bytes: Unstructured<'_>) -> Option<Vec<u8>> {
    let script = Script::arbitrary_take_rest(bytes).ok()?;
    let mut wire = Vec::new();
    for asked in script.asked.iter().take(MOST_ASKED) {
        asked.write(&mut wire);
    }
    for damage in script.damages.iter().take(4) {
        damage.apply(&mut wire);
    }
    Some(wire)
}

fn pick<'s>(all: &[&'s str], which: u8) -> &'s [u8] {
    all[usize::from(which) % all.len()].as_bytes()
}

impl Ask<'_> {
    fn write(&self, wire: &mut Vec<u8>) {
        for _ in 0..self.empty_lines.saturating_sub(250) {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(match self.method {
            Method::Known(which) => pick(METHODS, which),
            Method::Other(other) => other,
        });
        wire.push(b' ');
        match self.target {
            Target::Known(which) => wire.extend_from_slice(pick(TARGETS, which)),
            Target::Path(path) => wire.extend([b"/", path].concat()),
            Target::Absolute(authority, path) => wire.extend([b"http://", authority, b"/", path].concat()),
            Target::Long(byte, length) => {
                wire.push(b'/');
                wire.resize(wire.len() + length as usize % 70_000, byte);
            }
            Target::Other(other) => wire.extend_from_slice(other),
        }
        wire.extend_from_slice(match self.version {
            0 => b" HTTP/1.2",
            1 => b" HTTP/2.0",
            2 => b"",
            3..40 => b" HTTP/1.0",
            _ => b" HTTP/1.1",
        });
        wire.extend_from_slice(b"\r\n");
        self.before.iter().for_each(|field| field.write(wire));
        match &self.content {
            Content::None => {}
            Content::Fixed(body) => wire.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes()),
            Content::Chunked(..) => wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        self.behind.iter().for_each(|field| field.write(wire));
        wire.extend_from_slice(b"\r\n");
        match &self.content {
            Content::None => {}
            Content::Fixed(body) => wire.extend_from_slice(body),
            Content::Chunked(pieces, trailers) => {
                for (piece, introduction) in pieces.iter().filter(|(piece, _)| !piece.is_empty()) {
                    wire.extend_from_slice(format!("{:x}", piece.len()).as_bytes());
                    wire.extend_from_slice(pick(INTRODUCTIONS, introduction.saturating_sub(128)));
                    wire.extend([b"\r\n", *piece, b"\r\n"].concat());
                }
                wire.extend([b"0\r\n", pick(TRAILERS, trailers.saturating_sub(128)), b"\r\n"].concat());
            }
        }
    }
}

impl Field<'_> {
    fn write(&self, wire: &mut Vec<u8>) {
        match *self {
            Self::Known(which) => wire.extend_from_slice(pick(FIELDS, which)),
            Self::Length(which) => wire.extend([b"Content-Length:", pick(LENGTHS, which)].concat()),
            Self::Coding(which) => wire.extend([b"transfer-encoding: ", pick(CODINGS, which)].concat()),
            Self::Other(name, value) => wire.extend([name, b": ", value].concat()),
            Self::Line(line) => wire.extend_from_slice(line),
            Self::Many(count) => wire.extend(b"a:\r\n".repeat(count.into())),
            Self::LongName(length) => {
                wire.resize(wire.len() + length as usize % 70_000, b'n');
                wire.push(b':');
            }
            Self::LongValue(length) => {
                wire.extend_from_slice(b"a:");
                wire.resize(wire.len() + usize::from(length), b'v');
            }
        }
        wire.extend_from_slice(b"\r\n");
    }
}

impl Damage {
    fn apply(&self, wire: &mut Vec<u8>) {
        let place = |at: u16| usize::from(at) % (wire.len() + 1);
        match *self {
            Self::Set(at, byte) => {
                let at = place(at);
                wire.get_mut(at).into_iter().for_each(|it| *it = byte);
            }
            Self::Insert(at, which) => {
                let at = place(at);
                wire.splice(at..at, pick(SEPARATORS, which).iter().copied());
            }
            Self::Delete(at, count) => {
                let at = place(at);
                wire.drain(at..(at + usize::from(count % 16)).min(wire.len()));
            }
            Self::Copy(from, to, count) => {
                let (from, to) = (place(from), place(to));
                let piece = wire[from..(from + usize::from(count)).min(wire.len())].to_vec();
                wire.splice(to..to, piece);
            }
            Self::Cut(at) => {
                let at = place(at);
                wire.truncate(at);
            }
        }
    }
}
