//! What the drivers share between threads, mailboxes and crowds, is compiled in here with loom's mutexes, and run in the
//! interleavings of few threads: no wake-up is lost, and no command.

// This file is in the place of `src/driver/mod.rs`.
mod sync {
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard};
}

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/driver/crowd.rs"]
mod crowd;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/driver/mailbox.rs"]
mod mailbox;

use std::future::poll_fn;

use loom::future::block_on;
use loom::thread;

use crowd::Crowd;
use mailbox::Mailbox;
use sync::Arc;

/// Tries interleavings in which threads are interrupted at most three times: all would take hours.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
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
