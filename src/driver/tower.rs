//! [tower](https://docs.rs/tower)'s `Service`: the client is one, and a server takes one for its handler.
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use httpteleport::driver::smol::{Client, Server};
//! use httpteleport::driver::{ClientOptions, ServerOptions, tower};
//! use ::tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let executor = Arc::new(smol::Executor::new());
//! smol::block_on(executor.run(async {
//!     let listener = smol::net::TcpListener::bind("127.0.0.1:0").await?;
//!     let addr = listener.local_addr()?;
//!     let hello = service_fn(|request: Request<Bytes>| async move {
//!         Ok::<_, Infallible>(Response::new(Bytes::from(format!("hello, {}", request.uri().path()))))
//!     });
//!     let server = Server::new(executor.clone(), ServerOptions::default());
//!     executor.spawn(async move { server.serve(listener, tower::handler(hello)).await }).detach();
//!
//!     let client = Client::new(executor.clone(), addr, ClientOptions::default());
//!     let client = ServiceBuilder::new().concurrency_limit(100).service(client);
//!     let request = Request::get("http://example.com/world").body(Bytes::new())?;
//!     let response = client.oneshot(request).await?;
//!     assert_eq!(response.body(), "hello, /world");
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! }))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower_service::Service;

use super::error::ClientError;
use super::server::{Peer, text};
use super::smol::Client;

/// Always ready: what is too much fails by [`Overflow`](super::Overflow). Requests have the timeout of the client's
/// options.
impl Service<Request<Bytes>> for Client {
    type Response = Response<Bytes>;
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, ClientError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { client.request(request, None).await })
    }
}

/// A handler for a server that gives each request to a clone of `service`, with the [`Peer`] in its extensions. An error
/// is answered with 500 and its text.
pub fn handler<S>(service: S) -> impl Fn(Request<Bytes>, Peer) -> ServiceFuture + Send + Sync + 'static
where
    S: Service<Request<Bytes>, Response = Response<Bytes>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Display + Send,
{
    move |mut request, peer| {
        request.extensions_mut().insert(peer);
        let mut service = service.clone();
        Box::pin(async move {
            let failed = |error: S::Error| text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n"));
            if let Err(error) = poll_fn(|context| service.poll_ready(context)).await {
                return failed(error);
            }
            service.call(request).await.unwrap_or_else(failed)
        })
    }
}

/// What a [`handler`] returns.
pub type ServiceFuture = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;
