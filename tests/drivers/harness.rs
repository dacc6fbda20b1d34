//! Both drivers with one face that blocks, so that a test is written once.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{
    ClientError, ClientOptions, Deadline, LinkRefused, Peer, PeerAddr, ServerOptions, smol as tasks, thread,
};
use httpteleport::proto::{Compression, ConnectionError, Stats};
use smol::Executor;
use socket2::{Domain, Socket, Type};

use crate::counted::{Counted, Counting, Writes};

/// What a test calls an answer.
pub type Outcome = Result<Response<Bytes>, ClientError>;
/// Answers a request; it may sleep.
pub type Handler = Arc<dyn Fn(Request<Bytes>, Peer) -> Response<Bytes> + Send + Sync>;

/// A driver.
pub trait Driver: Sized + 'static {
    type Client: Client;
    type Server: Server + std::fmt::Debug;

    fn client(addr: &str, options: ClientOptions) -> Self::Client;
    /// One whose dial takes so long, and then goes to `addr`.
    fn slow_dialler(addr: &str, takes: Duration, options: ClientOptions) -> Self::Client;
    /// One that dials like this, which may block.
    fn dialler(
        dial: impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
        options: ClientOptions,
    ) -> Self::Client;
    /// One whose dial panics.
    fn panicking_dialler() -> Self::Client;
    fn new_server(options: ServerOptions) -> Self::Server;

    /// A server on a port of its own.
    fn server(
        options: ServerOptions,
        handler: impl Fn(Request<Bytes>, Peer) -> Response<Bytes> + Send + Sync + 'static,
    ) -> (Self::Server, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = Self::new_server(options);
        server.serve(listener, Arc::new(handler));
        (server, addr)
    }

    /// A client and a server that echoes, whose writes are counted.
    fn counted_pair(client: (ClientOptions, &Writes), server: (ServerOptions, &Writes))
    -> (Self::Client, Self::Server);

    /// A client and a server with these options, which echoes.
    fn pair(client: ClientOptions, server: ServerOptions) -> (Self::Client, Self::Server) {
        let (server, addr) = Self::server(server, |request, _| echo(request));
        (Self::client(&addr, client), server)
    }
}

pub trait Client: Clone + Send + Sync + 'static {
    fn request(&self, request: Request<Bytes>, deadline: impl Into<Deadline> + Send) -> Outcome;
    fn oneway(&self, request: Request<Bytes>) -> Result<(), ClientError>;
    /// Sends a request and gives it up after a while.
    fn give_up(&self, request: Request<Bytes>, after: Duration);
    fn pending_requests(&self) -> usize;
    fn stats(&self) -> Stats;
    fn close(&self, deadline: Instant);
}

pub trait Server: Clone + Send + Sync + 'static {
    /// In the background, until shutdown; tells when it has ended.
    fn serve(&self, listener: TcpListener, handler: Handler) -> Ended;
    /// Serves and returns the error with which that fails at once.
    fn serve_error(&self, listener: TcpListener) -> io::Error;
    fn serve_unix(&self, listener: std::os::unix::net::UnixListener, handler: Handler) -> Ended;
    fn on_link_start(&self, f: impl Fn() + Send + Sync + 'static);
    fn on_link_refused(&self, f: impl Fn(&PeerAddr, LinkRefused) + Send + Sync + 'static);
    fn on_link_end(&self, f: impl Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static);
    fn stats(&self) -> Stats;
    fn shutdown(&self, deadline: Instant);
}

/// Whether a server has stopped serving.
pub struct Ended(Arc<AtomicBool>);

impl Ended {
    fn pair() -> (Self, Arc<AtomicBool>) {
        let has_ended = Arc::new(AtomicBool::new(false));
        (Self(has_ended.clone()), has_ended)
    }

    pub fn wait(&self) {
        eventually("the end of serving", || self.0.load(Ordering::SeqCst));
    }
}

/// The driver on tasks.
pub struct Smol;

/// What all tests on tasks run on.
static EXECUTOR: LazyLock<Arc<Executor<'static>>> = LazyLock::new(|| {
    let executor = Arc::new(Executor::new());
    for _ in 0..2 {
        let executor = executor.clone();
        std::thread::spawn(move || smol::block_on(executor.run(std::future::pending::<()>())));
    }
    executor
});

fn handler_of(handler: Handler) -> impl Fn(Request<Bytes>, Peer) -> smol::Task<Response<Bytes>> + Send + Sync {
    // A handler that sleeps must not hold up the tasks.
    move |request, peer| {
        let handler = handler.clone();
        smol::unblock(move || handler(request, peer))
    }
}

impl Driver for Smol {
    type Client = tasks::Client;
    type Server = tasks::Server;

    fn client(addr: &str, options: ClientOptions) -> tasks::Client {
        tasks::Client::new(EXECUTOR.clone(), addr, options)
    }

    fn slow_dialler(addr: &str, takes: Duration, options: ClientOptions) -> tasks::Client {
        let addr = addr.to_owned();
        let dial = move || {
            let addr = addr.clone();
            async move {
                smol::Timer::after(takes).await;
                smol::net::TcpStream::connect(addr).await
            }
        };
        tasks::Client::with_dial(EXECUTOR.clone(), "a slow way", dial, options)
    }

    fn dialler(
        dial: impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
        options: ClientOptions,
    ) -> tasks::Client {
        let dial = Arc::new(dial);
        let dial = move || {
            let dial = dial.clone();
            async move { smol::net::TcpStream::try_from(smol::unblock(move || dial()).await?) }
        };
        tasks::Client::with_dial(EXECUTOR.clone(), "a way", dial, options)
    }

    fn panicking_dialler() -> tasks::Client {
        let dial =
            || async { if true { panic!("a dial") } else { smol::net::TcpStream::connect("127.0.0.1:1").await } };
        tasks::Client::with_dial(EXECUTOR.clone(), "no way", dial, ClientOptions::default())
    }

    fn new_server(options: ServerOptions) -> tasks::Server {
        tasks::Server::new(EXECUTOR.clone(), options)
    }

    fn counted_pair(
        client: (ClientOptions, &Writes),
        server: (ServerOptions, &Writes),
    ) -> (tasks::Client, tasks::Server) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Counting(smol::net::TcpListener::try_from(listener).unwrap(), server.1.clone());
        let server = Self::new_server(server.0);
        let serving = server.clone();
        let serve = async move { serving.serve(listener, |request, _| async { echo(request) }).await.unwrap() };
        EXECUTOR.spawn(serve).detach();
        let (options, writes) = (client.0, client.1.clone());
        let dial = move || {
            let writes = writes.clone();
            async move { Ok(Counted(smol::net::TcpStream::connect(addr).await?, writes)) }
        };
        (tasks::Client::with_dial(EXECUTOR.clone(), "a counted way", dial, options), server)
    }
}

impl Client for tasks::Client {
    fn request(&self, request: Request<Bytes>, deadline: impl Into<Deadline> + Send) -> Outcome {
        smol::block_on(tasks::Client::request(self, request, deadline))
    }

    fn oneway(&self, request: Request<Bytes>) -> Result<(), ClientError> {
        smol::block_on(tasks::Client::oneway(self, request, None))
    }

    fn give_up(&self, request: Request<Bytes>, after: Duration) {
        let call = async { drop(tasks::Client::request(self, request, None).await) };
        let wait = async {
            smol::Timer::after(after).await;
        };
        smol::block_on(smol::future::or(call, wait));
    }

    fn pending_requests(&self) -> usize {
        tasks::Client::pending_requests(self)
    }

    fn stats(&self) -> Stats {
        tasks::Client::stats(self)
    }

    fn close(&self, deadline: Instant) {
        smol::block_on(tasks::Client::close(self, deadline));
    }
}

impl Server for tasks::Server {
    fn serve(&self, listener: TcpListener, handler: Handler) -> Ended {
        let (server, listener) = (self.clone(), smol::net::TcpListener::try_from(listener).unwrap());
        let (ended, tell) = Ended::pair();
        let serve = async move {
            tasks::Server::serve(&server, listener, handler_of(handler)).await.unwrap();
            tell.store(true, Ordering::SeqCst);
        };
        EXECUTOR.spawn(serve).detach();
        ended
    }

    fn serve_error(&self, listener: TcpListener) -> io::Error {
        let listener = smol::net::TcpListener::try_from(listener).unwrap();
        let handler = |_, _| async { Response::default() };
        smol::block_on(tasks::Server::serve(self, listener, handler)).unwrap_err()
    }

    fn serve_unix(&self, listener: std::os::unix::net::UnixListener, handler: Handler) -> Ended {
        let (server, listener) = (self.clone(), smol::net::unix::UnixListener::try_from(listener).unwrap());
        let (ended, tell) = Ended::pair();
        let serve = async move {
            tasks::Server::serve(&server, listener, handler_of(handler)).await.unwrap();
            tell.store(true, Ordering::SeqCst);
        };
        EXECUTOR.spawn(serve).detach();
        ended
    }

    fn on_link_start(&self, f: impl Fn() + Send + Sync + 'static) {
        tasks::Server::on_link_start(self, move |_, _| f());
    }

    fn on_link_refused(&self, f: impl Fn(&PeerAddr, LinkRefused) + Send + Sync + 'static) {
        tasks::Server::on_link_refused(self, f);
    }

    fn on_link_end(&self, f: impl Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static) {
        tasks::Server::on_link_end(self, f);
    }

    fn stats(&self) -> Stats {
        tasks::Server::stats(self)
    }

    fn shutdown(&self, deadline: Instant) {
        smol::block_on(tasks::Server::shutdown(self, deadline));
    }
}

/// The driver on threads.
pub struct Thread;

impl Driver for Thread {
    type Client = thread::Client;
    type Server = thread::Server;

    fn client(addr: &str, options: ClientOptions) -> thread::Client {
        thread::Client::new(addr, options)
    }

    fn slow_dialler(addr: &str, takes: Duration, options: ClientOptions) -> thread::Client {
        let addr = addr.to_owned();
        let dial = move || {
            std::thread::sleep(takes);
            TcpStream::connect(&addr)
        };
        thread::Client::with_dial("a slow way", dial, options)
    }

    fn dialler(
        dial: impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
        options: ClientOptions,
    ) -> thread::Client {
        thread::Client::with_dial("a way", dial, options)
    }

    fn panicking_dialler() -> thread::Client {
        let dial = || -> io::Result<TcpStream> { panic!("a dial") };
        thread::Client::with_dial("no way", dial, ClientOptions::default())
    }

    fn new_server(options: ServerOptions) -> thread::Server {
        thread::Server::new(options)
    }

    fn counted_pair(
        client: (ClientOptions, &Writes),
        server: (ServerOptions, &Writes),
    ) -> (thread::Client, thread::Server) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = Counting(listener, server.1.clone());
        let server = Self::new_server(server.0);
        let serving = server.clone();
        std::thread::spawn(move || serving.serve(listener, |request, _| echo(request)).unwrap());
        let (options, writes) = (client.0, client.1.clone());
        let dial = move || Ok(Counted(TcpStream::connect(addr)?, writes.clone()));
        (thread::Client::with_dial("a counted way", dial, options), server)
    }
}

impl Client for thread::Client {
    fn request(&self, request: Request<Bytes>, deadline: impl Into<Deadline> + Send) -> Outcome {
        thread::Client::request(self, request, deadline)
    }

    fn oneway(&self, request: Request<Bytes>) -> Result<(), ClientError> {
        thread::Client::oneway(self, request, None)
    }

    fn give_up(&self, request: Request<Bytes>, after: Duration) {
        let call = self.start(request, None);
        std::thread::sleep(after);
        drop(call);
    }

    fn pending_requests(&self) -> usize {
        thread::Client::pending_requests(self)
    }

    fn stats(&self) -> Stats {
        thread::Client::stats(self)
    }

    fn close(&self, deadline: Instant) {
        thread::Client::close(self, deadline);
    }
}

impl Server for thread::Server {
    fn serve(&self, listener: TcpListener, handler: Handler) -> Ended {
        let server = self.clone();
        let (ended, tell) = Ended::pair();
        std::thread::spawn(move || {
            thread::Server::serve(&server, listener, move |request, peer| handler(request, peer)).unwrap();
            tell.store(true, Ordering::SeqCst);
        });
        ended
    }

    fn serve_error(&self, listener: TcpListener) -> io::Error {
        thread::Server::serve(self, listener, |_, _| Response::default()).unwrap_err()
    }

    fn serve_unix(&self, listener: std::os::unix::net::UnixListener, handler: Handler) -> Ended {
        let server = self.clone();
        let (ended, tell) = Ended::pair();
        std::thread::spawn(move || {
            thread::Server::serve(&server, listener, move |request, peer| handler(request, peer)).unwrap();
            tell.store(true, Ordering::SeqCst);
        });
        ended
    }

    fn on_link_start(&self, f: impl Fn() + Send + Sync + 'static) {
        thread::Server::on_link_start(self, move |_, _| f());
    }

    fn on_link_refused(&self, f: impl Fn(&PeerAddr, LinkRefused) + Send + Sync + 'static) {
        thread::Server::on_link_refused(self, f);
    }

    fn on_link_end(&self, f: impl Fn(&Peer, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static) {
        thread::Server::on_link_end(self, f);
    }

    fn stats(&self) -> Stats {
        thread::Server::stats(self)
    }

    fn shutdown(&self, deadline: Instant) {
        thread::Server::shutdown(self, deadline);
    }
}

/// Makes each `fn name<D: Driver>()` a test in both drivers.
macro_rules! both {
    ($($(#[$doc:meta])* fn $name:ident<$driver:ident>() $body:block)+) => {
        $($(#[$doc])* fn $name<$driver: crate::harness::Driver>() $body)+

        mod smol {
            $(#[test] fn $name() { crate::harness::within_a_minute(super::$name::<crate::harness::Smol>); })+
        }

        mod thread {
            $(#[test] fn $name() { crate::harness::within_a_minute(super::$name::<crate::harness::Thread>); })+
        }
    };
}
pub(crate) use both;

/// A test that hangs is one that fails.
pub fn within_a_minute(test: fn()) {
    let (done, over) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match over.recv_timeout(Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Runs `count` callers at once, each with its number, and waits for all.
pub fn at_once(count: usize, call: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..count {
            let call = &call;
            scope.spawn(move || call(number));
        }
    });
}

pub const S: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);
/// Long enough for anything that works.
pub const LONG: Duration = Duration::from_secs(20);

pub fn soon() -> Instant {
    Instant::now() + LONG
}

pub fn echo(request: Request<Bytes>) -> Response<Bytes> {
    Response::new(request.into_body())
}

pub fn get(path: &str) -> Request<Bytes> {
    Request::get(format!("http://h.example{path}")).body(Bytes::new()).unwrap()
}

pub fn post(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post("http://h.example/echo").body(body.into()).unwrap()
}

/// Waits for something that comes soon.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = soon();
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come true");
        std::thread::sleep(MS);
    }
}

/// A peer on plain sockets, for what the drivers' own ends never do: each connection is given to `serve`, with its number
/// from 0.
pub fn raw_server(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(number, stream.unwrap()));
        }
    });
    addr
}

/// A peer that says this much on each connection, and hangs up as soon as the client has said hello.
pub struct Greeter {
    pub addr: String,
    connections: Arc<AtomicUsize>,
}

impl Greeter {
    pub fn new(greeting: &[u8]) -> Self {
        let greeting = greeting.to_vec();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let addr = raw_server(move |_, mut stream| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(&greeting);
            let _ = stream.read(&mut [0; 15]);
        });
        Self { addr, connections }
    }

    /// It is dialled by a client of [`pausing`] that always has something to send, but no faster than that allows: at 0,
    /// at once, then after 100 to 200 ms, 300 to 600 and 700 to 1,400.
    pub fn assert_pauses(&self, try_once: impl Fn()) {
        let begin = Instant::now();
        let connections = || self.connections.load(Ordering::SeqCst);
        while begin.elapsed() < S || connections() < 3 {
            assert!(begin.elapsed() < LONG, "{} connections", connections());
            try_once();
        }
        // A link that lasts a second, as on a machine that stalls, lets them begin anew. Without pauses it would be thousands.
        let (connections, time) = (connections(), begin.elapsed());
        assert!(connections <= 5 * time.as_secs() as usize, "{connections} in {time:?}");
    }
}

pub fn pausing(options: ClientOptions) -> ClientOptions {
    options.reconnect_pause(200 * MS, 10 * S)
}

/// A relay to `to`; `pass` sees each piece on its way, with the number of its connection and whether it goes up, and may
/// change it. Without a piece to pass on, both directions are cut.
pub fn relay(to: &str, pass: impl Fn(usize, bool, Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static) -> String {
    let (to, pass) = (to.to_owned(), Arc::new(pass));
    raw_server(move |number, near| {
        let far = TcpStream::connect(&to).unwrap();
        let ends = [(near.try_clone().unwrap(), far.try_clone().unwrap(), true), (far, near, false)];
        for (mut from, mut to, up) in ends {
            let pass = pass.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                loop {
                    let n = from.read(&mut buffer).unwrap_or(0);
                    let piece = if n == 0 { None } else { pass(number, up, buffer[..n].to_vec()) };
                    if n == 0 {
                        let _ = to.shutdown(std::net::Shutdown::Write);
                        return;
                    }
                    if piece.is_none_or(|piece| to.write_all(&piece).is_err()) {
                        let _ = from.shutdown(std::net::Shutdown::Both);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                        return;
                    }
                }
            });
        }
    })
}

/// Holds handlers up until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |is_open| !*is_open).unwrap());
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// A hello without compression and without TLS.
pub const HELLO: &[u8] = b"httpteleport\x00\x01\x00";

pub fn plain() -> ClientOptions {
    ClientOptions::default().compression(Compression::None)
}

/// A port that refuses connections until somebody listens on it, and that nobody else gets meanwhile.
pub fn closed_port() -> (Socket, std::net::SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}
