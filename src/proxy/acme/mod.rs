//! Certificates from an ACME authority (RFC 8555), made when a client first asks for a name.
//!
//! The authority convinces itself that the name leads here by a TLS connection of its own, to port 443, on which it is
//! shown a certificate made for it (`tls-alpn-01`, RFC 8737): no other port and no web server are needed. What was made
//! is kept in a directory, in the form of the original's, and made anew while it is good for a third of its time or for
//! 30 days: when somebody asks for the name, and by itself, whether or not anybody does.

mod cache;
mod http;
mod order;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use instant_acme::{Account, LetsEncrypt};
use regex::Regex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use smol::Executor;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::lock::Semaphore;
use tracing::{info, warn};

use super::reactor::Timer;
use super::tls::{ClientTls, OutboundTls, provider};
use cache::{Bundle, Cache, State};

/// The protocol of the authority's own connections (RFC 8737).
const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";
/// After a failure a name is not tried again for so long: authorities lock out who asks too often.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// When certificates are first looked through, and how often at least. Where one is about to grow old, it is sooner.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(6 * 60 * 60);
/// Most certificates in the making at once, and most names that wait for that.
const AT_ONCE: usize = 4;
const MAX_WAITING: usize = 100;
/// Most names that have failed and are remembered.
const MAX_FAILED: usize = 1_000;
/// The longest name (RFC 1035).
const MAX_NAME: usize = 253;

/// Which certificates are had from an authority, and from which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autocert {
    /// Where they are kept. Default `autocert-cache`, in the working directory.
    pub cache_dir: PathBuf,
    /// A regular expression that names must match. Default `^.*$`: all.
    pub host_regexp: String,
    /// The URL of the authority's directory. Default that of Let's Encrypt.
    pub directory: String,
    /// A PEM file with the authorities that the authority's own server is believed by. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// Where the authority can write to. Default none.
    pub email: Option<String>,
}

impl Default for Autocert {
    fn default() -> Self {
        Self {
            cache_dir: "autocert-cache".into(),
            host_regexp: "^.*$".to_owned(),
            directory: LetsEncrypt::Production.url().to_owned(),
            ca: None,
            email: None,
        }
    }
}

/// Certificates on demand.
pub(crate) struct Acme {
    hosts: Regex,
    directory: String,
    email: Option<String>,
    cache: Cache,
    tls: Arc<ClientConfig>,
    /// Orders are tasks of it, and must not hold the executor that holds them.
    executor: Weak<Executor<'static>>,
    account: smol::lock::Mutex<Option<Account>>,
    at_once: Semaphore,
    /// A certificate was made or taken up, and may be the next to grow old.
    made: (Sender<()>, Receiver<()>),
    names: Mutex<Names>,
    /// What the authority is to be shown.
    challenges: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

#[derive(Default)]
struct Names {
    ready: HashMap<String, Bundle>,
    /// What is in the making. The channel is closed when it is over.
    pending: HashMap<String, Receiver<()>>,
    failed: HashMap<String, Instant>,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Acme {
    /// Makes the directory for certificates. Nobody is asked for any before a client asks for a name.
    pub(crate) fn new(config: &Autocert, executor: &Arc<Executor<'static>>) -> Result<Self, String> {
        let hosts = hosts(config)?;
        check_directory(config)?;
        let tls = tls(config)?;
        Ok(Self {
            hosts,
            directory: config.directory.clone(),
            email: config.email.clone(),
            cache: Cache::open(&config.cache_dir)?,
            tls: tls.config(),
            executor: Arc::downgrade(executor),
            account: smol::lock::Mutex::new(None),
            at_once: Semaphore::new(AT_ONCE),
            made: smol::channel::bounded(1),
            names: Mutex::default(),
            challenges: Mutex::default(),
        })
    }

    /// All that is wrong with the configuration. Nothing is made.
    pub(crate) fn problems(config: &Autocert) -> Vec<String> {
        let found =
            [hosts(config).err(), check_directory(config).err(), tls(config).err(), Cache::problem(&config.cache_dir)];
        found.into_iter().flatten().collect()
    }

    /// Whether this hello is the authority's, that looks whether a name leads here.
    pub(crate) fn is_challenge(hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == CHALLENGE_PROTOCOL))
    }

    /// What the authority is shown that looks for `name`.
    pub(crate) fn challenge(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let key = lock(&self.challenges).get(name).cloned()?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().ok()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(Only(key)));
        config.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
        Some(Arc::new(config))
    }

    /// Sees to it that there is a certificate for `name`, in lower case: waits for it, if it has to be made.
    ///
    /// # Errors
    ///
    /// There will be none; in words.
    pub(crate) async fn prepare(self: &Arc<Self>, name: &str) -> Result<(), &'static str> {
        if !is_host(name) || !self.hosts.is_match(name) {
            return Err("no certificate is had for the name that it asked for (--autocert-host-regexp)");
        }
        let pending = {
            let mut names = lock(&self.names);
            match names.ready.get(name).map(|bundle| bundle.state(SystemTime::now())) {
                Some(State::Good) => return Ok(()),
                Some(State::Old) => {
                    // Meanwhile the old one serves. If it cannot be made anew now, then later.
                    let _ = self.start(&mut names, name);
                    return Ok(());
                }
                Some(State::Expired) | None => self.start(&mut names, name)?,
            }
        };
        // It is closed when the certificate is there, or will not come.
        let _ = pending.recv().await;
        let is_there = lock(&self.names).ready.contains_key(name);
        is_there.then_some(()).ok_or("the certificate for the name that it asked for could not be had")
    }

    /// Makes certificates anew that grow old, also such as nobody asks for, until there is nobody to show them to.
    pub(crate) fn keep_fresh(self: &Arc<Self>) {
        let Some(executor) = self.executor.upgrade() else { return };
        let (acme, made) = (Arc::downgrade(self), self.made.1.clone());
        let look = async move {
            let mut pause = FIRST_LOOK;
            loop {
                let is_due = async {
                    Timer::after(pause).await;
                };
                let is_new = async {
                    // If it is closed, that is the end.
                    let _ = made.recv().await;
                };
                is_due.or(is_new).await;
                let Some(acme) = acme.upgrade() else { return };
                acme.load_kept().await;
                pause = acme.renew(SystemTime::now());
            }
        };
        executor.spawn(look).detach();
    }

    /// Takes up what was kept and nobody has asked for yet.
    async fn load_kept(&self) {
        for name in self.cache.names().await {
            let is_wanted = is_host(&name) && self.hosts.is_match(&name);
            if !is_wanted || lock(&self.names).ready.contains_key(&name) {
                continue;
            }
            if let Some(bundle) = self.cache.load(&name).await {
                lock(&self.names).ready.entry(name).or_insert(bundle);
            }
        }
    }

    /// Has those made anew that are old by now. What has expired is left to whoever asks for it: it may be nobody's any
    /// more. Returns when to look again.
    fn renew(self: &Arc<Self>, now: SystemTime) -> Duration {
        let mut names = lock(&self.names);
        let of = |state: State| move |(_, bundle): &(&String, &Bundle)| bundle.state(now) == state;
        let old: Vec<String> = names.ready.iter().filter(of(State::Old)).map(|(name, _)| name.clone()).collect();
        for name in &old {
            // If it cannot be made now, then at the next look.
            let _ = self.start(&mut names, name);
        }
        let good = names.ready.iter().filter(of(State::Good)).map(|(_, bundle)| bundle.grows_old_in(now));
        // Several that share a directory should not look at the same time.
        let pause = good.fold(LOOK_EVERY, Duration::min).mul_f64(1.0 + 0.1 * fastrand::f64());
        pause.max(FIRST_LOOK)
    }

    /// Has a certificate made, unless it is in the making.
    fn start(self: &Arc<Self>, names: &mut Names, name: &str) -> Result<Receiver<()>, &'static str> {
        if let Some(pending) = names.pending.get(name) {
            return Ok(pending.clone());
        }
        if names.failed.get(name).is_some_and(|then| then.elapsed() < RETRY_AFTER) {
            return Err("the certificate for the name that it asked for could not be had a short while ago");
        }
        if names.pending.len() >= MAX_WAITING {
            return Err("too many certificates are in the making");
        }
        let executor = self.executor.upgrade().ok_or("the proxy stops")?;
        let (done, pending) = smol::channel::bounded(1);
        names.pending.insert(name.to_owned(), pending.clone());
        let (acme, name) = (self.clone(), name.to_owned());
        let make = async move {
            let outcome = acme.obtain(&name).await;
            let mut names = lock(&acme.names);
            names.pending.remove(&name);
            match outcome {
                Ok(bundle) => {
                    names.failed.remove(&name);
                    names.ready.insert(name, bundle);
                    // If there is no room, it has been told already.
                    let _ = acme.made.0.try_send(());
                }
                Err(why) => {
                    warn!("no certificate for {name}: {why} (not tried again for {RETRY_AFTER:?})");
                    if names.failed.len() >= MAX_FAILED {
                        names.failed.retain(|_, then| then.elapsed() < RETRY_AFTER);
                    }
                    names.failed.insert(name, Instant::now());
                }
            }
            drop(done);
        };
        executor.spawn(make).detach();
        Ok(pending)
    }

    /// A certificate that was kept, if it is good, perhaps by another that shares the directory; else one that is made.
    async fn obtain(&self, name: &str) -> Result<Bundle, String> {
        let is_known = lock(&self.names).ready.contains_key(name);
        let suits = |bundle: &Bundle| !is_known || bundle.state(SystemTime::now()) == State::Good;
        if let Some(bundle) = self.cache.load(name).await.filter(suits) {
            return Ok(bundle);
        }
        let _place = self.at_once.acquire().await;
        info!("asking {} for a certificate for {name}", self.directory);
        let pem = self.order(name).await?;
        let bundle = Bundle::parse(&pem, name)?;
        info!("there is a certificate for {name}");
        if let Err(error) = self.cache.store(name, pem).await {
            warn!("the certificate for {name} could not be kept, and is made anew after a restart: {error}");
        }
        Ok(bundle)
    }
}

fn hosts(config: &Autocert) -> Result<Regex, String> {
    let text = &config.host_regexp;
    // Its complaint has several lines, the last of which says what is wrong.
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        format!("--autocert-host-regexp {text:?}: {}", error.lines().last().unwrap_or_default())
    })
}

fn check_directory(config: &Autocert) -> Result<(), String> {
    let is_url = config.directory.starts_with("https://");
    is_url
        .then_some(())
        .ok_or_else(|| format!("--autocert-directory {:?} does not begin with https://", config.directory))
}

/// TLS to the authority.
fn tls(config: &Autocert) -> Result<ClientTls, String> {
    let files = OutboundTls { ca: config.ca.clone(), ..OutboundTls::default() };
    ClientTls::load(&files, &[b"http/1.1"]).map_err(|why| why.replace("--out-tls-ca", "--autocert-ca"))
}

impl ResolvesServerCert for Acme {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        lock(&self.names).ready.get(&name).map(|bundle| bundle.key.clone())
    }
}

/// The one certificate that there is to show.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Whether this can be the name of a host that an authority would certify; in lower case. It also is a safe file name.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_in_charset = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !label.is_empty() && label.len() <= 63 && is_in_charset && !label.starts_with('-') && !label.ends_with('-')
    };
    let has_name_of_a_zone = name.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()));
    name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(is_label) && has_name_of_a_zone
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics between two changes that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_hosts_are_asked_for() {
        for good in ["example.com", "a.b.example.com", "xn--bcher-kva.example", "1.example"] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "127.0.0.1",
            "../x.com",
            "a..b",
            ".com",
            "*.example.com",
            "a_b.com",
            "A.com",
            "a.com.",
            "-a.com",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn what_grows_old_is_made_anew_whether_or_not_anybody_asks() {
        let dir = std::env::temp_dir().join(format!("httptp-renew-{}", std::process::id()));
        let executor = Arc::new(Executor::new());
        let ca = dir.with_extension("pem");
        std::fs::write(&ca, rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap().cert.pem())
            .unwrap();
        let config = Autocert {
            cache_dir: dir.clone(),
            host_regexp: r"\.example$".to_owned(),
            // Nobody is there: what is to be made is in the making, and no more.
            directory: "https://127.0.0.1:1/".to_owned(),
            ca: Some(ca.clone()),
            ..Autocert::default()
        };
        let acme = Arc::new(Acme::new(&config, &executor).unwrap());
        let (begin, pem) = (cache::tests::begin(), cache::tests::pem);
        smol::block_on(async {
            for name in ["a.example", "b.example", "a.other"] {
                acme.cache.store(name, pem(name)).await.unwrap();
            }
            acme.cache.store("acme_account-1.json", "{}".into()).await.unwrap();
            acme.load_kept().await;
        });
        let ready = || {
            let mut names: Vec<_> = lock(&acme.names).ready.keys().cloned().collect();
            names.sort();
            names
        };
        let making = || lock(&acme.names).pending.len();
        assert_eq!(ready(), ["a.example", "b.example"]);
        let day = Duration::from_secs(24 * 60 * 60);
        let pause = acme.renew(begin);
        assert!(making() == 0 && (LOOK_EVERY..LOOK_EVERY * 2).contains(&pause), "{pause:?}");
        // Good for 90 days, old in the last 30: it looks again when that begins.
        let pause = acme.renew(begin + 60 * day - Duration::from_secs(100));
        assert!(making() == 0 && (Duration::from_secs(100)..Duration::from_secs(120)).contains(&pause), "{pause:?}");
        acme.renew(begin + 90 * day);
        assert_eq!(making(), 0, "what has expired may be nobody's any more");
        acme.renew(begin + 61 * day);
        assert_eq!(making(), 2);
        acme.renew(begin + 61 * day);
        assert_eq!(making(), 2, "once");
        std::fs::remove_dir_all(dir).unwrap();
        std::fs::remove_file(ca).unwrap();
    }
}
