//! Frames that wait to be transmitted together (spec/04-frames.md, 4.4): when a batch begins, when it is sealed, and
//! how a frame that nobody wants any more is taken back.

use std::time::{Duration, Instant};

/// A batch is sealed early when it holds this many bytes (R-batch-size).
const SEAL_BYTES: usize = 64 * 1024;
/// A burst must not hold its memory for ever.
const KEPT_BYTES: usize = 4 * SEAL_BYTES;

/// The batch under way.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// The frames in `bytes`, in order. One that was withdrawn keeps its place, so that the others keep theirs.
    frames: Vec<Entry>,
    /// Bytes of `bytes` that belong to withdrawn frames.
    withdrawn: usize,
    /// When the batch is sealed; never moved once it has begun (R-batch-no-extend).
    flush_at: Option<Instant>,
    sealed: bool,
}

struct Entry {
    length: usize,
    withdrawn: bool,
}

/// Which frame of a batch; valid until the batch is transmitted.
#[derive(Clone, Copy)]
pub(super) struct FrameIndex(usize);

impl Batch {
    /// Appends a frame by `write`, which appends nothing on an error. A frame that begins a batch starts its delay.
    pub(super) fn push<E>(
        &mut self,
        now: Instant,
        delay: Duration,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<FrameIndex, E> {
        let before = self.bytes.len();
        write(&mut self.bytes)?;
        self.frames.push(Entry { length: self.bytes.len() - before, withdrawn: false });
        if before == 0 {
            self.flush_at = now.checked_add(delay);
        }
        self.sealed |= delay.is_zero() || self.bytes.len() >= SEAL_BYTES;
        if self.sealed {
            self.flush_at = None;
        }
        Ok(FrameIndex(self.frames.len() - 1))
    }

    /// Takes a frame back: it will not be transmitted.
    pub(super) fn withdraw(&mut self, FrameIndex(at): FrameIndex) {
        let Some(entry) = self.frames.get_mut(at).filter(|entry| !entry.withdrawn) else { return };
        entry.withdrawn = true;
        self.withdrawn += entry.length;
        if self.withdrawn == self.bytes.len() {
            *self = Self::default();
        } else if self.withdrawn > self.bytes.len() / 2 {
            // Not with each frame: a thousand that expire together would move all bytes a thousand times.
            self.compact();
        }
    }

    fn compact(&mut self) {
        let (mut from, mut to) = (0, 0);
        for entry in &mut self.frames {
            let length = entry.length;
            if entry.withdrawn {
                entry.length = 0;
            } else {
                self.bytes.copy_within(from..from + length, to);
                to += length;
            }
            from += length;
        }
        self.bytes.truncate(to);
        self.withdrawn = 0;
    }

    /// The next call of [`Batch::take_due`] gives what there is.
    pub(super) fn seal(&mut self) {
        self.flush_at = None;
        self.sealed = !self.is_empty();
    }

    /// When the batch is sealed by itself.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    /// Bytes that are to be transmitted.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.withdrawn
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the bytes of a sealed or due batch to `transmit`, and begins anew. Returns how many frames and bytes that
    /// were, if it was time.
    pub(super) fn take_due(&mut self, now: Instant, transmit: impl FnOnce(&[u8])) -> Option<(u64, u64)> {
        if self.is_empty() || !(self.sealed || self.flush_at.is_some_and(|at| at <= now)) {
            return None;
        }
        if self.withdrawn > 0 {
            self.compact();
        }
        transmit(&self.bytes);
        let frames = self.frames.iter().filter(|entry| !entry.withdrawn).count() as u64;
        let bytes = self.bytes.len() as u64;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.frames.clear();
        self.flush_at = None;
        self.sealed = false;
        Some((frames, bytes))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(batch: &mut Batch, now: Instant) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        batch.take_due(now, |bytes| out.extend_from_slice(bytes)).map(|_| out)
    }

    proptest! {
        #[test]
        fn what_was_not_withdrawn_is_transmitted_in_order(
            frames in proptest::collection::vec((1usize..2000, any::<bool>()), 1..60),
            early in any::<bool>(),
        ) {
            let now = Instant::now();
            let mut batch = Batch::default();
            let mut expected = Vec::new();
            let mut indexes = Vec::new();
            for (at, (length, stays)) in frames.iter().enumerate() {
                let bytes = vec![at as u8; *length];
                let push = batch.push(now, Duration::from_secs(1), |out| { out.extend_from_slice(&bytes); Ok::<(), ()>(()) });
                let index = push.unwrap();
                if *stays { expected.extend(bytes) } else if early { batch.withdraw(index) } else { indexes.push(index) }
            }
            for index in indexes {
                batch.withdraw(index);
                batch.withdraw(index);
            }
            prop_assert_eq!(batch.len(), expected.len());
            let taken = take(&mut batch, now + Duration::from_secs(1));
            prop_assert_eq!(taken.unwrap_or_default(), expected);
            prop_assert!(batch.is_empty() && batch.flush_at().is_none());
        }
    }
}
