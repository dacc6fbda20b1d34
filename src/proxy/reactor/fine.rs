//! Waits that end in time: Linux counts how long to wait for events in milliseconds, and a batch may wait for less.

#[cfg(target_os = "linux")]
pub(super) use linux::FineClock;
#[cfg(not(target_os = "linux"))]
pub(super) use other::FineClock;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };

    /// For what is longer, a millisecond is little.
    const COARSE: Duration = Duration::from_millis(20);

    /// Ends a wait by an event.
    #[derive(Debug)]
    pub(in super::super) struct FineClock {
        timer: OwnedFd,
        set_for: Option<Instant>,
    }

    impl FineClock {
        pub(in super::super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self { timer, set_for: None })
        }

        /// A wait begins that is to last until `now + wait`.
        pub(in super::super) fn set(&mut self, now: Instant, wait: Duration) {
            let end = Some(now + wait);
            if wait.is_zero() || wait > COARSE || self.set_for == end {
                return;
            }
            let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
            let once = Itimerspec {
                it_interval: nothing,
                it_value: Timespec { tv_nsec: i64::from(wait.subsec_nanos()), ..nothing },
            };
            // If it fails, the wait lasts up to a millisecond longer.
            let is_set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok();
            self.set_for = end.filter(|_| is_set);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;
    use std::time::{Duration, Instant};

    use mio::{Registry, Token};

    /// There is none here: kqueue counts in nanoseconds, and elsewhere waits last up to a millisecond longer.
    #[derive(Debug)]
    pub(in super::super) struct FineClock;

    impl FineClock {
        pub(in super::super) fn new(_: &Registry, _: Token) -> io::Result<Self> {
            Ok(Self)
        }

        pub(in super::super) fn set(&mut self, _: Instant, _: Duration) {}
    }
}
