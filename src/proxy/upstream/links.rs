//! Links to one far proxy, and what is known of who is at their other ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response};
use smol::Executor;

use super::super::config::{ProxyConfig, Retry};
use super::super::dial::Dialer;
use super::super::fields;
use super::super::reactor::Timer;
use super::super::recompress::{Peer, Recompressor};
use crate::driver::ClientError;
use crate::driver::smol::Client;
use crate::proto::{Compression, SendError, Stats};

/// Links to one far proxy, each with a compression context and a task of its own.
#[derive(Debug)]
pub(super) struct Links {
    links: Vec<Link>,
    turn: AtomicUsize,
    recompressor: Option<Arc<Recompressor>>,
    retry: Retry,
}

#[derive(Debug)]
struct Link {
    client: Client,
    other_end: Arc<OtherEnd>,
}

/// Who is at the other end of a link, as far as it has said. After each dial it may be somebody else.
#[derive(Debug, Default)]
struct OtherEnd(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// How often was dialled.
    dials: u64,
    /// What it restores: the last answer since then has said it.
    restores: Option<Peer>,
    /// One there has compressed by zstd.
    has_zstd: bool,
    /// One there has not, and may be an original, which lets its callers and its origin write what proxies write.
    may_be_original: bool,
}

/// A request that only the other end of that dial is to get: nobody else has said that it would restore the body.
#[derive(Clone, Copy, Debug)]
struct ForDial(u64);

impl Links {
    pub(super) fn new(
        executor: &Arc<Executor<'static>>,
        config: &ProxyConfig,
        dialer: &Dialer,
        recompressor: Option<&Arc<Recompressor>>,
        on_goodbye: &Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let link = |_| {
            let other_end = Arc::<OtherEnd>::default();
            let (told, dialled) = (on_goodbye.clone(), other_end.clone());
            let options = config.client_options().on_goodbye(move || told());
            let options = match recompressor {
                None => options,
                Some(_) => {
                    let (asked, told) = (other_end.clone(), other_end.clone());
                    let options = options.on_link_start(move |compression| told.note_link(compression));
                    options.send_if(move |request| {
                        let dial = request.extensions().get::<ForDial>();
                        dial.is_none_or(|dial| dial.0 == asked.known().dials)
                    })
                }
            };
            Link { client: dialer.client(executor.clone(), options, move || dialled.forget()), other_end }
        };
        Self {
            links: (0..config.outbound.links.max(1)).map(link).collect(),
            turn: AtomicUsize::new(0),
            recompressor: recompressor.cloned(),
            retry: config.outbound.retry,
        }
    }

    pub(super) async fn send(
        &self,
        request: Request<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, ClientError> {
        let (mut link, mut request) = (self.pick(request.method()), request);
        // A HEAD goes by the first one in any case.
        let mut others = if *request.method() == Method::HEAD { 0 } else { self.links.len() - 1 };
        loop {
            // A link that is not up may not come up, be it that the far proxy takes no more of them, while another one does.
            let spare = (others > 0 && !link.client.is_up()).then(|| request.clone());
            let result = self.send_on(link, request, deadline).await;
            match (&result, spare) {
                (Err(ClientError::Connect { .. } | ClientError::Link { maybe_delivered: false, .. }), Some(spare)) => {
                    (link, request) = (self.pick(spare.method()), spare);
                    others -= 1;
                    // Where no connection is to be had, another dial would only take the time that another upstream needs.
                    let dials = matches!(result, Err(ClientError::Connect { .. })) && !link.client.is_up();
                    let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
                    if dials || is_late || link.client.is_paused() {
                        return result;
                    }
                }
                _ => return result,
            }
        }
    }

    async fn send_on(
        &self,
        link: &Link,
        mut request: Request<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, ClientError> {
        let Some(recompressor) = &self.recompressor else { return link.client.request(request, deadline).await };
        let known = link.other_end.known();
        recompressor.announce(request.headers_mut(), known.is_trusted());
        let is_head = *request.method() == Method::HEAD;
        let result = match recompressor.lower(request.headers(), request.body(), known.restores).await {
            None => link.client.request(request, deadline).await,
            Some(lowered) => {
                let as_it_came = request.clone();
                *request.body_mut() = lowered.apply_to(request.headers_mut());
                request.extensions_mut().insert(ForDial(known.dials));
                match link.client.request(request, deadline).await {
                    Err(error) if self.may_send_again(&error, &as_it_came) => {
                        link.client.request(as_it_came, deadline).await
                    }
                    result => result,
                }
            }
        };
        let (mut parts, body) = result?.into_parts();
        // A HEAD may have gone by a link of its own.
        if !is_head {
            link.other_end.learn(known.dials, Peer::of(&parts.headers));
        }
        let trusts = link.other_end.known().is_trusted();
        let body = recompressor.restore(&mut parts.headers, body, trusts).await;
        Ok(Response::from_parts(parts, body))
    }

    /// Whether a request whose link ended before the answer may go out by the next one, as it came.
    fn may_send_again(&self, error: &ClientError, request: &Request<Bytes>) -> bool {
        match error {
            ClientError::Send(SendError::Closing) | ClientError::Link { maybe_delivered: false, .. } => true,
            ClientError::Link { .. } => match self.retry {
                Retry::Unsent => false,
                Retry::Idempotent => fields::is_idempotent(request.method()),
                Retry::All => true,
            },
            _ => false,
        }
    }

    /// What each link has carried.
    pub(super) fn stats(&self) -> Vec<Stats> {
        self.links.iter().map(|link| link.client.stats()).collect()
    }

    /// Ends them in order, at the latest at `deadline`.
    pub(super) async fn close(&self, deadline: Instant) {
        for link in &self.links {
            link.client.close_with_alarm::<Timer>(deadline).await;
        }
    }

    /// The link with the fewest requests of those that do not pause after a failure; equals take turns.
    fn pick(&self, method: &Method) -> &Link {
        let count = self.links.len();
        // HEAD requests may need a connection of their own (R-head-alone): one is enough.
        if count == 1 || *method == Method::HEAD {
            return &self.links[0];
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let least = (0..count).map(|n| turn.wrapping_add(n) % count).min_by_key(|n| {
            let client = &self.links[*n].client;
            (client.is_paused(), client.pending_requests())
        });
        &self.links[least.unwrap_or(0)]
    }
}

impl Known {
    fn is_trusted(self) -> bool {
        self.has_zstd && !self.may_be_original
    }
}

impl OtherEnd {
    /// A link is up, at whose other end is compressed like this.
    fn note_link(&self, compression: Compression) {
        let mut known = self.lock();
        match compression {
            Compression::Zstd => known.has_zstd = true,
            _ => known.may_be_original = true,
        }
    }

    fn known(&self) -> Known {
        *self.lock()
    }

    /// A link is dialled: what was known was of another one.
    fn forget(&self) {
        let mut known = self.lock();
        known.dials += 1;
        known.restores = None;
    }

    /// An answer says what is restored, to a request of the time of that dial.
    fn learn(&self, dials: u64, restores: Option<Peer>) {
        let mut known = self.lock();
        if known.dials == dials {
            known.restores = restores;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // No panic leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
