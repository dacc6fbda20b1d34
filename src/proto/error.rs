//! The two error families: [`SendError`], what the caller did wrong, and [`ConnectionError`], what the peer or the
//! network did. Each has a stable code, listed in `spec/errors.md`.

use std::fmt;

/// Why a connection ended. Sticky: once a connection has one, it never changes.
///
/// `code()` is the stable slug of `spec/errors.md`; `Display` says what was wrong and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    kind: ErrorKind,
    place: Place,
}

/// Where in the peer's bytes an error was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not a matter of the peer's bytes.
    Nowhere,
    /// Byte `at` of what the peer sent on the transport, hello included.
    Wire { at: u64 },
    /// Just after byte `at` of the decompressed stream.
    Stream { at: u64 },
    /// Frame number `frame` (from 1) of the direction, which starts at byte `at` of the decompressed stream.
    Frame { frame: u64, id: Option<u32>, at: u64 },
}

impl ConnectionError {
    pub(crate) fn new(kind: ErrorKind, place: Place) -> Self {
        Self { kind, place }
    }

    pub(crate) fn nowhere(kind: ErrorKind) -> Self {
        Self::new(kind, Place::Nowhere)
    }

    /// What happened, to match on.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Where the error was found: during the hello the byte of the connection, later the byte of the decompressed
    /// stream at which the frame in question begins. `None` if it is no matter of the peer's bytes.
    pub fn offset(&self) -> Option<u64> {
        match self.place {
            Place::Nowhere => None,
            Place::Wire { at } | Place::Stream { at } | Place::Frame { at, .. } => Some(at),
        }
    }

    /// The stable code of this error, as `spec/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.kind, self.code())?;
        match self.place {
            Place::Nowhere => Ok(()),
            Place::Wire { at } => write!(f, ", at byte {at} of the connection"),
            Place::Stream { at } => write!(f, ", after {at} decompressed bytes"),
            Place::Frame { frame, id: Some(id), at } => {
                write!(f, ", in frame {frame} (request id {id}) at byte {at} of the decompressed stream")
            }
            Place::Frame { frame, id: None, at } => {
                write!(f, ", in the id of frame {frame} at byte {at} of the decompressed stream")
            }
        }
    }
}

impl std::error::Error for ConnectionError {}

/// What the first bytes of a peer that is no teleport peer look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// The start of an HTTP/1 request or response, or of the HTTP/2 preface.
    Http,
    /// A TLS record.
    Tls,
    /// None of these.
    Unknown,
}

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident $(($($field:ident : $ty:ty),+))? = $code:literal, $($fmt:expr),+ ;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[doc = $doc])* $variant $(($($ty),+))?,)+
        }

        impl $name {
            /// The stable code, as `spec/errors.md` lists it.
            #[allow(unused_variables)]
            pub fn code(&self) -> &'static str {
                match self { $(Self::$variant $(($($field),+))? => $code,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$variant $(($($field),+))? => write!(f, $($fmt),+),)+ }
            }
        }
    };
}

kinds! {
    /// The kinds of [`ConnectionError`].
    ErrorKind {
        /// The peer did not begin with the magic of the hello (R-hello-magic).
        HelloMagic(stranger: Stranger) = "hello-magic", "{}", match stranger {
            Stranger::Http => "the peer speaks HTTP, not teleport: one of the two is on the wrong port or has the wrong type",
            Stranger::Tls => "the peer speaks TLS before the hello, not teleport: one of the two is on the wrong port or has the wrong type",
            Stranger::Unknown => "the peer's first bytes are no teleport hello",
        };
        /// The peer's hello names another protocol version (R-hello-version).
        HelloVersion(version: u8) = "hello-version", "the peer speaks protocol version {version}, this side version 0";
        /// The peer's hello names a compression this side does not have (R-hello-compression).
        HelloCompression(code: u8) = "hello-compression", "the peer compresses with code {code}, which this side does not know";
        /// The hello, TLS included, was not complete in time (R-hello-timeout).
        HelloTimeout = "hello-timeout", "the hello was not complete in time: is the peer a teleport server?";
        /// The peer closed within the hello (R-hello-truncated).
        HelloTruncated = "hello-truncated", "the peer closed the connection before its hello was complete";
        /// This client asked for TLS and the server cannot (R-tls-refused).
        TlsRefused = "tls-refused", "the server has no TLS, which this client requires";
        /// The client asked for TLS and this server cannot (R-tls-unavailable).
        TlsUnavailable = "tls-unavailable", "the client asked for TLS, which this server does not have";
        /// The client did not ask for TLS and this server requires it (R-tls-required).
        TlsRequired = "tls-required", "the client did not ask for TLS, which this server requires";
        /// This client tried zstd and the server, which does not know it, closed (R-zstd-client). Nothing was sent.
        ZstdRefused = "zstd-refused", "the server does not know the compression zstd; connect again with another";
        /// The DEFLATE stream is corrupt.
        DeflateCorrupt = "deflate-corrupt", "the DEFLATE stream is corrupt";
        /// The peer ended the DEFLATE stream with a final block (R-deflate-no-final).
        DeflateEnded = "deflate-ended", "the peer ended its DEFLATE stream with a final block";
        /// A snappy stream did not start with the stream identifier (R-snappy-stream-id).
        SnappyStreamId = "snappy-stream-id", "the snappy stream has no valid stream identifier";
        /// A reserved snappy chunk that must not be skipped.
        SnappyChunkType(chunk_type: u8) = "snappy-chunk-type", "snappy chunk of reserved type 0x{chunk_type:02x}";
        /// A snappy chunk longer or shorter than its type allows.
        SnappyChunkLength(length: u32) = "snappy-chunk-length", "snappy chunk with a length of {length} bytes, which its type does not allow";
        /// A snappy chunk's checksum does not match its content.
        SnappyChecksum = "snappy-checksum", "a snappy chunk's checksum does not match its content";
        /// A snappy chunk's content is corrupt.
        SnappyCorrupt = "snappy-corrupt", "a snappy chunk is corrupt";
        /// The zstd stream is corrupt (R-zstd-read).
        ZstdCorrupt = "zstd-corrupt", "the zstd stream is corrupt";
        /// A window of the zstd stream is larger than allowed (R-zstd-window).
        ZstdWindow(bytes: u64) = "zstd-window", "the peer's zstd stream needs a window of {bytes} bytes, which is more than 2097152: it has to be set to a smaller one";
        /// The zstd stream needs a dictionary that is not among those of the configuration, or not that of its first frame
        /// (R-zstd-dictionary).
        ZstdDictionary(id: u32) = "zstd-dictionary", "the peer's zstd stream needs dictionary {id} (0 is none), which is not known here or not what it began with: give this side the dictionary of the peer";
        /// A start line that cannot be split (R-read-unparsable).
        StartLine = "start-line", "no HTTP/1 start line where a message should begin";
        /// A malformed field line that may concern framing.
        FieldLine = "field-line", "a malformed field line leaves the length of the message uncertain";
        /// A head beyond the limit.
        HeadTooLarge(limit: usize) = "head-too-large", "a message head is larger than the limit of {limit} bytes";
        /// A message beyond the limit on decompressed bytes.
        MessageTooLarge(limit: u64) = "message-too-large", "a message is larger than the limit of {limit} bytes";
        /// A Content-Length that is no single decimal number (R-read-length).
        ContentLength = "content-length", "Content-Length is not exactly one decimal number";
        /// A Transfer-Encoding other than one `chunked` (R-read-transfer-encoding).
        TransferEncoding = "transfer-encoding", "Transfer-Encoding is not exactly `chunked` in an HTTP/1.1 message";
        /// Both lengths at once (R-read-length).
        LengthAndChunked = "length-and-chunked", "a message has both Content-Length and Transfer-Encoding";
        /// A body announced where none may be (R-read-no-body).
        BodyNotAllowed = "body-not-allowed", "a GET or HEAD request announces a body";
        /// A response whose end cannot be known (R-read-no-length).
        LengthRequired = "length-required", "a response has neither Content-Length nor chunked coding";
        /// A malformed chunk (R-read-chunked).
        ChunkedBody = "chunked-body", "a chunked body is malformed";
        /// A response to HEAD that may or may not have a body (R-read-head-response).
        HeadAmbiguous = "head-ambiguous", "a response to HEAD leaves open whether a body follows";
        /// The peer closed inside a frame (R-eof-truncated).
        Truncated = "truncated", "the peer closed the connection inside a frame";
        /// The peer closed while requests were in flight.
        Closed = "closed", "the peer closed the connection";
        /// Nothing was sent or received for the idle timeout (R-idle).
        IdleTimeout = "idle-timeout", "nothing was sent or received for the idle timeout";
        /// Too many timed-out requests are still unanswered (R-id-unique).
        AbandonedLimit(limit: usize) = "abandoned-limit", "the peer left {limit} timed-out or cancelled requests unanswered";
        /// Accepted requests were not answered within the drain timeout (R-server-drain).
        DrainTimeout = "drain-timeout", "requests in flight did not end within the drain timeout";
        /// The transport failed: reported by the driver.
        Transport = "transport", "the transport failed";
    }
}

kinds! {
    /// Why one message was refused while its link lives on (R-read-refuse).
    MessageError {
        /// HTTP/1.2 to HTTP/1.9.
        Version = "version", "the HTTP version is neither 1.0 nor 1.1";
        /// The method is no token.
        Method = "method", "the method is not a token";
        /// CONNECT cannot be carried.
        MethodConnect = "method-connect", "CONNECT cannot be carried over a link";
        /// The target is not a valid request target.
        Target = "target", "the request target is malformed";
        /// A status below 100, or a malformed reason.
        Status = "status", "the status line is malformed";
        /// A malformed field line that cannot concern framing.
        Field = "field", "a field line is malformed";
        /// More fields than the limit.
        TooManyFields = "too-many-fields", "the message has too many header fields";
        /// A body beyond the limit.
        BodyTooLarge = "body-too-large", "the message body is larger than the limit";
        /// There was no memory for its body (R-limit-memory).
        Overload = "overload", "there is no memory for the message now; try again later";
        /// An interim response other than 100.
        InterimResponse = "interim-response", "an interim response stands where the final one should";
    }
}

impl MessageError {
    /// The status with which a server answers a request refused for this reason.
    pub fn status(&self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::MethodConnect => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl std::error::Error for MessageError {}

kinds! {
    /// A command that this side's caller got wrong, or that came at the wrong time. The connection is unharmed.
    SendError {
        /// The connection is closed or closing.
        Closing = "closing", "the connection is closed or closing";
        /// As many requests are pending as the limit allows.
        PendingOverflow(limit: usize) = "pending-overflow", "{limit} requests are pending, which is the limit";
        /// More bytes wait to be transmitted than the limit allows.
        OutputFull(limit: usize) = "output-full", "{limit} bytes wait to be sent, which is the limit";
        /// CONNECT cannot be carried (R-write-method).
        MethodConnect = "method-connect", "CONNECT cannot be carried over a link";
        /// A GET or HEAD request with a body (R-write-no-body).
        BodyNotAllowed = "body-not-allowed", "a GET or HEAD request cannot carry a body";
        /// No Host field and no authority in the URI (R-write-host).
        MissingHost = "missing-host", "the request has no Host field and its URI no authority";
        /// More than one Host field, or one that is not visible ASCII (R-write-host).
        Host = "host", "the request needs exactly one Host field of visible ASCII";
        /// A target that is neither a path nor `*` (R-write-target).
        Target = "target", "the request target is neither a path nor `*`";
        /// The status is not one of 200 to 599 (R-write-no-interim).
        Status = "status", "only final responses, status 200 to 599, can be sent";
        /// The head is larger than the peer must accept.
        HeadTooLarge(limit: usize) = "head-too-large", "the message head is larger than the limit of {limit} bytes";
        /// More fields than a receiver with this side's limits takes (R-limit-fields).
        TooManyFields(limit: usize) = "too-many-fields", "the message has more header fields than the limit of {limit} allows";
        /// The body is larger than the limit.
        BodyTooLarge(limit: usize) = "body-too-large", "the message body is larger than the limit of {limit} bytes";
    }
}

impl std::error::Error for SendError {}
