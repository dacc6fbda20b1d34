//! One direction of a transport: bytes that take their time, in a window that the receiver makes room in by reading.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::random::Random;

#[derive(Clone, Debug)]
pub struct WireSetting {
    pub delay: Duration,
    pub jitter: Duration,
    /// Most bytes on their way or not yet read.
    pub window: usize,
    /// Longest piece that travels as one.
    pub segment: usize,
}

pub struct Wire {
    setting: WireSetting,
    /// In order: a transport may be slow, but it never overtakes itself.
    flying: VecDeque<(Instant, Vec<u8>)>,
    arrived: Vec<u8>,
    read: usize,
    last_arrival: Option<Instant>,
    /// When the end of the direction arrives.
    end: Option<Instant>,
    landed_end: bool,
    /// After so many more bytes all is lost.
    left: Option<usize>,
    /// Nobody reads any more: what is written vanishes.
    deaf: bool,
    /// What was written has not all arrived, or never will.
    pub lost: bool,
}

impl Wire {
    pub fn new(setting: WireSetting) -> Self {
        Self {
            setting,
            flying: VecDeque::new(),
            arrived: Vec::new(),
            read: 0,
            last_arrival: None,
            end: None,
            landed_end: false,
            left: None,
            deaf: false,
            lost: false,
        }
    }

    // The sender's side.

    /// Bytes that would be taken now.
    pub fn room(&self) -> usize {
        if self.deaf || self.end.is_some() {
            return usize::MAX;
        }
        let flying: usize = self.flying.iter().map(|(_, bytes)| bytes.len()).sum();
        self.setting.window.saturating_sub(flying + self.arrived.len() - self.read)
    }

    /// Takes what there is room for.
    pub fn write(&mut self, now: Instant, random: &mut Random, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        if self.deaf || self.end.is_some() {
            self.lost |= taken > 0;
            return taken;
        }
        let passed = self.left.map_or(taken, |left| left.min(taken));
        for piece in bytes[..passed].chunks(self.setting.segment) {
            let at = self.arrival(now, random);
            self.flying.push_back((at, piece.to_vec()));
        }
        if let Some(left) = &mut self.left {
            *left -= passed;
            if *left == 0 {
                self.lost = true;
                self.finish(now, random);
            }
        }
        taken
    }

    /// The direction ends behind what was written.
    pub fn finish(&mut self, now: Instant, random: &mut Random) {
        if self.end.is_none() && !self.deaf {
            self.end = Some(self.arrival(now, random));
        }
    }

    fn arrival(&mut self, now: Instant, random: &mut Random) -> Instant {
        let at = now + self.setting.delay + random.up_to(self.setting.jitter);
        let at = self.last_arrival.map_or(at, |last| last.max(at));
        self.last_arrival = Some(at);
        at
    }

    // The receiver's side.

    /// When something more arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        let end = self.end.filter(|_| !self.landed_end);
        self.flying.front().map(|(at, _)| *at).or(end)
    }

    pub fn land(&mut self, now: Instant) {
        while let Some((_, bytes)) = self.flying.pop_front_if(|(at, _)| *at <= now) {
            self.arrived.extend(bytes);
        }
        self.landed_end |= self.flying.is_empty() && self.end.is_some_and(|at| at <= now);
    }

    pub fn readable(&self) -> &[u8] {
        &self.arrived[self.read..]
    }

    pub fn consume(&mut self, count: usize) {
        self.read += count;
        if self.read == self.arrived.len() {
            self.arrived.clear();
            self.read = 0;
        }
    }

    /// Everything has been read, and no more follows.
    pub fn is_at_end(&self) -> bool {
        self.landed_end && self.readable().is_empty()
    }

    /// The receiver is gone.
    pub fn close(&mut self) {
        self.lost |= !self.readable().is_empty() || !self.flying.is_empty();
        self.deaf = true;
        self.flying.clear();
        self.arrived.clear();
        self.read = 0;
    }

    // Misfortune.

    /// Lets the direction end after `bytes` more.
    pub fn cut_after(&mut self, bytes: usize) {
        if self.end.is_none() {
            self.left = Some(bytes);
        }
    }

    /// Loses what is on its way from the byte `at` of it on, and all that is written later, without an end.
    pub fn break_at(&mut self, at: usize) {
        let mut left = at;
        for (_, bytes) in &mut self.flying {
            bytes.truncate(left);
            left -= bytes.len();
        }
        self.flying.retain(|(_, bytes)| !bytes.is_empty());
        self.lost = true;
        self.left = None;
        self.deaf = true;
    }
}
