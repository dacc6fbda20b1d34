//! One link on one stream of bytes, without the I/O: what the loops of all drivers have in common.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::memory::{Charge, MemoryBudget};
use super::patience::{ReadPatience, WritePatience};
use super::throttle::Throttle;
use crate::proto::Connection;

/// Output that is kept for the next batch.
const KEPT_BYTES: usize = 256 * 1024;
/// How much input a connection takes before others have their turn, at most and at least: DEFLATE can make a thousand
/// times as much of it and zstd thirty thousand times, and a peer that does must not hold up everybody else.
const TURN_BYTES: (usize, usize) = (8 * 1024, 64);
/// Turns get shorter while more than this comes of one.
const TURN_PLAIN: u64 = 1024 * 1024;
/// Output that the stream has not taken so long after it was made waits for the peer.
const MOMENT: Duration = Duration::from_millis(5);
/// How long a closed link goes on reading, so that what it wrote is not destroyed by a reset (R-server-linger).
const LINGER: Duration = Duration::from_secs(1);
/// How much is read at first: enough for a hello, so that a peer that says no more costs little.
const FIRST_READ: usize = 256;

/// A connection of the core together with the program that uses it.
pub(super) trait Endpoint {
    type Connection: Connection;

    fn connection(&self) -> &Self::Connection;
    fn connection_mut(&mut self) -> &mut Self::Connection;

    /// TLS is established; `channel` knows with whom.
    fn handle_tls_established(&mut self, now: Instant, channel: &Channel);
    /// Acts on the program's own timers.
    fn handle_timeout(&mut self, now: Instant);
    /// When the next of those is due.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Whether the program bears more input.
    fn wants_read(&self) -> bool;

    /// Ready when the program wants something.
    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Hands what the program wants to the connection.
    fn take_commands(&mut self, now: Instant);
    /// Hands the connection's events to the program; returns whether there were any. `channel` starts TLS.
    fn deliver_events(&mut self, now: Instant, channel: &mut Channel) -> io::Result<bool>;
    /// Whether something is awaited of the peer.
    fn awaits_peer(&self) -> bool;
    /// When it must be over, whatever is under way.
    fn end_at(&self) -> Option<Instant>;
    /// Whether the connection's last event was delivered.
    fn is_over(&self) -> bool;
    /// Whether it has failed so that what has not left is of no use to anybody.
    fn drops_output(&self) -> bool;

    /// What the link's memory is counted in.
    fn memory(&self) -> Option<&MemoryBudget>;
    /// What the program holds of messages, beside the connection.
    fn held_bytes(&self) -> usize;
    /// All of that is counted now: what was charged for messages on their way here no longer is.
    fn note_counted(&mut self) {}
}

/// How a stream is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) read_timeout: Option<Duration>,
    pub(super) write_timeout: Duration,
    pub(super) read_buffer: usize,
    pub(super) max_compress_share: Option<f64>,
    /// Whether it is read on, once all is said. Who waits for its end to try another has no time for that.
    pub(super) lingers: bool,
}

/// An endpoint and its stream of bytes. Its driver reads and writes the stream and waits; all else is here:
///
/// 1. [`turn`](Self::turn) until it returns false; it is over when [`is_over`](Self::is_over).
/// 2. Write [`output`](Self::output), read [`input_room`](Self::input_room) if [`wants_read`](Self::wants_read), end the
///    sending side if it [`wants_shutdown`](Self::wants_shutdown), wait until [`poll_timeout`](Self::poll_timeout) and for
///    commands.
/// 3. Tell what happened.
pub(super) struct Carrier<E> {
    pub(super) endpoint: E,
    channel: Channel,
    input: Vec<u8>,
    /// How much of it is taken in one turn.
    turn_bytes: usize,
    /// What of `input` nobody has taken.
    unread: Range<usize>,
    output: Vec<u8>,
    /// How much of `output` the stream has taken.
    written: usize,
    /// How many bytes of memory `output` takes while it is elsewhere, being written.
    lent_output: Option<usize>,
    /// The same of `input`, being read to.
    lent_input: usize,
    /// What the link holds of the budget, if there is one.
    charge: Option<Charge>,
    /// Since when `output` is what it is.
    told_since: Instant,
    writing: WritePatience,
    reading: ReadPatience,
    throttle: Throttle,
    read_buffer: usize,
    eof: bool,
    has_closed_channel: bool,
    /// TLS has failed; an alert may still leave.
    has_channel_failed: bool,
    /// The time at which it must be over has come.
    is_cut: bool,
    error: Option<io::Error>,
    /// It is to be read on when all else is over, and until when, if it is.
    lingers: bool,
    linger_until: Option<Instant>,
    has_shut_down: bool,
}

impl<E: Endpoint> Carrier<E> {
    pub(super) fn new(endpoint: E, patience: Patience) -> Self {
        Self {
            charge: endpoint.memory().map(MemoryBudget::account),
            endpoint,
            channel: Channel::default(),
            input: vec![0; FIRST_READ],
            turn_bytes: TURN_BYTES.0,
            unread: 0..0,
            output: Vec::new(),
            written: 0,
            lent_output: None,
            lent_input: 0,
            told_since: Instant::now(),
            writing: WritePatience::new(patience.write_timeout),
            reading: ReadPatience::new(patience.read_timeout),
            throttle: Throttle::new(patience.max_compress_share),
            read_buffer: patience.read_buffer,
            eof: false,
            has_closed_channel: false,
            has_channel_failed: false,
            is_cut: false,
            error: None,
            lingers: patience.lingers,
            linger_until: None,
            has_shut_down: false,
        }
    }

    /// Does what can be done now. True if there is more of it: others may have their turn, and then call again.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if self.linger_until.is_some() {
            return false;
        }
        self.endpoint.take_commands(now);
        self.refill(now);
        let progress = match self.endpoint.deliver_events(now, &mut self.channel) {
            Ok(progress) => progress,
            Err(error) => {
                self.fail_channel(now, error);
                true
            }
        };
        let has_output = !self.output.is_empty() && self.lent_output.is_none();
        if has_output && !self.has_closed_channel && self.endpoint.drops_output() && self.error.is_none() {
            // It must not keep anybody waiting for the peer to read it. Where all has left, TLS still ends in order.
            self.output.clear();
            self.written = 0;
            self.writing.end();
            self.has_closed_channel = true;
        }
        if self.has_closed() {
            self.linger(now);
            return false;
        }
        let taken = self.take_input(now);
        self.count_memory();
        // Who is still told something cannot answer it. What is written at once tells nothing about the peer: requests that
        // come now and then must not begin its time anew.
        let is_under_way = !self.output.is_empty() || self.lent_output.is_some();
        let is_told = is_under_way && now.saturating_duration_since(self.told_since) > MOMENT;
        // Nor can anything come of who is not read.
        self.reading.watch(now, self.endpoint.awaits_peer() && !is_told && self.bears_input());
        // Delivering can have made room for more, or something to transmit.
        progress || taken
    }

    fn count_memory(&mut self) {
        let Some(charge) = &mut self.charge else { return };
        let connection = self.endpoint.connection();
        let codecs = connection.codec_bytes();
        let buffers = self.input.len() + self.output.capacity() + self.lent_output.unwrap_or(0) + self.lent_input;
        let messages = connection.buffered_bytes() - codecs + self.endpoint.held_bytes();
        // Not both at once: a budget that is full sheds.
        self.endpoint.note_counted();
        charge.set(buffers + self.channel.buffered_bytes() + messages);
        charge.set_codecs(codecs);
    }

    /// Offers input to the connection; returns whether there was any that it took.
    fn take_input(&mut self, now: Instant) -> bool {
        let has_input = !self.unread.is_empty() || self.channel.has_input();
        let wants = self.bears_input() || self.channel.wants_read(false);
        if !has_input || !wants || self.error.is_some() {
            return false;
        }
        let turn = self.unread.len().min(self.turn_bytes);
        let data = &self.input[self.unread.start..self.unread.start + turn];
        let is_full = self.charge.as_ref().is_some_and(|charge| charge.budget().is_full());
        let connection = self.endpoint.connection_mut();
        connection.shed(is_full);
        let before = connection.stats().plain_in;
        match self.channel.handle_input(data, |plain| connection.handle_input(now, plain)) {
            Ok(taken) if taken == self.unread.len() => self.unread = 0..0,
            Ok(taken) => self.unread.start += taken,
            Err(error) => self.fail_channel(now, error),
        }
        let plain = self.endpoint.connection().stats().plain_in - before;
        self.turn_bytes = match plain > TURN_PLAIN {
            true => (self.turn_bytes / 8).max(TURN_BYTES.1),
            false => (self.turn_bytes * 2).min(TURN_BYTES.0),
        };
        if self.channel.poll_established() {
            self.endpoint.handle_tls_established(now, &self.channel);
        }
        if self.channel.has_ended() {
            self.endpoint.connection_mut().handle_eof(now);
        }
        true
    }

    /// Asks for more output once the stream has taken all: what comes meanwhile shares the next batch.
    fn refill(&mut self, now: Instant) {
        if !self.output.is_empty() || self.lent_output.is_some() || self.error.is_some() {
            return;
        }
        let connection = self.endpoint.connection_mut();
        let throttle = &mut self.throttle;
        self.channel.poll_transmit(&mut self.output, |out| {
            throttle.watch(connection, Instant::now, |it| it.poll_transmit(now, out))
        });
        if self.output.is_empty() && self.endpoint.is_over() && !self.has_closed_channel {
            self.has_closed_channel = true;
            self.channel.close(&mut self.output);
        }
        if !self.output.is_empty() {
            self.told_since = now;
            self.writing.begin(now);
        }
    }

    /// The channel is of no use any more. What it has to say to the peer still leaves.
    fn fail_channel(&mut self, now: Instant, error: io::Error) {
        self.unread = 0..0;
        self.has_channel_failed = true;
        self.endpoint.connection_mut().handle_transport_error(now);
        if self.channel.poll_transmit(&mut self.output, |_| 0) > 0 {
            self.writing.begin(now);
        }
        self.error.get_or_insert(error);
    }

    /// The stream has failed.
    pub(super) fn fail(&mut self, now: Instant, error: io::Error) {
        self.error.get_or_insert(error);
        self.output.clear();
        self.written = 0;
        self.has_channel_failed = false;
        self.endpoint.connection_mut().handle_transport_error(now);
    }

    /// Whether all is said.
    fn has_closed(&self) -> bool {
        let is_written = self.output.is_empty() && self.lent_output.is_none();
        self.endpoint.is_over() && is_written && (self.error.is_some() || self.has_closed_channel)
    }

    /// Begins to read on, if there can be more to read.
    fn linger(&mut self, now: Instant) {
        self.lingers &= !self.eof && self.error.is_none();
        if self.lingers && self.linger_until.is_none() {
            self.linger_until = [now + LINGER].into_iter().chain(self.endpoint.end_at()).min();
        }
    }

    /// Whether the sending side of the stream is to be ended. [`handle_shutdown`](Self::handle_shutdown) must follow.
    pub(super) fn wants_shutdown(&self) -> bool {
        self.lingers && self.linger_until.is_some() && !self.has_shut_down
    }

    /// The sending side was ended, or could not be.
    pub(super) fn handle_shutdown(&mut self, done: io::Result<()>) {
        self.has_shut_down = true;
        self.lingers &= done.is_ok();
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.has_closed() && !self.lingers
    }

    /// What waits to be written.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// Takes out what waits to be written, and how much of it was, so that it can be written while others use the rest.
    /// [`handle_written_of`](Self::handle_written_of) must follow.
    #[cfg(feature = "thread")]
    pub(super) fn lend_output(&mut self) -> (Vec<u8>, usize) {
        self.lent_output = Some(self.output.capacity());
        (std::mem::take(&mut self.output), self.written)
    }

    /// Gives back what was lent, with what came of writing it. It is dropped if the stream has failed meanwhile.
    #[cfg(feature = "thread")]
    pub(super) fn handle_written_of(&mut self, output: Vec<u8>, now: Instant, written: io::Result<usize>) {
        self.lent_output = None;
        if self.error.is_none() || self.has_channel_failed {
            // Whatever was added was an alert.
            let alert = std::mem::replace(&mut self.output, output);
            self.output.extend_from_slice(&alert);
            self.handle_written(now, written);
        }
    }

    /// The stream has taken so many bytes of the output, or failed.
    pub(super) fn handle_written(&mut self, now: Instant, written: io::Result<usize>) {
        match written {
            Ok(0) => self.fail(now, io::ErrorKind::WriteZero.into()),
            Ok(n) => self.note_written(now, n),
            Err(error) if is_no_failure(&error) => {}
            Err(error) => self.fail(now, error),
        }
    }

    /// The stream has taken `n` bytes of the output.
    pub(super) fn note_written(&mut self, now: Instant, n: usize) {
        self.written += n;
        if self.written >= self.output.len() {
            self.output.clear();
            self.output.shrink_to(KEPT_BYTES);
            self.written = 0;
            self.writing.end();
        } else {
            self.writing.note_written(now, n);
        }
    }

    fn bears_input(&self) -> bool {
        self.endpoint.connection().wants_read() && self.endpoint.wants_read()
    }

    /// Whether the stream should be read.
    pub(super) fn wants_read(&self) -> bool {
        if self.linger_until.is_some() {
            return self.lingers;
        }
        let wants = self.channel.wants_read(self.bears_input());
        wants && self.unread.is_empty() && !self.eof && self.error.is_none()
    }

    /// Where to read to. [`handle_read`](Self::handle_read) must follow.
    #[cfg(feature = "smol")]
    pub(super) fn input_room(&mut self) -> &mut [u8] {
        &mut self.input
    }

    /// Takes that place out, so that it can be filled while others use the rest.
    /// [`handle_read_to`](Self::handle_read_to) must follow.
    #[cfg(feature = "thread")]
    pub(super) fn lend_input(&mut self) -> Vec<u8> {
        self.lent_input = self.input.len();
        std::mem::take(&mut self.input)
    }

    /// Gives back what was lent, with what came of reading to it.
    #[cfg(feature = "thread")]
    pub(super) fn handle_read_to(&mut self, input: Vec<u8>, now: Instant, read: io::Result<usize>) {
        self.lent_input = 0;
        self.input = input;
        self.handle_read(now, read);
    }

    /// So many bytes were read, or the stream has failed.
    pub(super) fn handle_read(&mut self, now: Instant, read: io::Result<usize>) {
        match read {
            // Nobody wants what comes when all is said.
            read if self.linger_until.is_some() => self.lingers &= matches!(read, Ok(n) if n > 0),
            Ok(n) => self.note_read(now, n),
            Err(error) if is_no_failure(&error) => {}
            Err(error) => self.fail(now, error),
        }
    }

    /// `n` bytes were read; 0 is the end of file.
    pub(super) fn note_read(&mut self, now: Instant, n: usize) {
        self.reading.note_read(now);
        self.unread = 0..n;
        if n == FIRST_READ && self.input.len() < self.read_buffer {
            self.input.resize(self.read_buffer, 0);
        }
        if n > 0 {
            return;
        }
        self.eof = true;
        if self.channel.is_tls() && !self.channel.has_ended() {
            let message = "the peer ended the connection without ending TLS";
            self.fail(now, io::Error::new(io::ErrorKind::UnexpectedEof, message));
        } else {
            self.endpoint.connection_mut().handle_eof(now);
        }
    }

    /// Acts on all timers due at `now`; whether there were any.
    pub(super) fn act_if_due(&mut self, now: Instant) -> bool {
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        if is_due {
            self.handle_timeout(now);
        }
        is_due
    }

    /// The same, also where there are none.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(until) = self.linger_until {
            self.lingers &= now < until;
            return;
        }
        if self.writing.deadline().is_some_and(|at| at <= now) {
            self.fail(now, io::Error::new(io::ErrorKind::TimedOut, "the peer does not read, or hardly"));
        }
        if self.reading.deadline().is_some_and(|at| at <= now) {
            self.fail(now, io::Error::new(io::ErrorKind::TimedOut, "nothing came from the peer in time"));
        }
        self.endpoint.connection_mut().handle_timeout(now);
        if self.end_at().is_some_and(|at| at <= now) {
            self.is_cut = true;
            self.fail(now, io::Error::new(io::ErrorKind::TimedOut, "the time to close in order is over"));
        }
        self.endpoint.handle_timeout(now);
    }

    fn end_at(&self) -> Option<Instant> {
        self.endpoint.end_at().filter(|_| !self.is_cut)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.linger_until.is_some() {
            return self.linger_until;
        }
        let (connection, program) = (self.endpoint.connection().poll_timeout(), self.endpoint.poll_timeout());
        [connection, program, self.writing.deadline(), self.reading.deadline(), self.end_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes it apart; with what the stream or TLS failed with, if they did.
    pub(super) fn into_parts(self) -> (E, Option<io::Error>) {
        (self.endpoint, self.error)
    }

    /// Whether there is something to do for who waits for commands `until` then and no longer.
    #[cfg(feature = "thread")]
    pub(super) fn has_work(&self, until: Option<Instant>) -> bool {
        let is_earlier = |at: Instant| until.is_none_or(|until| at < until);
        let has_end = self.wants_shutdown() || self.is_over();
        has_end || !self.output().is_empty() || self.poll_timeout().is_some_and(is_earlier)
    }

    /// Whether there is input that is to be taken in the next turn.
    #[cfg(feature = "smol")]
    pub(super) fn has_input(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Whether what comes is dropped. A peer that writes on and on must not hold up everybody else.
    #[cfg(feature = "smol")]
    pub(super) fn is_lingering(&self) -> bool {
        self.linger_until.is_some()
    }
}

/// Whether it is to be tried again.
fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(all(test, feature = "smol"))]
pub(super) mod tests {
    use std::sync::Arc;

    use super::super::options::ServerOptions;
    use super::super::server::{Dispatch, PeerAddr, Session, Shared};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A link of a server that nobody asks anything.
    pub(in super::super) fn unasked(options: ServerOptions, now: Instant) -> Carrier<Session> {
        let shared = Arc::new(Shared::new(options));
        let dispatch: Dispatch = Arc::new(|_| panic!("nothing was asked"));
        let session = Session::new(shared.admit(PeerAddr::Unix).unwrap(), dispatch, now);
        Carrier::new(session, shared.patience())
    }

    /// One to somebody who is not understood, when all is said.
    fn turned_away(now: Instant) -> Carrier<Session> {
        let mut carrier = unasked(ServerOptions::default(), now);
        while carrier.turn(now) {}
        assert!(carrier.wants_read() && !carrier.wants_shutdown());
        carrier.input_room()[..15].copy_from_slice(b"GET / HTTP/1.1\n");
        carrier.handle_read(now, Ok(15));
        while carrier.turn(now) {}
        carrier
    }

    #[test]
    fn what_comes_when_all_is_said_is_read_and_dropped_for_a_while() {
        // R-server-linger
        let now = Instant::now();
        for ends in [true, false] {
            let mut carrier = turned_away(now);
            assert!(carrier.wants_shutdown() && !carrier.is_over());
            carrier.handle_shutdown(Ok(()));
            assert!(!carrier.wants_shutdown() && carrier.wants_read());
            carrier.handle_read(now, Ok(100));
            assert!(!carrier.turn(now) && !carrier.is_over());
            assert_eq!(carrier.poll_timeout(), Some(now + LINGER));
            if ends {
                carrier.handle_read(now, Ok(0));
            } else {
                assert!(!carrier.act_if_due(now + LINGER - MS) && carrier.act_if_due(now + LINGER));
            }
            assert!(carrier.is_over() && carrier.into_parts().1.is_none());
        }
    }

    #[cfg(feature = "thread")]
    #[test]
    fn what_is_lent_to_the_socket_is_counted() {
        let budget = MemoryBudget::unlimited();
        let now = Instant::now();
        let mut carrier = unasked(ServerOptions::default().memory_budget(budget.clone()), now);
        while carrier.turn(now) {}
        let held = budget.held();
        assert!(held >= FIRST_READ);
        let input = carrier.lend_input();
        while carrier.turn(now) {}
        assert_eq!(budget.held(), held);
        carrier.handle_read_to(input, now, Err(io::ErrorKind::WouldBlock.into()));
        while carrier.turn(now) {}
        assert_eq!(budget.held(), held);
    }

    #[test]
    fn who_cannot_be_heard_any_more_is_not_waited_for() {
        let now = Instant::now();
        let mut carrier = turned_away(now);
        carrier.handle_shutdown(Err(io::ErrorKind::NotConnected.into()));
        assert!(carrier.is_over());
        let mut carrier = turned_away(now);
        carrier.handle_shutdown(Ok(()));
        carrier.handle_read(now, Err(io::ErrorKind::ConnectionReset.into()));
        assert!(carrier.is_over() && carrier.into_parts().1.is_none());
    }
}
