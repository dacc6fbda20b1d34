//! Which upstream a request goes to, and what its outcome says about that upstream. Decisions only: no I/O, and time is
//! an argument.
//!
//! Each request goes where it costs least: where the fewest requests are pending, weighted by how slow and how
//! unreliable the upstream has been lately. All upstreams are looked at, since there are few; equals take turns.
//!
//! An upstream that fails again and again is ejected: it gets nothing for a pause, then one request to try it, and
//! comes back slowly if that succeeds, or waits for twice as long if not. A failure is never a credit: whoever fails
//! fast has few requests pending, and must not attract more by that. Nobody is ejected while no other does better; so
//! the last one never is, and when everything behind fails, everything is still tried. A request that can be sent again
//! and has nobody else to go to goes to one that is out. One that says goodbye is out for the first pause, without a word
//! about how it does.

use std::time::{Duration, Instant};

use super::member::{Effect, Member, Standing};

/// When upstreams are ejected and how they come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// So many failures in a row.
    pub(crate) failures_in_row: u32,
    /// Or such a share of failures among the last requests.
    pub(crate) failure_share: f64,
    /// How long it is out the first time; twice as long each further time.
    pub(crate) first_pause: Duration,
    /// But no longer than this.
    pub(crate) longest_pause: Duration,
    /// How long one that comes back, or is new beside others, gets less than its share.
    pub(crate) slow_start: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failures_in_row: 5,
            failure_share: 0.5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// Which upstream. Ids are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberId(u64);

/// What became of a request at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered.
    Answered,
    /// It was answered in a way that may be the request's fault or the upstream's: a failure that counts for the share.
    Refused,
    /// It was not answered, or only to say that the upstream cannot.
    Failed,
    /// Nobody waited for the answer any more.
    Dropped,
}

/// A request that is to be sent there; [`Balancer::end`] wants it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    pub(crate) id: MemberId,
    began: Instant,
    trial: Trial,
}

/// Whether a request tries an upstream that was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    No,
    /// It does, since it is time to: with its failure the upstream stays out for longer.
    Due,
    /// It does, for want of a better one.
    Resort,
}

/// What changed with the end of a request, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The upstream was ejected.
    Ejected,
    /// It takes part again.
    Back,
}

/// How an upstream stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes part.
    Up,
    /// It takes part with less than its share.
    Starting,
    /// It was ejected.
    Ejected,
    /// Its health checks fail.
    Unhealthy,
    /// Its name does not stand for it any more.
    Leaving,
}

impl State {
    /// In one word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
            Self::Leaving => "leaving",
        }
    }
}

/// An upstream at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View<T> {
    pub(crate) what: T,
    pub(crate) state: State,
    pub(crate) pending: u32,
    /// The mean of the last answers.
    pub(crate) latency: Option<Duration>,
    /// The share of failures among the last answers.
    pub(crate) failure_share: f64,
    pub(crate) ejections: u64,
}

/// The upstreams and how they stand.
#[derive(Debug)]
pub(crate) struct Balancer<T> {
    policy: Policy,
    members: Vec<Member<T>>,
    next_id: u64,
    /// Where the next look begins, so that equals take turns.
    turn: usize,
}

impl<T: Clone> Balancer<T> {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, members: Vec::new(), next_id: 0, turn: 0 }
    }

    /// Takes one in. If there are others already it starts slowly.
    pub(crate) fn add(&mut self, now: Instant, what: T, starts_slowly: bool) -> MemberId {
        let id = MemberId(self.next_id);
        self.next_id += 1;
        self.members.push(Member::new(id, what, starts_slowly.then_some(now)));
        id
    }

    /// Gives one no more requests. It is gone when it has none pending.
    pub(crate) fn remove(&mut self, id: MemberId) {
        if let Some(member) = self.find(id) {
            member.leaving = true;
        }
        self.members.retain(|member| !member.leaving || member.pending > 0);
    }

    /// What active checks say. Whoever becomes healthy comes back slowly; true if something changed.
    pub(crate) fn set_healthy(&mut self, now: Instant, id: MemberId, healthy: bool) -> bool {
        let Some(member) = self.find(id).filter(|member| member.healthy != healthy) else { return false };
        member.healthy = healthy;
        if healthy {
            member.come_back(now);
        }
        true
    }

    /// One has said that it is about to close (R-goodbye). If another one takes part, it gets nothing for the first pause, as
    /// if it had been ejected: then one request finds out whether it is back. Returns it if that is so.
    pub(crate) fn set_aside(&mut self, now: Instant, id: MemberId) -> Option<T> {
        let is_another_open = self.members.iter().any(|member| member.id != id && member.is_open());
        let until = now + self.policy.first_pause;
        let member = self.find(id).filter(|member| is_another_open && member.standing == Standing::In)?;
        member.standing = Standing::Out { until };
        Some(member.what.clone())
    }

    /// Where the next request goes, if there is anywhere; not to those in `tried`. `can_be_repeated` says that it can be
    /// sent to another one if this one fails. Where none is left that is thought well of, it goes to one that is not:
    /// it may be better than thought, as in a restart of one after the other.
    pub(crate) fn pick(&mut self, now: Instant, can_be_repeated: bool, tried: &[MemberId]) -> Option<(Pick, T)> {
        self.turn = self.turn.wrapping_add(1);
        let is_first = tried.is_empty();
        let trial = |member: &Member<T>| is_first && member.wants_trial(&self.policy, now, can_be_repeated);
        let (index, trial) = match self.members.iter().position(trial) {
            Some(index) => (index, Trial::Due),
            None => {
                let open = self.cheapest(now, |member| member.is_open() && !tried.contains(&member.id));
                let any = || self.cheapest(now, |member| !member.leaving && !tried.contains(&member.id));
                let index = open.or_else(any)?;
                let is_out = self.members[index].standing != Standing::In;
                (index, if is_out { Trial::Resort } else { Trial::No })
            }
        };
        let member = &mut self.members[index];
        if trial == Trial::Due {
            member.begin_trial(&self.policy, now);
        }
        member.pending += 1;
        Some((Pick { id: member.id, began: now, trial }, member.what.clone()))
    }

    fn cheapest(&self, now: Instant, may: impl Fn(&Member<T>) -> bool) -> Option<usize> {
        if let [only] = &self.members[..] {
            return may(only).then_some(0);
        }
        let means = self.members.iter().filter(|member| may(member)).filter_map(|member| member.latency.mean());
        let fastest = means.fold(f64::INFINITY, f64::min);
        let count = self.members.len();
        let mut best: Option<(usize, f64)> = None;
        for index in (0..count).map(|n| (self.turn.wrapping_add(n)) % count) {
            let member = &self.members[index];
            if !may(member) {
                continue;
            }
            let cost = member.cost(&self.policy, now, fastest);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        best.map(|(index, _)| index)
    }

    /// A request has ended.
    pub(crate) fn end(&mut self, now: Instant, pick: Pick, outcome: Outcome) -> Option<Change> {
        let policy = self.policy;
        let member = self.find(pick.id)?;
        let change = match member.end(&policy, now, pick.began, pick.trial, outcome) {
            Effect::None => None,
            Effect::Back => Some(Change::Back),
            Effect::Suspect if self.is_another_better(now, pick.id) => {
                self.find(pick.id)?.eject(&policy, now);
                Some(Change::Ejected)
            }
            Effect::Suspect => None,
        };
        self.members.retain(|member| !member.leaving || member.pending > 0);
        change
    }

    /// Whether another one takes part that has not failed last, and less often.
    fn is_another_better(&self, now: Instant, id: MemberId) -> bool {
        let share = self.members.iter().find(|member| member.id == id).map_or(0.0, |m| m.failures.share(now));
        let is_better =
            |other: &&Member<T>| other.is_open() && other.in_row == 0 && other.failures.share(now) <= share / 2.0;
        self.members.iter().filter(|member| member.id != id).any(|other| is_better(&other))
    }

    /// Whether a request that was sent to those in `tried` can be sent to another one.
    pub(crate) fn has_another(&self, tried: &[&[MemberId]]) -> bool {
        let was_tried = |id| tried.iter().any(|ids| ids.contains(&id));
        self.members.iter().any(|member| !member.leaving && !was_tried(member.id))
    }

    /// How many upstreams there are, those that leave included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// All upstreams, in the order in which they came.
    pub(crate) fn view(&self, now: Instant) -> Vec<View<T>> {
        let starting = |since: Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) < self.policy.slow_start)
        };
        let view = |member: &Member<T>| View {
            what: member.what.clone(),
            state: match member.standing {
                _ if member.leaving => State::Leaving,
                _ if !member.healthy => State::Unhealthy,
                Standing::Out { .. } | Standing::Tried { .. } => State::Ejected,
                Standing::In if starting(member.since) => State::Starting,
                Standing::In => State::Up,
            },
            pending: member.pending,
            latency: member.latency.mean().map(Duration::from_secs_f64),
            failure_share: member.failures.share(now),
            ejections: member.ejections,
        };
        self.members.iter().map(view).collect()
    }

    fn find(&mut self, id: MemberId) -> Option<&mut Member<T>> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn balancer(count: usize, now: Instant) -> Balancer<usize> {
        let mut balancer = Balancer::new(Policy::default());
        for number in 0..count {
            balancer.add(now, number, false);
        }
        balancer
    }

    /// Sends one and ends it.
    fn exchange(balancer: &mut Balancer<usize>, now: Instant, outcome: impl Fn(usize) -> (Duration, Outcome)) -> usize {
        let (pick, number) = balancer.pick(now, true, &[]).unwrap();
        let (took, outcome) = outcome(number);
        balancer.end(now + took, pick, outcome);
        number
    }

    /// How many of `requests` each gets.
    fn spread(
        balancer: &mut Balancer<usize>,
        mut now: Instant,
        requests: usize,
        outcome: impl Fn(usize) -> (Duration, Outcome),
    ) -> Vec<usize> {
        let mut got = vec![0; balancer.len()];
        for _ in 0..requests {
            got[exchange(balancer, now, &outcome)] += 1;
            now += MS;
        }
        got
    }

    /// Ejects number 0, while others have as much to do as it takes for a request to go there at all.
    fn eject_first(balancer: &mut Balancer<usize>, now: Instant) {
        let mut others = Vec::new();
        while balancer.view(now)[0].state != State::Ejected {
            match balancer.pick(now, true, &[]).unwrap() {
                (pick, 0) => {
                    balancer.end(now, pick, Outcome::Failed);
                }
                (pick, _) => others.push(pick),
            }
            assert!(others.len() < 1_000);
        }
        for pick in others {
            balancer.end(now, pick, Outcome::Answered);
        }
    }

    #[test]
    fn equals_take_turns() {
        let now = Instant::now();
        assert_eq!(spread(&mut balancer(3, now), now, 300, |_| (MS, Outcome::Answered)), [100, 100, 100]);
    }

    #[test]
    fn the_fewest_pending_gets_the_next() {
        let now = Instant::now();
        let mut balancer = balancer(3, now);
        let mut picks: Vec<_> = (0..9).map(|_| balancer.pick(now, true, &[]).unwrap()).collect();
        assert!(balancer.view(now).iter().all(|view| view.pending == 3));
        let at = picks.iter().position(|(_, number)| *number == 1).unwrap();
        balancer.end(now, picks.remove(at).0, Outcome::Answered);
        assert_eq!(balancer.pick(now, true, &[]).unwrap().1, 1);
    }

    #[test]
    fn a_slow_one_gets_less_and_is_not_forgotten() {
        let start = Instant::now();
        let mut balancer = balancer(2, start);
        let mut waiting: Vec<(Instant, Pick)> = Vec::new();
        let mut got = [0; 2];
        for n in 0..20_000 {
            let now = start + n * MS;
            let over: Vec<_> = waiting.extract_if(.., |(at, _)| *at <= now).collect();
            for (_, pick) in over {
                balancer.end(now, pick, Outcome::Answered);
            }
            let (pick, number) = balancer.pick(now, true, &[]).unwrap();
            got[number] += 1;
            waiting.push((now + if number == 0 { 200 * MS } else { 20 * MS }, pick));
        }
        assert!(got[0] * 5 < got[1] && got[0] > 20, "{got:?}");
    }

    #[test]
    fn failing_fast_attracts_nothing() {
        let now = Instant::now();
        let outcome = |number| if number == 0 { (MS / 10, Outcome::Failed) } else { (50 * MS, Outcome::Answered) };
        let mut balancer = balancer(4, now);
        let got = spread(&mut balancer, now, 900, outcome);
        assert!(got[0] <= 2, "{got:?}");
    }

    #[test]
    fn failing_now_and_then_costs_requests_but_not_the_place() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        let calls = std::cell::Cell::new(0);
        let got = spread(&mut balancer, now, 1_000, |number| {
            calls.set(calls.get() + 1);
            let fails = number == 0 && calls.get() % 4 == 0;
            (MS, if fails { Outcome::Refused } else { Outcome::Answered })
        });
        assert!(got[0] < got[1], "{got:?}");
        assert_eq!(balancer.view(now)[0].ejections, 0);
    }

    #[test]
    fn one_request_tries_it_after_the_pause_which_doubles() {
        let start = Instant::now();
        let mut balancer = balancer(2, start);
        eject_first(&mut balancer, start);
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let almost = now + seconds * S - MS;
            assert!((0..10).all(|_| exchange(&mut balancer, almost, |_| (MS, Outcome::Answered)) == 1));
            now += seconds * S;
            let (trial, number) = balancer.pick(now, true, &[]).unwrap();
            assert_eq!(number, 0, "after {seconds} s");
            assert!((0..10).all(|_| balancer.pick(now, true, &[]).unwrap().1 == 1), "one is enough");
            balancer.end(now, trial, Outcome::Failed);
        }
        assert_eq!(balancer.view(now)[0].ejections, 1);
    }

    #[test]
    fn what_cannot_be_repeated_tries_it_later() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        eject_first(&mut balancer, now);
        assert_eq!(balancer.pick(now + S, false, &[]).unwrap().1, 1);
        assert_eq!(balancer.pick(now + 3 * S, false, &[]).unwrap().1, 0);
    }

    #[test]
    fn a_trial_whose_caller_goes_is_followed_by_another() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        eject_first(&mut balancer, now);
        let (trial, _) = balancer.pick(now + S, true, &[]).unwrap();
        balancer.end(now + S, trial, Outcome::Dropped);
        assert_eq!(balancer.pick(now + S, true, &[]).unwrap().1, 0);
    }

    #[test]
    fn it_comes_back_slowly() {
        let start = Instant::now();
        let mut balancer = balancer(2, start);
        eject_first(&mut balancer, start);
        let back = start + S;
        let (trial, _) = balancer.pick(back, true, &[]).unwrap();
        assert_eq!(balancer.end(back, trial, Outcome::Answered), Some(Change::Back));
        assert_eq!(balancer.view(back)[0].state, State::Starting);
        // Under a load of 50 ms a request, one each millisecond.
        let mut share = |second: u32| {
            let (mut got, mut waiting) = (0, Vec::new());
            for n in 0..500 {
                let now = back + second * S + n * MS;
                if n >= 50 {
                    balancer.end(now, waiting.remove(0), Outcome::Answered);
                }
                let (pick, number) = balancer.pick(now, true, &[]).unwrap();
                waiting.push(pick);
                got += usize::from(number == 0);
            }
            let now = back + second * S + 550 * MS;
            for pick in waiting {
                balancer.end(now, pick, Outcome::Answered);
            }
            got
        };
        let shares = [share(0), share(4), share(11)];
        assert!(shares[0] < 90 && shares[0] > 10 && shares[1] > shares[0] && shares[1] < 220, "{shares:?}");
        assert!((230..=270).contains(&shares[2]), "{shares:?}");
    }

    #[test]
    fn the_last_one_stays_and_when_all_fail_all_are_tried() {
        let now = Instant::now();
        let mut alone = balancer(1, now);
        assert_eq!(spread(&mut alone, now, 100, |_| (MS, Outcome::Failed)), [100]);
        assert_eq!(alone.view(now)[0].state, State::Up);

        let mut three = balancer(3, now);
        let got = spread(&mut three, now, 300, |_| (MS, Outcome::Failed));
        assert!(three.view(now).iter().all(|view| view.state == State::Up), "nobody does better");
        assert!(got.iter().all(|got| *got > 50), "{got:?}");
    }

    #[test]
    fn when_all_checks_fail_requests_still_go_somewhere() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        for id in [MemberId(0), MemberId(1)] {
            assert!(balancer.set_healthy(now, id, false));
            assert!(!balancer.set_healthy(now, id, false));
        }
        assert!(balancer.pick(now, true, &[]).is_some());
        assert!(balancer.set_healthy(now, MemberId(1), true));
        assert!((0..10).all(|_| balancer.pick(now, true, &[]).unwrap().1 == 1));
    }

    #[test]
    fn one_that_leaves_gets_nothing_more_and_ends_what_it_has() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        let (pick, number) = balancer.pick(now, true, &[]).unwrap();
        balancer.remove(pick.id);
        assert_eq!(balancer.view(now)[number].state, State::Leaving);
        assert!((0..10).all(|_| balancer.pick(now, true, &[]).unwrap().1 != number));
        balancer.end(now, pick, Outcome::Answered);
        assert_eq!(balancer.len(), 1);
    }

    #[test]
    fn one_that_says_goodbye_gets_nothing_for_a_while_and_is_tried_then() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        let (pick, number) = balancer.pick(now, false, &[]).unwrap();
        assert_eq!(balancer.set_aside(now, pick.id), Some(number));
        assert_eq!(balancer.set_aside(now, pick.id), None, "it has said so already");
        // What it still has to answer, it answers, which does not bring it back.
        assert_eq!(balancer.end(now, pick, Outcome::Answered), None);
        let pause = Policy::default().first_pause;
        let mut others = Vec::new();
        for at in [now, now + pause - MS] {
            for _ in 0..10 {
                let (pick, other) = balancer.pick(at, true, &[]).unwrap();
                assert_ne!(other, number);
                others.push(pick);
            }
        }
        // The last one stays, whatever it says.
        assert_eq!(balancer.set_aside(now, others[0].id), None);
        let (trial, tried) = balancer.pick(now + pause, true, &[]).unwrap();
        assert_eq!((tried, balancer.view(now)[number].ejections), (number, 0));
        assert_eq!(balancer.end(now + pause, trial, Outcome::Answered), Some(Change::Back));
    }

    #[test]
    fn a_retry_goes_to_another_or_nowhere() {
        let now = Instant::now();
        let mut balancer = balancer(2, now);
        let (first, _) = balancer.pick(now, true, &[]).unwrap();
        assert!(balancer.has_another(&[&[first.id]]));
        let (second, _) = balancer.pick(now, true, &[first.id]).unwrap();
        assert_ne!(first.id, second.id);
        assert!(!balancer.has_another(&[&[first.id], &[second.id]]));
        assert!(balancer.pick(now, true, &[first.id, second.id]).is_none());
    }

    #[test]
    fn a_restart_of_one_after_the_other_finds_those_that_are_back() {
        let now = Instant::now();
        let mut balancer = balancer(3, now);
        // Each goes while those before it are still out.
        for gone in [0, 1] {
            for id in (0..3).filter(|id| *id == gone).map(MemberId) {
                (0..5).for_each(|_| {
                    balancer.find(id).unwrap().pending += 1;
                    balancer.end(now, Pick { id, began: now, trial: Trial::No }, Outcome::Failed);
                });
            }
        }
        let states: Vec<_> = balancer.view(now).iter().map(|view| view.state).collect();
        assert_eq!(states, [State::Ejected, State::Ejected, State::Up]);
        let (first, number) = balancer.pick(now, false, &[]).unwrap();
        assert_eq!(number, 2);
        balancer.end(now, first, Outcome::Failed);
        assert!(balancer.has_another(&[&[first.id]]));
        let (second, number) = balancer.pick(now, false, &[first.id]).unwrap();
        assert_ne!(number, 2);
        assert_eq!(balancer.end(now, second, Outcome::Answered), Some(Change::Back));
        // A failure for want of a better one is no reason to stay out for longer.
        let (third, _) = balancer.pick(now, false, &[first.id, second.id]).unwrap();
        balancer.end(now, third, Outcome::Failed);
        assert_eq!(balancer.pick(now + S, true, &[]).unwrap().0.id, third.id);
    }

    proptest! {
        /// Whatever happens, in whatever order: there is always somewhere to go, what is pending is what was picked and
        /// not ended, and somebody always takes part.
        #[test]
        fn somebody_always_takes_part(steps in proptest::collection::vec((0u8..6, 0usize..8, 0u64..4_000), 1..400)) {
            let mut now = Instant::now();
            let mut balancer = balancer(3, now);
            let mut open: Vec<Pick> = Vec::new();
            for (what, which, millis) in steps {
                now += Duration::from_millis(millis);
                if what < 2 {
                    let (pick, _) = balancer.pick(now, what == 0, &[]).unwrap();
                    open.push(pick);
                } else if !open.is_empty() {
                    let pick = open.remove(which % open.len());
                    let outcomes = [Outcome::Answered, Outcome::Refused, Outcome::Failed, Outcome::Dropped];
                    balancer.end(now, pick, outcomes[usize::from(what - 2)]);
                }
                let view = balancer.view(now);
                let pending: u32 = view.iter().map(|view| view.pending).sum();
                prop_assert_eq!(pending as usize, open.len());
                prop_assert!(view.iter().any(|view| matches!(view.state, State::Up | State::Starting)));
                prop_assert!(view.iter().all(|view| (0.0..=1.0).contains(&view.failure_share)));
            }
        }
    }
}
