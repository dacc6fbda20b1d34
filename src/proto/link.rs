//! The core that both roles share: hello, compression, batches, timers and the end of a connection.
//!
//! [`Link`] knows bytes and time. What a frame means is the role's: [`Role`] is the seam, carried out by
//! [`super::client`] and [`super::server`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::batch::{Batch, FrameNumber};
use super::compress::{Decoder, Encoder, effective_level};
use super::config::{Compression, Config, Limits, Stats};
use super::error::{ConnectionError, ErrorKind, Place};
use super::frame::{Frame, FrameReader};
use super::hello::{HELLO_BYTES, Hello, check_start};
use super::message::Outline;

/// Input waits while this many events wait to be polled, so that a caller that polls late bounds its memory.
const MAX_EVENTS: usize = 256;
/// How long a server that does not know zstd is given to close after its hello, or TLS (R-zstd-client).
const TRIAL: Duration = Duration::from_millis(250);

/// What the two roles do differently.
pub(super) trait Role: Sized {
    /// Whether the role can finish its work when nothing more can be read: a server can still answer.
    const ANSWERS: bool;
    /// The messages that this role receives.
    type Message: Default;
    /// What this role tells its caller.
    type Event;

    fn connected(compression: Compression) -> Self::Event;
    fn start_tls() -> Self::Event;
    fn closed(error: Option<ConnectionError>) -> Self::Event;

    /// Whether it is yet to be seen that the peer with this hello can read what this side sends (R-zstd-client).
    fn is_on_trial(config: &Config, hello: Hello) -> bool;
    /// Judges the peer's hello; returns whether TLS comes next.
    fn accept_hello(link: &mut Link<Self>, hello: Hello) -> Result<bool, ErrorKind>;
    /// Parses the head of the message with this id.
    fn parse(&self, id: u32, head: &Bytes, limits: &Limits, message: &mut Self::Message) -> Result<Outline, ErrorKind>;
    /// A frame has arrived; the reader has its head.
    fn receive(link: &mut Link<Self>, frame: Frame);
    /// Requests whose outcome is still open: a closing link waits for them.
    fn unfinished(&self) -> usize;
    /// Whether the role takes no further frames for now.
    fn is_full(link: &Link<Self>) -> bool;
    /// The link is closed: whatever is unfinished ends now.
    fn fail_unfinished(link: &mut Link<Self>, error: &ConnectionError);
    /// The next deadline of the role's own.
    fn deadline(&self) -> Option<Instant>;
    /// Acts on the role's deadlines that are due.
    fn expire(link: &mut Link<Self>);
}

/// Which timer is due next: for diagnostics (spec/06-lifecycle.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timer {
    /// Input that was taken waited because its caller did not keep up, and need not wait any longer: due at once.
    Input,
    /// Both hellos, and TLS if asked for, must be complete.
    Hello,
    /// The server has had the time to close if it does not know zstd (R-zstd-client).
    Trial,
    /// The batch under way must leave.
    Flush,
    /// A request's deadline.
    Request,
    /// Nothing was sent or received for too long.
    Idle,
    /// A closing connection waits no longer.
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer's hello is not complete.
    Hello,
    /// Both hellos are complete, TLS is not.
    Tls,
    /// Both hellos, and TLS, are complete, and the server may yet close because it does not know what this side sends.
    Trial,
    Open,
    Closed,
}

/// A link that takes no new work and closes once nothing is unfinished.
struct Closing {
    error: Option<ConnectionError>,
    /// `None`: the peer sees to the end, or it is further away than time can tell.
    deadline: Option<Instant>,
}

/// Both roles' connection.
pub(super) struct Link<R: Role> {
    pub(super) role: R,
    pub(super) config: Config,
    pub(super) stats: Stats,
    /// The latest time that the caller has told.
    pub(super) now: Instant,
    pub(super) events: VecDeque<R::Event>,
    phase: Phase,
    /// `None`: further away than time can tell.
    hello_deadline: Option<Instant>,
    hello_in: Vec<u8>,
    /// This side's hello, until it is transmitted.
    hello_out: Option<Hello>,
    /// `StartTls` is due once this side's hello has left.
    tls_due: bool,
    /// `Connected` is, too, or with the first event of early frames (R-hello-early-frames).
    connected_due: bool,
    /// Until the link opens: an end now is the answer of a server that does not know zstd (R-zstd-client).
    is_on_trial: bool,
    /// When [`Phase::Trial`] is over.
    trial_ends: Option<Instant>,
    /// Made for the first batch: a connection that only says hello costs little.
    encoder: Option<Encoder>,
    decoder: Decoder,
    /// Decompressed bytes that no frame has taken yet.
    plain: BytesMut,
    /// An error of the decoder that stands behind what is in `plain`.
    damage: Option<ErrorKind>,
    pub(super) reader: FrameReader<R::Message>,
    /// There may be more in what was taken: it waits until the caller has kept up.
    is_behind: bool,
    /// Frames that wait to be compressed and transmitted.
    batch: Batch,
    input_ended: bool,
    eof: bool,
    closing: Option<Closing>,
    last_activity: Instant,
}

impl<R: Role> Link<R> {
    pub(super) fn new(role: R, config: Config, now: Instant) -> Self {
        Self {
            role,
            stats: Stats::default(),
            now,
            events: VecDeque::new(),
            phase: Phase::Hello,
            hello_deadline: now.checked_add(config.hello_timeout),
            hello_in: Vec::with_capacity(HELLO_BYTES),
            hello_out: None,
            tls_due: false,
            connected_due: false,
            is_on_trial: false,
            trial_ends: None,
            encoder: None,
            // Replaced when the peer's hello says how it compresses.
            decoder: Decoder::None,
            plain: BytesMut::new(),
            damage: None,
            reader: FrameReader::new(),
            is_behind: false,
            batch: Batch::default(),
            input_ended: false,
            eof: false,
            closing: None,
            last_activity: now,
            config,
        }
    }

    // Inputs.

    pub(super) fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
        self.tell_time(now);
        let mut taken = 0;
        if self.phase == Phase::Hello {
            taken = self.read_hello(data);
        }
        if self.phase == Phase::Trial && taken < data.len() {
            // Whoever goes on after its hello has read this side's.
            self.open();
        }
        if self.phase == Phase::Open {
            taken += self.pump(&data[taken..]);
        }
        if self.input_ended || self.phase == Phase::Closed {
            // Whatever a peer sends after its error is nobody's.
            return data.len();
        }
        if taken > 0 {
            self.last_activity = self.now;
        }
        taken
    }

    pub(super) fn handle_eof(&mut self, now: Instant) {
        self.tell_time(now);
        self.eof = true;
        match self.phase {
            Phase::Hello => self.fail_hello(ErrorKind::HelloTruncated),
            Phase::Tls | Phase::Trial if self.is_on_trial => self.fail_hello(ErrorKind::ZstdRefused),
            // The TLS layer knows more; if it does not tell, the transport has failed.
            Phase::Tls | Phase::Trial => self.fail_hello(ErrorKind::Transport),
            Phase::Open => drop(self.pump(&[])),
            Phase::Closed => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.tell_time(now);
        self.catch_up();
        R::expire(self);
        if self.batch.flush_at().is_some_and(|at| at <= now) {
            self.batch.seal();
        }
        if self.phase == Phase::Trial && self.trial_ends.is_none_or(|at| at <= now) {
            self.open();
        }
        if self.is_handshaking() && self.hello_deadline.is_some_and(|at| at <= now) {
            self.fail_hello(ErrorKind::HelloTimeout);
        }
        if self.idle_deadline().is_some_and(|at| at <= now) {
            self.end_input(Some(ConnectionError::nowhere(ErrorKind::IdleTimeout)));
        }
        if self.closing.as_ref().and_then(|closing| closing.deadline).is_some_and(|at| at <= now) {
            let error = self.closing.take().and_then(|closing| closing.error);
            self.finish(error.or(Some(ConnectionError::nowhere(ErrorKind::DrainTimeout))));
        }
        self.settle();
    }

    pub(super) fn handle_tls_established(&mut self, now: Instant) {
        self.tell_time(now);
        if self.phase == Phase::Tls && !self.tls_due {
            self.open_or_wait();
        }
    }

    // Commands.

    /// Appends a frame, which was ready at `ready_at`, to the batch by `write`, which appends nothing on an error.
    pub(super) fn send<E>(
        &mut self,
        ready_at: Instant,
        write: impl FnOnce(&mut Vec<u8>, &Limits) -> Result<(), E>,
    ) -> Result<FrameNumber, E> {
        // A link that closes waits for nobody to share the batch.
        let delay = if self.closing.is_some() { Duration::ZERO } else { self.config.max_batch_delay };
        let most = self.config.batch_bytes;
        let frame = self.batch.push(ready_at, delay, most, |batch| write(batch, &self.config.limits))?;
        if self.is_output_full() {
            // Nobody else can join it.
            self.seal();
        }
        Ok(frame)
    }

    /// Takes a frame back that has not begun to be transmitted.
    pub(super) fn withdraw(&mut self, frame: FrameNumber) {
        self.batch.withdraw(frame);
    }

    /// Whether the peer can have seen any of a frame.
    pub(super) fn has_begun(&self, frame: FrameNumber) -> bool {
        self.batch.has_begun(frame)
    }

    /// Whether so many bytes wait that no more should be made.
    pub(super) fn is_output_full(&self) -> bool {
        self.batch.len() >= self.config.limits.output_bytes
    }

    pub(super) fn seal(&mut self) {
        self.batch.seal();
    }

    /// Takes no new work, finishes what was begun, then closes.
    pub(super) fn close(&mut self, now: Instant) {
        self.tell_time(now);
        self.seal();
        let deadline = now.checked_add(self.config.drain_timeout);
        match &mut self.closing {
            // So far the peer had all the time that it takes (R-goodbye-heed).
            Some(closing) => closing.deadline = closing.deadline.or(deadline),
            None if self.phase == Phase::Closed => {}
            None => self.closing = Some(Closing { error: None, deadline }),
        }
        self.settle();
    }

    /// The same with no drain time-out: the peer closes soon.
    pub(super) fn heed_goodbye(&mut self) {
        self.seal();
        self.closing.get_or_insert(Closing { error: None, deadline: None });
    }

    /// Sets when a link that closes waits no longer, in place of the drain time-out; no later than one that had begun
    /// to before (R-deadline-fixed).
    pub(super) fn drain_by(&mut self, deadline: Instant, was_draining: bool) {
        if let Some(closing) = &mut self.closing {
            let before = closing.deadline.filter(|_| was_draining);
            closing.deadline = Some(before.map_or(deadline, |before| before.min(deadline)));
        }
    }

    /// Ends the link at once. What began a drain stays its reason (R-error-once).
    pub(super) fn abort(&mut self, now: Instant, error: ConnectionError) {
        self.tell_time(now);
        self.catch_up();
        let first = self.closing.take().and_then(|closing| closing.error);
        let refused = self.is_on_trial.then(|| ConnectionError::nowhere(ErrorKind::ZstdRefused));
        self.finish(first.or(refused).or(Some(error)));
    }

    /// Ends a link whose hello is not complete, and sends nothing more.
    pub(super) fn end_in_silence(&mut self) {
        self.hello_out = None;
        self.finish(None);
    }

    /// Compresses at this level from the next batch on, if there are levels.
    pub(super) fn set_level(&mut self, level: u8) {
        self.config.level = Some(level);
        if let Some(encoder) = &mut self.encoder {
            encoder.set_level(level);
        }
    }

    // Outputs.

    pub(super) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        self.tell_time(now);
        let before = out.len();
        if let Some(hello) = self.hello_out.take() {
            out.extend_from_slice(&hello.encode());
            if self.tls_due {
                self.tls_due = false;
                self.events.push_back(R::start_tls());
            }
            self.tell_connected();
        }
        if self.phase == Phase::Open
            && let Some((frames, bytes)) = self.batch.take_due(self.now, |batch| {
                let encoder = self.encoder.get_or_insert_with(|| {
                    // A server knows what its client has by what that sends (R-zstd-dictionary-agreed).
                    let ours = || self.config.dictionaries().first();
                    let dictionary = if R::ANSWERS { self.decoder.dictionary() } else { ours() };
                    Encoder::new(self.config.compression, self.config.level, dictionary)
                });
                encoder.encode(batch, out);
            })
        {
            self.stats.note_batch(frames);
            self.stats.frames_out += frames;
            self.stats.plain_out += bytes;
        }
        let made = out.len() - before;
        if made > 0 {
            self.stats.wire_out += made as u64;
            self.last_activity = self.now;
        }
        self.settle();
        made
    }

    pub(super) fn poll_event(&mut self) -> Option<R::Event> {
        if !self.events.is_empty() {
            self.tell_connected();
        }
        self.events.pop_front()
    }

    pub(super) fn next_timer(&self) -> Option<(Timer, Instant)> {
        let input = Some(self.now).filter(|_| self.is_behind && self.can_pump(MAX_EVENTS));
        let hello = self.hello_deadline.filter(|_| self.is_handshaking() && self.phase != Phase::Trial);
        let trial = self.trial_ends.filter(|_| self.phase == Phase::Trial);
        let flush = self.batch.flush_at().filter(|_| self.phase == Phase::Open);
        let mut next = None;
        for (timer, at) in [
            (Timer::Input, &input),
            (Timer::Hello, &hello),
            (Timer::Trial, &trial),
            (Timer::Flush, &flush),
            (Timer::Request, &self.role.deadline()),
            (Timer::Idle, &self.idle_deadline()),
            (Timer::Drain, &self.closing.as_ref().and_then(|closing| closing.deadline)),
        ] {
            // Of equals the first one.
            if let Some(at) = *at
                && next.is_none_or(|(_, earliest)| at < earliest)
            {
                next = Some((timer, at));
            }
        }
        next
    }

    // Getters.

    pub(super) fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Hello | Phase::Trial => true,
            Phase::Tls | Phase::Closed => false,
            Phase::Open => !self.eof && self.can_pump(MAX_EVENTS),
        }
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.plain.capacity() + self.reader.buffered_bytes() + self.batch.capacity() + self.codec_bytes()
    }

    pub(super) fn codec_bytes(&self) -> usize {
        self.decoder.memory() + self.encoder.as_ref().map_or(0, Encoder::memory)
    }

    pub(super) fn shed(&mut self, shed: bool) {
        self.reader.shed(shed);
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self.phase {
            Phase::Hello | Phase::Tls | Phase::Trial => true,
            // Early frames are read before this side's hello has left; what answers them leaves behind it.
            Phase::Open => self.hello_out.is_some(),
            Phase::Closed => false,
        }
    }

    /// The level at which this side compresses; `None` if its compression has none.
    pub(super) fn level(&self) -> Option<u8> {
        effective_level(self.config.compression, self.config.level)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some() || self.is_closed()
    }

    /// Whether it is closing, within a time that is set.
    pub(super) fn is_draining(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.deadline.is_some())
    }

    // The hello.

    pub(super) fn send_hello(&mut self, tls: bool) {
        self.hello_out = Some(Hello { compression: self.config.compression.code(), tls });
    }

    fn read_hello(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(HELLO_BYTES - self.hello_in.len());
        self.hello_in.extend_from_slice(&data[..taken]);
        self.stats.wire_in += taken as u64;
        // Each part is judged as soon as it is whole, and not before: the verdict must not depend on the cut.
        if let Err(kind) = check_start(&self.hello_in) {
            self.fail_hello(kind);
            return taken;
        }
        let Some(whole) = self.hello_in.first_chunk() else {
            return taken;
        };
        match Hello::decode(whole).and_then(|hello| self.accept_hello(hello)) {
            Ok(()) => {}
            Err(kind) => self.fail_hello(kind),
        }
        taken
    }

    fn accept_hello(&mut self, hello: Hello) -> Result<(), ErrorKind> {
        // A server answers even where it then closes; an unknown compression weighs more than a wish for TLS.
        let tls = R::accept_hello(self, hello);
        let compression =
            Compression::from_code(hello.compression).ok_or(ErrorKind::HelloCompression(hello.compression))?;
        let tls = tls?;
        self.decoder = Decoder::new(compression, self.config.dictionaries());
        self.is_on_trial = R::is_on_trial(&self.config, hello);
        if !tls {
            self.open_or_wait();
            return Ok(());
        }
        self.phase = Phase::Tls;
        // A server's hello has yet to leave; a client's left long ago.
        if self.hello_out.is_some() {
            self.tls_due = true;
        } else {
            self.events.push_back(R::start_tls());
        }
        Ok(())
    }

    /// Hellos, and TLS if asked for, are complete.
    fn open_or_wait(&mut self) {
        if self.is_on_trial {
            self.phase = Phase::Trial;
            self.trial_ends = self.now.checked_add(TRIAL).into_iter().chain(self.hello_deadline).min();
        } else {
            self.open();
        }
    }

    fn open(&mut self) {
        self.phase = Phase::Open;
        self.is_on_trial = false;
        self.last_activity = self.now;
        if self.hello_out.is_some() {
            self.connected_due = true;
        } else {
            self.events.push_back(R::connected(self.peer_compression()));
        }
    }

    /// Tells it once, ahead of what early frames have led to.
    fn tell_connected(&mut self) {
        if std::mem::take(&mut self.connected_due) {
            self.events.push_front(R::connected(self.peer_compression()));
        }
    }

    fn peer_compression(&self) -> Compression {
        self.hello_in.get(13).copied().and_then(Compression::from_code).unwrap_or_default()
    }

    fn fail_hello(&mut self, kind: ErrorKind) {
        let place = match kind {
            ErrorKind::HelloTimeout | ErrorKind::Transport | ErrorKind::ZstdRefused => Place::Nowhere,
            ErrorKind::HelloVersion(_) => Place::Wire { at: 12 },
            ErrorKind::HelloCompression(_) => Place::Wire { at: 13 },
            ErrorKind::TlsRefused | ErrorKind::TlsRequired | ErrorKind::TlsUnavailable => Place::Wire { at: 14 },
            ErrorKind::HelloTruncated => Place::Wire { at: self.hello_in.len() as u64 },
            _ => Place::Wire { at: 0 },
        };
        self.finish(Some(ConnectionError::new(kind, place)));
    }

    // Frames in.

    /// Decompresses and cuts into frames what there is, as far as the caller keeps up; returns how much of `data`
    /// was taken.
    fn pump(&mut self, data: &[u8]) -> usize {
        self.pump_until(MAX_EVENTS, data)
    }

    /// Cuts into frames all that was taken and waited for the caller: what came before a deadline or an end counts
    /// (R-error-after-good). There is no more of it than one step of the decoder yields.
    fn catch_up(&mut self) {
        if self.is_behind {
            self.pump_until(usize::MAX, &[]);
        }
    }

    fn pump_until(&mut self, most_events: usize, data: &[u8]) -> usize {
        let mut taken = 0;
        // Until there is no more to be had, which is where the loop breaks.
        self.is_behind = true;
        while self.can_pump(most_events) {
            let (role, limits) = (&self.role, &self.config.limits);
            match self.reader.next(&mut self.plain, limits, |id, head, message| role.parse(id, head, limits, message)) {
                Ok(Some(frame)) => {
                    self.stats.frames_in += 1;
                    let is_last = frame.is_last;
                    R::receive(self, frame);
                    if is_last {
                        self.fail_input(ErrorKind::HeadAmbiguous, self.reader.place());
                    }
                    continue;
                }
                Ok(None) => {}
                Err(kind) => {
                    self.fail_input(kind, self.reader.place());
                    continue;
                }
            }
            // Frames that were decompressed before the damage came first.
            if let Some(kind) = self.damage.take() {
                self.fail_input(kind, Place::Stream { at: self.stats.plain_in });
                continue;
            }
            let before = self.plain.len();
            let step = self.decoder.decode(&data[taken..], &mut self.plain);
            let made = self.plain.len() - before;
            self.stats.plain_in += made as u64;
            match step {
                Err(kind) => self.damage = Some(kind),
                Ok(0) if made == 0 => {
                    self.is_behind = false;
                    if self.eof {
                        self.end_at_eof();
                    }
                    break;
                }
                Ok(step) => {
                    self.stats.wire_in += step as u64;
                    taken += step;
                }
            }
        }
        taken
    }

    fn can_pump(&self, most_events: usize) -> bool {
        let is_paused = self.events.len() >= most_events || R::is_full(self);
        !self.input_ended && self.phase == Phase::Open && !is_paused
    }

    fn end_at_eof(&mut self) {
        if self.decoder.is_inside_unit() || self.reader.is_inside_frame(&self.plain) {
            self.fail_input(ErrorKind::Truncated, self.reader.place());
        } else {
            self.end_input(None);
        }
    }

    // The end.

    fn fail_input(&mut self, kind: ErrorKind, place: Place) {
        self.end_input(Some(ConnectionError::new(kind, place)));
    }

    /// Nothing more is read; what was begun may be finished if the role has a use for that (R-server-drain).
    pub(super) fn end_input(&mut self, error: Option<ConnectionError>) {
        if self.input_ended || self.phase == Phase::Closed {
            return;
        }
        self.input_ended = true;
        self.plain = BytesMut::new();
        self.seal();
        if !R::ANSWERS {
            self.finish(error);
            return;
        }
        let deadline = self.now.checked_add(self.config.drain_timeout);
        match &mut self.closing {
            Some(closing) => closing.error = closing.error.take().or(error),
            None => self.closing = Some(Closing { error, deadline }),
        }
        self.settle();
    }

    /// Closes if that only waited for work that is now done.
    pub(super) fn settle(&mut self) {
        let idle = self.role.unfinished() == 0 && self.batch.is_empty();
        if idle && let Some(closing) = self.closing.take_if(|_| self.phase != Phase::Closed) {
            self.finish(closing.error);
        }
    }

    #[cold]
    fn finish(&mut self, error: Option<ConnectionError>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        if !self.events.is_empty() {
            // Early frames have led to something.
            self.tell_connected();
        }
        self.connected_due = false;
        self.closing = None;
        self.plain = BytesMut::new();
        let error = error.or_else(|| (self.role.unfinished() > 0).then(|| ConnectionError::nowhere(ErrorKind::Closed)));
        if let Some(error) = &error {
            R::fail_unfinished(self, error);
        }
        self.batch = Batch::default();
        self.events.push_back(R::closed(error));
    }

    // Timers.

    pub(super) fn tell_time(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn idle_deadline(&self) -> Option<Instant> {
        // Where no drain time-out runs, this one does.
        let watched = self.phase == Phase::Open && !self.is_handshaking() && !self.is_draining();
        self.config.idle_timeout.filter(|_| watched).and_then(|idle| self.last_activity.checked_add(idle))
    }
}
