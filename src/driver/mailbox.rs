//! How any thread or task tells a link what it wants.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use super::sync::{Mutex, MutexGuard};

/// Locks what no panic can leave half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls what is the program's own and may panic: its panic is told by the panic hook, and must not end a link, on which
/// others wait. `None` if it did.
pub(super) fn unharmed<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Commands that wait for the link, and whom to wake for them.
pub(super) struct Mailbox<C> {
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    commands: Vec<C>,
    /// Set while whoever carries the link waits.
    waker: Option<Waker>,
    is_closed: bool,
}

impl<C> Default for Mailbox<C> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { commands: Vec::new(), waker: None, is_closed: false }) }
    }
}

impl<C> Mailbox<C> {
    /// Leaves a command; gives it back if nobody will ever take it.
    pub(super) fn send(&self, command: C) -> Result<(), C> {
        let waker = {
            let mut inner = lock(&self.inner);
            if inner.is_closed {
                return Err(command);
            }
            inner.commands.push(command);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Moves what has come into `commands`; pending, and to be woken, if there was nothing.
    pub(super) fn poll(&self, context: &mut Context<'_>, commands: &mut Vec<C>) -> Poll<()> {
        let mut inner = lock(&self.inner);
        if inner.commands.is_empty() {
            if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                inner.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        if commands.is_empty() {
            std::mem::swap(commands, &mut inner.commands);
        } else {
            commands.append(&mut inner.commands);
        }
        Poll::Ready(())
    }

    /// Takes commands again.
    pub(super) fn reopen(&self) {
        lock(&self.inner).is_closed = false;
    }

    /// Takes no more commands; returns those that wait.
    pub(super) fn close(&self) -> Vec<C> {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        std::mem::take(&mut inner.commands)
    }
}
