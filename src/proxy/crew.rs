//! Threads that run the tasks of a proxy: as many of them at a time as there is work for.
//!
//! A task that is woken on one thread and runs on another costs both: a wake-up in the kernel, and memory that moves from
//! core to core. Where one thread can do the work, two of them take more time for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use smol::Executor;
use smol::future::poll_fn;
use tracing::error;

use super::reactor::block_on;

/// How often is looked whether there are enough of them, with and without much to do.
const LOOK: Duration = Duration::from_millis(10);
const REST: Duration = Duration::from_millis(50);
/// Others join those at work when they run for more than this share of the time. That they wait for a core does not count:
/// another thread would wait for one, too.
const BUSY: f64 = 0.8;
/// One leaves when the others would be no busier than this without it, for so many looks.
const QUIET: f64 = 0.6;
const QUIET_LOOKS: u32 = 50;

/// The threads. They end when it is dropped.
pub(super) struct Crew(Arc<Board>);

impl Crew {
    /// Starts `most` threads, of which the first one works at once, and all where the system does not tell how busy they are.
    pub(super) fn start(executor: &Arc<Executor<'static>>, most: usize) -> io::Result<Self> {
        let crew = Self(Arc::default());
        let can_tell = most > 1 && Clock::of_this_thread().is_some();
        crew.0.tell(|order| order.wanted = if can_tell { 1 } else { most });
        for number in 1..=most {
            let (executor, board) = (executor.clone(), crew.0.clone());
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || work(&executor, &board, number))?;
        }
        if can_tell {
            let board = crew.0.clone();
            thread::Builder::new().name("crew".into()).spawn(move || watch(&board, Size::new(most)))?;
        }
        Ok(crew)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.tell(|order| order.is_over = true);
    }
}

/// Where all of them read what is wanted.
#[derive(Default)]
struct Board {
    order: Mutex<Order>,
    changed: Condvar,
}

#[derive(Default)]
struct Order {
    /// Those with numbers up to this one are to work.
    wanted: usize,
    is_over: bool,
    /// Of those at work.
    wakers: Vec<Waker>,
    clocks: Vec<Clock>,
}

impl Order {
    fn wants(&self, number: usize) -> bool {
        number <= self.wanted && !self.is_over
    }
}

impl Board {
    fn order(&self) -> MutexGuard<'_, Order> {
        // No panic leaves it half changed.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Order)) {
        let mut order = self.order();
        change(&mut order);
        order.wakers.drain(..).for_each(Waker::wake);
        self.changed.notify_all();
    }

    /// Waits while `is_so`, `limit` at most, and tells whether all is over.
    fn wait_while(&self, limit: Duration, is_so: impl Fn(&Order) -> bool) -> bool {
        let waits = |order: &mut Order| !order.is_over && is_so(order);
        let order = self.changed.wait_timeout_while(self.order(), limit, waits);
        order.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    /// Ready when a thread is no longer to work.
    fn poll_unwanted(&self, number: usize, context: &mut Context<'_>) -> Poll<()> {
        let mut order = self.order();
        if !order.wants(number) {
            return Poll::Ready(());
        }
        if !order.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            order.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Runs tasks whenever this thread is wanted.
fn work(executor: &Executor<'static>, board: &Board, number: usize) {
    board.order().clocks.extend(Clock::of_this_thread());
    while !board.wait_while(Duration::MAX, |order| !order.wants(number)) {
        let run = || block_on(executor.run(poll_fn(|context| board.poll_unwanted(number, context))));
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // A task that panics takes its connection along and nothing else.
            error!("a task panicked: this is a bug in httptp, please report it");
        }
    }
}

/// Has as many of them work as there is work for.
fn watch(board: &Board, mut crew: Size) {
    let mut pause = LOOK;
    let spent =
        || board.order().clocks.iter().map(Clock::read).fold([Duration::ZERO; 2], |[a, b], [c, d]| [a + c, b + d]);
    let (mut then, mut before) = (Instant::now(), spent());
    while !board.wait_while(pause, |_| true) {
        let (now, after) = (Instant::now(), spent());
        let share = |of: usize| after[of].saturating_sub(before[of]).div_duration_f64(now - then);
        let (running, waiting) = (share(0), share(1));
        (then, before) = (now, after);
        let size = crew.now;
        crew.note(running, waiting);
        if crew.now != size {
            board.tell(|order| order.wanted = crew.now);
        }
        pause = if running + waiting < QUIET / 2.0 { REST } else { LOOK };
    }
}

/// How long a thread has run, and how long it has waited for a core.
struct Clock(File);

impl Clock {
    fn of_this_thread() -> Option<Self> {
        let clock = Self(File::open("/proc/thread-self/schedstat").ok()?);
        clock.try_read().is_some().then_some(clock)
    }

    fn read(&self) -> [Duration; 2] {
        self.try_read().unwrap_or_default()
    }

    fn try_read(&self) -> Option<[Duration; 2]> {
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0).ok()?;
        let mut nanos = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
        let (running, waiting) = (nanos.next()?.ok()?, nanos.next()?.ok()?);
        Some([running, waiting].map(Duration::from_nanos))
    }
}

/// How many should work.
struct Size {
    now: usize,
    most: usize,
    quiet_looks: u32,
}

impl Size {
    fn new(most: usize) -> Self {
        Self { now: 1, most, quiet_looks: 0 }
    }

    /// Since the last look those at work ran for so many times that time, and waited for a core so many times.
    fn note(&mut self, running: f64, waiting: f64) {
        let busy = running + waiting;
        let is_quiet = busy < QUIET * (self.now - 1) as f64;
        self.quiet_looks = if is_quiet { self.quiet_looks + 1 } else { 0 };
        if running > BUSY * self.now as f64 {
            // A crowd that comes at once is not made to wait for each of them.
            self.now = (self.now * 2).min(self.most);
        } else if self.quiet_looks >= QUIET_LOOKS {
            self.now -= 1;
            self.quiet_looks = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_join_when_those_at_work_are_busy_and_leave_when_it_is_quiet() {
        let mut crew = Size::new(6);
        let mut after = |busy: f64, looks: u32| {
            (0..looks).for_each(|_| crew.note(busy, 0.0));
            crew.now
        };
        assert_eq!(after(0.5, 1000), 1);
        assert_eq!([after(0.9, 1), after(1.9, 1), after(3.9, 1), after(6.0, 100)], [2, 4, 6, 6]);
        assert_eq!([after(4.0, 1000), after(2.5, 49), after(2.5, 1), after(2.5, 1000)], [6, 6, 5, 5]);
        assert_eq!(after(0.0, 1000), 1);
    }

    #[test]
    fn others_do_not_join_to_wait_for_a_core() {
        let mut crew = Size::new(2);
        (0..1000).for_each(|_| crew.note(0.5, 0.5));
        assert_eq!(crew.now, 1);
        // Nor do they leave for that.
        crew.note(0.9, 0.0);
        (0..1000).for_each(|_| crew.note(0.5, 0.5));
        assert_eq!(crew.now, 2);
    }

    #[test]
    fn each_of_the_crew_works_when_it_is_wanted() {
        const THREADS: usize = 3;
        let executor = Arc::new(Executor::new());
        let crew = Crew::start(&executor, THREADS).unwrap();
        crew.0.tell(|order| order.wanted = THREADS);
        // They all turn until each thread has been seen.
        let seen = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
        let tasks: Vec<_> = (0..2 * THREADS)
            .map(|_| {
                let seen = seen.clone();
                executor.spawn(async move {
                    while seen.lock().unwrap().len() < THREADS {
                        seen.lock().unwrap().insert(thread::current().id());
                        smol::future::yield_now().await;
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(smol::block_on);
        drop(crew);
    }

    #[test]
    fn a_thread_that_turns_is_busy() {
        let Some(clock) = Clock::of_this_thread() else { return };
        let (begun, before) = (Instant::now(), clock.read());
        while begun.elapsed() < LOOK {}
        let after = clock.read();
        assert!(after[0] + after[1] - before[0] - before[1] > LOOK / 2);
    }

    #[test]
    fn a_task_that_panics_takes_nothing_else_along() {
        let executor = Arc::new(Executor::new());
        let crew = Crew::start(&executor, 1).unwrap();
        executor.spawn(async { panic!("a task of a test") }).detach();
        assert_eq!(smol::block_on(executor.spawn(async { 7 })), 7);
        drop(crew);
    }
}
