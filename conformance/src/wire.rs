//! The wire, from the suite's side: what it feeds, compressed by itself, and what the subject has sent, taken apart.
//!
//! Compression is undone by decoders that the core does not use: miniz_oxide for DEFLATE, and for snappy and zstd
//! readers of the suite's own ([`crate::snappy`], [`crate::zstd`]).

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::http1::{self, Message};
use crate::scenario::{Compression, Role};
use crate::{snappy, zstd};

/// A hello is 15 bytes.
pub const HELLO_BYTES: usize = 15;

/// The bytes of a hello.
pub fn hello(version: u8, compression: u8, tls: u8) -> [u8; HELLO_BYTES] {
    let mut bytes = *b"httpteleport\0\0\0";
    bytes[12..].copy_from_slice(&[version, compression, tls]);
    bytes
}

/// Compresses what the suite feeds.
pub struct Encoder {
    compression: Compression,
    deflate: Option<Box<CompressorOxide>>,
    has_begun: bool,
}

impl Encoder {
    /// Of a new stream.
    pub fn new(compression: Compression) -> Self {
        let deflate = || {
            // Level 6, and a window below 0: no zlib header.
            Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(6, -15, 0)))
        };
        Self { compression, deflate: (compression == Compression::Deflate).then(deflate), has_begun: false }
    }

    /// Compresses, and flushes.
    ///
    /// # Errors
    ///
    /// The compressor does not do what it promises: a defect of the suite.
    pub fn encode(&mut self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut wire = Vec::new();
        match (self.compression, &mut self.deflate) {
            (Compression::Snappy, _) => {
                if !std::mem::replace(&mut self.has_begun, true) {
                    wire.extend_from_slice(snappy::STREAM_ID);
                }
                snappy::encode(plain, &mut wire)?;
            }
            (Compression::Zstd, _) => {
                let is_first = !std::mem::replace(&mut self.has_begun, true);
                zstd::encode(plain, is_first, &mut wire);
            }
            (Compression::Deflate, Some(state)) => {
                use miniz_oxide::deflate::stream::deflate;
                let (mut rest, mut step) = (plain, vec![0; 1 << 16]);
                loop {
                    let result = deflate(state, rest, &mut step, MZFlush::Sync);
                    rest = &rest[result.bytes_consumed..];
                    wire.extend_from_slice(&step[..result.bytes_written]);
                    match result.status {
                        Ok(_) | Err(MZError::Buf) => {}
                        Err(error) => return Err(format!("the suite's own compressor fails: {error:?}")),
                    }
                    if rest.is_empty() && result.bytes_written < step.len() {
                        break;
                    }
                }
            }
            _ => wire.extend_from_slice(plain),
        }
        Ok(wire)
    }
}

/// Something that the subject has sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// Its hello.
    Hello(Vec<u8>),
    /// A frame.
    Frame(SentFrame),
    /// Something that is neither: nothing after it can be read.
    Fault(Fault),
}

/// A frame that the subject has sent.
#[derive(Clone, Debug)]
pub struct SentFrame {
    /// Its id.
    pub id: u32,
    /// Its message.
    pub message: Message,
    /// Its bytes as they were, id included.
    pub plain: Vec<u8>,
    /// Which output it ended in, counted from 1.
    pub output: u64,
}

/// What is wrong with what the subject has sent.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The layer: decompression, frame or message.
    pub layer: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
    /// The bytes in question.
    pub bytes: Vec<u8>,
}

enum Decoder {
    None,
    Deflate(Box<InflateState>),
    Snappy(snappy::Decoder),
    Zstd(zstd::Decoder),
}

/// Takes apart what the subject sends.
pub struct Reader {
    role: Role,
    hello: Vec<u8>,
    decoder: Decoder,
    /// Decompressed bytes of a frame that is not complete.
    plain: Vec<u8>,
    /// The last four wire bytes after the hello.
    tail: Vec<u8>,
    has_failed: bool,
    outputs: u64,
    /// The last output after which the stream stood where a flush ends.
    flushed: u64,
}

impl Reader {
    /// Of a new connection.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            hello: Vec::new(),
            decoder: Decoder::None,
            plain: Vec::new(),
            tail: Vec::new(),
            has_failed: false,
            outputs: 0,
            flushed: 0,
        }
    }

    /// Takes one output; returns what is complete with it.
    pub fn take(&mut self, mut wire: &[u8]) -> Vec<Sent> {
        let mut sent = Vec::new();
        if wire.is_empty() || self.has_failed {
            return sent;
        }
        self.outputs += 1;
        if self.hello.len() < HELLO_BYTES {
            let (hello, rest) = wire.split_at(wire.len().min(HELLO_BYTES - self.hello.len()));
            self.hello.extend_from_slice(hello);
            wire = rest;
            if self.hello.len() == HELLO_BYTES {
                self.decoder = match Compression::from_code(self.hello[13]) {
                    Some(Compression::Deflate) => Decoder::Deflate(InflateState::new_boxed(DataFormat::Raw)),
                    Some(Compression::Snappy) => Decoder::Snappy(snappy::Decoder::default()),
                    Some(Compression::Zstd) => Decoder::Zstd(zstd::Decoder::default()),
                    _ => Decoder::None,
                };
                sent.push(Sent::Hello(self.hello.clone()));
            }
        }
        if let Err(fault) = self.decompress(wire).and_then(|()| self.cut(&mut sent)) {
            self.has_failed = true;
            sent.push(Sent::Fault(fault));
        }
        if self.is_flushed() {
            self.flushed = self.outputs;
        }
        sent
    }

    fn decompress(&mut self, wire: &[u8]) -> Result<(), Fault> {
        self.tail.extend_from_slice(&wire[wire.len().saturating_sub(4)..]);
        self.tail.drain(..self.tail.len().saturating_sub(4));
        let fault = |(rule, what)| Fault { layer: "decompression", rule, what, bytes: wire.to_vec() };
        match &mut self.decoder {
            Decoder::None => self.plain.extend_from_slice(wire),
            Decoder::Snappy(decoder) => decoder.take(wire, &mut self.plain).map_err(fault)?,
            Decoder::Zstd(decoder) => decoder.take(wire, &mut self.plain).map_err(fault)?,
            Decoder::Deflate(state) => {
                let (mut rest, mut step) = (wire, vec![0; 1 << 16]);
                loop {
                    let result = inflate(state, rest, &mut step, MZFlush::None);
                    rest = &rest[result.bytes_consumed..];
                    self.plain.extend_from_slice(&step[..result.bytes_written]);
                    match result.status {
                        Ok(MZStatus::StreamEnd) => {
                            return Err(fault(("R-deflate-no-final", "a block with BFINAL".into())));
                        }
                        Ok(_) | Err(MZError::Buf) => {}
                        Err(error) => return Err(fault(("R-deflate-format", format!("no valid DEFLATE: {error:?}")))),
                    }
                    if result.bytes_consumed == 0 && result.bytes_written == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, sent: &mut Vec<Sent>) -> Result<(), Fault> {
        let mut at = 0;
        while let Some((id, rest)) = self.plain[at..].split_first_chunk::<4>() {
            let id = u32::from_le_bytes(*id);
            let read = http1::read(self.role, id, rest).map_err(|breach| Fault {
                layer: "message",
                rule: breach.rule,
                what: breach.what,
                bytes: self.plain[at..].to_vec(),
            })?;
            let Some((message, length)) = read else { break };
            let plain = self.plain[at..at + 4 + length].to_vec();
            at += 4 + length;
            sent.push(Sent::Frame(SentFrame { id, message, plain, output: self.outputs }));
        }
        self.plain.drain(..at);
        Ok(())
    }

    /// Whether the wire so far ends where a flush ends.
    fn is_flushed(&self) -> bool {
        match &self.decoder {
            Decoder::None => true,
            Decoder::Deflate(_) => self.tail.is_empty() || self.tail == [0, 0, 0xff, 0xff],
            Decoder::Snappy(decoder) => decoder.is_at_boundary(),
            Decoder::Zstd(decoder) => decoder.is_at_boundary(),
        }
    }

    /// Whether an output has been followed by the end of a flush (R-flush-boundary).
    pub fn is_sealed(&self, output: u64) -> bool {
        self.flushed >= output
    }

    /// The last wire bytes, and the rule about how a flush ends with them.
    pub fn flush_end(&self) -> (&[u8], &'static str) {
        let rule = match self.decoder {
            Decoder::Snappy(_) => "R-snappy-write-chunks",
            Decoder::Zstd(_) => "R-zstd-flush",
            _ => "R-deflate-sync-flush",
        };
        (&self.tail, rule)
    }

    /// Bytes of a hello or frame that is not complete.
    pub fn unfinished(&self) -> &[u8] {
        if self.hello.len() < HELLO_BYTES { &self.hello } else { &self.plain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_encoder_writes_is_read() {
        let body = "0123456789".repeat(20_000);
        let message = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let plain = [b"\x07\0\0\0".as_slice(), message.as_bytes()].concat();
        for compression in Compression::ALL {
            let mut encoder = Encoder::new(compression);
            let mut reader = Reader::new(Role::Server);
            assert!(matches!(reader.take(&hello(0, compression.code(), 0))[..], [Sent::Hello(_)]));
            for _ in 0..2 {
                let wire = encoder.encode(&plain).unwrap();
                let half = wire.len() / 2;
                assert!(reader.take(&wire[..half]).is_empty());
                let sent = reader.take(&wire[half..]);
                let [Sent::Frame(frame)] = &sent[..] else { panic!("{sent:?}") };
                assert!(frame.plain == plain && frame.id == 7 && reader.is_sealed(frame.output));
            }
            if compression == Compression::Deflate {
                let wire = encoder.encode(b"\x07\0\0\0HTTP/1.1 204 \r\n\r\n").unwrap();
                let sent = reader.take(&wire[..wire.len() - 4]);
                let [Sent::Frame(frame)] = &sent[..] else { panic!("{sent:?}") };
                assert!(!reader.is_sealed(frame.output), "not flushed");
            }
        }
    }
}
