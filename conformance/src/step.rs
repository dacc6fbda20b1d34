//! The steps of scenario files (FORMAT.md, "Steps").

use crate::http1::{Field, Message};

/// A code that stands for any: the subject does not tell them.
pub const ANY_CODE: &str = "*";

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Virtual time, in microseconds since the connection was established.
    pub at: u64,
    /// The timers that are due by then fire after it, and not before.
    pub late: bool,
    /// Where it stands, from 1.
    pub line: usize,
    /// As it is written.
    pub source: String,
    /// What it is.
    pub kind: StepKind,
}

/// What a step is.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// The suite sends something.
    Feed(Feed),
    /// The subject's program does something.
    Do {
        /// What it does.
        action: Action,
        /// The local code with which it fails.
        refused: Option<String>,
    },
    /// Something must be true.
    Expect(Expect),
    /// All must come true, in any order.
    Unordered(Vec<Step>),
    /// All of one branch must come true.
    Either(Vec<Vec<Step>>),
}

/// What the suite sends.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Exactly these bytes.
    Wire(Vec<u8>),
    /// A hello.
    Hello {
        /// Its compression byte.
        compression: u8,
        /// Its TLS byte.
        tls: u8,
        /// Its version byte.
        version: u8,
    },
    /// Bytes to compress.
    Plain(Vec<u8>),
    /// End of file.
    Eof,
    /// The first of these bytes, but not all, and then the end of file: one run for each number of bytes.
    EofIn(Vec<u8>),
}

/// What the subject's program does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends a request.
    Request {
        /// By what later steps know it.
        tag: u64,
        /// What it sends.
        request: Outgoing,
        /// Relative, in microseconds.
        deadline: Option<u64>,
    },
    /// Sends a request that wants no response.
    Oneway(Outgoing),
    /// Gives a request up.
    Cancel {
        /// The request.
        tag: u64,
    },
    /// Answers the oldest unanswered request with this id.
    Respond {
        /// The id on the wire.
        id: u32,
        /// The status.
        status: u64,
        /// Fields.
        fields: Vec<Field>,
        /// Body.
        body: Vec<u8>,
    },
    /// Leaves the oldest unanswered request with this id without an answer.
    Discard {
        /// The id on the wire.
        id: u32,
    },
    /// Moves the counter of request ids, as so many requests would.
    NextId {
        /// The next id, if it is free.
        id: u32,
    },
    /// The transport takes nothing from now on, or takes again what waits.
    Hold(bool),
    /// Seals the batch.
    Flush,
    /// Says that it is about to close.
    Goodbye,
    /// Closes in order.
    Close,
    /// TLS is established.
    TlsEstablished,
}

/// A request as the program gives it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Method.
    pub method: Vec<u8>,
    /// Target.
    pub target: Vec<u8>,
    /// Fields, Host included.
    pub fields: Vec<Field>,
    /// Body.
    pub body: Vec<u8>,
}

/// What must be true.
#[derive(Clone, Debug)]
pub enum Expect {
    /// The next that was sent is this hello.
    SendHello {
        /// The compression byte; the configured one if not given.
        compression: Option<u8>,
        /// The TLS byte.
        tls: u8,
    },
    /// The next that was sent is this frame.
    SendFrame {
        /// Its id.
        id: u32,
        /// Its message.
        message: Message,
        /// Names of fields that it must not have.
        no_fields: Vec<String>,
    },
    /// The next that was sent is a refusal, whose body is free.
    SendRefusal {
        /// Its id.
        id: u32,
        /// Its status.
        status: u16,
        /// It answers HEAD.
        head: bool,
    },
    /// Some request was sent, which steps after this one call by this id. No file says this: it is what a `send frame`
    /// means to the client behind `run --client`.
    AnyRequest {
        /// Its id in the scenario.
        id: u32,
    },
    /// Some final response with this id was sent. No file says this: it is what an `event request` means to the
    /// server behind `run --server`.
    Answer {
        /// Its id.
        id: u32,
        /// It answers HEAD.
        head: bool,
    },
    /// The next frames, so many, leave in one flush.
    SendBatch(usize),
    /// The next event.
    Event(EventPattern),
    /// Nothing was sent and nothing happened.
    Quiet,
    /// Whether input is taken.
    Reads(bool),
    /// The next deadline.
    Timer(Option<u64>),
    /// The link has ended, with this code or in order.
    Closed(Option<String>),
    /// The link has not ended.
    StillOpen,
}

/// What an event must look like.
#[derive(Clone, Debug)]
pub enum EventPattern {
    /// `connected`
    Connected,
    /// `start-tls`
    StartTls,
    /// `request` or, without an id, `oneway`.
    Request {
        /// The id on the wire.
        id: Option<u32>,
        /// The method.
        method: Vec<u8>,
        /// The target.
        target: Vec<u8>,
        /// The rest.
        content: Content,
    },
    /// `refused`
    Refused {
        /// The id on the wire.
        id: u32,
        /// The code.
        code: String,
    },
    /// `response`
    Response {
        /// The request's tag.
        tag: u64,
        /// The status.
        status: u16,
        /// The rest.
        content: Content,
    },
    /// `failed`
    Failed {
        /// The request's tag.
        tag: u64,
        /// The code.
        code: String,
        /// Whether it may have been delivered.
        maybe_delivered: bool,
    },
    /// `unmatched`
    Unmatched {
        /// The id on the wire.
        id: u32,
    },
}

/// What a message that was delivered must look like.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Fields that must be there.
    pub fields: Vec<Field>,
    /// Names of fields that must not be there.
    pub no_fields: Vec<String>,
    /// The body, if it is to be compared.
    pub body: Option<Vec<u8>>,
}
