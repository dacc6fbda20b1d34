//! HTTP to the authority: a connection for each of its few requests.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_rustls::TlsConnector;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use smol::future::FutureExt;

use crate::proxy::body::{CollectError, collect};
use crate::proxy::hyper_io::HyperIo;
use crate::proxy::reactor::Timer;
use crate::proxy::stream::Socket;

/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer: a chain of certificates is some kilobytes.
const MAX_BODY: usize = 1024 * 1024;

/// The way to the authority.
pub(super) struct AcmeHttp(pub(super) Arc<ClientConfig>);

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.0.clone();
        let limit = async {
            Timer::after(TIMEOUT).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the authority did not answer in time").into())
        };
        let exchange = async move { exchange(tls, request).await }.or(limit);
        Box::pin(async move { exchange.await.map(BytesResponse::from).map_err(Error::Other) })
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    tls: Arc<ClientConfig>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, AnyError> {
    let (mut parts, body) = request.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.map_err(|_| "the request has no body")?.to_bytes();
    let uri = std::mem::take(&mut parts.uri);
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or("a URL that is not https")?;
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(443));
    parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    parts.uri = Uri::from(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));

    let socket = Socket::connect_to((host, port)).await?;
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(host.to_owned())?, socket).await?;
    let (mut sender, connection) = http1::handshake(HyperIo::new(stream)).await?;
    let answer = async {
        let (parts, body) = sender.send_request(Request::from_parts(parts, Full::new(body))).await?.into_parts();
        let body = collect(body, MAX_BODY, None).await.map_err(|error| match error {
            CollectError::TooLong => "the answer is too long".to_owned(),
            CollectError::NoMemory => "there is no memory for it".to_owned(),
            CollectError::Broken(why) => why,
        })?;
        Ok(Response::from_parts(parts, Full::new(body)))
    };
    // What moves the bytes; its errors reach the exchange.
    let carry = async {
        let _ = connection.await;
        pending().await
    };
    answer.or(carry).await
}
