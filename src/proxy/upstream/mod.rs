//! Where requests go: several upstreams as one.
//!
//! [`balance`] decides, without I/O; here is what asks it, sends, follows names ([`resolve`]) and checks health
//! ([`check`]). A request that failed goes to another upstream only if that is safe (R-no-blind-retry): it surely did
//! not reach the first one, or may be repeated and no response has begun; within its one deadline and a [`budget`].

mod balance;
mod budget;
mod check;
mod estimate;
mod follow;
mod links;
mod member;
pub(crate) mod resolve;
#[cfg(test)]
mod simulation;
mod via;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use smol::{Executor, Task};
use tracing::{info, warn};

use super::StartError;
use super::config::{ProxyConfig, Retry};
use super::dial::{Dialer, Dialing};
use super::error::{Delivered, UpstreamError};
use super::fields;
use super::metrics::IoCounters;
use super::recompress::Recompressor;
use super::time_left;
use super::tls::ClientTls;
use crate::driver::MemoryBudget;
use crate::proto::Stats;
use balance::{Balancer, Change, MemberId, Outcome, Pick, Policy};
use budget::Budget;
use follow::Resolver;

pub(crate) use balance::View;
pub(crate) use via::Upstream;

/// All upstreams of a proxy.
pub(crate) struct Upstreams {
    state: Mutex<Shared>,
    config: ProxyConfig,
    recompressor: Option<Arc<Recompressor>>,
    executor: Arc<Executor<'static>>,
    /// Requests that were sent again, to another one.
    retries: AtomicU64,
    /// What the links of those that have gone had carried.
    gone: Arc<Mutex<Stats>>,
    /// What follows names and checks health; it ends with the proxy.
    tasks: Mutex<Vec<Task<()>>>,
    /// TLS to them, if it is spoken.
    pub(super) tls: Option<ClientTls>,
}

struct Shared {
    balancer: Balancer<Arc<Upstream>>,
    budget: Budget,
}

/// A response, and who gave it.
pub(crate) struct Sent {
    pub(crate) response: Response<Bytes>,
    pub(crate) upstream: Arc<Upstream>,
}

/// Why there is none, and who did not give it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: UpstreamError,
    pub(crate) upstream: Option<Arc<Upstream>>,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("addr", &self.config.outbound.addr).finish_non_exhaustive()
    }
}

impl Upstreams {
    /// The upstreams that `config` names; `counters` count their connections. Names are looked up, and followed from then on.
    ///
    /// # Errors
    ///
    /// A file that TLS needs cannot be read, or no certificate could be for an address.
    pub(crate) async fn start(
        executor: &Arc<Executor<'static>>,
        config: &ProxyConfig,
        counters: Arc<IoCounters>,
        memory: MemoryBudget,
    ) -> Result<Arc<Self>, StartError> {
        Self::start_with(executor, config, counters, memory, follow::system()).await
    }

    async fn start_with(
        executor: &Arc<Executor<'static>>,
        config: &ProxyConfig,
        counters: Arc<IoCounters>,
        memory: MemoryBudget,
        resolver: Resolver,
    ) -> Result<Arc<Self>, StartError> {
        let dialing = Dialing::new(&config.outbound, counters, memory)?;
        let policy = Policy { slow_start: config.outbound.slow_start, ..Policy::default() };
        let upstreams = Arc::new(Self {
            state: Mutex::new(Shared { balancer: Balancer::new(policy), budget: Budget::new() }),
            config: config.clone(),
            recompressor: Recompressor::new(config),
            executor: executor.clone(),
            retries: AtomicU64::new(0),
            gone: Arc::default(),
            tasks: Mutex::default(),
            tls: dialing.tls().cloned(),
        });
        for addr in config.outbound.addrs() {
            follow::start(&upstreams, addr, dialing.to(addr)?, &resolver).await;
        }
        Ok(upstreams)
    }

    /// Sends `request`, which is in origin-form with one `Host`, and waits for the whole response; until `limit`, if that
    /// is sooner than its own time is over.
    pub(crate) async fn send(&self, mut request: Box<Request<Bytes>>, limit: Option<Instant>) -> Result<Sent, Failure> {
        let own = self.config.outbound.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let deadline = own.into_iter().chain(limit).min();
        let may_repeat = match self.config.outbound.retry {
            Retry::Unsent => false,
            Retry::Idempotent => fields::is_idempotent(request.method()),
            Retry::All => true,
        };
        let mut tried: Vec<MemberId> = Vec::new();
        loop {
            let Some((ticket, upstream, has_another)) = self.pick(may_repeat, &tried) else {
                let error = UpstreamError::NotSent(StatusCode::SERVICE_UNAVAILABLE, "no upstream is left".to_owned());
                return Err(Failure { error, upstream: None });
            };
            let spare = has_another.then(|| request.clone());
            tried.push(ticket.pick.id);
            if self.config.outbound.pass_time_left && self.are_links() {
                tell_time_left(&mut request, deadline);
            }
            let error = match upstream.send(request, deadline).await {
                Ok(response) => {
                    ticket.end(outcome(response.status()));
                    return Ok(Sent { response, upstream });
                }
                Err(error) => error,
            };
            ticket.end(blame(&error));
            let is_safe = match error.delivered() {
                Delivered::No => true,
                Delivered::Maybe => may_repeat,
                Delivered::Answered => false,
            };
            let again = is_safe
                && !error.is_callers_fault()
                && deadline.is_none_or(|deadline| Instant::now() < deadline)
                && self.may_try_again(&tried);
            match spare {
                Some(spare) if again => request = spare,
                _ => return Err(Failure { error, upstream: Some(upstream) }),
            }
        }
    }

    /// Where the next request goes, and whether it could go to another one after that.
    fn pick(&self, may_repeat: bool, tried: &[MemberId]) -> Option<(Ticket<'_>, Arc<Upstream>, bool)> {
        let now = Instant::now();
        let mut state = self.state();
        if tried.is_empty() {
            state.budget.note_request(now);
        }
        let (pick, upstream) = state.balancer.pick(now, may_repeat, tried)?;
        let has_another = state.balancer.has_another(&[tried, &[pick.id]]);
        Some((Ticket { upstreams: self, upstream: upstream.clone(), pick, is_over: false }, upstream, has_another))
    }

    fn may_try_again(&self, tried: &[MemberId]) -> bool {
        let mut state = self.state();
        let may = state.balancer.has_another(&[tried]) && state.budget.take();
        if may {
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    /// Whether requests go by links.
    pub(crate) fn are_links(&self) -> bool {
        self.config.outbound.kind.is_link()
    }

    /// What recompresses bodies, if that is wanted.
    pub(crate) fn recompressor(&self) -> Option<&Arc<Recompressor>> {
        self.recompressor.as_ref()
    }

    /// Each upstream, now.
    pub(crate) fn view(&self) -> Vec<View<Arc<Upstream>>> {
        self.state().balancer.view(Instant::now())
    }

    /// How many requests were sent again, to another upstream.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// What all links have carried, for teleport upstreams.
    pub(crate) fn link_stats(&self) -> Option<Stats> {
        if !self.are_links() {
            return None;
        }
        let mut sum = *self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        self.view().iter().for_each(|view| sum.add(view.what.link_stats(), Stats::default()));
        Some(sum)
    }

    /// Ends connections in order, at the latest at `deadline`.
    pub(crate) async fn close(&self, deadline: Instant) {
        self.tasks().clear();
        // All at once: one that does not end takes nobody's time but its own.
        let close = |upstream: Arc<Upstream>| self.executor.spawn(async move { upstream.close(deadline).await });
        let closing: Vec<_> = self.view().into_iter().map(|view| close(view.what)).collect();
        for upstream in closing {
            upstream.await;
        }
    }

    fn add(self: &Arc<Self>, name: &str, dialer: &Dialer, ip: Option<SocketAddr>, starts_slowly: bool) -> MemberId {
        let member = Arc::<OnceLock<MemberId>>::default();
        let on_goodbye = {
            let (upstreams, member) = (Arc::downgrade(self), member.clone());
            move || {
                if let (Some(upstreams), Some(id)) = (upstreams.upgrade(), member.get()) {
                    upstreams.set_aside(*id);
                }
            }
        };
        let upstream = Arc::new(Upstream::new(self, name, dialer, ip, on_goodbye));
        let id = self.state().balancer.add(Instant::now(), upstream.clone(), starts_slowly);
        let _ = member.set(id);
        if let Some(check) = &self.config.outbound.health_check {
            let task = check::run(Arc::downgrade(self), id, Arc::downgrade(&upstream), check.clone());
            self.keep(self.executor.spawn(task));
        }
        id
    }

    fn remove(&self, id: MemberId) {
        self.state().balancer.remove(id);
    }

    /// One is about to close: others get what comes.
    fn set_aside(&self, id: MemberId) {
        if let Some(upstream) = self.state().balancer.set_aside(Instant::now(), id) {
            info!("upstream {upstream}: it is about to close, and others get what comes");
        }
    }

    fn set_healthy(&self, id: MemberId, healthy: bool) -> bool {
        self.state().balancer.set_healthy(Instant::now(), id, healthy)
    }

    fn keep(&self, task: Task<()>) {
        let mut tasks = self.tasks();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Shared> {
        // No panic leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is on its way. Dropped before its end, nobody waits for it any more.
struct Ticket<'a> {
    upstreams: &'a Upstreams,
    upstream: Arc<Upstream>,
    pick: Pick,
    is_over: bool,
}

impl Ticket<'_> {
    fn end(mut self, outcome: Outcome) {
        self.is_over = true;
        if outcome == Outcome::Failed {
            self.upstream.tally.failures.fetch_add(1, Ordering::Relaxed);
        }
        let change = self.upstreams.state().balancer.end(Instant::now(), self.pick, outcome);
        match change {
            None => {}
            Some(Change::Ejected) => {
                warn!("upstream {}: ejected, since it fails and another one does not", self.upstream);
            }
            Some(Change::Back) => info!("upstream {}: takes part again", self.upstream),
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.upstreams.state().balancer.end(Instant::now(), self.pick, Outcome::Dropped);
        }
    }
}

/// Tells the next proxy how long it has.
fn tell_time_left(request: &mut Request<Bytes>, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        time_left::put(request.headers_mut(), deadline.saturating_duration_since(Instant::now()));
    }
}

/// What a status says about the upstream that answered with it.
fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Outcome::Failed,
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::TOO_MANY_REQUESTS => Outcome::Refused,
        _ => Outcome::Answered,
    }
}

/// What an error says about the upstream.
fn blame(error: &UpstreamError) -> Outcome {
    match error {
        UpstreamError::Timeout { .. } | UpstreamError::Unreachable(_) | UpstreamError::Broken { .. } => Outcome::Failed,
        UpstreamError::Response(_) => Outcome::Refused,
        // It did nothing wrong.
        UpstreamError::NoMemory => Outcome::Dropped,
        UpstreamError::NotSent(..) if error.is_callers_fault() => Outcome::Dropped,
        UpstreamError::NotSent(..) => Outcome::Refused,
    }
}

/// How active checks judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The target of the GET request that is sent.
    pub path: String,
    /// How often. Default 5 s.
    pub interval: Duration,
    /// So many good answers in a row make an upstream healthy. Default 2.
    pub rise: u32,
    /// So many bad ones make it unhealthy. Default 3.
    pub fall: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: "/".to_owned(), interval: Duration::from_secs(5), rise: 2, fall: 3 }
    }
}

#[cfg(test)]
mod tests;
