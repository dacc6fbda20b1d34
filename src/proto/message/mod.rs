//! The HTTP/1.1 message profile (spec/05-messages.md): heads in, heads out, and what delimits a message.

mod framing;
mod read;
mod write;

pub(crate) use framing::Length;
pub(crate) use read::{Outline, Then, parse_request, parse_response};
pub(crate) use write::{write_goodbye, write_request, write_response};

/// The field that carries, in a response to HEAD, the Content-Length that a GET would have had (R-head-response).
pub const HEAD_LENGTH_FIELD: &str = "teleport-head-length";
/// Its value where that length is not known.
const HEAD_LENGTH_UNKNOWN: &str = "none";
