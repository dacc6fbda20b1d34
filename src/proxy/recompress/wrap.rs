//! What stands around a DEFLATE stream: the headers and trailers of gzip (RFC 1952) and of zlib (RFC 1950).

use std::ops::Range;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::coding::{Decoded, Undecodable, inflate};

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// More members than this cost more to begin with than they hold.
const MAX_MEMBERS: usize = 1_000;
const GZIP_HEADER_BYTES: usize = 10;
const GZIP_TRAILER_BYTES: usize = 8;
/// Flags of a gzip header.
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
const ZLIB_HEADER_BYTES: usize = 2;
const ZLIB_TRAILER_BYTES: usize = 4;
/// A preset dictionary, which nobody has.
const FDICT: u8 = 0x20;

/// Where in a coded body its one DEFLATE stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrap {
    pub(super) stream: Range<usize>,
    /// What its header tells of the level: of gzip XFL, of zlib FLEVEL.
    pub(super) hint: u8,
}

/// All members of a gzip body. With several of them there is no one stream.
pub(super) fn decode_gzip(coded: &[u8], limit: usize) -> Result<Decoded, Undecodable> {
    let mut plain = Vec::new();
    let (mut at, mut members) = (0, Vec::new());
    while at < coded.len() || members.is_empty() {
        if members.len() == MAX_MEMBERS {
            return Err(Undecodable::Malformed);
        }
        let member = &coded[at..];
        let (header, told) = gzip_header(member).ok_or(Undecodable::Malformed)?;
        let begin = plain.len();
        let length = inflate(&member[header..], &mut plain, limit)?;
        let trailer = member[header + length..].get(..GZIP_TRAILER_BYTES).ok_or(Undecodable::Malformed)?;
        if trailer != gzip_trailer(&plain[begin..]) {
            return Err(Undecodable::Malformed);
        }
        members.push(Wrap { stream: at + header..at + header + length, hint: told });
        at += header + length + GZIP_TRAILER_BYTES;
    }
    let wrap = if members.len() == 1 { members.pop() } else { None };
    Ok(Decoded { plain, wrap })
}

/// How long the header is, and its XFL.
fn gzip_header(member: &[u8]) -> Option<(usize, u8)> {
    let fixed = member.get(..GZIP_HEADER_BYTES)?;
    let (flags, told) = (fixed[3], fixed[8]);
    if fixed[..3] != GZIP_MAGIC || flags & RESERVED != 0 {
        return None;
    }
    let mut at = GZIP_HEADER_BYTES;
    if flags & FEXTRA != 0 {
        let length = member.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for text in [FNAME, FCOMMENT] {
        if flags & text != 0 {
            at += memchr::memchr(0, member.get(at..)?)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        let sum = member.get(at..at + 2)?;
        let mut crc = Crc::new();
        crc.update(&member[..at]);
        if sum != &crc.sum().to_le_bytes()[..2] {
            return None;
        }
        at += 2;
    }
    (at <= member.len()).then_some((at, told))
}

pub(super) fn gzip_trailer(plain: &[u8]) -> [u8; GZIP_TRAILER_BYTES] {
    let mut crc = Crc::new();
    crc.update(plain);
    let mut trailer = [0; GZIP_TRAILER_BYTES];
    trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
    trailer[4..].copy_from_slice(&(plain.len() as u32).to_le_bytes());
    trailer
}

pub(super) fn decode_zlib(coded: &[u8], limit: usize) -> Result<Decoded, Undecodable> {
    let &[method, flags, ref rest @ ..] = coded else { return Err(Undecodable::Malformed) };
    let is_zlib = method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
    if !is_zlib || flags & FDICT != 0 {
        return Err(Undecodable::Malformed);
    }
    let mut plain = Vec::new();
    let length = inflate(rest, &mut plain, limit)?;
    if rest[length..] != adler32(&plain).to_be_bytes() {
        return Err(Undecodable::Malformed);
    }
    let stream = ZLIB_HEADER_BYTES..ZLIB_HEADER_BYTES + length;
    debug_assert_eq!(stream.end + ZLIB_TRAILER_BYTES, coded.len());
    Ok(Decoded { plain, wrap: Some(Wrap { stream, hint: flags >> 6 }) })
}

/// RFC 1950, section 8.2.
pub(super) fn adler32(plain: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    /// So many bytes cannot overflow the sums.
    const CHUNK_BYTES: usize = 5_552;
    let (mut a, mut b) = (1, 0);
    for chunk in plain.chunks(CHUNK_BYTES) {
        for byte in chunk {
            a += u32::from(*byte);
            b += a;
        }
        a %= MODULUS;
        b %= MODULUS;
    }
    b << 16 | a
}

pub(super) fn encode_gzip(plain: &[u8], level: Compression) -> Option<Vec<u8>> {
    let unknown = 255;
    let header = [GZIP_MAGIC[0], GZIP_MAGIC[1], GZIP_MAGIC[2], 0, 0, 0, 0, 0, 0, unknown];
    Some([&header[..], &deflate(plain, level, None)?, &gzip_trailer(plain)].concat())
}

pub(super) fn encode_zlib(plain: &[u8], level: Compression) -> Option<Vec<u8>> {
    let header = [0x78, 0x9c];
    Some([&header[..], &deflate(plain, level, None)?, &adler32(plain).to_be_bytes()].concat())
}

/// A DEFLATE stream. With `wanted` none as soon as it turns out to be another.
pub(super) fn deflate(plain: &[u8], level: Compression, wanted: Option<&[u8]>) -> Option<Vec<u8>> {
    const STEP_BYTES: usize = 16 * 1024;
    let mut deflater = Compress::new(level, false);
    let mut stream = Vec::with_capacity(wanted.map_or(plain.len() / 2, <[u8]>::len) + 64);
    loop {
        let (taken, before) = (deflater.total_in() as usize, stream.len());
        stream.reserve(STEP_BYTES);
        let status = deflater.compress_vec(&plain[taken..], &mut stream, FlushCompress::Finish).ok()?;
        if let Some(wanted) = wanted
            && wanted.get(before..stream.len()) != Some(&stream[before..])
        {
            return None;
        }
        if status == Status::StreamEnd {
            return Some(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
        assert_eq!(adler32(&[255; 100_000]), 0x149a302c);
        assert_eq!(gzip_trailer(b"123456789"), [0x26, 0x39, 0xf4, 0xcb, 9, 0, 0, 0]);
    }

    /// A member with all that a header can have.
    fn decorated(plain: &[u8]) -> Vec<u8> {
        let mut member = vec![0x1f, 0x8b, 8, FHCRC | FEXTRA | FNAME | FCOMMENT | 1, 1, 2, 3, 4, 0, 3];
        member.extend(b"\x05\0extra");
        member.extend(b"name\0a comment\0");
        let mut crc = Crc::new();
        crc.update(&member);
        member.extend(&crc.sum().to_le_bytes()[..2]);
        member.extend(deflate(plain, Compression::new(6), None).unwrap());
        member.extend(gzip_trailer(plain));
        member
    }

    #[test]
    fn headers_with_everything_are_read() {
        let member = decorated(b"hello, hello, hello");
        let decoded = decode_gzip(&member, 100).unwrap();
        assert_eq!(decoded.plain, b"hello, hello, hello");
        assert_eq!(decoded.wrap.unwrap().stream.start, 10 + 7 + 5 + 10 + 2);
        for flip in [0, 1, 2, 3, 32, member.len() - 1, member.len() - 8] {
            let mut bad = member.clone();
            bad[flip] ^= 0x80;
            assert!(decode_gzip(&bad, 100).is_err(), "{flip}");
        }
    }

    #[test]
    fn several_members_are_one_content_and_no_one_stream() {
        let two = [encode_gzip(b"one", Compression::new(6)).unwrap(), decorated(b"two")].concat();
        let decoded = decode_gzip(&two, 6).unwrap();
        assert_eq!((&decoded.plain[..], decoded.wrap), (&b"onetwo"[..], None));
        assert_eq!(decode_gzip(&two, 5).unwrap_err(), Undecodable::TooLarge);
        assert!(decode_gzip(&[&two, &b"x"[..]].concat(), 6).is_err());
    }

    #[test]
    fn zlib_headers_are_checked() {
        let good = encode_zlib(b"hello", Compression::new(6)).unwrap();
        assert_eq!(decode_zlib(&good, 5).unwrap().plain, b"hello");
        let with_header = |header: [u8; 2]| [&header[..], &good[2..]].concat();
        for bad in [[0x78, 0x9d], [0x79, 0x9c], [0x88, 0x1c], [0x78, 0xbb]] {
            assert!(decode_zlib(&with_header(bad), 5).is_err(), "{bad:x?}");
        }
        assert!(decode_zlib(&good[2..], 5).is_err(), "DEFLATE without zlib's header");
        assert!(decode_zlib(&[0x78], 5).is_err());
    }
}
