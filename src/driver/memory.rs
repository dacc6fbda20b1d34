//! How much memory messages may take, over all links and whatever else shares the budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A total of bytes that several links, clients and servers share: what they hold of messages, in buffers, queues and
/// handlers, is counted together (R-limit-memory). Limits for one link, such as
/// [`Limits`](crate::proto::Limits), add up to more than any machine has once there are many links.
///
/// From three quarters of it on, servers answer new requests with 503; once all of it is held, bodies still coming are
/// dropped, and their messages refused with the code `overload`. So what was begun can end within the rest. What is
/// counted is what messages take; a process takes more than that, for sockets, tasks and code.
///
/// What compression keeps for each link, be it idle, is held, too: some 400 KB with DEFLATE, and with zstd at its default
/// level 2.1 MB at first and 6.3 MB once a window has gone each way. It cannot be had back before the link ends. So
/// once it is half of the budget, servers refuse further links, and tell so by `on_link_refused`; links that are up may
/// still grow. Half of the budget is there for messages in any case.
///
/// Clones share one total.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    /// What messages take.
    held: AtomicUsize,
    /// What links take for compression.
    codecs: AtomicUsize,
    peak: AtomicUsize,
    shed: AtomicU64,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let [held, codecs, peak] = [const { AtomicUsize::new(0) }; 3];
        Self(Arc::new(Inner { limit: bytes, held, codecs, peak, shed: AtomicU64::new(0) }))
    }

    /// One that is never used up: it only counts.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// How many bytes may be held.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes are held now.
    pub fn held(&self) -> usize {
        self.0.held()
    }

    /// The most that was ever held.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// How many messages were refused for want of memory.
    pub fn shed(&self) -> u64 {
        self.0.shed.load(Ordering::Relaxed)
    }

    /// Whether nothing new should begin.
    pub fn is_tight(&self) -> bool {
        let room = self.room();
        self.0.held.load(Ordering::Relaxed) >= room - room / 4
    }

    /// Whether nothing more should be held.
    pub fn is_full(&self) -> bool {
        self.0.held.load(Ordering::Relaxed) >= self.room()
    }

    /// Whether links take so much that there should not be more of them.
    pub fn is_crowded(&self) -> bool {
        self.0.codecs.load(Ordering::Relaxed) >= self.0.limit / 2
    }

    /// How much messages may take.
    fn room(&self) -> usize {
        let Inner { limit, codecs, .. } = &*self.0;
        limit - codecs.load(Ordering::Relaxed).min(limit / 2)
    }

    /// A message was refused.
    pub(crate) fn note_shed(&self) {
        self.0.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// An account of what one party holds.
    pub(crate) fn account(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0, codecs: 0 }
    }
}

/// What one party holds of a budget, until dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: MemoryBudget,
    bytes: usize,
    codecs: usize,
}

impl Inner {
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed).saturating_add(self.codecs.load(Ordering::Relaxed))
    }

    fn note_peak(&self) {
        self.peak.fetch_max(self.held(), Ordering::Relaxed);
    }
}

impl Charge {
    /// It now holds so many bytes of messages in all.
    pub(crate) fn set(&mut self, bytes: usize) {
        let inner = &self.budget.0;
        change(&inner.held, &mut self.bytes, bytes, inner);
    }

    /// It now holds so many bytes for compression, beside them.
    pub(crate) fn set_codecs(&mut self, bytes: usize) {
        let inner = &self.budget.0;
        change(&inner.codecs, &mut self.codecs, bytes, inner);
    }

    /// It holds so many bytes more.
    #[cfg(feature = "httptp")]
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.set(self.bytes.saturating_add(bytes));
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }
}

/// Makes `mine`, which is a part of `total`, be `bytes`.
fn change(total: &AtomicUsize, mine: &mut usize, bytes: usize, inner: &Inner) {
    if bytes > *mine {
        total.fetch_add(bytes - *mine, Ordering::Relaxed);
        inner.note_peak();
    } else if bytes < *mine {
        total.fetch_sub(*mine - bytes, Ordering::Relaxed);
    }
    *mine = bytes;
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
        self.set_codecs(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_over_all_that_share_it() {
        let budget = MemoryBudget::new(100);
        let (mut one, mut other) = (budget.account(), budget.clone().account());
        one.set(70);
        assert!(!budget.is_tight());
        other.set(20);
        assert!(budget.is_tight() && !budget.is_full());
        other.set(40);
        assert!(budget.is_full());
        drop(one);
        other.set(10);
        assert_eq!((budget.held(), budget.peak()), (10, 110));
        drop(other);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn links_take_half_at_most_of_what_messages_have() {
        let budget = MemoryBudget::new(100);
        let (mut link, mut message) = (budget.account(), budget.account());
        link.set_codecs(40);
        assert!(!budget.is_tight() && !budget.is_crowded());
        message.set(45);
        assert!(budget.is_tight() && !budget.is_full());
        message.set(38);
        link.set_codecs(400);
        assert!(budget.is_crowded() && !budget.is_full() && budget.is_tight());
        message.set(37);
        assert!(!budget.is_tight());
        drop(link);
        assert_eq!((budget.held(), budget.peak()), (37, 438));
    }

    #[test]
    fn an_unlimited_one_counts_only() {
        let budget = MemoryBudget::unlimited();
        let mut charge = budget.account();
        charge.set(usize::MAX / 2);
        assert!(!budget.is_tight() && !budget.is_full());
    }
}
