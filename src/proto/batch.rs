//! Frames that wait to be transmitted together (spec/04-frames.md, 4.4): when a batch begins, when it is sealed, and
//! how a frame that nobody wants any more is taken back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most bytes that are compressed at once: a sealed batch that is longer leaves in pieces (R-flush-boundary), so that
/// a large body holds up neither its caller nor the transport.
const PIECE_BYTES: usize = 256 * 1024;
/// A burst must not hold its memory for ever.
const KEPT_BYTES: usize = PIECE_BYTES;

/// The batch under way.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// How much of `bytes` has been transmitted.
    gone: usize,
    /// The frames whose bytes wait, in order. One that was withdrawn keeps its place, so that the others keep theirs.
    frames: VecDeque<Entry>,
    /// Bytes of `bytes` that belong to withdrawn frames.
    withdrawn: usize,
    /// The number of the next frame.
    next: FrameNumber,
    /// Of all frames below this number at least one byte has been transmitted, unless they were withdrawn.
    begun: FrameNumber,
    /// When the batch is sealed; never moved once it has begun (R-batch-no-extend).
    flush_at: Option<Instant>,
    sealed: bool,
}

struct Entry {
    number: FrameNumber,
    /// How many of its bytes wait.
    length: usize,
    withdrawn: bool,
}

/// Which frame of all that this side has sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FrameNumber(u64);

impl Batch {
    /// Appends a frame by `write`, which appends nothing on an error. A frame that begins a batch starts its delay, at
    /// `ready_at`; a batch that holds `most` bytes is sealed early (R-batch-size).
    pub(super) fn push<E>(
        &mut self,
        ready_at: Instant,
        delay: Duration,
        most: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<FrameNumber, E> {
        let (before, begins) = (self.bytes.len(), self.is_empty());
        write(&mut self.bytes)?;
        let number = self.next;
        self.next = FrameNumber(number.0 + 1);
        self.frames.push_back(Entry { number, length: self.bytes.len() - before, withdrawn: false });
        if begins {
            self.flush_at = ready_at.checked_add(delay);
        }
        self.sealed |= delay.is_zero() || self.len() >= most;
        if self.sealed {
            self.flush_at = None;
        }
        Ok(number)
    }

    /// Whether the peer can have seen any of a frame.
    pub(super) fn has_begun(&self, frame: FrameNumber) -> bool {
        frame < self.begun
    }

    /// Takes a frame back that has not begun: it will not be transmitted.
    pub(super) fn withdraw(&mut self, frame: FrameNumber) {
        let Ok(at) = self.frames.binary_search_by_key(&frame, |entry| entry.number) else { return };
        let Some(entry) = self.frames.get_mut(at).filter(|entry| !entry.withdrawn && entry.number >= self.begun) else {
            return;
        };
        entry.withdrawn = true;
        self.withdrawn += entry.length;
        if self.is_empty() {
            self.begin_anew();
        } else if self.withdrawn > (self.bytes.len() - self.gone) / 2 {
            // Not with each frame: a thousand that expire together would move all bytes a thousand times.
            self.compact();
        }
    }

    /// Moves what waits to the front of `bytes`, without what was withdrawn.
    fn compact(&mut self) {
        let (mut from, mut to) = (self.gone, 0);
        self.frames.retain(|entry| {
            if !entry.withdrawn {
                self.bytes.copy_within(from..from + entry.length, to);
                to += entry.length;
            }
            from += entry.length;
            !entry.withdrawn
        });
        self.bytes.truncate(to);
        self.gone = 0;
        self.withdrawn = 0;
    }

    fn begin_anew(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.gone = 0;
        self.frames.clear();
        self.withdrawn = 0;
        self.flush_at = None;
        self.sealed = false;
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
        self.bytes.len() - self.gone - self.withdrawn
    }

    /// Bytes of memory that it takes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the bytes of a sealed or due batch, or the next piece of a long one, to `transmit`. Returns how many
    /// frames that completed and how many bytes those were, if it was time.
    pub(super) fn take_due(&mut self, now: Instant, transmit: impl FnOnce(&[u8])) -> Option<(u64, u64)> {
        if self.is_empty() || !(self.sealed || self.flush_at.is_some_and(|at| at <= now)) {
            return None;
        }
        let end = self.begin_piece();
        let piece = &self.bytes[self.gone..end];
        transmit(piece);
        let bytes = piece.len() as u64;
        let frames = self.note_transmitted(piece.len());
        self.gone = end;
        if self.is_empty() {
            self.begin_anew();
        } else {
            self.seal();
            if self.gone > self.bytes.len() / 2 {
                self.compact();
            }
        }
        Some((frames, bytes))
    }

    /// Brings the next piece together, without what was withdrawn from it, and returns where it ends. What lies behind
    /// it stays where it is: there can be much of it.
    fn begin_piece(&mut self) -> usize {
        let (mut count, mut live, mut dead) = (0, 0, 0);
        for entry in &self.frames {
            if live >= PIECE_BYTES {
                break;
            }
            count += 1;
            *(if entry.withdrawn { &mut dead } else { &mut live }) += entry.length;
        }
        if dead > 0 {
            let mut from = self.gone + live + dead;
            let mut to = from;
            for entry in self.frames.drain(..count).collect::<Vec<_>>().into_iter().rev() {
                from -= entry.length;
                if !entry.withdrawn {
                    to -= entry.length;
                    self.bytes.copy_within(from..from + entry.length, to);
                    self.frames.push_front(entry);
                }
            }
            self.gone = to;
            self.withdrawn -= dead;
        }
        self.gone + live.min(PIECE_BYTES)
    }

    /// Takes `left` bytes off the first frames; returns how many of these are complete now.
    fn note_transmitted(&mut self, mut left: usize) -> u64 {
        let mut complete = 0;
        while left > 0
            && let Some(entry) = self.frames.front_mut()
        {
            self.begun = FrameNumber(entry.number.0 + 1);
            let here = left.min(entry.length);
            entry.length -= here;
            left -= here;
            if entry.length == 0 {
                self.frames.pop_front();
                complete += 1;
            }
        }
        complete
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes one piece, if it is time.
    fn take(batch: &mut Batch, now: Instant) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        batch.take_due(now, |bytes| out.extend_from_slice(bytes)).map(|_| out)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        /// The frame at this place among all that were pushed.
        Withdraw(proptest::sample::Index),
        Take,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1usize..2000).prop_map(Step::Push),
            1 => (100_000usize..600_000).prop_map(Step::Push),
            4 => any::<proptest::sample::Index>().prop_map(Step::Withdraw),
            2 => Just(Step::Take),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_frame_leaves_whole_and_in_order_or_not_at_all(steps in proptest::collection::vec(any_step(), 1..80)) {
            let now = Instant::now();
            let mut batch = Batch::default();
            // What each frame consists of, and whether it was taken back in time.
            let mut frames: Vec<(FrameNumber, Vec<u8>, bool)> = Vec::new();
            let mut out = Vec::new();
            for step in steps {
                match step {
                    Step::Push(length) => {
                        let bytes = vec![frames.len() as u8; length];
                        let push = |out: &mut Vec<u8>| { out.extend_from_slice(&bytes); Ok::<(), ()>(()) };
                        let number = batch.push(now, Duration::from_secs(1), 1 << 16, push).unwrap();
                        frames.push((number, bytes, false));
                    }
                    Step::Withdraw(at) if !frames.is_empty() => {
                        let at = at.index(frames.len());
                        let (number, _, withdrawn) = &mut frames[at];
                        *withdrawn |= !batch.has_begun(*number);
                        batch.withdraw(*number);
                    }
                    Step::Withdraw(_) => {}
                    Step::Take => out.extend(take(&mut batch, now + Duration::from_secs(1)).unwrap_or_default()),
                }
                let length = |(_, bytes, withdrawn): &(_, Vec<u8>, bool)| if *withdrawn { 0 } else { bytes.len() };
                prop_assert_eq!(batch.len() + out.len(), frames.iter().map(length).sum::<usize>());
            }
            while let Some(piece) = take(&mut batch, now + Duration::from_secs(1)) {
                prop_assert!(piece.len() <= PIECE_BYTES);
                out.extend(piece);
            }
            let expected: Vec<u8> = frames.into_iter().filter(|frame| !frame.2).flat_map(|frame| frame.1).collect();
            prop_assert!(out == expected);
            prop_assert!(batch.is_empty() && batch.flush_at().is_none());
        }
    }

    #[test]
    fn a_piece_moves_no_more_than_itself() {
        let now = Instant::now();
        let mut batch = Batch::default();
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(&[7; 1000]);
            Ok::<(), ()>(())
        };
        let numbers: Vec<_> = (0..2000).map(|_| batch.push(now, Duration::ZERO, 1 << 16, write).unwrap()).collect();
        batch.withdraw(numbers[3]);
        batch.withdraw(numbers[1999]);
        assert_eq!(take(&mut batch, now).unwrap().len(), PIECE_BYTES);
        // The frame that was withdrawn behind the piece is still there.
        assert_eq!((batch.withdrawn, batch.frames.len()), (1000, 2000 - 1 - PIECE_BYTES / 1000));
    }

    #[test]
    fn what_is_sent_and_taken_back_leaves_nothing_behind() {
        let now = Instant::now();
        let mut batch = Batch::default();
        let push = |batch: &mut Batch| {
            let write = |out: &mut Vec<u8>| {
                out.extend_from_slice(&[7; 100]);
                Ok::<(), ()>(())
            };
            batch.push(now, Duration::from_secs(1), 1 << 16, write).unwrap()
        };
        // One frame stays, so that the batch is never empty.
        push(&mut batch);
        for _ in 0..10_000 {
            let number = push(&mut batch);
            batch.withdraw(number);
        }
        assert!(batch.frames.len() < 10 && batch.bytes.len() < 1_000);
    }
}
