//! What threads share, the mailboxes and crowds of the drivers and the attendants of the proxy, is compiled in here with loom's
//! mutexes, and run in the interleavings of few threads: no wake-up is lost, and no command.

// This file is in the place of `src/driver/mod.rs` and of `src/proxy/reactor/mod.rs`.
mod sync {
    use std::ops::{Deref, DerefMut};
    use std::sync::{self, TryLockError, TryLockResult};

    pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

    /// A mutex that is tried only. loom's has who tries wait if another thread is faster.
    #[derive(Debug)]
    pub(super) struct TryMutex<T> {
        is_taken: Mutex<bool>,
        value: sync::Mutex<T>,
    }

    pub(super) struct TryMutexGuard<'m, T> {
        is_taken: &'m Mutex<bool>,
        /// Some until it is dropped.
        value: Option<sync::MutexGuard<'m, T>>,
    }

    impl<T> TryMutex<T> {
        pub(super) fn new(value: T) -> Self {
            Self { is_taken: Mutex::new(false), value: sync::Mutex::new(value) }
        }

        pub(super) fn try_lock(&self) -> TryLockResult<TryMutexGuard<'_, T>> {
            let mut is_taken = self.is_taken.lock().expect("nobody panics");
            if *is_taken {
                return Err(TryLockError::WouldBlock);
            }
            *is_taken = true;
            let value = Some(self.value.try_lock().expect("it is taken by this thread"));
            Ok(TryMutexGuard { is_taken: &self.is_taken, value })
        }
    }

    impl<T> Deref for TryMutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.value.as_ref().expect("it is not dropped")
        }
    }

    impl<T> DerefMut for TryMutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.value.as_mut().expect("it is not dropped")
        }
    }

    impl<T> Drop for TryMutexGuard<'_, T> {
        fn drop(&mut self) {
            self.value = None;
            *self.is_taken.lock().expect("nobody panics") = false;
        }
    }
}

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/reactor/attend.rs"]
mod attend;

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/driver/crowd.rs"]
mod crowd;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/driver/mailbox.rs"]
mod mailbox;

use std::future::{Future, poll_fn};
use std::mem;
use std::task::{Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use attend::{Attendance, Events};
use crowd::Crowd;
use mailbox::Mailbox;
use sync::{Arc, Condvar, Mutex};

/// Tries interleavings in which threads are interrupted at most three times: all would take hours.
fn model(run: impl Fn() + Sync + Send + 'static) {
    model_to(3, run);
}

fn model_to(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// Takes commands until so many have come.
fn take(mailbox: &Mailbox<u8>, count: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < count {
        block_on(poll_fn(|context| mailbox.poll(context, &mut taken)));
    }
    taken
}

#[test]
fn who_waits_for_commands_gets_all_of_them() {
    model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let senders: Vec<_> = [1, 2].into_iter().map(|n| send(&mailbox, n)).collect();
        let mut taken = take(&mailbox, 2);
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        assert!(senders.into_iter().all(|sender| sender.join().expect("it does not panic")));
    });
}

fn send(mailbox: &Arc<Mailbox<u8>>, command: u8) -> thread::JoinHandle<bool> {
    let mailbox = Arc::clone(mailbox);
    thread::spawn(move || mailbox.send(command).is_ok())
}

#[test]
fn commands_of_one_sender_stay_in_order() {
    model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let sender = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || (1..=3).for_each(|n| assert!(mailbox.send(n).is_ok())))
        };
        assert_eq!(take(&mailbox, 3), [1, 2, 3]);
        sender.join().expect("it does not panic");
    });
}

#[test]
fn a_command_is_refused_or_there_when_its_mailbox_closes() {
    model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let senders: Vec<_> = [1, 2].into_iter().map(|n| send(&mailbox, n)).collect();
        let left = mailbox.close();
        let taken = senders.into_iter().map(|sender| sender.join().expect("it does not panic"));
        assert_eq!(taken.filter(|taken| *taken).count(), left.len());
        assert!(mailbox.close().is_empty());
        assert!(mailbox.send(3).is_err());
    });
}

#[test]
fn whoever_waits_for_a_crowd_to_go_learns_of_it() {
    model(|| {
        let crowd = Crowd::default();
        let members = [crowd.enter(), crowd.enter()];
        let leaving = members.map(|member| thread::spawn(move || drop(member)));
        block_on(crowd.gone());
        leaving.into_iter().for_each(|leaving| leaving.join().expect("it does not panic"));
    });
}

/// The events of the system, each of which is told once.
struct Queue {
    news: Mutex<News>,
    changed: Condvar,
}

#[derive(Default)]
struct News {
    is_interrupted: bool,
    happened: Vec<Arc<Socket>>,
}

/// What something may happen to.
#[derive(Default)]
struct Socket(Mutex<(bool, Option<Waker>)>);

impl Socket {
    /// Waits until it is told that it is ready.
    fn ready(&self) -> impl Future<Output = ()> {
        poll_fn(|context| {
            let mut state = self.0.lock().expect("nobody panics");
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
    }

    fn tell(&self) {
        let waker = {
            let mut state = self.0.lock().expect("nobody panics");
            state.0 = true;
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Queue {
    /// Lives as long as the process: there are as many as interleavings.
    fn attended() -> &'static Attendance<Self> {
        let queue = Self { news: Mutex::new(News::default()), changed: Condvar::new() };
        Box::leak(Box::new(Attendance::new(queue, ())))
    }

    fn note(&self, what: impl FnOnce(&mut News)) {
        what(&mut self.news.lock().expect("nobody panics"));
        self.changed.notify_one();
    }

    fn happen(&self, socket: &Arc<Socket>) {
        self.note(|news| news.happened.push(Arc::clone(socket)));
    }
}

impl Events for Queue {
    type Turn = ();

    fn wait(&self, (): &mut (), limit: Option<Duration>, then: impl FnOnce()) {
        let mut news = self.news.lock().expect("nobody panics");
        while limit.is_none() && !news.is_interrupted && news.happened.is_empty() {
            news = self.changed.wait(news).expect("nobody panics");
        }
        let told = mem::take(&mut *news);
        drop(news);
        then();
        told.happened.iter().for_each(|socket| socket.tell());
    }

    fn interrupt(&self) {
        self.note(|news| news.is_interrupted = true);
    }
}

/// Waits for a socket on a thread of its own.
fn attend(queue: &'static Attendance<Queue>, socket: &Arc<Socket>) -> thread::JoinHandle<()> {
    let socket = Arc::clone(socket);
    thread::spawn(move || queue.block_on(socket.ready()))
}

#[test]
fn who_leaves_the_wait_for_events_to_another_gets_its_own() {
    model(|| {
        let (queue, sockets) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let threads = sockets.each_ref().map(|socket| attend(queue, socket));
        sockets.iter().for_each(|socket| queue.events.happen(socket));
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
}

#[test]
fn others_take_over_when_the_one_who_waits_for_events_leaves() {
    model(|| {
        let (queue, [a, b]) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let threads = [attend(queue, &a), attend(queue, &b)];
        happen_in_turn(queue, [&a, &b], threads);
    });
}

#[test]
fn who_waits_for_events_is_woken_by_others_too() {
    model(|| {
        let (queue, [a, b]) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let threads = [attend(queue, &a), attend(queue, &b)];
        // No event: as a task that runs elsewhere does it.
        a.tell();
        b.tell();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
}

#[test]
fn who_has_more_to_do_keeps_nobody_from_its_events() {
    model(|| {
        let (queue, [a, b]) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let other = attend(queue, &a);
        queue.events.happen(&b);
        let mut has_yielded = false;
        let mut ready = Box::pin(b.ready());
        queue.block_on(poll_fn(|context| {
            if !mem::replace(&mut has_yielded, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready.as_mut().poll(context)
        }));
        queue.events.happen(&a);
        other.join().expect("it does not panic");
    });
}

/// Stands in until it is told, and interrupted.
fn stand_in(queue: &'static Attendance<Queue>) -> (Arc<Mutex<bool>>, thread::JoinHandle<()>) {
    let is_over = Arc::new(Mutex::new(false));
    let told = Arc::clone(&is_over);
    let run = move || {
        while !*told.lock().expect("nobody panics") {
            queue.stand_in();
        }
    };
    (is_over, thread::spawn(run))
}

#[test]
fn who_stands_in_hands_over_to_whoever_comes() {
    // Three would take minutes: there are four threads.
    model_to(2, || {
        let (queue, [a, b]) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let (is_over, thread) = stand_in(queue);
        let threads = [attend(queue, &a), attend(queue, &b)];
        happen_in_turn(queue, [&a, &b], threads);
        *is_over.lock().expect("nobody panics") = true;
        queue.events.interrupt();
        thread.join().expect("it does not panic");
    });
}

/// Only when the first has had its event and has left, the second has its own.
fn happen_in_turn(queue: &'static Attendance<Queue>, sockets: [&Arc<Socket>; 2], threads: [thread::JoinHandle<()>; 2]) {
    for (socket, thread) in sockets.into_iter().zip(threads) {
        queue.events.happen(socket);
        thread.join().expect("it does not panic");
    }
}

#[test]
fn without_anybody_somebody_stands_in() {
    model(|| {
        let (queue, [a, b]) = (Queue::attended(), [Arc::default(), Arc::default()]);
        let (is_over, thread) = stand_in(queue);
        let first = attend(queue, &a);
        queue.events.happen(&a);
        first.join().expect("it does not panic");
        // Nobody is there any more but who stands in.
        queue.events.happen(&b);
        block_on(b.ready());
        *is_over.lock().expect("nobody panics") = true;
        queue.events.interrupt();
        thread.join().expect("it does not panic");
    });
}
