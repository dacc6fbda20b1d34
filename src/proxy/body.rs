//! Bodies: collecting one up to a limit, and the body of a response as hyper's server is to write it.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper::ext::ReasonPhrase;

use crate::driver::Charge;

/// Why a body could not be collected.
#[derive(Debug)]
pub(crate) enum CollectError {
    /// It is longer than the limit.
    TooLong,
    /// There is no memory for it.
    NoMemory,
    /// It ended early or is malformed.
    Broken(String),
}

/// The whole body, if it is no longer than `limit`, charged as it comes if somebody is to be charged. A body that announces more is not read at all.
/// Trailers are dropped.
pub(crate) async fn collect<B>(
    mut body: B,
    limit: usize,
    mut charge: Option<&mut Charge>,
) -> Result<Bytes, CollectError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(CollectError::TooLong);
    }
    // Most bodies are one frame: it is passed on as it is. A second one starts the copying.
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CollectError::Broken(causes(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + joined.len() + data.len() > limit {
            return Err(CollectError::TooLong);
        }
        if let Some(charge) = &mut charge {
            if charge.budget().is_full() {
                charge.budget().note_shed();
                return Err(CollectError::NoMemory);
            }
            charge.grow(data.len());
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            let rest = usize::try_from(body.size_hint().lower()).unwrap_or(0);
            joined.reserve(first.len() + data.len() + rest.min(limit));
            joined.extend_from_slice(&first);
            first.clear();
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// An error and its causes, in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// How much of a reply is given to hyper at once. What it has it copies, and nobody would know how far the caller is.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of a response to an HTTP caller.
#[derive(Debug)]
pub(crate) struct Reply<H> {
    data: Bytes,
    /// What is dropped when it has left: its place among the requests at once.
    _held: Option<H>,
    /// There is no body, yet a `Content-Length` to send: hyper drops the field of a 304 whose body says that it is
    /// over before it began, so such a body keeps its length to itself.
    announced: bool,
}

impl<H> Reply<H> {
    pub(crate) fn to_http(mut response: Response<Bytes>, held: H) -> Response<Self> {
        if response.status().canonical_reason().is_none() {
            // Lest hyper makes one up.
            response.extensions_mut().insert(ReasonPhrase::from_static(b""));
        }
        let announced =
            response.status() == StatusCode::NOT_MODIFIED && response.headers().contains_key(header::CONTENT_LENGTH);
        response.map(|body| Self { data: if announced { Bytes::new() } else { body }, _held: Some(held), announced })
    }

    /// The same over HTTP/2, where hyper takes bodies long before they leave: `held` is dropped when nobody has any of it.
    /// To HEAD it only tells how long the body would be.
    pub(crate) fn to_http2(response: Response<Bytes>, held: H, is_head: bool) -> Response<Self>
    where
        H: Send + 'static,
    {
        let (mut parts, mut data) = response.into_parts();
        if is_head && !data.is_empty() {
            parts.headers.insert(header::CONTENT_LENGTH, data.len().into());
            data.clear();
        }
        if data.is_empty() {
            return Self::to_http(Response::from_parts(parts, data), held);
        }
        let data = Bytes::from_owner(Leaving { data, _held: held });
        Response::from_parts(parts, Self { data, _held: None, announced: false })
    }
}

/// The bytes of a body, and what is dropped when the last one of them has left.
struct Leaving<H> {
    data: Bytes,
    _held: H,
}

impl<H> AsRef<[u8]> for Leaving<H> {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<H: Unpin> Body for Reply<H> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let n = self.data.len().min(PIECE_BYTES);
        Poll::Ready((n > 0).then(|| Ok(Frame::data(self.data.split_to(n)))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.announced
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.data.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn what_is_held_over_http_2_is_held_until_the_last_byte_has_left() {
        let held = std::sync::Arc::new(());
        let response = Response::new(Bytes::from(vec![b'x'; PIECE_BYTES + 1]));
        let mut reply = Reply::to_http2(response, held.clone(), false).into_body();
        let mut pieces: Vec<_> =
            std::iter::from_fn(|| smol::block_on(reply.frame()).map(|frame| frame.unwrap().into_data().unwrap()))
                .collect();
        drop(reply);
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE_BYTES, 1]);
        pieces.remove(0);
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        drop(pieces);
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[test]
    fn head_over_http_2_is_told_a_length_and_no_body() {
        let reply = Reply::to_http2(Response::new(Bytes::from_static(b"12345")), (), true);
        assert_eq!(reply.headers()[header::CONTENT_LENGTH], "5");
        assert!(reply.body().is_end_stream());
    }

    #[test]
    fn collects_up_to_the_limit() {
        let collect = |limit| smol::block_on(collect(Full::new(Bytes::from_static(b"12345")), limit, None));
        assert_eq!(collect(5).unwrap(), "12345");
        assert!(matches!(collect(4), Err(CollectError::TooLong)));
    }
}
