//! HAR files, as the developer tools of browsers write them.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, HeaderMap};
use serde_json::Value;

use super::time::micros_since_1970;
use super::{Exchange, ReadError, Traffic, base64, headers, request, response};

pub(super) fn read(text: &[u8]) -> Result<Traffic, ReadError> {
    let har: Value = serde_json::from_slice(text).map_err(|error| ReadError::Json {
        line: error.line(),
        why: format!("{error} (a file that begins with an object of several lines is taken for a HAR)"),
    })?;
    let entries = har["log"]["entries"].as_array();
    let entries = entries.ok_or(ReadError::Value { line: 1, name: "log.entries", wanted: "a list, as in a HAR" })?;
    let mut traffic = Traffic::default();
    let (mut unanswered, mut missing, mut coded) = (0, 0, 0);
    for (n, entry) in entries.iter().enumerate() {
        // What was blocked, aborted, or came from a cache has no status.
        if entry["response"]["status"].as_u64().unwrap_or(0) < 200 {
            unanswered += 1;
            continue;
        }
        let read = exchange(entry).map_err(|why| ReadError::Entry { entry: n + 1, why })?;
        missing += usize::from(read.is_missing);
        coded += usize::from(read.is_coded);
        traffic.exchanges.push(read.exchange);
    }
    for (count, what) in [
        (unanswered, "entries have no answer and were left out"),
        (missing, "bodies of answers are not in the file and are taken for empty"),
        (coded, "bodies of answers had been compressed and are compressed again here, by gzip of level 6"),
    ] {
        if count > 0 {
            traffic.notes.push(format!("{count} {what}"));
        }
    }
    Ok(traffic)
}

struct Read {
    exchange: Exchange,
    /// The answer had a body that the file does not hold.
    is_missing: bool,
    /// The answer came compressed, which a HAR does not show.
    is_coded: bool,
}

fn exchange(entry: &Value) -> Result<Read, String> {
    let (asked, answered) = (&entry["request"], &entry["response"]);
    let text =
        |value: &'_ Value, name: &str| value[name].as_str().map(str::to_owned).ok_or(format!("{name} has to be text"));
    let at = micros_since_1970(&text(entry, "startedDateTime")?).ok_or("startedDateTime is no date of ISO 8601")?;
    let took = entry["time"].as_f64().filter(|ms| (0.0..1e9).contains(ms)).unwrap_or(0.0);
    let posted = &asked["postData"];
    let body = match (posted["text"].as_str(), posted["encoding"].as_str()) {
        (Some(text), Some("base64")) => base64(text)?,
        (Some(text), _) => text.to_owned().into(),
        (None, _) => Bytes::new(),
    };
    let url = text(asked, "url")?;
    let url = url.split('#').next().unwrap_or_default();
    let request = request(&text(asked, "method")?, url, fields(asked)?, body)?;
    let content = &answered["content"];
    let body = match (content["text"].as_str(), content["encoding"].as_str()) {
        (Some(text), Some("base64")) => base64(text)?,
        (Some(text), _) => text.to_owned().into(),
        (None, _) => Bytes::new(),
    };
    let is_missing = content["text"].is_null() && content["size"].as_i64().unwrap_or(0) > 0;
    let mut fields = fields(answered)?;
    let is_coded = fields.contains_key(CONTENT_ENCODING) && !body.is_empty();
    let body = if is_coded {
        fields.insert(CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        gzip(&body)
    } else {
        body
    };
    let status = answered["status"].as_u64().unwrap_or(0);
    let response = response(status, fields, body, request.method())?;
    let took = Duration::from_secs_f64(took / 1e3);
    Ok(Read { exchange: Exchange { at: Duration::from_micros(at), took, request, response }, is_missing, is_coded })
}

fn fields(message: &Value) -> Result<HeaderMap, String> {
    let list = message["headers"].as_array().ok_or("headers has to be a list")?;
    headers(list.iter().map(|field| Some((field["name"].as_str()?, field["value"].as_str()?))))
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    // Into memory nothing fails.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default().into()
}
