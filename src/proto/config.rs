//! Configuration of a connection: what it compresses with, how it batches, how long it waits and how much it takes.

use std::time::Duration;

#[cfg(feature = "zstd")]
pub use super::dictionary::{Dictionary, DictionaryError};

/// There are none without zstd.
#[cfg(not(feature = "zstd"))]
pub(crate) enum Dictionary {}

/// How one direction of a link is compressed (spec/03-compression.md). The sender of a direction chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Raw DEFLATE with a sync flush at the end of each batch. Fewest bytes.
    #[default]
    Deflate,
    /// Bytes as they are. Least CPU.
    None,
    /// The snappy framing format. Between the two.
    Snappy,
    /// Zstandard. Fewer bytes than DEFLATE for less CPU, with a window of 2 MiB at each end. The original and whoever else
    /// does not know it closes the link; [`Config::prefer_zstd`] finds that out.
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Compression {
    /// All compressions of protocol version 0, in the order of their codes.
    #[cfg(feature = "zstd")]
    pub const ALL: [Self; 4] = [Self::Deflate, Self::None, Self::Snappy, Self::Zstd];
    /// All compressions of protocol version 0, in the order of their codes. With the feature `zstd` there is one more.
    #[cfg(not(feature = "zstd"))]
    pub const ALL: [Self; 3] = [Self::Deflate, Self::None, Self::Snappy];

    /// The code in the hello.
    pub fn code(self) -> u8 {
        match self {
            Self::Deflate => 0,
            Self::None => 1,
            Self::Snappy => 2,
            #[cfg(feature = "zstd")]
            Self::Zstd => 3,
        }
    }

    /// The compression with this code, if this build knows it.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.code() == code)
    }

    /// The level that it has unless another is chosen ([`Config::level`]), if it has levels.
    pub fn default_level(self) -> Option<u8> {
        match self {
            Self::Deflate => Some(6),
            Self::None | Self::Snappy => None,
            #[cfg(feature = "zstd")]
            Self::Zstd => Some(3),
        }
    }
}

/// How much a connection takes from its peer and holds for it. All limits are absolute: none is a ratio, since
/// compressible traffic is what the protocol is for.
///
/// The sizes are of decompressed bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message head, in bytes. Default 64 KiB.
    pub head_bytes: usize,
    /// Most fields in a head, at most [`Limits::MAX_HEADER_COUNT`]. Default 128.
    pub header_count: usize,
    /// Longest body, in bytes; a longer one is read, dropped and refused. Default 64 MiB.
    pub body_bytes: usize,
    /// Most decompressed bytes that one message may take in all, refused ones included; beyond it the connection
    /// ends. Default 1 GiB.
    pub message_bytes: u64,
    /// Client: most requests that wait for a response. Server: most requests handed to the caller and not yet
    /// answered; the connection reads no further until one is. Default 1,000 for clients, 10,000 for servers.
    pub pending_requests: usize,
    /// Client: most timed-out or cancelled requests whose response has not come yet (R-abandoned-limit). Default 10,000.
    /// No less than `pending_requests` (R-limit-minimum): the drivers see to that.
    pub abandoned_requests: usize,
    /// Server: most bytes of requests handed to the caller and not yet answered, heads and bodies, with
    /// [`Limits::FIELD_BYTES`] more for each field; the connection reads no further until some are (R-limit-held).
    /// Passed by at most one message. Default 256 MiB.
    pub held_bytes: usize,
    /// Most bytes of messages encoded and not yet taken by `poll_transmit`: no more are taken from the caller, and a
    /// server reads no further (R-limit-output). Passed by at most one message. Default 16 MiB.
    pub output_bytes: usize,
}

impl Limits {
    /// The greatest `header_count`.
    pub const MAX_HEADER_COUNT: usize = 256;
    /// What a field of a request is taken to cost beside its bytes.
    pub const FIELD_BYTES: usize = 128;

    /// The defaults of servers: begin with them to set some of a server's limits.
    pub fn server() -> Self {
        Self { pending_requests: 10_000, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            header_count: 128,
            body_bytes: 64 * 1024 * 1024,
            message_bytes: 1024 * 1024 * 1024,
            pending_requests: 1_000,
            abandoned_requests: 10_000,
            held_bytes: 256 * 1024 * 1024,
            output_bytes: 16 * 1024 * 1024,
        }
    }
}

/// What both roles are configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How this side compresses what it sends.
    pub compression: Compression,
    /// Send zstd instead, at `level`, to a peer that knows it (spec/03-compression.md, 3.8). A server sees that in the
    /// client's hello. A client tries: a server that does not know it ends the connection with
    /// [`ErrorKind::ZstdRefused`](super::ErrorKind::ZstdRefused) before anything was sent, and the next connection is to
    /// be made without this. Default off.
    #[cfg(feature = "zstd")]
    pub prefer_zstd: bool,
    /// Dictionaries for zstd (spec/03-compression.md, 3.6). Streams that need one of them are understood. A client sends
    /// with the first, which its server must have; a server with that of its client's stream. Default none.
    #[cfg(feature = "zstd")]
    pub dictionaries: Vec<Dictionary>,
    /// How hard to compress, from 1, least CPU, to 9, fewest bytes. Only DEFLATE and zstd have levels. Default: what is
    /// usual, [`Compression::default_level`].
    pub level: Option<u8>,
    /// How long a frame may wait for others to share its batch (R-batch-begin). Default 0: no waiting.
    pub max_batch_delay: Duration,
    /// How many plain bytes make a batch leave before its delay is over (R-batch-size). Default 64 KiB.
    pub batch_bytes: usize,
    /// How long both hellos, TLS included, may take. Default 3 s.
    pub hello_timeout: Duration,
    /// Close when nothing was sent, which is handed to the transport, or received for this long. Default none.
    pub idle_timeout: Option<Duration>,
    /// How long a closing connection waits for requests in flight. Default 5 s.
    pub drain_timeout: Duration,
    /// What this side takes from the peer.
    pub limits: Limits,
}

/// The code of zstd, whether this build has it or not.
pub(crate) const ZSTD_CODE: u8 = 3;

impl Config {
    /// Whether zstd is preferred where the peer knows it.
    pub(crate) fn prefers_zstd(&self) -> bool {
        #[cfg(feature = "zstd")]
        let prefers = self.prefer_zstd;
        #[cfg(not(feature = "zstd"))]
        let prefers = false;
        prefers
    }

    /// The dictionaries for zstd.
    pub(crate) fn dictionaries(&self) -> &[Dictionary] {
        #[cfg(feature = "zstd")]
        let dictionaries = &self.dictionaries;
        #[cfg(not(feature = "zstd"))]
        let dictionaries = &[];
        dictionaries
    }

    /// Prefers it no more.
    #[cfg(any(feature = "smol", feature = "thread"))]
    pub(crate) fn avoid_zstd(&mut self) {
        #[cfg(feature = "zstd")]
        {
            self.prefer_zstd = false;
        }
    }

    /// Settles on zstd if it is preferred.
    pub(crate) fn try_zstd(&mut self) {
        #[cfg(feature = "zstd")]
        if self.prefer_zstd {
            self.compression = Compression::Zstd;
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            #[cfg(feature = "zstd")]
            prefer_zstd: false,
            #[cfg(feature = "zstd")]
            dictionaries: Vec::new(),
            level: None,
            max_batch_delay: Duration::ZERO,
            batch_bytes: 64 * 1024,
            hello_timeout: Duration::from_secs(3),
            idle_timeout: None,
            drain_timeout: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// What a client is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// What both roles share.
    pub config: Config,
    /// Ask the server for TLS; never fall back to plain (R-tls-refused).
    pub tls: bool,
}

/// Whether a server speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTls {
    /// Has none: a client that asks is turned away (R-tls-unavailable).
    #[default]
    Off,
    /// Speaks it to clients that ask.
    Optional,
    /// Turns plain clients away (R-tls-required).
    Required,
}

/// What a server is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// What both roles share.
    pub config: Config,
    /// Whether the server speaks TLS.
    pub tls: ServerTls,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { config: Config { limits: Limits::server(), ..Config::default() }, tls: ServerTls::Off }
    }
}

/// What a connection has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes sent on the transport, hello included, TLS not.
    pub wire_out: u64,
    /// Bytes received from the transport, hello included, TLS not.
    pub wire_in: u64,
    /// Bytes sent before compression: frames, without the hello.
    pub plain_out: u64,
    /// Bytes received after decompression: frames, without the hello.
    pub plain_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Flushes sent: one for each batch, and more for one that is long.
    pub batches_out: u64,
    /// The same by how many frames they held: at most 1, 2, 4, 8 and so on up to 1,024; then all larger ones.
    pub batch_sizes: [u64; 12],
}

impl Stats {
    /// A batch of so many frames was sent.
    pub(super) fn note_batch(&mut self, frames: u64) {
        self.batches_out += 1;
        let power = frames.max(1).next_power_of_two().ilog2() as usize;
        let last = self.batch_sizes.len() - 1;
        self.batch_sizes[power.min(last)] += 1;
    }
}

#[cfg(any(feature = "smol", feature = "thread"))]
impl Stats {
    /// Adds what a connection has carried since `before`.
    pub(crate) fn add(&mut self, now: Self, before: Self) {
        self.wire_out += now.wire_out - before.wire_out;
        self.wire_in += now.wire_in - before.wire_in;
        self.plain_out += now.plain_out - before.plain_out;
        self.plain_in += now.plain_in - before.plain_in;
        self.frames_out += now.frames_out - before.frames_out;
        self.frames_in += now.frames_in - before.frames_in;
        self.batches_out += now.batches_out - before.batches_out;
        for (sum, (now, before)) in self.batch_sizes.iter_mut().zip(now.batch_sizes.iter().zip(before.batch_sizes)) {
            *sum += now - before;
        }
    }
}
