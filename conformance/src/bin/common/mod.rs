//! What the shims of this project have in common: from what the suite says to the types of the core, and back.

#![allow(dead_code, reason = "each shim uses its part")]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use httpteleport::proto::{Compression, Config, Limits};
use serde::{Deserialize, Serialize};
pub(crate) use teleport_conformance::literal::{hex, unhex};

/// How a connection is set up.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Setup {
    pub(crate) compression: String,
    pub(crate) tls: serde_json::Value,
    pub(crate) max_batch_delay: u64,
    pub(crate) hello_timeout: u64,
    pub(crate) idle_timeout: Option<u64>,
    pub(crate) drain_timeout: u64,
    pub(crate) limits: SetupLimits,
    pub(crate) next_id: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SetupLimits {
    pub(crate) head: usize,
    pub(crate) fields: usize,
    pub(crate) body: usize,
    pub(crate) message: u64,
    pub(crate) pending: usize,
    pub(crate) abandoned: usize,
    pub(crate) output: usize,
}

/// A request that the program sends.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Something that happened (SHIM.md).
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    Connected {},
    StartTls {},
    Request {
        ticket: u64,
        id: Option<u32>,
        method: String,
        target: String,
        fields: Vec<(String, String)>,
        body: String,
    },
    Oneway {
        method: String,
        target: String,
        fields: Vec<(String, String)>,
        body: String,
    },
    Refused {
        id: u32,
        code: String,
    },
    Response {
        tag: u64,
        status: u16,
        fields: Vec<(String, String)>,
        body: String,
    },
    Failed {
        tag: u64,
        code: String,
        maybe_delivered: bool,
    },
    Unmatched {
        id: u32,
    },
    Closed {
        code: Option<String>,
    },
}

pub(crate) fn config(setup: &Setup) -> Result<Config, String> {
    let compression = match setup.compression.as_str() {
        "none" => Compression::None,
        "deflate" => Compression::Deflate,
        "snappy" => Compression::Snappy,
        "zstd" => Compression::Zstd,
        // What is sent to a peer that does not know zstd.
        "auto" => Compression::Deflate,
        other => return Err(format!("no compression {other:?}")),
    };
    let limits = &setup.limits;
    Ok(Config {
        compression,
        prefer_zstd: setup.compression == "auto",
        level: None,
        max_batch_delay: Duration::from_micros(setup.max_batch_delay),
        // The suite has no setting for it.
        batch_bytes: Config::default().batch_bytes,
        dictionaries: Vec::new(),
        hello_timeout: Duration::from_micros(setup.hello_timeout),
        idle_timeout: setup.idle_timeout.map(Duration::from_micros),
        drain_timeout: Duration::from_micros(setup.drain_timeout),
        limits: Limits {
            head_bytes: limits.head,
            header_count: limits.fields,
            body_bytes: limits.body,
            message_bytes: limits.message,
            pending_requests: limits.pending,
            abandoned_requests: limits.abandoned,
            output_bytes: limits.output,
            // The suite has no setting for it.
            held_bytes: Limits::default().held_bytes,
        },
    })
}

/// A request from what the suite gives; inside, the code of what the core's types already do not take.
pub(crate) fn request(message: &Message) -> Result<Result<Request<Bytes>, String>, String> {
    let body = unhex(&message.body)?;
    let Ok(method) = Method::from_bytes(&latin1(&message.method)?) else { return Ok(Err("method".into())) };
    let target = latin1(&message.target)?;
    let Ok(uri) = Uri::try_from(&target[..]) else {
        let is_connect = method == Method::CONNECT;
        return Ok(Err(if is_connect { "method-connect" } else { "target" }.into()));
    };
    let Some(headers) = headers(&message.fields)? else {
        let is_host = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("host") && !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c))
        };
        return Ok(Err(if message.fields.iter().any(is_host) { "host" } else { "field" }.into()));
    };
    let mut request = Request::new(Bytes::from(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    Ok(Ok(request))
}

pub(crate) fn response(
    status: u64,
    fields: &[(String, String)],
    body: &str,
) -> Result<Result<Response<Bytes>, String>, String> {
    let mut response = Response::new(Bytes::from(unhex(body)?));
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else { return Ok(Err("status".into())) };
    let Some(headers) = headers(fields)? else { return Ok(Err("field".into())) };
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(Ok(response))
}

/// Fields as the core's types have them; `None` if one is not valid there.
pub(crate) fn headers(fields: &[(String, String)]) -> Result<Option<HeaderMap>, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let (name, value) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(&latin1(value)?));
        let (Ok(name), Ok(value)) = (name, value) else { return Ok(None) };
        headers.append(name, value);
    }
    Ok(Some(headers))
}

pub(crate) fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

pub(crate) fn latin1(text: &str) -> Result<Vec<u8>, String> {
    text.chars().map(|c| u8::try_from(c).map_err(|_| format!("{c:?} is no byte"))).collect()
}
