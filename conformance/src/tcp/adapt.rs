//! Which scenarios can be run over a socket, and what becomes of the steps that cannot.

use std::time::Duration;

use crate::scenario::{Config, Role, Scenario};
use crate::step::{ANY_CODE, Action, EventPattern, Expect, Feed, Step, StepKind};
use crate::wire::HELLO_BYTES;

/// Why a scenario is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It cannot be shown here.
    Skipped(String),
    /// The shim does not claim these capabilities.
    Missing(Vec<String>),
}

/// The scenario as it is run against a shim with these capabilities. What the program is not told is passed over.
///
/// # Errors
///
/// It cannot be run.
pub fn for_shim(scenario: &Scenario, can: &[String], longest: Duration) -> Result<Scenario, Obstacle> {
    show(scenario, longest).map_err(Obstacle::Skipped)?;
    let mut missing: Vec<String> = Vec::new();
    visit(&scenario.steps, &mut |step| missing.extend(need_of(step).map(str::to_owned)));
    missing.retain(|need| !can.contains(need));
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        return Err(Obstacle::Missing(missing));
    }
    let has_codes = can.iter().any(|claimed| claimed == "failure-codes");
    let keep = |step: &Step| {
        let tells = match &step.kind {
            StepKind::Expect(Expect::Event(EventPattern::Connected)) => "connected",
            StepKind::Expect(Expect::Event(EventPattern::Refused { .. })) => "refused",
            StepKind::Expect(Expect::Event(EventPattern::Unmatched { .. })) => "unmatched",
            StepKind::Expect(Expect::Event(EventPattern::Failed { tag, maybe_delivered, .. })) if !has_codes => {
                let (tag, code, maybe_delivered) = (*tag, ANY_CODE.to_owned(), *maybe_delivered);
                return Some(StepKind::Expect(Expect::Event(EventPattern::Failed { tag, code, maybe_delivered })));
            }
            StepKind::Do { action, refused: Some(_) } if !has_codes => {
                return Some(StepKind::Do { action: action.clone(), refused: Some(ANY_CODE.to_owned()) });
            }
            _ => return Some(step.kind.clone()),
        };
        can.iter().any(|claimed| claimed == tells).then(|| step.kind.clone())
    };
    let steps = map(&scenario.steps, &keep);
    let steps = if fails_tls(scenario) { map(&steps, &|step| failing_tls(&step.kind)) } else { steps };
    Ok(Scenario { steps, ..scenario.clone() })
}

/// The scenario as it is run against a server of which nothing is known but that it answers every request at once.
/// A request that comes to its program shows by some answer; which, and what else the program is told, does not.
///
/// # Errors
///
/// Why it cannot be run.
pub fn for_server(scenario: &Scenario, longest: Duration, has_tls: bool) -> Result<Scenario, String> {
    show(scenario, longest)?;
    if has_tls && scenario.config.tls == "off" && asks_for_tls(scenario) {
        return Err("the server has TLS".into());
    }
    let tls = if has_tls && scenario.config.tls == "optional" { "optional" } else { "off" };
    if !is_usual(scenario, tls) {
        return Err("the server cannot be set up for it".into());
    }
    let mut why = None;
    visit(&scenario.steps, &mut |step| {
        why = why.take().or_else(|| match &step.kind {
            StepKind::Do { action: Action::Respond { .. } | Action::TlsEstablished, refused: None } => None,
            StepKind::Do { .. } => Some(format!("there is no program that could `{}`", words(&step.source))),
            StepKind::Either(_) => Some("which branch is right may depend on what the program is told".into()),
            _ => None,
        });
    });
    if let Some(why) = why {
        return Err(why);
    }
    let fails_tls = fails_tls(scenario);
    let adapted = |step: &Step| match &step.kind {
        kind @ StepKind::Expect(Expect::StillOpen | Expect::Quiet) if fails_tls => failing_tls(kind),
        StepKind::Expect(Expect::Event(EventPattern::Request { id: Some(id), method, .. })) => {
            Some(StepKind::Expect(Expect::Answer { id: *id, head: method == b"HEAD" }))
        }
        StepKind::Expect(Expect::Event(EventPattern::StartTls)) => Some(step.kind.clone()),
        StepKind::Do { action: Action::TlsEstablished, .. } => Some(step.kind.clone()),
        StepKind::Expect(Expect::Event(_) | Expect::SendFrame { .. }) | StepKind::Do { .. } => None,
        kind => Some(kind.clone()),
    };
    Ok(Scenario { steps: map(&scenario.steps, &adapted), ..scenario.clone() })
}

/// What the command of a client can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCan {
    /// It asks for TLS.
    pub tls: bool,
    /// How many requests it sends at once; otherwise one counts.
    pub count: bool,
}

/// The scenario as it is run against a client of which nothing is known but that it sends requests of its own when it
/// is started. They stand for those that the scenario has.
///
/// # Errors
///
/// Why it cannot be run.
pub fn for_client(scenario: &Scenario, longest: Duration, client: ClientCan) -> Result<Scenario, String> {
    show(scenario, longest)?;
    if client.tls && scenario.config.tls == "no" {
        return Err("the client asks for TLS".into());
    }
    if !is_usual(scenario, if client.tls { "yes" } else { "no" }) {
        return Err("the client cannot be set up for it".into());
    }
    // Of several requests the one that is answered is the program's; the others only wait.
    let (mut sent, mut fed) = (Vec::new(), Vec::new());
    visit(&scenario.steps, &mut |step| match &step.kind {
        StepKind::Expect(Expect::SendFrame { id, .. }) => sent.push(*id),
        StepKind::Feed(Feed::Plain(plain)) => fed.extend(plain.first_chunk().map(|id| u32::from_le_bytes(*id))),
        _ => {}
    });
    fed.retain(|id| sent.contains(id));
    fed.dedup();
    let mut distinct = sent.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let own = match (&sent[..], &fed[..]) {
        ([], _) => Vec::new(),
        ([id], _) | (_, [id]) => vec![*id],
        _ if client.count && !sent.contains(&0) && distinct.len() == sent.len() => sent,
        _ if !client.count => return Err("the program cannot be told how many requests to send".into()),
        _ => return Err("the program cannot be told what to ask for".into()),
    };
    let (mut why, mut asked) = (None, Vec::new());
    visit(&scenario.steps, &mut |step| {
        let obstacle = match &step.kind {
            StepKind::Do { action: Action::Request { request, deadline: None, .. }, refused: None } => {
                (request.method == b"HEAD").then(|| "the program cannot be told what to ask for".into())
            }
            StepKind::Do { action: Action::TlsEstablished, .. } => None,
            StepKind::Do { .. } => Some(format!("there is no program that could `{}`", words(&step.source))),
            StepKind::Either(_) => Some("which branch is right may depend on what the program is told".into()),
            StepKind::Expect(Expect::SendFrame { id, .. }) => {
                asked.extend(own.contains(id).then_some(*id));
                None
            }
            StepKind::Feed(feed) => {
                // Only the id of a whole frame can become the program's.
                let is_free = match feed {
                    Feed::Plain(plain) => {
                        let id = plain.first_chunk().map(|id| u32::from_le_bytes(*id));
                        // The program's ids are the first ones, whatever the scenario's are.
                        let is_strange = |id: u32| !own.contains(&id) && (id == 0 || id as usize > own.len().max(1));
                        step.source.contains("feed frame") && id.is_some_and(|id| asked.contains(&id) || is_strange(id))
                    }
                    Feed::Wire(wire) => wire.len() <= HELLO_BYTES && asked.is_empty(),
                    Feed::EofIn(_) => false,
                    Feed::Hello { .. } | Feed::Eof => true,
                };
                (!is_free).then(|| "the ids in what is fed are the scenario's".into())
            }
            _ => None,
        };
        why = why.take().or(obstacle);
    });
    if let Some(why) = why {
        return Err(why);
    }
    let adapted = |step: &Step| match &step.kind {
        StepKind::Expect(Expect::SendFrame { id, .. }) => {
            own.contains(id).then_some(StepKind::Expect(Expect::AnyRequest { id: *id }))
        }
        // A program that has its answer may end.
        StepKind::Expect(Expect::StillOpen) if !fed.is_empty() => None,
        StepKind::Expect(Expect::Event(EventPattern::StartTls)) => Some(step.kind.clone()),
        StepKind::Do { action: Action::TlsEstablished, .. } => Some(step.kind.clone()),
        StepKind::Expect(Expect::Event(_) | Expect::Quiet) | StepKind::Do { .. } => None,
        kind => Some(kind.clone()),
    };
    Ok(Scenario { steps: map(&scenario.steps, &adapted), ..scenario.clone() })
}

/// Whether nothing is set up for a scenario but the compression and this kind of TLS.
fn is_usual(scenario: &Scenario, tls: &str) -> bool {
    let compression = scenario.config.compression;
    scenario.config == Config { compression, tls: tls.to_owned(), ..Config::new(scenario.role) }
}

/// Whether TLS is agreed on in a scenario.
pub(super) fn agrees_on_tls(scenario: &Scenario) -> bool {
    let mut agrees = false;
    visit(&scenario.steps, &mut |step| {
        agrees |= matches!(step.kind, StepKind::Expect(Expect::Event(EventPattern::StartTls)));
    });
    agrees
}

/// Whether the first hello that is fed has a TLS byte.
fn asks_for_tls(scenario: &Scenario) -> bool {
    let mut wire = Vec::new();
    visit(&scenario.steps, &mut |step| match &step.kind {
        StepKind::Feed(Feed::Hello { tls, .. }) => wire.extend([*tls; HELLO_BYTES]),
        StepKind::Feed(Feed::Wire(bytes) | Feed::EofIn(bytes)) => wire.extend_from_slice(bytes),
        _ => {}
    });
    wire.get(HELLO_BYTES - 1).is_some_and(|tls| *tls != 0)
}

/// Whether a scenario agrees on TLS, and then feeds in clear and looks no further: what a core leaves to the TLS layer
/// makes that of a driver fail.
fn fails_tls(scenario: &Scenario) -> bool {
    let mut is_established = false;
    visit(&scenario.steps, &mut |step| {
        is_established |= matches!(step.kind, StepKind::Do { action: Action::TlsEstablished, .. });
    });
    agrees_on_tls(scenario) && !is_established && scenario.role == Role::Server
}

/// What a step of such a scenario becomes.
fn failing_tls(kind: &StepKind) -> Option<StepKind> {
    match kind {
        StepKind::Expect(Expect::StillOpen) => Some(StepKind::Expect(Expect::Closed(Some("transport".to_owned())))),
        StepKind::Expect(Expect::Quiet) => None,
        kind => Some(kind.clone()),
    }
}

/// How many requests of a client a scenario looks at that was adapted for it.
pub(super) fn requests(scenario: &Scenario) -> usize {
    let mut count = 0;
    visit(&scenario.steps, &mut |step| {
        count += usize::from(matches!(step.kind, StepKind::Expect(Expect::AnyRequest { .. })));
    });
    count
}

/// Whether real time and a socket can show what a scenario looks at.
fn show(scenario: &Scenario, longest: Duration) -> Result<(), String> {
    let (mut why, mut end) = (None, 0);
    let (mut is_in_clear, mut fed) = (agrees_on_tls(scenario), 0);
    visit(&scenario.steps, &mut |step| {
        end = end.max(step.at);
        is_in_clear &= !matches!(step.kind, StepKind::Do { action: Action::TlsEstablished, .. });
        fed += match &step.kind {
            StepKind::Feed(Feed::Wire(bytes) | Feed::Plain(bytes) | Feed::EofIn(bytes)) => bytes.len(),
            StepKind::Feed(Feed::Hello { .. }) => HELLO_BYTES,
            _ => 0,
        };
        if is_in_clear && fed > HELLO_BYTES && !fails_tls(scenario) {
            why.get_or_insert("what it feeds in clear would end the TLS layer of the subject".to_owned());
        }
        let core_only = match &step.kind {
            StepKind::Expect(Expect::Timer(_)) => "timer",
            StepKind::Expect(Expect::Reads(_)) => "reads",
            StepKind::Expect(Expect::SendBatch(_)) => "send batch",
            _ if step.late => "late",
            _ => return,
        };
        why.get_or_insert(format!("only profile core shows `{core_only}`"));
    });
    if let Some(why) = why {
        return Err(why);
    }
    let end = Duration::from_micros(end);
    if end > longest {
        return Err(format!("it takes {} s; --slow runs what takes up to {} s", end.as_secs(), super::SLOW.as_secs()));
    }
    Ok(())
}

/// What a step asks of a driver beyond what every core has.
fn need_of(step: &Step) -> Option<&'static str> {
    match &step.kind {
        StepKind::Do { action, refused } => match (action, refused) {
            (Action::Request { request, .. }, _) if request.method == b"HEAD" => Some("head"),
            (Action::Respond { .. }, Some(_)) => Some("respond-errors"),
            (Action::Oneway(_), _) => Some("oneway"),
            (Action::Discard { .. }, _) => Some("discard"),
            (Action::Flush, _) => Some("flush"),
            (Action::Close, _) => Some("close"),
            _ => None,
        },
        // A driver may give such a request to another link instead.
        StepKind::Expect(Expect::Event(EventPattern::Failed { code, maybe_delivered: false, .. })) => {
            match code.as_str() {
                "timeout" => None,
                code if code.starts_with("hello-") || code == "tls-refused" => Some("hello-fails"),
                _ => Some("no-retry"),
            }
        }
        _ => None,
    }
}

/// The first two words of a step, after its time.
fn words(source: &str) -> String {
    source.split_whitespace().filter(|word| !word.starts_with('@')).take(2).collect::<Vec<_>>().join(" ")
}

/// Looks at all steps, those in blocks too.
fn visit(steps: &[Step], look: &mut impl FnMut(&Step)) {
    for step in steps {
        look(step);
        match &step.kind {
            StepKind::Unordered(steps) => visit(steps, look),
            StepKind::Either(branches) => branches.iter().for_each(|steps| visit(steps, look)),
            _ => {}
        }
    }
}

/// The steps as `change` has them, those in blocks too; without those that it leaves out.
fn map(steps: &[Step], change: &impl Fn(&Step) -> Option<StepKind>) -> Vec<Step> {
    let changed = |step: &Step| {
        let kind = match &step.kind {
            StepKind::Unordered(steps) => StepKind::Unordered(map(steps, change)),
            StepKind::Either(branches) => StepKind::Either(branches.iter().map(|steps| map(steps, change)).collect()),
            _ => change(step)?,
        };
        Some(Step { kind, ..step.clone() })
    };
    steps.iter().filter_map(changed).collect()
}
