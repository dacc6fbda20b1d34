//! Responses that wait for their link, and those that the driver gives itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::proto::{Limits, ResponseRejected, ResponseToken, SendError, ServerConnection};

/// How long a link may take nothing before its peer counts as one that does not read. Handlers that block an executor
/// can keep a link from writing for longer than one would think.
const PATIENCE: Duration = Duration::from_secs(3);

/// Responses for which a connection has no room yet, in order.
#[derive(Default)]
pub(super) struct Waiting {
    responses: VecDeque<WaitingResponse>,
    /// Their weights.
    bytes: usize,
    /// How many bytes the link had taken when it last took some, and when that was.
    taken: u64,
    taken_at: Option<Instant>,
}

struct WaitingResponse {
    token: ResponseToken,
    response: Response<Bytes>,
    weight: usize,
}

impl Waiting {
    /// Whether so many bytes wait that no more should come to be.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        !self.responses.is_empty() && self.bytes >= limit
    }

    /// The weight of what waits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands a response to the connection, or keeps it until that has room and it is its turn.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        connection: &mut ServerConnection,
        limit: usize,
        token: ResponseToken,
        response: Response<Bytes>,
    ) {
        self.send(now, connection);
        if !self.responses.is_empty() {
            return self.push(now, limit, token, response);
        }
        match connection.send_response(now, token, &response) {
            Err(ResponseRejected { token, error: SendError::OutputFull(_) }) => self.push(now, limit, token, response),
            Err(rejected) => send_reason(now, connection, rejected),
            Ok(()) => {}
        }
    }

    /// Keeps a response. If more than `limit` bytes would wait, for a peer that does not read, a short one takes its
    /// place. Who reads gets all that was in handlers when the limit was reached.
    fn push(&mut self, now: Instant, limit: usize, token: ResponseToken, mut response: Response<Bytes>) {
        let mut weight = weight(response.headers(), response.body());
        let is_read = self.taken_at.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE);
        if !self.responses.is_empty() && self.bytes.saturating_add(weight) > limit && !is_read {
            (response, weight) = (too_slow(), 0);
        }
        self.bytes += weight;
        self.responses.push_back(WaitingResponse { token, response, weight });
    }

    /// Hands responses to the connection while it has room (R-limit-output).
    pub(super) fn send(&mut self, now: Instant, connection: &mut ServerConnection) {
        let taken = connection.stats().plain_out;
        if taken != self.taken || self.responses.is_empty() {
            (self.taken, self.taken_at) = (taken, Some(now));
        }
        while let Some(WaitingResponse { token, response, weight }) = self.responses.pop_front() {
            match connection.send_response(now, token, &response) {
                Err(ResponseRejected { token, error: SendError::OutputFull(_) }) => {
                    self.responses.push_front(WaitingResponse { token, response, weight });
                    return;
                }
                Err(rejected) => send_reason(now, connection, rejected),
                Ok(()) => {}
            }
            self.bytes -= weight;
        }
    }
}

/// Answers in place of a response that cannot be sent.
fn send_reason(now: Instant, connection: &mut ServerConnection, rejected: ResponseRejected) {
    let reason = format!("the response cannot be sent: {}\n", rejected.error);
    let instead = text(StatusCode::BAD_GATEWAY, &reason);
    if let Err(rejected) = connection.send_response(now, rejected.token, &instead) {
        connection.discard(rejected.token);
    }
}

/// What a message counts for in limits of bytes, as in [`Limits::held_bytes`].
pub(super) fn weight(fields: &HeaderMap, body: &Bytes) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + Limits::FIELD_BYTES;
    fields.iter().map(field).sum::<usize>() + body.len()
}

pub(super) fn overloaded(concurrency: usize) -> Response<Bytes> {
    text(StatusCode::TOO_MANY_REQUESTS, &format!("{concurrency} requests are being handled, which is the limit\n"))
}

/// The answer to a request that comes when there is no memory for it.
pub(super) fn no_memory() -> Response<Bytes> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "the memory for messages is short; try again later\n");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn too_slow() -> Response<Bytes> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many bytes of responses wait for this link, which is too slow for them\n",
    )
}

pub(in super::super) fn text(status: StatusCode, body: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(body.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
