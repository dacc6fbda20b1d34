//! What a connection should have waiting, and when it should leave (R-batch-seal): a second account of the output, kept
//! from outside.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// R-batch-size.
const SEAL_BYTES: usize = 64 * 1024;

pub struct Outbox {
    delay: Duration,
    limit: usize,
    frames: VecDeque<Frame>,
    waiting: usize,
    /// All that has left, in plain bytes.
    gone: u64,
    deadline: Option<Instant>,
    sealed: bool,
    /// Requests by id of which a byte has left.
    begun: BTreeSet<u32>,
    /// Tags of frames that have left whole, in order.
    pub whole: Vec<usize>,
    /// Where these end among all plain bytes, from 0.
    pub bounds: Vec<u64>,
}

struct Frame {
    id: u32,
    tag: usize,
    length: usize,
    left: usize,
}

impl Outbox {
    pub fn new(delay: Duration, limit: usize) -> Self {
        Self {
            delay,
            limit,
            frames: VecDeque::new(),
            waiting: 0,
            gone: 0,
            deadline: None,
            sealed: false,
            begun: BTreeSet::new(),
            whole: Vec::new(),
            bounds: vec![0],
        }
    }

    pub fn push(&mut self, now: Instant, id: u32, tag: usize, length: usize) {
        if self.waiting == 0 {
            self.deadline = now.checked_add(self.delay);
        }
        // The id may have belonged to another request, which has been answered.
        self.begun.remove(&id);
        self.waiting += length;
        self.frames.push_back(Frame { id, tag, length, left: length });
        if self.delay.is_zero() || self.waiting >= SEAL_BYTES || self.is_full() {
            self.seal();
        }
    }

    /// A request that must not leave any more.
    pub fn withdraw(&mut self, id: u32) {
        let at = self.frames.iter().position(|frame| frame.id == id).expect("what was not sent still waits");
        let frame = self.frames.remove(at).unwrap();
        assert_eq!(frame.length, frame.left, "law 3: what is told as not delivered has not begun to leave");
        self.waiting -= frame.length;
        self.settle();
    }

    /// So many plain bytes have left in all; returns whether that is more than before.
    pub fn advance(&mut self, gone: u64) -> bool {
        let mut step = usize::try_from(gone - self.gone).unwrap();
        let mut at = std::mem::replace(&mut self.gone, gone);
        assert!(step <= self.waiting, "law 3: {step} bytes leave where {} are wanted", self.waiting);
        if step == 0 {
            return false;
        }
        self.waiting -= step;
        while step > 0 {
            let frame = self.frames.front_mut().unwrap();
            self.begun.insert(frame.id);
            let here = step.min(frame.left);
            frame.left -= here;
            step -= here;
            at += here as u64;
            if frame.left == 0 {
                self.bounds.push(at);
                self.whole.push(self.frames.pop_front().unwrap().tag);
            }
        }
        self.seal();
        self.settle();
        true
    }

    /// After a flush: what waits is due, until all of it has left.
    pub fn seal(&mut self) {
        self.sealed = self.waiting > 0;
        self.deadline = None;
    }

    fn settle(&mut self) {
        if self.waiting == 0 {
            self.sealed = false;
            self.deadline = None;
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn is_full(&self) -> bool {
        self.waiting >= self.limit
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.sealed || self.deadline.is_some_and(|at| at <= now)
    }

    /// When the batch under way is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn has_begun(&self, id: u32) -> bool {
        self.begun.contains(&id)
    }
}
