//! A lane of a client: requests wait here for a link, and for the next one when that has ended.

use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::carrier::Patience;
use super::super::crowd::Member;
use super::super::error::ClientError;
use super::super::mailbox::{Mailbox, lock};
use super::super::options::ClientOptions;
use super::queue::{Command, Queue, cannot_connect};
use super::session::Session;
use crate::proto::{ClientConfig, Stats};

/// What a lane's driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Wait for [`Lane::poll`].
    Wait,
    /// The same, until then at the latest; meanwhile [`Lane::handle_timeout`].
    Pause(Instant),
    /// Dial, and tell how that went; meanwhile [`Lane::poll`] and [`Lane::handle_timeout`].
    Dial,
    /// Nothing more: no request will come.
    End,
}

/// Until when the server is taken for one that does not know zstd: all lanes of a client share what one of them learned.
pub(super) type NoZstd = Arc<Mutex<Option<Instant>>>;

/// How a lane is doing, for who chooses one.
#[derive(Debug, Default)]
pub(super) struct Condition {
    inner: Mutex<(Option<Instant>, bool)>,
}

impl Condition {
    /// Whether it pauses, and whether it has a link.
    pub(super) fn look(&self, now: Instant) -> (bool, bool) {
        let (paused_until, is_up) = *lock(&self.inner);
        (paused_until.is_some_and(|until| now < until), is_up)
    }

    fn set(&self, paused_until: Option<Instant>, is_up: bool) {
        *lock(&self.inner) = (paused_until, is_up);
    }
}

/// A lane: lives as long as its client, through many connections, one at a time.
pub(in super::super) struct Lane {
    /// The address, in words.
    pub(super) name: Arc<str>,
    pub(super) options: Arc<ClientOptions>,
    mailbox: Arc<Mailbox<Command>>,
    commands: Vec<Command>,
    pub(super) queue: Queue,
    /// No more requests will come.
    pub(super) closing: bool,
    /// When it must have ended, if its client was told.
    pub(super) end_at: Option<Instant>,
    /// Carries HEAD requests only.
    pub(super) for_head: bool,
    pub(super) stats: Arc<Mutex<Stats>>,
    no_zstd: NoZstd,
    condition: Arc<Condition>,
    /// The next pause.
    pause: Duration,
    /// Until then there is no dial; requests fail with this, or wait if it is none.
    paused: Option<(Instant, Option<ClientError>)>,
    /// The last link said hello, and did nothing else.
    has_stumbled: bool,
    _member: Member,
}

impl Lane {
    pub(super) fn new(
        name: Arc<str>,
        options: Arc<ClientOptions>,
        mailbox: Arc<Mailbox<Command>>,
        condition: Arc<Condition>,
        (stats, no_zstd): (Arc<Mutex<Stats>>, NoZstd),
        for_head: bool,
        member: Member,
    ) -> Self {
        Self {
            name,
            mailbox,
            commands: Vec::new(),
            queue: Queue::new(options.config.limits.pending_requests, options.overflow),
            closing: false,
            end_at: None,
            for_head,
            stats,
            no_zstd,
            pause: options.reconnect_pause.0,
            condition,
            paused: None,
            has_stumbled: false,
            options,
            _member: member,
        }
    }

    pub(in super::super) fn options(&self) -> &ClientOptions {
        &self.options
    }

    pub(in super::super) fn patience(&self) -> Patience {
        let ClientOptions { read_timeout, write_timeout, read_buffer, max_compress_share, .. } = *self.options;
        Patience { read_timeout, write_timeout, read_buffer, max_compress_share }
    }

    /// Takes what callers want. Ready if there was anything.
    pub(in super::super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_with(context, |_| ())
    }

    /// The same; `cancel` is given what is not in the queue.
    pub(super) fn poll_with(&mut self, context: &mut Context<'_>, mut cancel: impl FnMut(u64)) -> Poll<()> {
        let mut ready = false;
        // Again: only who finds nothing is woken.
        while self.mailbox.poll(context, &mut self.commands).is_ready() {
            ready = true;
            for command in self.commands.drain(..) {
                match command {
                    Command::Send(job) => self.queue.push(job),
                    Command::Cancel(ticket) if self.queue.give_up(ticket) => {}
                    Command::Cancel(ticket) => cancel(ticket),
                    Command::Close(deadline) => {
                        self.closing = true;
                        self.end_at = self.end_at.into_iter().chain(deadline).min();
                    }
                }
            }
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What is to be done now.
    pub(in super::super) fn step(&mut self, now: Instant) -> Step {
        self.handle_timeout(now);
        match &self.paused {
            Some((until, error)) if now < *until => match error {
                Some(error) => self.queue.fail(error),
                None if !self.queue.is_empty() => return Step::Pause(*until),
                None => {}
            },
            _ => self.paused = None,
        }
        match self.queue.is_empty() {
            false => Step::Dial,
            true if self.closing => Step::End,
            true => Step::Wait,
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub(in super::super) fn poll_timeout(&self) -> Option<Instant> {
        let end_at = self.end_at.filter(|_| !self.queue.is_empty());
        self.queue.poll_timeout().into_iter().chain(end_at).min()
    }

    /// Ends the requests whose deadline has come, and all when that of the lane has.
    pub(in super::super) fn handle_timeout(&mut self, now: Instant) {
        self.queue.expire(now);
        if self.end_at.is_some_and(|at| at <= now) {
            self.queue.fail(&ClientError::Closed);
        }
    }

    /// Whether nobody wants a connection any more, nor will.
    pub(in super::super) fn is_done(&self) -> bool {
        self.closing && self.queue.is_empty()
    }

    /// There is a connection.
    pub(in super::super) fn begin(&mut self, now: Instant) -> Session<'_> {
        Session::new(self, now)
    }

    /// There is none to be had.
    pub(in super::super) fn handle_dial_error(&mut self, now: Instant, error: io::Error) {
        let error = cannot_connect(&self.name, error);
        self.back_off(now, error);
    }

    /// A dial or a hello has failed: fails what waits, and what comes in the pause, unless it is to wait for better times.
    pub(super) fn back_off(&mut self, now: Instant, error: ClientError) {
        let error = Some(error).filter(|_| !self.options.wait_for_link);
        if let Some(error) = &error {
            self.queue.fail(error);
        }
        self.pause(now, error);
    }

    fn pause(&mut self, now: Instant, error: Option<ClientError>) {
        let pause = self.pause.mul_f64(1.0 - fastrand::f64() / 2.0);
        self.paused = now.checked_add(pause).map(|until| (until, error));
        self.condition.set(self.paused.as_ref().map(|(until, _)| *until), false);
        self.pause = (self.pause * 2).min(self.options.reconnect_pause.1.max(self.options.reconnect_pause.0));
    }

    /// What the next connection is told.
    pub(super) fn connection(&self, now: Instant) -> ClientConfig {
        let mut connection = self.options.connection();
        if lock(&self.no_zstd).is_some_and(|until| now < until) {
            connection.config.avoid_zstd();
        }
        connection
    }

    /// The server does not know zstd (R-zstd-fallback).
    pub(super) fn note_zstd_refused(&mut self, now: Instant) {
        #[cfg(feature = "zstd")]
        let after = self.options.zstd_retry;
        #[cfg(not(feature = "zstd"))]
        let after = Duration::MAX;
        // As long as time can tell, if it is for ever.
        *lock(&self.no_zstd) = now.checked_add(after).or_else(|| now.checked_add(Duration::from_secs(1 << 30)));
    }

    /// A hello was complete.
    pub(super) fn note_connected(&self) {
        self.condition.set(None, true);
    }

    /// A link has ended that was up. The next is dialled at once, unless this one did `nothing` but say hello, and so did
    /// the one before: a peer that takes links and drops them is not dialled as fast as it does.
    pub(super) fn note_ended(&mut self, now: Instant, nothing: bool) {
        if nothing && self.has_stumbled {
            return self.pause(now, None);
        }
        self.condition.set(None, false);
        self.has_stumbled = nothing;
        if !nothing {
            self.pause = self.options.reconnect_pause.0;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.fail(&ClientError::Closed);
        for command in self.mailbox.close() {
            if let Command::Send(job) = command {
                job.end(Err(ClientError::Closed));
            }
        }
    }
}
