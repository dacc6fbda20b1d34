//! The server of every driver: the links that are up, limits over all of them, and the way to and from handlers. Only
//! sockets, tasks and threads are the drivers' own.

mod peer;
mod reply;
mod session;
mod waiting;
mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub use peer::{LinkRefused, Peer, PeerAddr};
pub(super) use session::Session;
#[cfg(feature = "tower")]
pub(super) use waiting::text;
pub(super) use work::Work;

use super::carrier::Patience;
use super::crowd::{Crowd, Member};
use super::mailbox::{Mailbox, lock, unharmed};
use super::memory::MemoryBudget;
use super::options::ServerOptions;
use crate::proto::{Compression, ConnectionError, Stats};
use reply::Command;

/// The pause after a failed accept: usually the process has no file descriptor left.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Has handlers do what is to be done: on a task or on a thread.
pub(super) type Dispatch = Arc<dyn Fn(Work) + Send + Sync>;

type LinkStart = Box<dyn Fn(&Peer, Compression) + Send + Sync>;
type LinkRefusal = Box<dyn Fn(&PeerAddr, LinkRefused) + Send + Sync>;
type LinkEnd = Box<dyn Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync>;

/// What the clones of a server share.
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    /// Requests in handlers.
    running: AtomicUsize,
    stats: Mutex<Stats>,
    on_link_start: OnceLock<LinkStart>,
    on_link_end: OnceLock<LinkEnd>,
    on_link_refused: OnceLock<LinkRefusal>,
    links: Mutex<Links>,
    /// Every link is one of them.
    alive: Crowd,
    has_stopped: AtomicBool,
    /// One member until the server shuts down.
    serving: Crowd,
    go: Mutex<Option<Member>>,
}

/// The links that are up.
#[derive(Default)]
struct Links {
    next: u64,
    mailboxes: BTreeMap<u64, Arc<Mailbox<Command>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = lock(&self.links).mailboxes.len();
        let running = self.running.load(Ordering::Relaxed);
        f.debug_struct("Server").field("links", &links).field("running", &running).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: ServerOptions) -> Self {
        let serving = Crowd::default();
        let go = serving.enter();
        Self {
            options,
            running: AtomicUsize::new(0),
            stats: Mutex::default(),
            on_link_start: OnceLock::new(),
            on_link_end: OnceLock::new(),
            on_link_refused: OnceLock::new(),
            links: Mutex::default(),
            alive: Crowd::default(),
            has_stopped: AtomicBool::new(false),
            serving,
            go: Mutex::new(Some(go)),
        }
    }

    pub(super) fn set_on_link_start(&self, f: impl Fn(&Peer, Compression) + Send + Sync + 'static) {
        let _ = self.on_link_start.set(Box::new(f));
    }

    pub(super) fn set_on_link_end(
        &self,
        f: impl Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static,
    ) {
        let _ = self.on_link_end.set(Box::new(f));
    }

    pub(super) fn set_on_link_refused(&self, f: impl Fn(&PeerAddr, LinkRefused) + Send + Sync + 'static) {
        let _ = self.on_link_refused.set(Box::new(f));
    }

    pub(super) fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    pub(super) fn patience(&self) -> Patience {
        let ServerOptions { read_timeout, write_timeout, read_buffer, max_compress_share, .. } = self.options;
        Patience { read_timeout, write_timeout, read_buffer, max_compress_share, lingers: true }
    }

    /// A place among the links; none if there are too many, or no memory for more, or the server shuts down.
    pub(super) fn admit(self: &Arc<Self>, addr: PeerAddr) -> Option<Admitted> {
        let mut links = lock(&self.links);
        if self.has_stopped() {
            return None;
        }
        let is_crowded = self.options.memory.as_ref().is_some_and(MemoryBudget::is_crowded);
        let refused = match self.options.links {
            most if links.mailboxes.len() >= most => Some(LinkRefused::TooMany(most)),
            _ => is_crowded.then_some(LinkRefused::NoMemory),
        };
        if let Some(refused) = refused {
            drop(links);
            if let Some(tell) = self.on_link_refused.get() {
                unharmed(|| tell(&addr, refused));
            }
            return None;
        }
        links.next += 1;
        let (key, mailbox) = (links.next, Arc::new(Mailbox::default()));
        links.mailboxes.insert(key, mailbox.clone());
        Some(Admitted { shared: self.clone(), key, mailbox, peer: Peer::new(addr), _member: self.alive.enter() })
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Acquire)
    }

    /// Waits until the server shuts down.
    pub(super) async fn stopped(&self) {
        self.serving.gone().await;
    }

    /// Takes no more links and has those that are up end in order, by `deadline`. Ends when they have.
    pub(super) async fn shut_down(&self, deadline: Instant) {
        self.has_stopped.store(true, Ordering::Release);
        *lock(&self.go) = None;
        for mailbox in lock(&self.links).mailboxes.values() {
            // A link that has ended needs no telling.
            let _ = mailbox.send(Command::Close(deadline));
        }
        self.alive.gone().await;
    }
}

/// A link's place among those of its server.
pub(super) struct Admitted {
    shared: Arc<Shared>,
    key: u64,
    mailbox: Arc<Mailbox<Command>>,
    peer: Peer,
    _member: Member,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        lock(&self.shared.links).mailboxes.remove(&self.key);
        drop(self.mailbox.close());
    }
}
