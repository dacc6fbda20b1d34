//! Active health checks: a GET now and then, by the way that requests go.
//!
//! What counts as good is any status of 200 to 399 in time. Through a link the request goes to the far proxy's origin, so
//! that it is the whole way that is checked; a far proxy whose origin is gone answers 502, which is bad.

use std::sync::Weak;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri};
use tracing::{debug, info, warn};

use super::balance::MemberId;
use super::{HealthCheck, Upstream, Upstreams};
use crate::proxy::reactor::Timer;

/// Checks as long as the upstream is there.
pub(super) async fn run(upstreams: Weak<Upstreams>, id: MemberId, upstream: Weak<Upstream>, check: HealthCheck) {
    let mut verdict = Verdict::new(check.rise, check.fall);
    loop {
        // Not all at once.
        Timer::after(check.interval.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let result = ask(&upstream, &check).await;
        let Some(upstreams) = upstreams.upgrade() else { return };
        if let Err(why) = &result {
            debug!("upstream {upstream}: health check: {why}");
        }
        let Some(healthy) = verdict.note(result.is_ok()) else { continue };
        if upstreams.set_healthy(id, healthy) {
            match result {
                Ok(()) => info!("upstream {upstream}: healthy again"),
                Err(why) => warn!("upstream {upstream}: unhealthy, gets no requests: {why}"),
            }
        }
    }
}

async fn ask(upstream: &Upstream, check: &HealthCheck) -> Result<(), String> {
    let uri: Uri = check.path.parse().map_err(|error| format!("{error}"))?;
    let mut request = Request::get(uri).body(Bytes::new()).map_err(|error| error.to_string())?;
    let host = HeaderValue::from_str(upstream.name()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("httptp-health-check"));
    let deadline = Instant::now() + check.interval.max(Duration::from_millis(100));
    let response = upstream.ask(Box::new(request), deadline).await.map_err(|error| error.to_string())?;
    let status = response.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("it answers {}", status.as_u16())) }
}

/// How many answers in a row were good or bad.
#[derive(Debug)]
struct Verdict {
    rise: u32,
    fall: u32,
    last: bool,
    in_row: u32,
}

impl Verdict {
    fn new(rise: u32, fall: u32) -> Self {
        Self { rise, fall, last: true, in_row: 0 }
    }

    /// Takes an answer in. What it says of the upstream, if it is enough to say anything.
    fn note(&mut self, good: bool) -> Option<bool> {
        self.in_row = if good == self.last { self.in_row.saturating_add(1) } else { 1 };
        self.last = good;
        (self.in_row >= if good { self.rise } else { self.fall }).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_some_in_a_row() {
        let mut verdict = Verdict::new(2, 3);
        let notes: Vec<_> = [false, false, true, false, false, false, false, true, true]
            .into_iter()
            .map(|good| verdict.note(good))
            .collect();
        let (up, down) = (Some(true), Some(false));
        assert_eq!(notes, [None, None, None, None, None, down, down, None, up]);
    }
}
