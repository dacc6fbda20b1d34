//! The hello: the 15 bytes that open a direction (spec/02-hello.md).

use nom::bytes::complete::tag;
use nom::number::complete::u8;
use nom::{IResult, Parser};

use super::error::{ErrorKind, Stranger};

/// The first 12 bytes of a hello.
pub(crate) const MAGIC: &[u8; 12] = b"httpteleport";
/// Bytes of a whole hello.
pub(crate) const HELLO_BYTES: usize = 15;
/// The protocol version that this crate speaks.
const VERSION: u8 = 0;

/// What a hello says. The compression is still a bare code: whether it is known is for the receiver to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) compression: u8,
    pub(crate) tls: bool,
}

impl Hello {
    pub(crate) fn encode(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..12].copy_from_slice(MAGIC);
        bytes[12] = VERSION;
        bytes[13] = self.compression;
        bytes[14] = u8::from(self.tls);
        bytes
    }

    /// Reads a whole hello that [`check_start`] let pass.
    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, ErrorKind> {
        check_start(bytes)?;
        let fields: IResult<&[u8], _> = (tag(&MAGIC[..]), u8, u8, u8).parse(&bytes[..]);
        let (_, (_, _, compression, tls)) = fields.map_err(|_| ErrorKind::HelloTruncated)?;
        Ok(Self { compression, tls: tls != 0 })
    }
}

/// Judges the magic once 12 bytes are there and the version once 13 are (R-hello-magic, R-hello-version).
pub(crate) fn check_start(start: &[u8]) -> Result<(), ErrorKind> {
    match start {
        _ if start.len() < MAGIC.len() => Ok(()),
        _ if !start.starts_with(MAGIC) => Err(guess(&start[..MAGIC.len()])),
        _ => match start.get(MAGIC.len()) {
            Some(&version) if version != VERSION => Err(ErrorKind::HelloVersion(version)),
            _ => Ok(()),
        },
    }
}

/// What a peer that sent `start` seems to be, so that the error can say what to mend.
fn guess(start: &[u8]) -> ErrorKind {
    const HTTP: [&[u8]; 11] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"TRACE ",
        b"CONNECT ",
        b"PRI ",
        b"HTTP/",
    ];
    ErrorKind::HelloMagic(match start {
        [0x16, 0x03, ..] => Stranger::Tls,
        _ if HTTP.iter().any(|h| start.starts_with(h)) => Stranger::Http,
        _ => Stranger::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_fifteen_bytes_in_this_order() {
        let bytes = Hello { compression: 2, tls: true }.encode();
        assert_eq!(&bytes, b"httpteleport\x00\x02\x01");
    }

    #[test]
    fn every_hello_that_is_written_is_read_back() {
        for compression in 0..=255 {
            for tls in [false, true] {
                let hello = Hello { compression, tls };
                assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            }
        }
    }

    #[test]
    fn any_tls_byte_but_zero_asks_for_tls() {
        for byte in 1..=255 {
            let mut bytes = Hello { compression: 1, tls: false }.encode();
            bytes[14] = byte;
            assert!(Hello::decode(&bytes).unwrap().tls, "R-tls-byte-read, byte {byte}");
        }
    }

    #[test]
    fn strangers_are_named() {
        let magic = |bytes: &[u8]| check_start(bytes).unwrap_err();
        assert_eq!(magic(b"GET / HTTP/1"), ErrorKind::HelloMagic(Stranger::Http));
        assert_eq!(magic(b"HTTP/1.1 400"), ErrorKind::HelloMagic(Stranger::Http));
        assert_eq!(magic(b"PRI * HTTP/2"), ErrorKind::HelloMagic(Stranger::Http));
        assert_eq!(magic(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xaa"), ErrorKind::HelloMagic(Stranger::Tls));
        assert_eq!(magic(b"httpteleporX"), ErrorKind::HelloMagic(Stranger::Unknown));
        assert_eq!(check_start(b"GET / HTTP/"), Ok(()), "judged with 12 bytes, not before");
    }

    #[test]
    fn another_version_is_refused_by_number() {
        let mut bytes = Hello { compression: 1, tls: false }.encode();
        bytes[12] = 1;
        assert_eq!(Hello::decode(&bytes), Err(ErrorKind::HelloVersion(1)));
    }
}
