//! JSON lines: what `--record` writes, or bodies of POST requests.

use std::io::BufRead;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response};
use serde_json::Value;

use super::{Exchange, ReadError, Traffic, base64, headers, request, response};

/// What each line of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    Recording,
    Bodies,
}

/// If the file `is_cut`, its last line is, too.
pub(super) fn read(mut input: impl BufRead, rate: f64, is_cut: bool) -> Result<Traffic, ReadError> {
    let mut traffic = Traffic::default();
    let mut kind = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 || (is_cut && !line.ends_with(b"\n")) {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            // Within one line the line is no news.
            let why = error.to_string();
            let why = why.split(" at line ").next().unwrap_or(&why);
            ReadError::Json { line: number, why: format!("{why} (column {})", error.column()) }
        })?;
        let is_exchange = value.get("at_us").is_some() && value.get("request").is_some();
        let kind = *kind.get_or_insert(if is_exchange { Lines::Recording } else { Lines::Bodies });
        traffic.exchanges.push(match kind {
            Lines::Recording => recorded(&value, number)?,
            Lines::Bodies => posted(text, traffic.exchanges.len(), rate),
        });
    }
    if kind == Some(Lines::Bodies) {
        traffic.notes.push(format!(
            "the lines are taken for bodies of POST requests, {rate} a second (--rate), with empty answers after 1 ms"
        ));
    }
    Ok(traffic)
}

/// A line of a recording.
fn recorded(value: &Value, line: usize) -> Result<Exchange, ReadError> {
    let number = |value: &Value, name: &'static str| {
        value[name].as_u64().ok_or(ReadError::Value { line, name, wanted: "a whole number" })
    };
    let text = |value: &'_ Value, name: &'static str| {
        value[name].as_str().map(str::to_owned).ok_or(ReadError::Value { line, name, wanted: "text" })
    };
    let wrong = |why: String| ReadError::Message { line, why };
    let (asked, answered) = (&value["request"], &value["response"]);
    let at = Duration::from_micros(number(value, "at_us")?);
    let took = Duration::from_micros(number(value, "took_us")?);
    let (method, target) = (text(asked, "method")?, text(asked, "target")?);
    let request = request(&method, &target, fields(asked, line)?, body(asked, line)?).map_err(wrong)?;
    let status = number(answered, "status")?;
    let response = response(status, fields(answered, line)?, body(answered, line)?, request.method()).map_err(wrong)?;
    Ok(Exchange { at, took, request, response })
}

fn fields(message: &Value, line: usize) -> Result<HeaderMap, ReadError> {
    let wanted = "a list of pairs of texts";
    let list = message["fields"].as_array().ok_or(ReadError::Value { line, name: "fields", wanted })?;
    let pairs = list.iter().map(|pair| match pair.as_array().map(Vec::as_slice) {
        Some([name, value]) => Some((name.as_str()?, value.as_str()?)),
        _ => None,
    });
    headers(pairs).map_err(|why| ReadError::Message { line, why })
}

fn body(message: &Value, line: usize) -> Result<Bytes, ReadError> {
    match (message["text"].as_str(), message["base64"].as_str()) {
        (Some(text), _) => Ok(text.to_owned().into()),
        (None, Some(text)) => base64(text).map_err(|why| ReadError::Message { line, why }),
        (None, None) => Err(ReadError::Value { line, name: "the body", wanted: "in text or in base64" }),
    }
}

/// A line that is a body.
fn posted(body: &[u8], n: usize, rate: f64) -> Exchange {
    let mut request = Request::post("/").body(Bytes::copy_from_slice(body)).unwrap_or_default();
    request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let at = Duration::from_secs_f64(n as f64 / rate);
    Exchange { at, took: Duration::from_millis(1), request, response: Response::new(Bytes::new()) }
}
