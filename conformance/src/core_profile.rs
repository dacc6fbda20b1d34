//! Profile `core`: a sans-IO core behind its shim, in virtual time.

use crate::literal::hex;
use crate::matching::{Mismatch, Socket};
use crate::run::{Done, Replay, Subject, Told};
use crate::scenario::Scenario;
use crate::shim::{Answer, Event, Request, Shim, new_command};
use crate::step::{Step, StepKind};
use crate::wire::HELLO_BYTES;

/// A core behind its shim.
pub struct Core {
    shim: Shim,
    reads: bool,
    timer: Option<u64>,
    /// How many bytes were taken in all.
    taken: usize,
    /// Fed, and not yet taken.
    unread: Vec<u8>,
    eof_due: bool,
    is_in_tls: bool,
    is_closed: bool,
    is_broken: bool,
}

impl Core {
    /// Of a shim that has been started.
    pub fn new(shim: Shim) -> Self {
        Self {
            shim,
            reads: true,
            timer: None,
            taken: 0,
            unread: Vec::new(),
            eof_due: false,
            is_in_tls: false,
            is_closed: false,
            is_broken: false,
        }
    }

    /// Offers what was fed and is not yet taken, as far as the subject reads; then the end of file.
    fn offer(&mut self, told: &mut Told) -> Done {
        while !self.unread.is_empty() && self.reads && !self.is_closed && !self.is_in_tls {
            let answer = self.tell(&Request::Input { now: told.now, hex: hex(&self.unread) }, told)?;
            if answer.consumed > self.unread.len() {
                let actual = format!("{} of {} bytes", answer.consumed, self.unread.len());
                return Err(Mismatch::new("suite", "no more is taken than was offered", actual));
            }
            if answer.consumed == 0 && answer.reads {
                return Err(Mismatch::new("suite", "a subject that reads takes input", "0 bytes were taken"));
            }
            self.unread.drain(..answer.consumed);
        }
        if self.is_closed || self.is_in_tls {
            // After the close nobody reads it; between hello and TLS it is the TLS layer's.
            self.unread.clear();
        }
        if self.eof_due && self.unread.is_empty() && !self.is_closed {
            self.eof_due = false;
            self.tell(&Request::Eof { now: told.now }, told)?;
        }
        Ok(())
    }

    /// Sends a command and takes in what came of it.
    fn tell(&mut self, request: &Request, told: &mut Told) -> Result<Answer, Mismatch> {
        let mut answer = self.shim.call(request).map_err(|message| {
            self.is_broken = true;
            Mismatch::new("shim", "an answer", message)
        })?;
        if let Some(why) = &answer.nack {
            return Err(Mismatch::new("shim", "the shim has the command", format!("nack: {why}")));
        }
        self.taken += answer.consumed;
        told.seen.sent.extend(told.reader.take(&answer.out));
        for event in &answer.events {
            match event {
                Event::Request { id: None, .. } => {
                    return Err(Mismatch::new("shim", "a request with its id", "null: only profile tcp may say that"));
                }
                Event::StartTls {} if self.taken != HELLO_BYTES => {
                    let actual = format!("{} bytes were taken", self.taken);
                    let expected = "of what comes before TLS the hello is taken, 15 bytes";
                    let mismatch = Mismatch::new("tls", expected, actual);
                    return Err(Mismatch { rule: Some("R-tls-boundary"), ..mismatch });
                }
                Event::StartTls {} => self.is_in_tls = true,
                Event::Closed { .. } => self.is_closed = true,
                _ => {}
            }
            told.event(event.clone(), told.step);
        }
        self.reads = answer.reads;
        self.timer = answer.timer.take();
        Ok(answer)
    }
}

impl Subject for Core {
    fn replays(&self, scenario: &Scenario) -> Vec<Replay> {
        if !scenario.replays {
            return vec![Replay::Whole];
        }
        // A replay that would be as another one is left out.
        let is_feed = |step: &Step| !matches!(step.kind, StepKind::Expect(_) | StepKind::Do { .. });
        let joins = |steps: &[Step]| is_feed(&steps[0]) && is_feed(&steps[1]) && steps[0].at == steps[1].at;
        let has_joined = scenario.steps.windows(2).any(joins);
        Replay::ALL.into_iter().filter(|replay| *replay != Replay::Joined || has_joined).collect()
    }

    fn begin(&mut self, scenario: &Scenario, told: &mut Told) -> Done {
        (self.reads, self.timer, self.eof_due) = (true, None, false);
        (self.is_in_tls, self.is_closed, self.taken) = (false, false, 0);
        self.unread.clear();
        self.tell(&new_command(scenario, None), told).map(drop)
    }

    /// Timers that are due by then fire, each at its own time.
    fn advance(&mut self, to: u64, told: &mut Told) -> Done {
        let mut stuck = 0;
        while let Some(at) = self.timer.filter(|at| *at <= to && !self.is_closed) {
            told.now = told.now.max(at);
            self.tell(&Request::Timeout { now: told.now }, told)?;
            self.offer(told)?;
            stuck = if self.timer == Some(at) { stuck + 1 } else { 0 };
            if stuck > 3 {
                return Err(Mismatch::new(
                    "timer",
                    "a timer that fires moves on or ends",
                    format!("it stays at {at} us"),
                ));
            }
        }
        told.now = to;
        Ok(())
    }

    fn feed(&mut self, piece: &[u8], told: &mut Told) -> Done {
        self.unread.extend_from_slice(piece);
        self.offer(told)
    }

    fn feed_end(&mut self, told: &mut Told) -> Done {
        self.eof_due = true;
        self.offer(told)
    }

    fn call(&mut self, request: &Request, told: &mut Told) -> Result<Answer, Mismatch> {
        self.is_in_tls &= !matches!(request, Request::TlsEstablished { .. });
        let answer = self.tell(request, told)?;
        self.offer(told)?;
        Ok(answer)
    }

    /// Everything is there as soon as a command has been answered.
    fn wait(&mut self, _: &mut Told, _: &dyn Fn(&Told, Option<Socket>) -> bool) -> Done {
        Ok(())
    }

    fn settle(&mut self, _: &mut Told) -> Done {
        Ok(())
    }

    fn stand(&self) -> (bool, Option<u64>) {
        (self.reads, self.timer)
    }

    fn is_broken(&self) -> bool {
        self.is_broken
    }
}
