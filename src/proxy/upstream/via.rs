//! One upstream: one interface over an HTTP server and over links.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use tracing::{debug, info, warn};

use super::super::dial::Dialer;
use super::super::error::UpstreamError;
use super::super::http_out::Pool;
use super::super::stranger::Strangers;
use super::Upstreams;
use super::links::Links;
use crate::proto::Stats;

/// An upstream. It connects when a request needs it, so that a proxy starts before its upstreams.
#[derive(Debug)]
pub(crate) struct Upstream {
    name: String,
    /// Which of the addresses that the name stands for.
    ip: Option<SocketAddr>,
    via: Via,
    log_all_errors: bool,
    outage: Outage,
    pub(crate) tally: Tally,
    /// What the links of upstreams that have gone had carried.
    gone: Arc<Mutex<Stats>>,
}

/// What an upstream has done so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests sent there, repeated ones included.
    pub(crate) requests: AtomicU64,
    /// Those that were not answered, or only to say that it cannot.
    pub(crate) failures: AtomicU64,
}

/// Whether the last thing heard was an outage: the next one is no news, the next success is. One that comes and goes
/// all the time is news once in a while.
#[derive(Debug, Default)]
struct Outage {
    is_down: AtomicBool,
    /// The one that lasts, or was the last, was told.
    was_told: AtomicBool,
    log: Strangers,
}

impl Outage {
    /// An outage; whether it is to be told.
    fn begins(&self, now: Instant) -> bool {
        if self.is_down.swap(true, Ordering::Relaxed) {
            return false;
        }
        let is_news = self.log.is_news("outage", now);
        self.was_told.store(is_news, Ordering::Relaxed);
        is_news
    }

    /// A success; whether its being one is to be told: if the outage before was.
    fn ends(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
            && self.is_down.swap(false, Ordering::Relaxed)
            && self.was_told.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
enum Via {
    Http(Pool),
    Teleport(Links),
}

impl Upstream {
    /// `dialer` is the way to `ip`, which is one of the addresses that `name` stands for; or to the name, which is looked
    /// up at each connect. `on_goodbye` is called when it says that it is about to close.
    pub(super) fn new(
        upstreams: &Upstreams,
        name: &str,
        dialer: &Dialer,
        ip: Option<SocketAddr>,
        on_goodbye: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let Upstreams { executor, config, recompressor, gone, .. } = upstreams;
        let out = &config.outbound;
        let dialer = ip.map_or_else(|| dialer.clone(), |ip| dialer.at(ip));
        let via = if out.kind.is_link() {
            Via::Teleport(Links::new(executor, config, &dialer, recompressor.as_ref(), &(Arc::new(on_goodbye) as _)))
        } else {
            Via::Http(Pool::new(executor.clone(), dialer, out))
        };
        Self {
            name: name.to_owned(),
            ip,
            via,
            log_all_errors: config.log_all_errors,
            outage: Outage::default(),
            tally: Tally::default(),
            gone: gone.clone(),
        }
    }

    /// As configured.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it is: `HOST:PORT` with the address that was found for a name.
    pub(crate) fn addr(&self) -> String {
        self.ip.map_or_else(|| self.name.clone(), |ip| ip.to_string())
    }

    /// Sends `request`, which is in origin-form with one `Host`, and waits for the whole response. It comes in a box, since
    /// each future on its way would else hold a place for it and move it there.
    pub(crate) async fn send(
        &self,
        request: Box<Request<Bytes>>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, UpstreamError> {
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        let result = self.exchange(request, deadline).await;
        self.note(result.as_ref().err());
        result
    }

    /// The same for a request of the proxy's own.
    pub(super) async fn ask(
        &self,
        request: Box<Request<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Bytes>, UpstreamError> {
        self.exchange(request, Some(deadline)).await
    }

    async fn exchange(
        &self,
        request: Box<Request<Bytes>>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, UpstreamError> {
        match &self.via {
            Via::Http(pool) => pool.send(*request, deadline).await,
            Via::Teleport(links) => links.send(*request, deadline).await.map_err(UpstreamError::from),
        }
    }

    /// What each link has carried, for a teleport upstream.
    pub(crate) fn links(&self) -> Vec<Stats> {
        match &self.via {
            Via::Http(_) => Vec::new(),
            Via::Teleport(links) => links.stats(),
        }
    }

    /// What the links have carried together.
    pub(crate) fn link_stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.links().into_iter().for_each(|link| sum.add(link, Stats::default()));
        sum
    }

    /// Ends connections in order, at the latest at `deadline`.
    pub(super) async fn close(&self, deadline: Instant) {
        match &self.via {
            Via::Http(pool) => pool.close(),
            Via::Teleport(links) => links.close(deadline).await,
        }
    }

    /// One line when an outage begins and one when it ends, and one a minute for what else it does not answer well; every
    /// error only if asked for.
    fn note(&self, error: Option<&UpstreamError>) {
        match error {
            None => {
                if self.outage.ends() {
                    info!("upstream {self}: answers again");
                }
            }
            Some(error) if error.is_outage() && self.outage.begins(Instant::now()) => {
                warn!("upstream {self}: {error} (said once, until it answers again)");
            }
            Some(error) if self.log_all_errors => warn!("upstream {self}: {error}"),
            Some(error) if error.is_outage() || error.is_callers_fault() => debug!("upstream {self}: {error}"),
            Some(error) => self.outage.log.warn_of(error.status(), format_args!("upstream {self}: {error}")),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.ip.map_or(Ok(()), |ip| write!(f, " at {}", ip.ip()))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.add(self.link_stats(), Stats::default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::stranger::QUIET;
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_one_that_flaps_once_a_minute() {
        let (outage, start) = (Outage::default(), Instant::now());
        assert!(!outage.ends(), "it was never down");
        assert!(outage.begins(start));
        assert!(!outage.begins(start));
        assert!(outage.ends());
        for n in 1..60 {
            assert!(!outage.begins(start + Duration::from_secs(n)));
            assert!(!outage.ends());
        }
        assert!(outage.begins(start + QUIET));
        assert!(outage.ends());
    }
}
