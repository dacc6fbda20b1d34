//! What is to have happened by when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// Deadlines, of which most are no longer of interest when they come.
///
/// To know the earliest takes O(1), and so do to set one and to forget one where they are set in order, as with one time-out for
/// all. Those before which an earlier one was set later lie in a heap.
pub(super) struct Deadlines<T> {
    in_order: VecDeque<(Instant, T)>,
    others: BinaryHeap<Reverse<(Instant, T)>>,
}

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Self {
        Self { in_order: VecDeque::new(), others: BinaryHeap::new() }
    }
}

impl<T: Ord + Copy> Deadlines<T> {
    pub(super) fn set(&mut self, at: Instant, what: T) {
        // Those that are long keep no others out of order.
        while let Some(later) = self.in_order.pop_back_if(|(last, _)| at < *last) {
            self.others.push(Reverse(later));
        }
        self.in_order.push_back((at, what));
    }

    pub(super) fn earliest(&self) -> Option<Instant> {
        match (self.in_order.front(), self.others.peek()) {
            (Some((first, _)), Some(Reverse((other, _)))) => Some(*first.min(other)),
            (Some((at, _)), None) | (None, Some(Reverse((at, _)))) => Some(*at),
            (None, None) => None,
        }
    }

    /// Takes out what should have happened by now; the earliest first.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        let at = self.earliest().filter(|at| *at <= now)?;
        match self.in_order.pop_front_if(|(first, _)| *first == at) {
            Some((_, what)) => Some(what),
            None => self.others.pop().map(|Reverse((_, what))| what),
        }
    }

    /// Keeps the earliest one of interest, and all in proportion to the `live` ones that there are.
    pub(super) fn forget(&mut self, live: usize, is_live: impl Fn(&T) -> bool) {
        while self.in_order.pop_front_if(|(_, what)| !is_live(what)).is_some() {}
        while self.others.peek().is_some_and(|Reverse((_, what))| !is_live(what)) {
            self.others.pop();
        }
        if self.in_order.len() + self.others.len() > 2 * live + 64 {
            self.in_order.retain(|(_, what)| is_live(what));
            self.others.retain(|Reverse((_, what))| is_live(what));
        }
    }

    pub(super) fn clear(&mut self) {
        self.in_order.clear();
        self.others.clear();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Set at this time from the begin; end the n-th of those that wait; or let time go on.
    #[derive(Clone, Debug)]
    enum Step {
        Set(u64),
        End(prop::sample::Index),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..1000u64).prop_map(Step::Set),
            3 => any::<prop::sample::Index>().prop_map(Step::End),
            1 => (0..100u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn each_comes_in_time_and_none_that_has_ended(steps in prop::collection::vec(step(), 0..300)) {
            let begin = Instant::now();
            let at = |ms| begin + Duration::from_millis(ms);
            let (mut deadlines, mut waiting, mut now) = (Deadlines::default(), BTreeSet::new(), 0);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Set(ms) => {
                        deadlines.set(at(now + ms), number);
                        waiting.insert((now + ms, number));
                    }
                    Step::End(_) if waiting.is_empty() => {}
                    Step::End(which) => {
                        let ended = *which.get(&Vec::from_iter(waiting.iter().copied()));
                        waiting.remove(&ended);
                    }
                    Step::Wait(ms) => {
                        now += ms;
                        let mut due = BTreeSet::new();
                        while let Some(what) = deadlines.pop_due(at(now)) {
                            prop_assert!(due.insert(what));
                        }
                        let late = waiting.split_off(&(now + 1, 0));
                        let late = std::mem::replace(&mut waiting, late);
                        prop_assert!(late.iter().all(|(_, what)| due.contains(what)));
                    }
                }
                let live = BTreeSet::from_iter(waiting.iter().map(|(_, number)| *number));
                deadlines.forget(live.len(), |what| live.contains(what));
                prop_assert_eq!(deadlines.earliest(), waiting.first().map(|(ms, _)| at(*ms)));
                prop_assert!(deadlines.in_order.len() + deadlines.others.len() <= 2 * live.len() + 64);
            }
        }
    }

    #[test]
    fn only_what_is_out_of_order_lies_in_the_heap() {
        let begin = Instant::now();
        let mut deadlines = Deadlines::default();
        for number in 0..1000 {
            if number % 100 == 50 {
                deadlines.set(begin + Duration::from_secs(3600), number);
            }
            deadlines.set(begin + Duration::from_micros(number / 2), number);
        }
        assert_eq!((deadlines.in_order.len(), deadlines.others.len()), (1000, 10));
        deadlines.forget(1, |number| *number == 999);
        assert_eq!((deadlines.in_order.len(), deadlines.others.len()), (1, 0));
    }
}
