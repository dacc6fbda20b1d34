//! The recordings of the original (conformance/original), as parts of bytes literals: `recorded"NAME client"` and so
//! on, so that bodies of 200 KB need not be copied into scenarios.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::literal::unhex;

/// One recorded connection.
#[derive(Debug)]
pub struct Recording {
    /// All wire bytes of the client, hello included.
    pub client: Vec<u8>,
    /// All wire bytes of the server, hello included.
    pub server: Vec<u8>,
    /// Ids and messages of the client's frames.
    pub requests: Vec<(u32, Vec<u8>)>,
    /// Ids and messages of the server's frames.
    pub responses: Vec<(u32, Vec<u8>)>,
}

impl Recording {
    /// Reads a recording from its file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no recording.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let text = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        let value: Value = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        let list = |key: &str| value[key].as_array().ok_or_else(|| wrong(&format!("no {key}")));
        let hex = |value: &Value| value.as_str().ok_or_else(|| wrong("no hex")).and_then(unhex);
        let frames = |key: &str| {
            let frame = |frame: &Value| {
                let id = frame["id"].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong("no id"))?;
                Ok((id, hex(&frame["hex"])?))
            };
            list(key)?.iter().map(frame).collect::<Result<Vec<_>, String>>()
        };
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for step in list("steps")? {
            let side = if step["from"] == "client" { &mut client } else { &mut server };
            side.extend(hex(&step["hex"])?);
        }
        Ok(Self { client, server, requests: frames("requests")?, responses: frames("responses")? })
    }
}

/// Recordings that have been read: each is needed many times.
static READ: Mutex<BTreeMap<PathBuf, Arc<Recording>>> = Mutex::new(BTreeMap::new());

/// The part of a recording that a literal names: `NAME client`, `NAME server` (each with its hello, or with
/// `frames` behind it what comes after the hello), `NAME request N body` or
/// `NAME response N body`, where N counts from 1 in wire order.
///
/// # Errors
///
/// There is no such part.
pub fn part(suite: &Path, name: &str) -> Result<Vec<u8>, String> {
    let words: Vec<&str> = name.split_whitespace().collect();
    let (Some(file), rest) = (words.first(), words.get(1..).unwrap_or_default()) else {
        return Err("the name of a recording expected".into());
    };
    if !file.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(format!("{file:?} is no name of a recording"));
    }
    let path = suite.join("original/recordings").join(file).with_extension("json");
    let known = READ.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    let recording = match known {
        Some(recording) => recording,
        None => {
            let recording = Arc::new(Recording::read(&path)?);
            READ.lock().unwrap_or_else(PoisonError::into_inner).insert(path, Arc::clone(&recording));
            recording
        }
    };
    let body = |frames: &[(u32, Vec<u8>)], number: &str| {
        let number: usize = number.parse().map_err(|_| format!("{number:?} is no number"))?;
        let (_, message) = frames.get(number.wrapping_sub(1)).ok_or_else(|| format!("no frame {number}"))?;
        let end = message.windows(4).position(|w| w == b"\r\n\r\n").ok_or("the message has no head")?;
        Ok(message[end + 4..].to_vec())
    };
    match rest {
        ["client"] => Ok(recording.client.clone()),
        ["server"] => Ok(recording.server.clone()),
        ["client", "frames"] => Ok(recording.client.get(15..).unwrap_or_default().to_vec()),
        ["server", "frames"] => Ok(recording.server.get(15..).unwrap_or_default().to_vec()),
        ["request", number, "body"] => body(&recording.requests, number),
        ["response", number, "body"] => body(&recording.responses, number),
        _ => Err(format!("a recording has no part {:?}", rest.join(" "))),
    }
}
