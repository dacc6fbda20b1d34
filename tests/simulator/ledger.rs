//! What is known of every request from outside: what its caller asked and was told, and what the server saw. The laws
//! about requests (1, 2, 3) are judged here.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::RequestError;

use super::messages::{echo, has_no_body, is_idempotent, tag_of};

/// A request as a caller wishes it; it may be sent more than once.
pub struct Wish {
    pub method: &'static str,
    pub body: Bytes,
    /// May be sent again even if it was maybe delivered (R-no-blind-retry).
    pub repeatable: bool,
    pub outcome: Option<Outcome>,
    /// How often the server saw it.
    runs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Response,
    Failed,
    Cancelled,
    Refused,
    /// A oneway was taken.
    Handed,
}

/// One sending of a wish; its number is the tag in its target.
pub struct Attempt {
    pub wish: usize,
    pub link: usize,
    request: Request<Bytes>,
    oneway: bool,
    is_over: bool,
    /// Its caller was told that it was not delivered.
    unsent: bool,
    pub seen: bool,
    answer: Option<Response<Bytes>>,
}

#[derive(Default)]
pub struct Ledger {
    pub wishes: Vec<Wish>,
    pub attempts: Vec<Attempt>,
}

/// How often what happened: a simulator in which nothing goes wrong proves little.
pub type Tally = BTreeMap<String, usize>;

impl Ledger {
    pub fn wish(&mut self, method: &'static str, body: Bytes, allowed: bool) -> usize {
        let repeatable = allowed || is_idempotent(method);
        self.wishes.push(Wish { method, body, repeatable, outcome: None, runs: 0 });
        self.wishes.len() - 1
    }

    /// The tag of the next attempt.
    pub fn next_tag(&self) -> usize {
        self.attempts.len()
    }

    pub fn sent(&mut self, wish: usize, link: usize, request: Request<Bytes>, oneway: bool) {
        let answer = None;
        self.attempts.push(Attempt { wish, link, request, oneway, is_over: false, unsent: false, seen: false, answer });
    }

    pub fn end(&mut self, wish: usize, outcome: Outcome) {
        let before = self.wishes[wish].outcome.replace(outcome);
        assert_eq!(before, None, "law 1: exactly one outcome, then came {outcome:?}");
    }

    fn finish(&mut self, tag: usize) -> &mut Attempt {
        let attempt = &mut self.attempts[tag];
        assert!(!attempt.is_over && !attempt.oneway, "law 1: request {tag} has ended before");
        attempt.is_over = true;
        attempt
    }

    /// Its caller was told this, or it was cancelled.
    pub fn gave_up(&mut self, tag: usize, maybe_delivered: bool) {
        let attempt = self.finish(tag);
        attempt.unsent = !maybe_delivered;
        assert!(maybe_delivered || !attempt.seen, "law 3: request {tag} was delivered");
    }

    /// Whether the wish of a failed attempt may be sent again.
    pub fn may_repeat(&self, tag: usize) -> bool {
        let attempt = &self.attempts[tag];
        attempt.unsent || self.wishes[attempt.wish].repeatable
    }

    pub fn responded(&mut self, tag: usize, response: &Response<Bytes>) {
        let attempt = self.finish(tag);
        let answer = attempt.answer.as_ref().expect("law 2: a response that nobody sent");
        let method = attempt.request.method().as_str();
        let told = response.headers().get("x-echo").map(|echo| echo.to_str().unwrap().to_owned());
        if answer.headers().contains_key("x-echo") {
            let own = echo(tag, method, attempt.request.body());
            assert_eq!(told, Some(own), "law 2: the response of another request");
        } else {
            assert_eq!(told, None, "law 2: the response of another request");
        }
        assert_eq!(response.status(), answer.status(), "law 2: the status of another response");
        let bodiless = method == "HEAD" || has_no_body(answer.status());
        let body = if bodiless { &Bytes::new() } else { answer.body() };
        assert!(response.body() == body, "law 2: the body of another response");
        let wish = attempt.wish;
        self.end(wish, Outcome::Response);
    }

    /// The response was refused: only for its length.
    pub fn refused(&mut self, tag: usize, error: &RequestError, body_limit: usize) {
        let attempt = self.finish(tag);
        let length = attempt.answer.as_ref().expect("law 2: a response that nobody sent").body().len();
        let RequestError::Refused(why) = error else { panic!("{error:?}") };
        assert_eq!(why.code(), "body-too-large");
        assert!(length > body_limit, "a body of {length} bytes is refused");
        let wish = attempt.wish;
        self.end(wish, Outcome::Failed);
    }

    /// The server got a request; returns its tag.
    pub fn seen(&mut self, link: usize, request: &Request<Bytes>, oneway: bool) -> usize {
        let tag = tag_of(request);
        let attempt = &self.attempts[tag];
        assert_eq!((attempt.link, attempt.oneway), (link, oneway), "law 2: request {tag}");
        assert_eq!(attempt.request.method(), request.method(), "law 2: request {tag}");
        assert!(attempt.request.body() == request.body(), "law 2: the body of request {tag} is another");
        self.delivered(tag);
        tag
    }

    /// The server has read a request, if only to refuse it.
    pub fn delivered(&mut self, tag: usize) {
        let attempt = &mut self.attempts[tag];
        assert!(!attempt.seen, "law 3: request {tag} is seen twice");
        assert!(!attempt.unsent, "law 3: request {tag} was said not to be delivered");
        attempt.seen = true;
        let wish = &mut self.wishes[attempt.wish];
        wish.runs += 1;
        assert!(wish.runs == 1 || wish.repeatable, "law 3: request {tag} runs again");
    }

    pub fn answered(&mut self, tag: usize, answer: Response<Bytes>) {
        let before = self.attempts[tag].answer.replace(answer);
        assert!(before.is_none(), "request {tag} is answered twice");
    }

    pub fn request(&self, tag: usize) -> &Request<Bytes> {
        &self.attempts[tag].request
    }

    /// Law 1, and 7 where nothing went wrong.
    pub fn check(&self, calm: bool, tally: &mut Tally) {
        *tally.entry("requests".into()).or_default() += self.attempts.len();
        for (tag, attempt) in self.attempts.iter().enumerate() {
            assert!(attempt.is_over || attempt.oneway, "law 1: request {tag} has no outcome");
            assert!(!calm || attempt.seen, "law 7: request {tag} was not seen");
        }
        for wish in &self.wishes {
            *tally.entry(format!("outcome {:?}", wish.outcome)).or_default() += 1;
            *tally.entry(format!("runs {}", wish.runs)).or_default() += 1;
            let outcome = wish.outcome.expect("law 1: every wish has an outcome");
            assert!(!calm || matches!(outcome, Outcome::Response | Outcome::Handed), "law 7: {outcome:?}");
        }
    }
}
