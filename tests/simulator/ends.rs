//! What the events of the two roles mean, so that one driver drives both.

use http::Method;
use httpteleport::proto::{
    ClientConnection, ClientEvent, Compression, Connection, ConnectionError, RequestError, ServerConnection,
    ServerEvent,
};

use super::messages::{refusal, response_frame};

/// One end of a link.
pub trait End: Connection {
    const NAME: &'static str;

    /// What an event means to the driver.
    fn news(event: &Self::Event) -> News<'_>;
}

pub enum News<'a> {
    Connected(Compression),
    StartTls,
    Closed(Option<&'a ConnectionError>),
    /// A request ended without an answer.
    Failed {
        id: u32,
        maybe_delivered: bool,
    },
    /// A request's response has come.
    Answered {
        id: u32,
    },
    /// A request was refused and answered with a frame of that length.
    Refused {
        answer: usize,
    },
    Other,
}

impl End for ClientConnection {
    const NAME: &'static str = "client";

    fn news(event: &ClientEvent) -> News<'_> {
        client_news(event)
    }
}

impl End for ServerConnection {
    const NAME: &'static str = "server";

    fn news(event: &ServerEvent) -> News<'_> {
        server_news(event)
    }
}

fn client_news(event: &ClientEvent) -> News<'_> {
    match event {
        ClientEvent::Connected { compression } => News::Connected(*compression),
        ClientEvent::StartTls => News::StartTls,
        ClientEvent::Closed { error } => News::Closed(error.as_ref()),
        ClientEvent::Failed {
            id,
            error: RequestError::Timeout { maybe_delivered } | RequestError::Link { maybe_delivered, .. },
        } => News::Failed { id: id.get(), maybe_delivered: *maybe_delivered },
        ClientEvent::Response { id, .. } | ClientEvent::Failed { id, .. } => News::Answered { id: id.get() },
        _ => News::Other,
    }
}

fn server_news(event: &ServerEvent) -> News<'_> {
    match event {
        ServerEvent::Connected { compression } => News::Connected(*compression),
        ServerEvent::StartTls => News::StartTls,
        ServerEvent::Closed { error } => News::Closed(error.as_ref()),
        // Only a body can be too large here: the request was none for a HEAD.
        ServerEvent::Refused { id, error } if *id != 0 => {
            News::Refused { answer: response_frame(&refusal(error), &Method::POST) }
        }
        _ => News::Other,
    }
}
