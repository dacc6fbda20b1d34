//! One TCP connection with the subject: a thread reads it, so that what comes is known when it comes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::link::Incoming;

/// A connection. Dropping it ends it.
pub(super) struct Socket {
    stream: TcpStream,
}

impl Socket {
    /// Connects to a server.
    pub(super) fn connect(
        addr: SocketAddr,
        timeout: Duration,
        run: u64,
        incoming: &Sender<Incoming>,
    ) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&addr, timeout).map_err(|error| format!("{addr}: {error}"))?;
        Self::new(stream, timeout, run, incoming).map_err(|error| format!("{addr}: {error}"))
    }

    /// Waits for a client to connect. Only the first connection counts.
    pub(super) fn accept(
        listener: &TcpListener,
        timeout: Duration,
        run: u64,
        incoming: &Sender<Incoming>,
        mut is_there: impl FnMut() -> bool,
    ) -> Result<Self, String> {
        let end = Instant::now() + timeout;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let blocking = stream.set_nonblocking(false);
                    let socket = blocking.and_then(|()| Self::new(stream, timeout, run, incoming));
                    return socket.map_err(|error| error.to_string());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && !is_there() => {
                    return Err("the program has ended without a connection".into());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(format!("no connection within {} ms", timeout.as_millis()));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn new(stream: TcpStream, timeout: Duration, run: u64, incoming: &Sender<Incoming>) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        let mut reading = stream.try_clone()?;
        let incoming = incoming.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match reading.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) if incoming.send(Incoming::Wire(run, buffer[..n].to_vec())).is_ok() => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // A reset is an end like any other.
                    _ => break,
                }
            }
            let _ = incoming.send(Incoming::End(run));
        });
        Ok(Self { stream })
    }

    /// Sends. A subject that has closed, or does not read, shows that otherwise.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Tells the subject that no more will come.
    pub(super) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
