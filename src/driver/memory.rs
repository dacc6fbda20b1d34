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
/// Clones share one total.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    held: AtomicUsize,
    peak: AtomicUsize,
    shed: AtomicU64,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let (held, peak, shed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { limit: bytes, held, peak, shed }))
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
        self.0.held.load(Ordering::Relaxed)
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
        self.held() >= self.0.limit - self.0.limit / 4
    }

    /// Whether nothing more should be held.
    pub fn is_full(&self) -> bool {
        self.held() >= self.0.limit
    }

    /// A message was refused.
    pub(crate) fn note_shed(&self) {
        self.0.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// An account of what one party holds.
    pub(crate) fn account(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }
}

/// What one party holds of a budget, until dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: MemoryBudget,
    bytes: usize,
}

impl Charge {
    /// It now holds so many bytes in all.
    pub(crate) fn set(&mut self, bytes: usize) {
        let inner = &self.budget.0;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let held = inner.held.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            inner.peak.fetch_max(held, Ordering::Relaxed);
        } else if bytes < self.bytes {
            inner.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
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

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
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
    fn an_unlimited_one_counts_only() {
        let budget = MemoryBudget::unlimited();
        let mut charge = budget.account();
        charge.set(usize::MAX / 2);
        assert!(!budget.is_tight() && !budget.is_full());
    }
}
