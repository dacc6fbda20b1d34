//! How a connection over HTTP ends so that its caller gets what was said last.

use std::time::Duration;

use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::reactor::Timer;
use super::request_head::NO_MEMORY;
use super::stream::Socket;

/// How long a closed connection is read on, so that the last answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How long one that is turned away has to ask for something.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends a connection so that the peer gets what was sent last: closing a socket with unread input resets it, and a reset
/// can overtake the answer (RFC 9112, section 9.6).
pub(crate) async fn linger<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let read_on = async {
        // Not in the future itself, whose size every connection pays for.
        let mut sink = vec![0; 4096];
        if stream.close().await.is_ok() {
            while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
        }
    };
    read_on
        .or(async {
            Timer::after(LINGER).await;
        })
        .await;
}

/// Answers whoever asks first on a connection that there is no memory for: with next to none, so nothing is read of what it
/// asks.
pub(crate) async fn turn_away(mut socket: Socket) {
    let answer = async {
        // Before the request, an answer would be taken for none.
        let mut first = [0];
        matches!(socket.read(&mut first).await, Ok(1)) && socket.write_all(no_memory().as_bytes()).await.is_ok()
    };
    let is_answered = answer
        .or(async {
            Timer::after(ASK_TIMEOUT).await;
            false
        })
        .await;
    if is_answered {
        linger(socket).await;
    }
}

fn no_memory() -> String {
    let body = format!("httptp: {NO_MEMORY}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{body}"
    )
}
