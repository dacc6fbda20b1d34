//! Scenario files as programs write them.

use crate::http1::{Field, Message};
use crate::literal::{hex, quote_all};

/// Method and target of a request.
///
/// # Errors
///
/// It has no target.
pub fn method_and_target(message: &Message) -> Result<(&[u8], &[u8]), String> {
    let mut parts = message.start.split(|b| *b == b' ');
    Ok((parts.next().unwrap_or_default(), parts.next().ok_or("no target")?))
}

/// Fields as the literals of scenario files have them.
pub fn fields<'f>(fields: impl Iterator<Item = &'f Field>) -> Vec<u8> {
    fields.flat_map(|(name, value)| [name.as_bytes(), b": ", value, b"\r\n"].concat()).collect()
}

/// A step, on several lines if it is long.
pub fn line(text: &mut String, words: &str, parts: &[String]) {
    text.push_str(words);
    let is_long = words.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>() > 118;
    for part in parts {
        text.push_str(if is_long { "\n  " } else { " " });
        text.push_str(part);
    }
    text.push('\n');
}

/// A bytes literal: text where it is one, with long runs told by their number.
pub fn literal(bytes: &[u8]) -> String {
    let printable = bytes.iter().filter(|b| matches!(b, b'\r' | b'\n' | 0x20..=0x7e)).count();
    if bytes.len() > 15 && printable * 10 < bytes.len() * 8 {
        let lines: Vec<_> = bytes.chunks(50).map(|chunk| format!("x\"{}\"", hex(chunk))).collect();
        return lines.join("\n  ");
    }
    let mut parts: Vec<String> = Vec::new();
    let (mut at, mut from) = (0, 0);
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|b| **b == bytes[at]).count();
        if run >= 64 {
            parts.extend((from < at).then(|| quote_all(&bytes[from..at])));
            parts.push(format!("{run} * {}", quote_all(&bytes[at..at + 1])));
            from = at + run;
        }
        at += run;
    }
    if from < at || parts.is_empty() {
        parts.push(quote_all(&bytes[from..]));
    }
    parts.join(" ")
}
