//! One upstream as the balancer sees it: how loaded it is, and how it stands.

use std::time::{Duration, Instant};

use super::balance::{MemberId, Outcome, Policy, Trial};
use super::estimate::{FailureShare, Latency};

/// The share of the load that an upstream has at the beginning of its slow start.
const FIRST_SHARE: f64 = 0.1;
/// Requests that must have been seen before their share of failures means anything.
const ENOUGH: u32 = 20;

/// One upstream.
#[derive(Debug)]
pub(super) struct Member<T> {
    pub(super) id: MemberId,
    pub(super) what: T,
    pub(super) pending: u32,
    pub(super) latency: Latency,
    pub(super) failures: FailureShare,
    /// Failures since the last success.
    pub(super) in_row: u32,
    pub(super) standing: Standing,
    /// What active checks say; without them it is thought healthy.
    pub(super) healthy: bool,
    /// It gets no new requests and goes when it has none.
    pub(super) leaving: bool,
    /// Since when it takes part again, or first did beside others that were there before.
    pub(super) since: Option<Instant>,
    /// How often in a row it was ejected: its pause doubles each time.
    times: u32,
    /// How often it was ever ejected.
    pub(super) ejections: u64,
}

/// Whether it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    In,
    /// It was ejected. From `until` on one request may try it.
    Out { until: Instant },
    /// One request tries it; from `until` on, another one may.
    Tried { until: Instant },
}

/// What a failure does to its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// It is to be ejected, if another one does better.
    Suspect,
    /// It takes part again.
    Back,
}

impl<T> Member<T> {
    pub(super) fn new(id: MemberId, what: T, since: Option<Instant>) -> Self {
        Self {
            id,
            what,
            pending: 0,
            latency: Latency::default(),
            failures: FailureShare::default(),
            in_row: 0,
            standing: Standing::In,
            healthy: true,
            leaving: false,
            since,
            times: 0,
            ejections: 0,
        }
    }

    /// Whether any request may go there.
    pub(super) fn is_open(&self) -> bool {
        self.standing == Standing::In && self.healthy && !self.leaving
    }

    /// Whether a request is to try it. One that cannot be sent elsewhere when that fails only does so when no other has
    /// come for as long again.
    pub(super) fn wants_trial(&self, policy: &Policy, now: Instant, can_be_repeated: bool) -> bool {
        let (Standing::Out { until } | Standing::Tried { until }) = self.standing else { return false };
        let at = if can_be_repeated { until } else { until + self.pause(policy) };
        self.healthy && !self.leaving && at <= now
    }

    /// What one more request there costs: its place in the queue, longer for a slow one, an unreliable one, and one that
    /// has just come. `fastest` is the mean latency of the fastest.
    pub(super) fn cost(&self, policy: &Policy, now: Instant, fastest: f64) -> f64 {
        let place = f64::from(self.pending) + 1.0;
        place * self.latency.handicap(now, fastest) * self.failures.handicap(now) / self.share(policy, now)
    }

    /// Its share of the load in its slow start.
    fn share(&self, policy: &Policy, now: Instant) -> f64 {
        let Some(since) = self.since else { return 1.0 };
        let lasted = now.saturating_duration_since(since);
        if lasted >= policy.slow_start {
            return 1.0;
        }
        FIRST_SHARE + (1.0 - FIRST_SHARE) * lasted.as_secs_f64() / policy.slow_start.as_secs_f64()
    }

    /// A request that tries it goes there.
    pub(super) fn begin_trial(&mut self, policy: &Policy, now: Instant) {
        // Should its outcome be long in coming, or never, it is not the last one.
        self.standing = Standing::Tried { until: now + policy.longest_pause };
    }

    /// A request that was sent at `began` has ended.
    pub(super) fn end(
        &mut self,
        policy: &Policy,
        now: Instant,
        began: Instant,
        trial: Trial,
        outcome: Outcome,
    ) -> Effect {
        self.pending = self.pending.saturating_sub(1);
        let took = now.saturating_duration_since(began);
        if trial != Trial::No && self.standing != Standing::In {
            return self.end_trial(policy, now, took, trial, outcome);
        }
        // What was sent before it was ejected says nothing new.
        if self.standing != Standing::In || self.since.is_some_and(|since| began < since) {
            return Effect::None;
        }
        match outcome {
            Outcome::Answered => {
                self.latency.note(now, took);
                self.failures.note(now, false);
                self.in_row = 0;
                let proven = self.pause(policy) + policy.slow_start;
                if self.times > 0 && self.since.is_none_or(|since| now.saturating_duration_since(since) > proven) {
                    self.times = 0;
                }
                return Effect::None;
            }
            Outcome::Dropped => {
                self.latency.note_if_slow(now, took);
                return Effect::None;
            }
            Outcome::Refused => {}
            Outcome::Failed => self.in_row += 1,
        }
        self.latency.note_if_slow(now, took);
        self.failures.note(now, true);
        let fails_mostly = self.failures.seen() >= ENOUGH && self.failures.share(now) >= policy.failure_share;
        if self.in_row >= policy.failures_in_row || fails_mostly { Effect::Suspect } else { Effect::None }
    }

    fn end_trial(&mut self, policy: &Policy, now: Instant, took: Duration, trial: Trial, outcome: Outcome) -> Effect {
        match outcome {
            Outcome::Answered => {
                self.come_back(now);
                self.latency.note(now, took);
                self.failures.note(now, false);
                return Effect::Back;
            }
            // What nobody expected is no news.
            _ if trial == Trial::Resort => {}
            // Nothing was learned: the next one tries.
            Outcome::Dropped => self.standing = Standing::Out { until: now },
            Outcome::Refused | Outcome::Failed => self.eject(policy, now),
        }
        Effect::None
    }

    /// Ejects it, for longer than the last time.
    pub(super) fn eject(&mut self, policy: &Policy, now: Instant) {
        if self.standing == Standing::In {
            self.ejections += 1;
        }
        self.standing = Standing::Out { until: now + self.pause(policy) };
        self.times = self.times.saturating_add(1);
    }

    /// It takes part again, slowly at first.
    pub(super) fn come_back(&mut self, now: Instant) {
        self.standing = Standing::In;
        self.since = Some(now);
        self.in_row = 0;
        self.latency = Latency::default();
        self.failures = FailureShare::default();
    }

    /// How long it is out the next time.
    fn pause(&self, policy: &Policy) -> Duration {
        policy.first_pause.saturating_mul(1 << self.times.min(16)).min(policy.longest_pause)
    }
}
