//! One line for each request, and the trace that it belongs to.

use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use tracing::info;

use super::upstream::Upstream;
use crate::driver::PeerAddr;

/// What tells its lines from those of the log.
pub(crate) const TARGET: &str = "access";

/// Which trace a request belongs to (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `VERSION-TRACE-PARENT-FLAGS` in hex; later versions may have more behind that.
const TRACEPARENT_LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// What others call the request by.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// As much of that is logged.
const MAX_ID: usize = 128;

/// Who sent a request, as one of its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Sender(pub(crate) PeerAddr);

/// What is logged of a request, as far as it is known before the answer.
#[derive(Debug)]
pub(crate) struct AccessLine {
    method: Method,
    target: Uri,
    from: Option<PeerAddr>,
    trace: Option<String>,
    id: Option<String>,
    began: Instant,
}

impl AccessLine {
    pub(crate) fn of<B>(request: &Request<B>, began: Instant) -> Self {
        Self {
            method: request.method().clone(),
            target: request.uri().clone(),
            from: request.extensions().get::<Sender>().map(|sender| sender.0.clone()),
            trace: trace_id(request.headers()).map(str::to_owned),
            id: request_id(request.headers()).map(str::to_owned),
            began,
        }
    }

    /// The answer is there. `reason` says why the proxy itself has answered, if it has.
    pub(crate) fn log(self, status: StatusCode, sent: usize, upstream: Option<&Upstream>, reason: Option<&str>) {
        let Self { method, target, from, trace, id, began } = self;
        info!(
            target: TARGET,
            from = from.map(tracing::field::display),
            %method,
            %target,
            status = status.as_u16(),
            bytes = sent,
            ms = began.elapsed().as_micros() as f64 / 1e3,
            upstream = upstream.map(|upstream| tracing::field::display(upstream.addr())),
            trace = trace.map(tracing::field::display),
            id,
            reason,
            "request"
        );
    }
}

/// What others call the request by, if they do.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    // Of one byte a character.
    Some(&id[..id.len().min(MAX_ID)])
}

/// The trace of the request, if its field is what it should be.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let head = value.get(..TRACEPARENT_LENGTH)?;
    let mut parts = head.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), parent.len(), flags.len()];
    let is_well_formed = lengths == [2, 32, 16, 2] && [version, trace, parent, flags].into_iter().all(is_hex);
    (is_well_formed && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

/// Gives a request that belongs to no trace one of its own, not sampled. Whatever field it came with is passed on.
pub(crate) fn make_traceparent(headers: &mut HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    // Neither may be zero.
    let value = format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..));
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_read_and_made() {
        let mut headers = HeaderMap::new();
        assert_eq!(trace_id(&headers), None);
        make_traceparent(&mut headers);
        let made = trace_id(&headers).unwrap().to_owned();
        make_traceparent(&mut headers);
        assert_eq!(trace_id(&headers), Some(made.as_str()), "what is there stays");
        let read = |value: &'static str| {
            let headers = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(value))]);
            trace_id(&headers).map(str::to_owned)
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(read(good).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        for bad in [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "0af7651916cd43dd8448eb211c80319c",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
