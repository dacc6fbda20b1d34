//! Records a live link: a proxy that notes what passes, and a scenario made of it.

mod write;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::scenario::Role;
pub use write::{Head, write};

/// How many bytes of the wire are recorded, if nothing else is said: a case is short enough for a review.
pub const MOST: usize = 1 << 20;

/// What passed on a link.
#[derive(Debug, Default)]
pub struct Link {
    passed: Vec<(Role, Passed)>,
    bytes: usize,
    /// What came later is not here.
    is_cut: bool,
}

#[derive(Debug)]
enum Passed {
    Bytes(Vec<u8>),
    End,
}

impl Link {
    /// How many bytes were recorded.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn note(&mut self, from: Role, passed: Passed, most: usize) {
        if let Passed::Bytes(bytes) = &passed {
            self.is_cut |= self.bytes + bytes.len() > most;
            self.bytes += if self.is_cut { 0 } else { bytes.len() };
        }
        if !self.is_cut {
            self.passed.push((from, passed));
        }
    }
}

/// Accepts a client, connects it to the server at `to`, and notes what passes until both have ended or the time is up.
/// Later connections pass, and are not recorded.
///
/// # Errors
///
/// There is no client, or no server.
pub fn relay(listener: &TcpListener, to: &str, time: Option<Duration>, most: usize) -> Result<Link, String> {
    let (client, _) = listener.accept().map_err(|error| error.to_string())?;
    let (others, server) = (listener.try_clone().map_err(|error| error.to_string())?, to.to_owned());
    std::thread::spawn(move || {
        for client in others.incoming().map_while(Result::ok) {
            // Nobody looks at these: one that cannot be carried on is closed.
            let _ = start(client, &server, &Arc::default(), 0, &channel().0);
        }
    });
    let link = Arc::new(Mutex::new(Link::default()));
    let (ended, ends) = channel();
    let streams = start(client, to, &link, most, &ended)?;
    drop(ended);
    match time {
        // Two directions.
        None => drop((ends.recv(), ends.recv())),
        Some(time) => {
            let end = std::time::Instant::now() + time;
            let left = || end.saturating_duration_since(std::time::Instant::now());
            let is_over = ends.recv_timeout(left()).is_ok() && ends.recv_timeout(left()).is_ok();
            lock(&link).is_cut |= !is_over;
        }
    }
    let link = std::mem::take(&mut *lock(&link));
    for stream in streams {
        let _ = stream.shutdown(Shutdown::Both);
    }
    Ok(link)
}

fn start(
    client: TcpStream,
    to: &str,
    link: &Arc<Mutex<Link>>,
    most: usize,
    ended: &Sender<()>,
) -> Result<[TcpStream; 2], String> {
    let server = TcpStream::connect(to).map_err(|error| format!("{to}: {error}"))?;
    let both = |a: &TcpStream, b: &TcpStream| Ok([a.try_clone()?, b.try_clone()?]);
    let copy = |from: Role, [mut source, mut sink]: [TcpStream; 2]| {
        let (link, ended) = (Arc::clone(link), ended.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                // Noted before it goes on: what comes of it comes later in the recording, too.
                lock(&link).note(from, Passed::Bytes(buffer[..n].to_vec()), most);
                if sink.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            lock(&link).note(from, Passed::End, most);
            let _ = sink.shutdown(Shutdown::Write);
            let _ = ended.send(());
        });
    };
    let set_up = || {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy(Role::Client, both(&client, &server)?);
        copy(Role::Server, both(&server, &client)?);
        both(&client, &server)
    };
    set_up().map_err(|error: std::io::Error| error.to_string())
}

fn lock(link: &Mutex<Link>) -> std::sync::MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}
