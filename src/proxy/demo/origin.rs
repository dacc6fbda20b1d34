//! The origin of the demo: an HTTP server that bids on every request.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use smol::Executor;

use super::super::hyper_io::HyperIo;
use super::bids;
use crate::proxy::stream::{Socket, TcpListener};

const PAGE: &str = r#"{"from":"the origin of httptp demo","via":"near proxy, link, far proxy","try":"POST a bid request, such as {\"id\":\"1\"}"}
"#;

/// Starts the origin on a port of its own, until the process ends.
pub(super) async fn start(executor: &Arc<Executor<'static>>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    let spawner = executor.clone();
    executor
        .spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawner.spawn(serve(stream)).detach();
            }
        })
        .detach();
    Ok(addr)
}

async fn serve(stream: Socket) {
    // The far proxy sees and reports what goes wrong here.
    let _ = Builder::new().serve_connection(HyperIo::new(stream), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match *request.method() {
        Method::GET | Method::HEAD => (StatusCode::OK, PAGE.to_owned()),
        Method::POST => match request.into_body().collect().await {
            Ok(body) => match bids::response(&body.to_bytes()) {
                Some(bid) => (StatusCode::OK, bid),
                None => {
                    (StatusCode::BAD_REQUEST, "{\"error\":\"a bid request starts with {\\\"id\\\":\\\"\"}\n".to_owned())
                }
            },
            Err(_) => (StatusCode::BAD_REQUEST, "{\"error\":\"the body broke off\"}\n".to_owned()),
        },
        _ => (StatusCode::METHOD_NOT_ALLOWED, "{\"error\":\"GET or POST\"}\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
