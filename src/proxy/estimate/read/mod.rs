//! Reading traffic from a file: a recording of `--record`, a HAR of a browser, or one JSON body a line.

mod har;
mod lines;
mod time;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use super::super::fields;

/// Most bytes that are read of a file; what comes after them is left out.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// A request and its answer, and when.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// Since the first one.
    pub(super) at: Duration,
    pub(super) took: Duration,
    pub(super) request: Request<Bytes>,
    pub(super) response: Response<Bytes>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// In the order of their times.
    pub(super) exchanges: Vec<Exchange>,
    /// What was seen while reading that makes the estimate less like the traffic, in words.
    pub(super) notes: Vec<String>,
}

/// Why a file could not be read. Lines count from 1.
#[derive(Debug)]
#[non_exhaustive]
pub(super) enum ReadError {
    /// The file itself.
    Io(io::Error),
    /// It is no JSON there.
    Json { line: usize, why: String },
    /// A value is missing or of another kind.
    Value { line: usize, name: &'static str, wanted: &'static str },
    /// A message is none that HTTP has.
    Message { line: usize, why: String },
    /// An entry of a HAR, by its number from 1, is none.
    Entry { entry: usize, why: String },
    /// Nothing is in it.
    Empty,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Json { line, why } => write!(f, "line {line}: no JSON: {why}"),
            Self::Value { line, name, wanted } => write!(f, "line {line}: {name} has to be {wanted}"),
            Self::Message { line, why } => write!(f, "line {line}: {why}"),
            Self::Entry { entry, why } => write!(f, "entry {entry} of log.entries: {why}"),
            Self::Empty => f.write_str(
                "there is no request in it: give a recording of --record, a HAR file, or a file with one JSON body a line",
            ),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads `path`. Bodies without times come `rate` times a second.
pub(super) fn read(path: &Path, rate: f64) -> Result<Traffic, ReadError> {
    let file = File::open(path)?;
    let is_cut = file.metadata()?.len() > MAX_FILE_BYTES;
    let mut traffic = read_from(BufReader::new(file.take(MAX_FILE_BYTES)), rate, is_cut)?;
    if is_cut {
        traffic.notes.push(format!("the file is long: only its first {MAX_FILE_BYTES} bytes were read"));
    }
    Ok(traffic)
}

fn read_from(mut input: impl BufRead, rate: f64, is_cut: bool) -> Result<Traffic, ReadError> {
    let first = loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Err(ReadError::Empty);
        }
        // A HAR is one object, over any number of lines: its beginning alone is no JSON, or has `log` in it.
        if !line.trim_ascii().is_empty() {
            break line;
        }
    };
    let whole = serde_json::from_slice::<serde_json::Value>(&first);
    let is_har = match &whole {
        Ok(value) => value.get("log").is_some_and(|log| log.get("entries").is_some()),
        Err(error) => error.is_eof(),
    };
    let mut traffic = match is_har {
        true => {
            let mut text = first;
            input.read_to_end(&mut text)?;
            har::read(&text)?
        }
        false => lines::read(io::Cursor::new(first).chain(input), rate, is_cut)?,
    };
    if traffic.exchanges.is_empty() {
        return Err(ReadError::Empty);
    }
    traffic.exchanges.sort_by_key(|exchange| exchange.at);
    let first = traffic.exchanges[0].at;
    traffic.exchanges.iter_mut().for_each(|exchange| exchange.at -= first);
    Ok(traffic)
}

/// A request as it goes into a link, or why it could not.
fn request(method: &str, target: &str, headers: HeaderMap, body: Bytes) -> Result<Request<Bytes>, String> {
    let method: Method = method.parse().map_err(|_| format!("{method:?} is no method"))?;
    let mut request =
        Request::builder().method(method).uri(target).body(body).map_err(|_| format!("{target:?} is no target"))?;
    *request.headers_mut() = headers;
    let (mut parts, body) = request.into_parts();
    fields::settle_target(&mut parts, &HeaderValue::from_static("localhost")).map_err(str::to_owned)?;
    fields::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    if fields::is_bodiless(&parts.method) && !body.is_empty() {
        return Err(format!("a {} request with a body cannot be carried", parts.method));
    }
    Ok(Request::from_parts(parts, body))
}

fn response(status: u64, headers: HeaderMap, body: Bytes, asked: &Method) -> Result<Response<Bytes>, String> {
    let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    let status =
        status.and_then(|status| StatusCode::from_u16(status).ok()).ok_or("the status is not from 200 to 599")?;
    let has_no_body = *asked == Method::HEAD || matches!(status.as_u16(), 204 | 304);
    let mut response = Response::new(if has_no_body { Bytes::new() } else { body });
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    fields::strip_hop_by_hop(response.headers_mut());
    fields::settle_response_length(asked, status, response.headers_mut());
    Ok(response)
}

/// Fields by name and value. What HTTP/2 has in place of a start line is left out.
fn headers<'v>(fields: impl Iterator<Item = Option<(&'v str, &'v str)>>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let (name, value) = field.ok_or("a field is a name and a value")?;
        if name.starts_with(':') {
            continue;
        }
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no field name"))?;
        let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        let bytes = bytes.unwrap_or_else(|| value.as_bytes().to_vec());
        let value = HeaderValue::from_bytes(&bytes).map_err(|_| format!("{name}: {value:?} is no field value"))?;
        headers.append(known, value);
    }
    Ok(headers)
}

fn base64(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("a body is no base64: {error}"))
}

/// How many different requests there are, by method and target without its query.
pub(super) fn kinds(traffic: &Traffic) -> usize {
    let kind = |exchange: &Exchange| (exchange.request.method().clone(), exchange.request.uri().path().to_owned());
    traffic.exchanges.iter().map(kind).collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests;
