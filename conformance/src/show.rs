//! What was sent and what happened, in the words of scenario files.

use crate::http1::Field;
use crate::literal::quote;
use crate::shim::Event;
use crate::step::{Content, EventPattern};
use crate::wire::Sent;

/// The layer to which a code belongs.
pub fn layer_of(code: Option<&str>) -> &'static str {
    match code {
        None | Some("closed" | "drain-timeout" | "closing" | "transport") => "closing",
        Some("truncated") => "frame",
        Some("hello-timeout" | "idle-timeout" | "abandoned-limit" | "timeout") => "timer",
        Some("zstd-refused") => "hello",
        Some(code) if code.starts_with("hello-") => "hello",
        Some(code) if code.starts_with("tls-") => "tls",
        Some(code) if ["deflate-", "snappy-", "zstd-"].iter().any(|codec| code.starts_with(codec)) => "decompression",
        Some(_) => "message",
    }
}

pub(crate) fn layer_of_event(event: &Event) -> &'static str {
    match event {
        Event::Connected {} => "hello",
        Event::StartTls {} => "tls",
        Event::Closed { code } => layer_of(code.as_deref()),
        Event::Failed { code, .. } => layer_of(Some(code)),
        Event::Unmatched { .. } => "frame",
        Event::Request { .. } | Event::Oneway { .. } | Event::Refused { .. } | Event::Response { .. } => "message",
    }
}

pub(crate) fn show_sent(sent: &Sent) -> String {
    match sent {
        Sent::Hello(bytes) => format!("hello {}", crate::literal::hex(bytes)),
        Sent::Frame(frame) => format!("frame {} {}", frame.id, quote(&frame.plain[4..])),
        Sent::Fault(fault) => format!("{}: {}", fault.what, quote(&fault.bytes)),
    }
}

fn show_fields(fields: &[Field]) -> String {
    let text: Vec<u8> =
        fields.iter().flat_map(|(name, value)| [name.as_bytes(), b": ", value, b"\r\n"].concat()).collect();
    if text.is_empty() { String::new() } else { format!(" fields {}", quote(&text)) }
}

/// An event in the words of scenario files.
pub(crate) fn show(event: Option<&Event>) -> String {
    let Some(event) = event else { return "nothing".into() };
    let request = |m: &[u8], t: &[u8], fields: &[Field], body: &[u8]| {
        format!("{} {}{} body {}", quote(m), quote(t), show_fields(fields), quote(body))
    };
    let delivered = |maybe: bool| if maybe { "maybe" } else { "no" };
    match event {
        Event::Connected {} => "connected".into(),
        Event::StartTls {} => "start-tls".into(),
        Event::Request { id, method, target, fields, body, .. } => {
            let id = id.map_or("(id not told)".into(), |id| id.to_string());
            format!("request {id} {}", request(method, target, fields, body))
        }
        Event::Oneway { method, target, fields, body } => format!("oneway {}", request(method, target, fields, body)),
        Event::Refused { id, code } => format!("refused {id} {code}"),
        Event::Response { tag, status, fields, body } => {
            format!("response {tag} {status}{} body {}", show_fields(fields), quote(body))
        }
        Event::Failed { tag, code, maybe_delivered } => {
            format!("failed {tag} {code} delivered {}", delivered(*maybe_delivered))
        }
        Event::Unmatched { id } => format!("unmatched {id}"),
        Event::Closed { code } => format!("closed {}", code.as_deref().unwrap_or("clean")),
    }
}

/// A pattern in the words of scenario files.
pub(crate) fn show_pattern(pattern: &EventPattern) -> String {
    let content = |content: &Content| {
        let names: String = content.no_fields.iter().map(|name| format!(" no-field {name:?}")).collect();
        let body = content.body.as_ref().map_or(String::new(), |body| format!(" body {}", quote(body)));
        format!("{}{names}{body}", show_fields(&content.fields))
    };
    match pattern {
        EventPattern::Connected => "connected".into(),
        EventPattern::StartTls => "start-tls".into(),
        EventPattern::Request { id, method, target, content: c } => {
            let name = id.map_or("oneway".into(), |id| format!("request {id}"));
            format!("{name} {} {}{}", quote(method), quote(target), content(c))
        }
        EventPattern::Refused { id, code } => format!("refused {id} {code}"),
        EventPattern::Response { tag, status, content: c } => format!("response {tag} {status}{}", content(c)),
        EventPattern::Failed { tag, code, maybe_delivered } => {
            format!("failed {tag} {code} delivered {}", if *maybe_delivered { "maybe" } else { "no" })
        }
        EventPattern::Unmatched { id } => format!("unmatched {id}"),
    }
}
