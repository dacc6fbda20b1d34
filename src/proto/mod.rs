//! The protocol as a pure state machine (sans-IO): bytes and the time go in; bytes, events and the next deadline come
//! out.
//!
//! Nothing here opens a socket, starts a thread or reads a clock, and no input makes it panic. A *driver* is the shell
//! that does: `driver::smol` and `driver::thread` are two, and this page is all that it takes to write another.
//!
//! # The contract
//!
//! [`ClientConnection`] and [`ServerConnection`] have the same four kinds of method:
//!
//! | kind | methods | promise |
//! |---|---|---|
//! | inputs | `handle_input`, `handle_eof`, `handle_timeout`, `handle_tls_established`, `handle_transport_error` | never fail; a failure surfaces once, as an event, after every event that came before it |
//! | commands | client: `send_request`, `send_oneway`, `cancel`; server: `send_response`, `discard`; both: `flush`, `set_level`, `close` | fail with a [`SendError`] and leave the connection unharmed |
//! | outputs | `poll_transmit`, `poll_event`, `poll_timeout` | to be drained, in this order, after any input or command; `poll_event` and `poll_timeout` never make new output |
//! | getters | `wants_read`, `is_handshaking`, `is_closing`, `is_closed`, `pending_requests`, `level`, `next_timer`, `stats` | change nothing |
//!
//! So a driver's loop is:
//!
//! 1. `poll_transmit`, and write what it gave. Ask again when the socket has taken it all, until it gives nothing:
//!    a long batch leaves in pieces, and what comes meanwhile shares the next one.
//! 2. `poll_event` until there is none. After `Closed` there will be none: close the socket once all is written.
//! 3. Wait until the socket is readable (if `wants_read`), or writable (if something is to be written), or until
//!    `poll_timeout`, which may be over already, or until the program has a command.
//! 4. Tell the connection what happened, with the time. `handle_input` says how much it took; offer the rest again
//!    once `wants_read` is true. End of file is told when everything before it has been taken.
//!
//! Code that drives either role can be generic over [`Connection`], which has what the loop needs.
//!
//! How the input is cut into pieces never changes the events. `handle_timeout` may be called early, late or twice.
//!
//! The [crate's front page](crate) shows a client and a server that do this in memory.
//!
//! # Where things are
//!
//! | spec | here |
//! |---|---|
//! | 02 hello | `hello`, and the phases in `link` |
//! | 03 compression | `compress` |
//! | 04 frames, ids, batches | `frame`, `batch`; ids in `client`, and tables by them in `ids` |
//! | 05 messages | `message`: what delimits a message (`framing`), heads in (`read`), heads out (`write`) |
//! | 06 lifecycle | `link`, shared by both roles; `client`, `server` |
//! | 07 limits | [`Limits`] |
//! | errors | [`ErrorKind`], [`MessageError`], [`SendError`] |

mod batch;
mod client;
mod compress;
mod config;
mod connection;
mod deadlines;
#[cfg(feature = "zstd")]
mod dictionary;
mod error;
mod frame;
mod hello;
mod ids;
mod link;
mod message;
mod server;

pub use client::{ClientConnection, ClientEvent, RequestError, RequestId};
pub use config::{ClientConfig, Compression, Config, Limits, ServerConfig, ServerTls, Stats};
#[cfg(feature = "zstd")]
pub use config::{Dictionary, DictionaryError};
pub use connection::Connection;
pub use error::{ConnectionError, ErrorKind, MessageError, SendError, Stranger};
#[cfg(any(feature = "smol", feature = "thread"))]
pub(crate) use ids::IdMap;
pub use link::Timer;
pub use message::HEAD_LENGTH_FIELD;
pub use server::{ResponseRejected, ResponseToken, ServerConnection, ServerEvent};
