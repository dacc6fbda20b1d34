//! Responses that wait for their link, and those that the driver gives itself.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::proto::{Limits, ResponseRejected, ResponseToken, SendError, ServerConnection};

/// Responses for which a connection has no room yet, in order.
#[derive(Default)]
pub(super) struct Waiting {
    responses: VecDeque<WaitingResponse>,
    /// Their weights.
    bytes: usize,
}

struct WaitingResponse {
    token: ResponseToken,
    response: Response<Bytes>,
    weight: usize,
}

impl Waiting {
    /// Takes a response; if more than `limit` bytes wait already, a short one takes its place.
    pub(super) fn push(&mut self, limit: usize, token: ResponseToken, mut response: Response<Bytes>) {
        let mut weight = weight(response.headers(), response.body());
        if !self.responses.is_empty() && self.bytes.saturating_add(weight) > limit {
            (response, weight) = (too_slow(), 0);
        }
        self.bytes += weight;
        self.responses.push_back(WaitingResponse { token, response, weight });
    }

    /// Hands responses to the connection while it has room (R-limit-output).
    pub(super) fn send(&mut self, now: Instant, connection: &mut ServerConnection) {
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
