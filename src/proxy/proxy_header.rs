//! The header of the PROXY protocol, version 2, by which a balancer tells who has connected to it.
//!
//! ```text
//! 12 bytes signature | version 2, command | family, transport | length, 2 bytes | addresses | TLVs
//! ```
//!
//! It is read to its last byte and not one further, before anything else, so that what comes after is the caller's.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u128};
use nom::{IResult, Parser};
use smol::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What comes before the addresses.
const FIXED_BYTES: usize = 16;
/// The TLV with a checksum of the whole header.
const CRC32C: u8 = 0x03;

/// Why there is no header.
#[derive(Debug)]
pub(crate) enum HeaderError {
    /// The connection failed or ended.
    Io(io::Error),
    /// Another protocol is spoken; in words.
    Stranger(&'static str),
    /// The header is malformed; in words.
    Malformed(&'static str),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("it ended before its PROXY header did")
            }
            Self::Io(error) => write!(f, "its PROXY header did not come: {error}"),
            Self::Stranger(what) => f.write_str(what),
            Self::Malformed(why) => write!(f, "its PROXY header is malformed: {why}"),
        }
    }
}

/// Reads a header off the beginning of a connection: who is at its far end, or `None` if the balancer itself is.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; FIXED_BYTES];
    // First what tells other protocols, some of which would never send as much as 16 bytes.
    let (start, rest) = header.split_at_mut(SIGNATURE.len());
    stream.read_exact(start).await.map_err(HeaderError::Io)?;
    if start != SIGNATURE {
        return Err(HeaderError::Stranger(if start.starts_with(b"PROXY ") {
            "it began with version 1 of the PROXY protocol: have the balancer send version 2"
        } else {
            "it began without a PROXY header of version 2: have the balancer send it"
        }));
    }
    stream.read_exact(rest).await.map_err(HeaderError::Io)?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(FIXED_BYTES + length, 0);
    stream.read_exact(&mut header[FIXED_BYTES..]).await.map_err(HeaderError::Io)?;
    parse(&header).map_err(HeaderError::Malformed)
}

/// Whom a whole header names.
fn parse(header: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let (command, family, body) = (header[12], header[13], &header[FIXED_BYTES..]);
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        command if command >> 4 != 2 => return Err("its version is not 2"),
        _ => return Err("its command is neither LOCAL nor PROXY"),
    };
    let too_short = "it is too short for its addresses";
    let (tlvs, source) = match family {
        0x11 => tcp4(body).map_err(|_| too_short)?,
        0x21 => tcp6(body).map_err(|_| too_short)?,
        // Paths of sockets, of which nothing is used.
        0x31 => take::<_, _, nom::error::Error<&[u8]>>(216usize)
            .parse_complete(body)
            .map(|(tlvs, _)| (tlvs, None))
            .map_err(|_| too_short)?,
        0x00 => (body, None),
        0x12 | 0x22 | 0x32 => return Err("it speaks of datagrams"),
        // Of a sender that says that it is no proxied connection, nothing else counts.
        _ if is_local => (&[][..], None),
        _ => return Err("its address family is unknown"),
    };
    // What an unspecified family is followed by is nobody's business.
    if family != 0x00 {
        check(header, tlvs)?;
    }
    Ok(if is_local { None } else { source })
}

type Parsed<'a> = IResult<&'a [u8], Option<SocketAddr>>;

fn tcp4(body: &[u8]) -> Parsed<'_> {
    let addresses = (be_u32, be_u32, be_u16, be_u16);
    addresses.map(|(source, _, port, _)| Some((IpAddr::V4(Ipv4Addr::from(source)), port).into())).parse_complete(body)
}

fn tcp6(body: &[u8]) -> Parsed<'_> {
    let addresses = (be_u128, be_u128, be_u16, be_u16);
    addresses.map(|(source, _, port, _)| Some((IpAddr::V6(Ipv6Addr::from(source)), port).into())).parse_complete(body)
}

/// Checks the form of what follows the addresses, and the checksum if there is one.
fn check(header: &[u8], tlvs: &[u8]) -> Result<(), &'static str> {
    let mut rest = tlvs;
    while !rest.is_empty() {
        let parsed: IResult<&[u8], (u8, &[u8])> = (be_u8, length_data(be_u16)).parse_complete(rest);
        let (after, (kind, value)) = parsed.map_err(|_| "what follows its addresses is cut")?;
        rest = after;
        if kind != CRC32C {
            continue;
        }
        let told: [u8; 4] = value.try_into().map_err(|_| "its checksum is not of 4 bytes")?;
        // It is made with zeros in its own place, which is where `value` lies in `header`.
        let at = value.as_ptr().addr() - header.as_ptr().addr();
        let sum = crc32c::crc32c(&header[..at]);
        let sum = crc32c::crc32c_append(sum, &[0; 4]);
        let sum = crc32c::crc32c_append(sum, &header[at + 4..]);
        if sum != u32::from_be_bytes(told) {
            return Err("its checksum is wrong");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut rest = bytes;
        let result = smol::block_on(read(&mut rest)).map_err(|error| error.to_string());
        (result, rest.len())
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    #[test]
    fn addresses_of_both_families_and_not_a_byte_more() {
        let mut bytes = header(0x21, 0x11, &V4);
        bytes.extend(b"GET /");
        assert_eq!(read_all(&bytes), (Ok(Some("192.0.2.1:4660".parse().unwrap())), 5));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 7;
        v6[33] = 9;
        assert_eq!(read_all(&header(0x21, 0x21, &v6)).0, Ok(Some("[2001:db8::7]:9".parse().unwrap())));
    }

    #[test]
    fn the_balancers_own_connections_and_unix_sockets_name_nobody() {
        assert_eq!(read_all(&header(0x20, 0x00, &[])), (Ok(None), 0));
        assert_eq!(read_all(&header(0x20, 0x11, &V4)), (Ok(None), 0));
        assert_eq!(read_all(&header(0x21, 0x00, b"anything")), (Ok(None), 0));
        assert_eq!(read_all(&header(0x21, 0x31, &[0; 216])), (Ok(None), 0));
    }

    #[test]
    fn a_checksum_counts() {
        let mut body = V4.to_vec();
        body.extend([0x04, 0, 2, 1, 2, CRC32C, 0, 4, 0, 0, 0, 0]);
        let mut bytes = header(0x21, 0x11, &body);
        let sum = crc32c::crc32c(&bytes).to_be_bytes();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum);
        assert!(read_all(&bytes).0.unwrap().is_some());
        bytes[at] ^= 1;
        assert!(read_all(&bytes).0.unwrap_err().contains("checksum is wrong"));
    }

    #[test]
    fn what_is_none_is_told_apart() {
        let error = |bytes: &[u8]| read_all(bytes).0.unwrap_err();
        assert!(error(b"PROXY TCP4 1.1.1.1").contains("version 1"));
        assert!(error(b"PROXY UNKNOWN\r\n").contains("version 1"));
        assert!(error(b"GET / HTTP/1.1\r\n").contains("without"));
        assert!(error(&SIGNATURE).contains("ended"));
        assert!(error(&header(0x31, 0x11, &V4)).contains("version"));
        assert!(error(&header(0x22, 0x11, &V4)).contains("command"));
        assert!(error(&header(0x21, 0x12, &V4)).contains("datagrams"));
        assert!(error(&header(0x21, 0x41, &V4)).contains("family"));
        assert!(error(&header(0x21, 0x11, &V4[..11])).contains("too short"));
        let mut cut = V4.to_vec();
        cut.extend([4, 0, 9, 1]);
        assert!(error(&header(0x21, 0x11, &cut)).contains("cut"));
    }
}
