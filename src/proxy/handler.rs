//! What happens to one request, the same for both kinds of listener: limits, the way through the upstream, and an
//! answer that says what went wrong when something does.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;
use smol::future::FutureExt;
use tracing::{debug, warn};

use super::access_log::{self, AccessLine};
use super::body::{CollectError, collect};
use super::config::ProxyConfig;
use super::error::UpstreamError;
use super::fields;
use super::metrics::Counters;
use super::reactor::Timer;
use super::recompress::{self, Peer, Trusted};
use super::record::Recorder;
use super::request_head::NO_MEMORY;
use super::stranger::Strangers;
use super::time_left;
use super::upstream::{Failure, Sent, Upstream, Upstreams};
use crate::driver::{Charge, MemoryBudget, PeerAddr};
use crate::proto::Limits;

/// What a message takes besides its fields and body: the task that waits for it, mostly.
const MESSAGE_BYTES: usize = 2 * 1024;

/// The statuses that a link carries (R-write-no-interim).
const FINAL: RangeInclusive<u16> = 200..=599;

/// Takes requests from a listener and answers every one of them.
#[derive(Debug)]
pub(crate) struct Handler {
    upstreams: Arc<Upstreams>,
    /// The `Host` of an HTTP/1.0 request that names none: the address it was sent to.
    default_host: HeaderValue,
    max_request_body: usize,
    body_timeout: Duration,
    max_response_body: usize,
    get_only: bool,
    concurrency: usize,
    in_flight: AtomicUsize,
    /// Requests come by links.
    by_links: bool,
    access_log: bool,
    log_all_errors: bool,
    log: Strangers,
    make_traceparent: bool,
    /// The proxy was told to stop.
    pub(crate) is_stopping: AtomicBool,
    recorder: Option<Arc<Recorder>>,
    memory: MemoryBudget,
    pub(crate) counters: Counters,
}

/// Why a request is answered by the proxy itself.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    reason: String,
    /// Who did not answer.
    upstream: Option<Arc<Upstream>>,
    /// The body of the request is left unread, so the connection cannot go on.
    closes: bool,
}

impl Handler {
    pub(crate) fn new(
        config: &ProxyConfig,
        upstreams: Arc<Upstreams>,
        counters: Counters,
        default_host: HeaderValue,
        recorder: Option<Arc<Recorder>>,
        memory: MemoryBudget,
    ) -> Self {
        Self {
            upstreams,
            default_host,
            max_request_body: config.inbound.max_body_bytes,
            body_timeout: config.inbound.body_timeout,
            max_response_body: config.outbound.max_body_bytes,
            get_only: config.inbound.get_only,
            concurrency: config.concurrency,
            in_flight: AtomicUsize::new(0),
            by_links: config.inbound.kind.is_link(),
            access_log: config.seeing.access_log,
            log_all_errors: config.log_all_errors,
            log: Strangers::default(),
            make_traceparent: config.seeing.make_traceparent,
            is_stopping: AtomicBool::new(false),
            recorder,
            memory,
            counters,
        }
    }

    /// What messages are counted in.
    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Writes what is left to record.
    pub(crate) fn finish_recording(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.finish();
        }
    }

    /// Whether the proxy was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Requests whose answer has not left yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Says in the access log who sent a request.
    pub(crate) fn note_sender<B>(&self, request: &mut Request<B>, peer: &PeerAddr) {
        if self.access_log {
            request.extensions_mut().insert(access_log::Sender(peer.clone()));
        }
    }

    /// Answers `request`. Nothing of it is read before it is clear that it will be forwarded. With the answer comes its
    /// place among the requests at once, to be dropped when it has left.
    pub(crate) async fn handle<B>(self: &Arc<Self>, request: Request<B>) -> (Response<Bytes>, Option<Slot>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error,
    {
        let began = Instant::now();
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = request;
        if self.make_traceparent {
            access_log::make_traceparent(request.headers_mut());
        }
        let line = self.access_log.then(|| AccessLine::of(&request, began));
        let (outcome, slot) = match self.admit(request.body().is_end_stream()) {
            Ok(mut slot) => {
                let outcome = self.forward(request, began, &mut slot.charge).await;
                // The request is gone; the response waits for its caller. One that leaves by a link is counted there.
                let response = outcome.as_ref().ok().filter(|_| !self.by_links);
                slot.charge.set(response.map_or(0, |(response, _)| weight(response.headers(), response.body().len())));
                (outcome, Some(slot))
            }
            Err(refusal) => (Err(refusal), None),
        };
        (self.answer(line, outcome), slot)
    }

    /// Answers a request that cannot be forwarded, as its listener has found out. A connection of HTTP/1 ends.
    pub(crate) fn refuse<B>(&self, request: &Request<B>, status: StatusCode, reason: String) -> Response<Bytes> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let line = self.access_log.then(|| AccessLine::of(request, Instant::now()));
        let refusal = Refusal::new(status, reason);
        let ends = request.version() < Version::HTTP_2;
        self.answer(line, Err(if ends { refusal.closing() } else { refusal }))
    }

    fn answer(
        &self,
        line: Option<AccessLine>,
        outcome: Result<(Response<Bytes>, Arc<Upstream>), Refusal>,
    ) -> Response<Bytes> {
        let (response, upstream, reason) = match outcome {
            Ok((response, upstream)) => {
                self.counters.responses.fetch_add(1, Ordering::Relaxed);
                (response, Some(upstream), None)
            }
            Err(mut refusal) => {
                self.counters.count_refusal(refusal.status);
                self.note(&refusal);
                let upstream = refusal.upstream.take();
                let reason = line.is_some().then(|| refusal.reason.clone());
                (refusal.into_response(), upstream, reason)
            }
        };
        self.counters.count_status(response.status());
        if let Some(line) = line {
            line.log(response.status(), response.body().len(), upstream.as_deref(), reason.as_deref());
        }
        response
    }

    /// One line a minute for what whoever runs the proxy can do something about, and no upstream was the cause of; all only
    /// if asked for.
    fn note(&self, refusal: &Refusal) {
        let status = refusal.status;
        let line = format_args!("answered {}: {}", status.as_u16(), refusal.reason);
        match refusal.upstream {
            None if self.log_all_errors => warn!("{line}"),
            None if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                self.log.warn_of(status, line);
            }
            _ => debug!("{line}"),
        }
    }

    async fn forward<B>(
        &self,
        request: Request<B>,
        began: Instant,
        charge: &mut Charge,
    ) -> Result<(Response<Bytes>, Arc<Upstream>), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error,
    {
        let trusts = request.extensions().get::<Trusted>().is_some();
        let mut request = self.receive(request, charge).await?;
        // Only another proxy can say so; whoever else does is not passed on.
        let time_left = time_left::take(request.headers_mut()).filter(|_| self.by_links);
        let deadline = time_left.and_then(|time_left| began.checked_add(time_left));
        let peer = self.open(&mut request, trusts).await;
        self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        let recording = self.recorder.as_ref().map(|recorder| (recorder, recorder.begin(&request)));
        let result = match self.exchange(Box::new(request), deadline).await {
            Ok((response, upstream)) => {
                if let Some((recorder, request)) = recording {
                    recorder.end(began.elapsed(), request, &response);
                }
                Ok((self.close(response, peer, trusts).await, upstream))
            }
            Err(refusal) => Err(refusal),
        };
        self.counters.latency.note(began.elapsed());
        self.counters.count_forwarded(result.as_ref().map(|(response, _)| response.status()).map_err(|r| r.status));
        result
    }

    /// Restores the body of a request that leaves the links, and says what the other end restores. Between links all that
    /// is for the ends (R-proxy-recompress-door).
    async fn open(&self, request: &mut Request<Bytes>, trusts: bool) -> Option<Peer> {
        if self.is_between_links() {
            return None;
        }
        let recompressor = self.upstreams.recompressor().filter(|_| self.by_links);
        let peer = recompressor.and_then(|_| Peer::of(request.headers()));
        if let Some(recompressor) = recompressor {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = recompressor.restore(request.headers_mut(), body, trusts).await;
        }
        recompress::strip(request.headers_mut());
        peer
    }

    /// Decodes the body of a response that goes into the links, if `peer` restores it.
    async fn close(&self, mut response: Response<Bytes>, peer: Option<Peer>, trusts: bool) -> Response<Bytes> {
        if self.is_between_links() {
            return response;
        }
        recompress::strip(response.headers_mut());
        let Some(recompressor) = self.upstreams.recompressor().filter(|_| self.by_links) else { return response };
        if let Some(lowered) = recompressor.lower(response.headers(), response.body(), peer).await {
            *response.body_mut() = lowered.apply_to(response.headers_mut());
        }
        if peer.is_some() {
            recompressor.announce(response.headers_mut(), trusts);
        }
        response
    }

    fn is_between_links(&self) -> bool {
        self.by_links && self.upstreams.are_links()
    }

    async fn exchange(
        &self,
        request: Box<Request<Bytes>>,
        deadline: Option<Instant>,
    ) -> Result<(Response<Bytes>, Arc<Upstream>), Refusal> {
        let method = request.method().clone();
        let sent = self.upstreams.send(request, deadline).await;
        let Sent { mut response, upstream } =
            sent.map_err(|Failure { error, upstream }| Refusal::of(&error, upstream))?;
        if response.body().len() > self.max_response_body {
            let limit = self.max_response_body;
            let why = format!("the response body is larger than the limit of {limit} bytes (--out-max-body-size)");
            return Err(Refusal::of(&UpstreamError::Response(why), Some(upstream)));
        }
        let status = response.status();
        if self.by_links && !FINAL.contains(&status.as_u16()) {
            let why = format!("its response has the status {}, and a link carries 200 to 599 only", status.as_u16());
            return Err(Refusal::of(&UpstreamError::Response(why), Some(upstream)));
        }
        fields::strip_hop_by_hop(response.headers_mut());
        fields::settle_response_length(&method, status, response.headers_mut());
        Ok((response, upstream))
    }

    /// A place among the requests at once.
    fn admit(self: &Arc<Self>, has_no_body: bool) -> Result<Slot, Refusal> {
        // Taken before it is looked at: then two cannot both take the last one.
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let slot = Slot { handler: self.clone(), charge: self.memory.account() };
        let refusal = if before >= self.concurrency {
            let reason = format!("as many requests are in flight as may be: {} (--concurrency)", self.concurrency);
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason)
        } else if !self.by_links && self.memory.is_tight() {
            // A link has answered already.
            self.memory.note_shed();
            Refusal::no_memory()
        } else {
            return Ok(slot);
        };
        Err(if has_no_body { refusal } else { refusal.closing() })
    }

    /// The request as it is to be sent: checked, in origin-form, without what concerns one connection only, with its
    /// whole body.
    async fn receive<B>(&self, request: Request<B>, charge: &mut Charge) -> Result<Request<Bytes>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error,
    {
        let (mut parts, body) = request.into_parts();
        // Of one that came by a link the link counts all until it is answered.
        let mut charge = Some(charge).filter(|_| !self.by_links);
        if let Some(charge) = &mut charge {
            charge.set(weight(&parts.headers, 0));
        }
        let has_no_body = body.is_end_stream();
        let closing_if_unread = |refusal: Refusal| if has_no_body { refusal } else { refusal.closing() };
        self.check_method(&parts.method).map_err(closing_if_unread)?;
        if fields::has_unknown_coding(&parts.headers) {
            let reason = "only the transfer coding `chunked` is supported";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, reason).closing());
        }
        fields::settle_target(&mut parts, &self.default_host)
            .map_err(|reason| closing_if_unread(Refusal::new(StatusCode::BAD_REQUEST, reason)))?;
        // Only a link has no place for it.
        let bodiless = fields::is_bodiless(&parts.method) && (self.by_links || self.upstreams.are_links());
        let limit = if bodiless { 0 } else { self.max_request_body };
        let body = if has_no_body { Bytes::new() } else { self.read_body(body, limit, &parts.method, charge).await? };
        fields::strip_hop_by_hop(&mut parts.headers);
        if bodiless {
            parts.headers.remove(header::CONTENT_LENGTH);
        } else if parts.headers.contains_key(header::CONTENT_LENGTH) || !body.is_empty() {
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        // They belong to the connection that the request came on.
        parts.extensions.clear();
        Ok(Request::from_parts(parts, body))
    }

    fn check_method(&self, method: &Method) -> Result<(), Refusal> {
        if *method == Method::CONNECT {
            let reason = "CONNECT is not supported: only whole requests and responses are carried";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, reason));
        }
        if self.get_only && !fields::is_bodiless(method) {
            let reason = format!("{method} is not allowed here: only GET and HEAD are (--in-get-only)");
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason));
        }
        Ok(())
    }

    async fn read_body<B>(
        &self,
        body: B,
        limit: usize,
        method: &Method,
        charge: Option<&mut Charge>,
    ) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Error,
    {
        let result = async { Ok(collect(body, limit, charge).await) }
            .or(async {
                Timer::after(self.body_timeout).await;
                let reason = "the request body did not come in time";
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason).closing())
            })
            .await?;
        result.map_err(|error| {
            let (status, reason) = match error {
                CollectError::NoMemory => return Refusal::no_memory().closing(),
                CollectError::TooLong if limit == 0 && fields::is_bodiless(method) => (
                    StatusCode::BAD_REQUEST,
                    format!("a {method} request with a body cannot be carried: a link has no place for it; send it as a POST"),
                ),
                CollectError::TooLong => (
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the request body is larger than the limit of {limit} bytes (--in-max-body-size)"),
                ),
                CollectError::Broken(why) => {
                    (StatusCode::BAD_REQUEST, format!("the request body is malformed or cut short: {why}"))
                }
            };
            Refusal::new(status, reason).closing()
        })
    }
}

impl Refusal {
    fn new(status: StatusCode, reason: impl fmt::Display) -> Self {
        Self { status, reason: reason.to_string(), upstream: None, closes: false }
    }

    /// What the caller is told when there is no response: why, and which upstream it was that was tried last.
    fn of(error: &UpstreamError, upstream: Option<Arc<Upstream>>) -> Self {
        let reason = match &upstream {
            Some(upstream) => format!("upstream {upstream}: {error}"),
            None => error.to_string(),
        };
        Self { upstream, ..Self::new(error.status(), reason) }
    }

    fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// The answer to what there is no memory for.
    fn no_memory() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, NO_MEMORY)
    }

    fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(format!("httptp: {}\n", self.reason)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// What a message counts for in the budget for memory.
fn weight(fields: &HeaderMap, body: usize) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + Limits::FIELD_BYTES;
    MESSAGE_BYTES + fields.iter().map(field).sum::<usize>() + body
}

/// One of the requests at once, until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    handler: Arc<Handler>,
    /// What its messages take.
    charge: Charge,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.handler.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
