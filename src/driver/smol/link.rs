//! The loop that carries a sans-IO connection over a TCP stream: one task, one socket, one timer.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use smol::net::TcpStream;

use super::patience::WritePatience;

/// How much is read at once; at first only enough for a hello, so that a peer that says no more costs little.
const READ_BYTES: (usize, usize) = (256, 64 * 1024);
/// How much input a connection takes before other tasks have their turn: DEFLATE can make a thousand times as much of
/// it, and a peer that does must not hold up everybody else.
const TURN_BYTES: usize = 8 * 1024;
/// Output that is kept for the next batch.
const KEPT_BYTES: usize = 256 * 1024;
/// How long a closed link goes on reading, so that what it wrote is not destroyed by a reset (R-server-linger).
const LINGER: Duration = Duration::from_secs(1);

/// A connection of the core together with the program that uses it.
pub(super) trait Endpoint {
    /// Whether it reads on for a while when it has closed (R-server-linger). Whoever waits for this link's end to try
    /// another has no time for that.
    const LINGERS: bool;

    fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize;
    fn handle_eof(&mut self, now: Instant);
    fn handle_timeout(&mut self, now: Instant);
    fn handle_transport_error(&mut self, now: Instant);
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;
    fn poll_timeout(&self) -> Option<Instant>;
    fn wants_read(&self) -> bool;

    /// Ready when the program wants something.
    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Hands what the program wants to the connection.
    fn take_commands(&mut self, now: Instant);
    /// Hands the connection's events to the program; returns whether there were any.
    fn deliver_events(&mut self) -> bool;
    /// Whether the connection's last event was delivered.
    fn is_over(&self) -> bool;
}

/// Runs a connection until it is over. Returns what the transport failed with, if it did.
pub(super) async fn drive<E: Endpoint>(
    endpoint: &mut E,
    stream: TcpStream,
    write_timeout: Duration,
) -> Option<io::Error> {
    let mut io = Io {
        stream,
        input: vec![0; READ_BYTES.0],
        unread: 0..0,
        output: Vec::new(),
        written: 0,
        patience: WritePatience::new(write_timeout),
        timer: Timer::never(),
        timer_at: None,
        eof: false,
        error: None,
    };
    loop {
        let now = Instant::now();
        endpoint.take_commands(now);
        io.refill(endpoint, now);
        let progress = endpoint.deliver_events();
        if endpoint.is_over() && (io.output.is_empty() || io.error.is_some()) {
            break;
        }
        if !io.unread.is_empty() && endpoint.wants_read() {
            let turn = io.unread.len().min(TURN_BYTES);
            let taken = endpoint.handle_input(now, &io.input[io.unread.start..io.unread.start + turn]);
            io.unread.start += taken;
            if !io.unread.is_empty() {
                smol::future::yield_now().await;
            }
            continue;
        }
        if progress {
            // Delivering can have made room for more, or something to transmit.
            continue;
        }
        let fired = poll_fn(|context| io.poll(endpoint, context)).await;
        let now = Instant::now();
        if fired {
            io.check_write_deadline(now);
            endpoint.handle_timeout(now);
        }
        if io.error.is_some() {
            io.output.clear();
            endpoint.handle_transport_error(now);
        } else if io.eof && io.unread.is_empty() {
            endpoint.handle_eof(now);
        }
    }
    if E::LINGERS && io.error.is_none() {
        io.linger().await;
    }
    io.error
}

struct Io {
    stream: TcpStream,
    input: Vec<u8>,
    /// What of `input` the connection has not taken.
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    /// How much of `output` the socket has taken.
    written: usize,
    patience: WritePatience,
    timer: Timer,
    timer_at: Option<Instant>,
    eof: bool,
    error: Option<io::Error>,
}

impl Io {
    /// Asks for more output once the socket has taken all: what comes meanwhile shares the next batch.
    fn refill(&mut self, endpoint: &mut impl Endpoint, now: Instant) {
        if self.output.is_empty() && endpoint.poll_transmit(now, &mut self.output) > 0 {
            self.patience.begin(now);
        }
    }

    /// The socket has taken `n` bytes more of the output.
    fn note_written(&mut self, n: usize) {
        self.written += n;
        if self.written == self.output.len() {
            self.output.clear();
            self.output.shrink_to(KEPT_BYTES);
            self.written = 0;
            self.patience.end();
        } else {
            self.patience.note_written(Instant::now(), n);
        }
    }

    /// Ready when anything has happened; with `true` when a timer fired.
    fn poll(&mut self, endpoint: &mut impl Endpoint, context: &mut Context<'_>) -> Poll<bool> {
        let mut ready = endpoint.poll_commands(context).is_ready();
        ready |= self.poll_write(context);
        ready |= self.poll_read(endpoint.wants_read(), context);
        let fired = self.poll_timer(endpoint.poll_timeout(), context);
        if ready || fired { Poll::Ready(fired) } else { Poll::Pending }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> bool {
        let mut ready = false;
        while !self.output.is_empty() && self.error.is_none() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output[self.written..]) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => self.note_written(n),
                Poll::Ready(Ok(_)) => self.error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => self.error = Some(error),
            }
            ready = true;
        }
        ready
    }

    fn poll_read(&mut self, wanted: bool, context: &mut Context<'_>) -> bool {
        if !wanted || !self.unread.is_empty() || self.eof || self.error.is_some() {
            return false;
        }
        match Pin::new(&mut self.stream).poll_read(context, &mut self.input) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.eof = true,
            Poll::Ready(Ok(n)) => {
                self.unread = 0..n;
                if n == READ_BYTES.0 {
                    self.input.resize(READ_BYTES.1, 0);
                }
            }
            Poll::Ready(Err(error)) => self.error = Some(error),
        }
        true
    }

    fn poll_timer(&mut self, at: Option<Instant>, context: &mut Context<'_>) -> bool {
        let Some(at) = at.into_iter().chain(self.patience.deadline()).min() else {
            return false;
        };
        if self.timer_at != Some(at) {
            self.timer_at = Some(at);
            self.timer.set_at(at);
        }
        let fired = Pin::new(&mut self.timer).poll(context).is_ready();
        if fired {
            self.timer_at = None;
        }
        fired
    }

    fn check_write_deadline(&mut self, now: Instant) {
        if self.patience.deadline().is_some_and(|at| at <= now) && self.error.is_none() {
            self.error = Some(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read, or hardly"));
        }
    }

    /// Closes the sending side and drops what still comes, for a while.
    async fn linger(&mut self) {
        if self.stream.shutdown(Shutdown::Write).is_err() || self.eof {
            return;
        }
        let discard = async { while matches!(self.stream.read(&mut self.input).await, Ok(n) if n > 0) {} };
        let limit = async {
            Timer::after(LINGER).await;
        };
        discard.or(limit).await;
    }
}
