//! What recompressing has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rules::Reason;

/// What recompressing has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecompressStats {
    /// Bodies decoded for the link that the other end restores to their very bytes.
    pub decoded_exactly: u64,
    /// Bodies decoded for the link that the other end codes again in its own way.
    pub decoded_freely: u64,
    /// Bytes of these bodies, as they came.
    pub coded_bytes: u64,
    /// Bytes of these bodies, as they went into the link.
    pub decoded_bytes: u64,
    /// Bodies from the link restored to their very bytes.
    pub restored_exactly: u64,
    /// Bodies from the link coded again.
    pub restored_freely: u64,
    /// Bodies from the link that could not be restored and went on without a coding.
    pub not_restored: u64,
    passed: [u64; Reason::ALL.len()],
}

impl RecompressStats {
    /// Coded bodies that passed as they were, by the reason: the labels of the metric `httptp_recompress_passed`.
    pub fn passed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Reason::ALL.iter().zip(self.passed).map(|(reason, count)| (reason.name(), count))
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) decoded_exactly: AtomicU64,
    pub(super) decoded_freely: AtomicU64,
    pub(super) coded_bytes: AtomicU64,
    pub(super) decoded_bytes: AtomicU64,
    pub(super) restored_exactly: AtomicU64,
    pub(super) restored_freely: AtomicU64,
    pub(super) not_restored: AtomicU64,
    passed: [AtomicU64; Reason::ALL.len()],
}

impl Tally {
    pub(super) fn pass(&self, reason: Reason) {
        add(&self.passed[reason as usize], 1);
    }

    pub(super) fn read(&self) -> RecompressStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RecompressStats {
            decoded_exactly: load(&self.decoded_exactly),
            decoded_freely: load(&self.decoded_freely),
            coded_bytes: load(&self.coded_bytes),
            decoded_bytes: load(&self.decoded_bytes),
            restored_exactly: load(&self.restored_exactly),
            restored_freely: load(&self.restored_freely),
            not_restored: load(&self.not_restored),
            passed: std::array::from_fn(|n| load(&self.passed[n])),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
