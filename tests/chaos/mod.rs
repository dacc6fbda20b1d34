//! A relay that harms what goes through it, as networks and what stands in them do: for tests of what must hold all the
//! same. A seed determines the fate of each connection, by its number.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../simulator/random.rs"]
mod random;
pub use random::Random;

/// What may happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// None: it is carried faithfully.
    Nothing,
    /// The relay closes both sides in order, at any byte.
    Cut,
    /// The same with a reset, which destroys what is on its way.
    Reset,
    /// From some byte on nothing is carried any more, and nobody is told.
    HalfOpen,
    /// Each piece is held up for up to so many milliseconds.
    Delay(u64),
    /// Not more than so many bytes a millisecond.
    Throttle(u64),
    /// A second connection to the same end, which says the beginning of a hello and no more.
    Duplicate,
}

pub const ALL: [Harm; 7] =
    [Harm::Nothing, Harm::Cut, Harm::Reset, Harm::HalfOpen, Harm::Delay(3), Harm::Throttle(400), Harm::Duplicate];

/// What a relay does.
#[derive(Clone, Debug)]
pub struct Chaos {
    pub seed: u64,
    /// Each connection has one of these, and all have the same chance.
    pub harms: Vec<Harm>,
    /// Where in the bytes it happens: anywhere up to here, in one of the two directions.
    pub within: u64,
}

/// The relay. Dropped, it ends what it carries.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    chaos: Chaos,
    connections: AtomicUsize,
    harmed: AtomicUsize,
    open: AtomicUsize,
    is_calm: AtomicBool,
    is_over: AtomicBool,
    /// Both sides of those that are open, to end them.
    streams: Mutex<Vec<(usize, TcpStream, TcpStream)>>,
}

impl Relay {
    pub fn start(to: SocketAddr, chaos: Chaos) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            chaos,
            connections: AtomicUsize::new(0),
            harmed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            is_calm: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = accepting.clone();
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || shared.carry(number, stream));
            }
        });
        Self { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections there were, and how many of them were harmed.
    pub fn counts(&self) -> (usize, usize) {
        (self.shared.connections.load(Ordering::SeqCst), self.shared.harmed.load(Ordering::SeqCst))
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Harms no further connection. Those that are half-open stay so.
    pub fn calm_down(&self) {
        self.shared.is_calm.store(true, Ordering::SeqCst);
    }

    /// Ends all connections that are open.
    pub fn end_all(&self) {
        for (_, near, far) in self.shared.streams.lock().unwrap().drain(..) {
            let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.end_all();
        let _ = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn carry(self: Arc<Self>, number: usize, near: TcpStream) {
        let mut random = Random::new(self.chaos.seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9));
        let harm = match self.is_calm.load(Ordering::SeqCst) {
            true => Harm::Nothing,
            false => random.pick(&self.chaos.harms),
        };
        let at = random.next() % self.chaos.within.max(1);
        let in_requests = random.within(0..2) == 0;
        let Ok(far) = TcpStream::connect(self.to) else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        if harm != Harm::Nothing {
            self.harmed.fetch_add(1, Ordering::SeqCst);
        }
        if harm == Harm::Duplicate {
            self.duplicate(at);
        }
        let Ok(streams) = near.try_clone().and_then(|near| Ok((number, near, far.try_clone()?))) else { return };
        self.streams.lock().unwrap().push(streams);
        self.open.fetch_add(1, Ordering::SeqCst);
        let (seed, is_reset) = (random.next(), &AtomicBool::new(false));
        thread::scope(|scope| {
            let (near, far) = (&near, &far);
            let (at_in_requests, at_in_answers) = if in_requests { (Some(at), None) } else { (None, Some(at)) };
            scope.spawn(move || pump(near, far, harm, at_in_requests, Random::new(seed), is_reset));
            scope.spawn(move || pump(far, near, harm, at_in_answers, Random::new(seed ^ 1), is_reset));
        });
        self.streams.lock().unwrap().retain(|(other, ..)| *other != number);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    /// A stray connection, for a while.
    fn duplicate(&self, at: u64) {
        let Ok(mut stray) = TcpStream::connect(self.to) else { return };
        thread::spawn(move || {
            let _ = stray.write_all(&b"httpteleport\0\0\0"[..(at % 15) as usize]);
            thread::sleep(Duration::from_millis(200));
        });
    }
}

/// Carries one direction to its end. `at` is where the harm of the connection happens, if it does in this direction.
fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    harm: Harm,
    at: Option<u64>,
    mut random: Random,
    is_reset: &AtomicBool,
) {
    let mut buffer = [0; 16 * 1024];
    let mut carried = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => {
                if !is_reset.load(Ordering::SeqCst) {
                    let _ = to.shutdown(Shutdown::Write);
                }
                return;
            }
            Ok(n) => n as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => {
                // The other side learns of it as it was learnt.
                end(from, to, Some(is_reset));
                return;
            }
        };
        let good = at.map_or(n, |at| n.min(at.saturating_sub(carried)));
        match harm {
            Harm::Delay(most) => thread::sleep(Duration::from_micros(random.next() % (most * 1000))),
            Harm::Throttle(rate) => thread::sleep(Duration::from_micros(good * 1000 / rate)),
            _ => {}
        }
        let is_due = good < n;
        let passed = if matches!(harm, Harm::Cut | Harm::Reset | Harm::HalfOpen) { good } else { n };
        if to.write_all(&buffer[..passed as usize]).is_err() {
            end(from, to, Some(is_reset));
            return;
        }
        carried += n;
        match harm {
            Harm::Cut if is_due => {
                end(from, to, None);
                return;
            }
            Harm::Reset if is_due => {
                end(from, to, Some(is_reset));
                return;
            }
            Harm::HalfOpen if is_due => {
                // It reads on, so that nobody notices, until this side gives up.
                while matches!(from.read(&mut buffer), Ok(n) if n > 0) {}
                end(from, to, None);
                return;
            }
            _ => {}
        }
    }
}

/// Ends both sides; by a reset, without waiting for what is on its way. That is sent when both are closed.
fn end(from: &TcpStream, to: &TcpStream, by_reset: Option<&AtomicBool>) {
    for stream in [from, to] {
        match by_reset {
            None => drop(stream.shutdown(Shutdown::Both)),
            Some(is_reset) => {
                is_reset.store(true, Ordering::SeqCst);
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                // Who reads it here has come to its end; nothing is sent.
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
    }
}

/// Waits until `is_so`, for a minute at most.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
