//! The balancer, the retry budget and upstreams that misbehave, in virtual time and from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::balance::{Balancer, MemberId, Outcome, Pick, Policy};
use super::budget::Budget;

const MS: u64 = 1_000;
const S: u64 = 1_000 * MS;
/// After which a request is given up, as by `--out-timeout`.
const TIMEOUT: u64 = 3 * S;

/// What becomes of a request that comes to an upstream at some microsecond: how long that takes and how it ends.
type Behaviour = fn(at: u64, random: &mut fastrand::Rng) -> (u64, Outcome);

fn works(_: u64, random: &mut fastrand::Rng) -> (u64, Outcome) {
    (20 * MS + random.u64(0..10 * MS), Outcome::Answered)
}

fn fails_fast(_: u64, _: &mut fastrand::Rng) -> (u64, Outcome) {
    (MS / 2, Outcome::Failed)
}

fn hangs(_: u64, _: &mut fastrand::Rng) -> (u64, Outcome) {
    (TIMEOUT, Outcome::Failed)
}

/// Up for seven seconds, and then gone for seven.
fn comes_and_goes(at: u64, random: &mut fastrand::Rng) -> (u64, Outcome) {
    if (at / (7 * S)).is_multiple_of(2) { works(at, random) } else { fails_fast(at, random) }
}

#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    /// Failed for good: not to be repeated, out of time, or nowhere else to go.
    lost: u64,
    retried: u64,
    /// How many of the attempts went to each.
    attempts: Vec<u64>,
    /// How many attempts failed there.
    failed: Vec<u64>,
}

struct Request {
    deadline: u64,
    can_be_repeated: bool,
    tried: Vec<MemberId>,
}

/// One request each 2 ms, for so many seconds; of those that fail, `repeatable` of ten may be sent again.
fn simulate(seed: u64, behaviours: &[Behaviour], seconds: u64, repeatable: u64) -> Tally {
    let random = &mut fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let at_micros = |micros| start + Duration::from_micros(micros);
    let mut balancer = Balancer::new(Policy::default());
    for number in 0..behaviours.len() {
        balancer.add(start, number, false);
    }
    let mut budget = Budget::new();
    let mut tally =
        Tally { attempts: vec![0; behaviours.len()], failed: vec![0; behaviours.len()], ..Tally::default() };
    // Arrivals, and attempts that end; the number makes the order of those at one moment certain.
    let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut attempts: Vec<Option<(Request, Pick, usize, Outcome)>> = Vec::new();
    let mut arrivals = (0..seconds * 500).map(|n| n * 2 * MS).peekable();
    loop {
        let end = ends.peek().map(|Reverse((at, _))| *at);
        let mut request = match (arrivals.peek(), end) {
            (None, None) => return tally,
            (Some(arrival), end) if end.is_none_or(|end| *arrival <= end) => {
                let now = *arrival;
                arrivals.next();
                tally.requests += 1;
                budget.note_request(at_micros(now));
                let can_be_repeated = random.u64(0..10) < repeatable;
                (now, Request { deadline: now + TIMEOUT, can_be_repeated, tried: Vec::new() })
            }
            _ => {
                let Some(Reverse((now, number))) = ends.pop() else { continue };
                let Some((mut request, pick, upstream, outcome)) = attempts[number as usize].take() else { continue };
                balancer.end(at_micros(now), pick, outcome);
                if outcome == Outcome::Answered {
                    continue;
                }
                tally.failed[upstream] += 1;
                request.tried.push(pick.id);
                let again = request.can_be_repeated
                    && now < request.deadline
                    && balancer.has_another(&[&request.tried])
                    && budget.take();
                if !again {
                    tally.lost += 1;
                    continue;
                }
                tally.retried += 1;
                (now, request)
            }
        };
        let (now, request) = (request.0, &mut request.1);
        let picked = balancer.pick(at_micros(now), request.can_be_repeated, &request.tried);
        let (pick, upstream) = picked.expect("somebody always takes part");
        tally.attempts[upstream] += 1;
        let (took, outcome) = behaviours[upstream](now, random);
        let (until, outcome) =
            if now + took > request.deadline { (request.deadline, Outcome::Failed) } else { (now + took, outcome) };
        ends.push(Reverse((until, attempts.len() as u64)));
        let request = Request {
            deadline: request.deadline,
            can_be_repeated: request.can_be_repeated,
            tried: std::mem::take(&mut request.tried),
        };
        attempts.push(Some((request, pick, upstream, outcome)));
    }
}

#[test]
fn one_that_fails_fast_one_that_hangs_and_one_that_comes_and_goes_among_four() {
    for seed in 0..20 {
        let behaviours: [Behaviour; 4] = [works, fails_fast, hangs, comes_and_goes];
        let tally = simulate(seed, &behaviours, 120, 10);
        assert_eq!(tally.requests, 60_000);
        // What cannot be avoided: whoever waits for the one that hangs has no time left for another. Those that went
        // there before the first of them timed out, and then one each time that it is tried.
        assert!(tally.failed[2] <= 100 + 8, "seed {seed}: {tally:?}");
        assert!(tally.lost <= tally.failed[2] + 2, "seed {seed}: {tally:?}");
        // Ejected after five failures, then tried after 1, 2, 4, 8, 16, 30 and 30 s.
        assert!(tally.failed[1] <= 5 + 8, "seed {seed}: {tally:?}");
        assert!(tally.failed[3] <= 9 * 5 + 20, "seed {seed}: {tally:?}");
        // The one that comes and goes is trusted less each time, and used all the same.
        assert!(tally.attempts[3] > 1_000, "seed {seed}: {tally:?}");
    }
}

#[test]
fn what_must_not_be_repeated_is_lost_only_until_the_failing_are_known() {
    for seed in 0..20 {
        let behaviours: [Behaviour; 4] = [works, fails_fast, hangs, comes_and_goes];
        let tally = simulate(seed, &behaviours, 120, 0);
        let rate = tally.lost as f64 / tally.requests as f64;
        assert!(rate < 0.005, "seed {seed}: {rate} {tally:?}");
        assert_eq!(tally.retried, 0);
    }
}

#[test]
fn retries_do_not_make_an_outage_worse() {
    let behaviours: [Behaviour; 3] = [fails_fast, fails_fast, fails_fast];
    let tally = simulate(1, &behaviours, 60, 10);
    let attempts: u64 = tally.attempts.iter().sum();
    assert!(attempts as f64 <= tally.requests as f64 * 1.21 + 70.0, "{tally:?}");
}

#[test]
fn four_that_work_share_evenly() {
    let behaviours: [Behaviour; 4] = [works, works, works, works];
    let tally = simulate(3, &behaviours, 60, 10);
    assert_eq!(tally.lost, 0);
    assert!(tally.attempts.iter().all(|attempts| (7_000..8_000).contains(attempts)), "{tally:?}");
}
