//! How a handler's response comes back to its link.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::mailbox::Mailbox;
use super::super::memory::Charge;
use super::super::options::ServerOptions;
use super::Shared;
use super::waiting::{no_memory, overloaded, text, weight};

/// What a link is told.
pub(super) enum Command {
    /// A handler has ended. What it has made of its request is charged until its link counts it, as far as it is more.
    Ended(Call, Response<Bytes>, Option<Charge>),
    /// Somebody else is to go on with the line.
    Resume,
    /// Close in order, until then.
    Close(Instant),
}

/// A request in a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Its number on its link.
    pub(super) number: u64,
    /// How many bytes it is, if it is a oneway: the connection counts all others.
    pub(super) oneway_bytes: usize,
    /// What it counts for at its link until the link has its answer.
    pub(super) held_bytes: usize,
}

/// Where a handler's response goes. One that is dropped, because the handler has panicked, answers 500.
pub(in super::super) struct Reply {
    call: Call,
    mailbox: Arc<Mailbox<Command>>,
    shared: Arc<Shared>,
    is_sent: bool,
}

impl Reply {
    /// A request enters a handler, unless too many have or there is no memory for its response: then with another one.
    pub(super) fn enter(
        call: Call,
        mailbox: &Arc<Mailbox<Command>>,
        shared: &Arc<Shared>,
    ) -> Result<Self, Box<Response<Bytes>>> {
        let ServerOptions { memory, concurrency, .. } = &shared.options;
        if let Some(memory) = memory.as_ref().filter(|memory| memory.is_tight()) {
            memory.note_shed();
            return Err(no_memory().into());
        }
        if shared.running.fetch_add(1, Ordering::Relaxed) >= *concurrency {
            shared.running.fetch_sub(1, Ordering::Relaxed);
            return Err(overloaded(*concurrency).into());
        }
        Ok(Self { call, mailbox: mailbox.clone(), shared: shared.clone(), is_sent: false })
    }

    /// The handler has ended with this.
    pub(in super::super) fn send(mut self, response: Response<Bytes>) {
        self.end(response);
    }

    fn end(&mut self, response: Response<Bytes>) {
        self.is_sent = true;
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
        let charge = self.shared.options.memory.as_ref().map(|memory| {
            let mut charge = memory.account();
            charge.set(weight(response.headers(), response.body()).saturating_sub(self.call.held_bytes));
            charge
        });
        // A link that has ended needs none.
        let _ = self.mailbox.send(Command::Ended(self.call, response, charge));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            self.end(text(StatusCode::INTERNAL_SERVER_ERROR, "handler panicked\n"));
        }
    }
}
