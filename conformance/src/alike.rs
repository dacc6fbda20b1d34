//! Requests that a scenario cannot tell apart: their events name no id, and each is also what the step about another
//! one expects. Which of their ids belongs to which event shows when their responses leave; until then any order of
//! them is right.

use std::collections::VecDeque;

use crate::http1::Message;
use crate::matching::differs;
use crate::shim::Event;
use crate::step::EventPattern;
use crate::wire::{Sent, SentFrame};

/// The requests of a link that nobody can tell apart, in groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alike {
    groups: Vec<Group>,
}

/// Requests of which each could be the other.
#[derive(Clone, Debug, Default)]
struct Group {
    /// What the steps about them expect.
    patterns: Vec<EventPattern>,
    /// What came for these.
    events: Vec<Event>,
    /// The ids by which the steps of a scenario mean those that have no response yet.
    names: Vec<u32>,
    /// The ids that these have on the wire, in some order.
    ids: Vec<u32>,
    /// Tickets of oneways among them: one of these may be a request's, and the request's a oneway's.
    oneways: Vec<u64>,
}

impl Alike {
    /// A request without id whose event was taken for the one that a scenario calls `id`.
    pub(crate) fn add(&mut self, id: u32, pattern: &EventPattern, event: &Event) {
        let at = self.group_of(pattern, event);
        let group = &mut self.groups[at];
        group.names.push(id);
        group.ids.push(id);
    }

    /// A oneway whose event does not say that it is one.
    pub(crate) fn add_oneway(&mut self, pattern: &EventPattern, event: &Event, ticket: u64) {
        let at = self.group_of(pattern, event);
        self.groups[at].oneways.push(ticket);
    }

    /// The tickets that are to have the same answer as the request that a scenario calls `id`, so that it is answered
    /// for certain: the answer of a oneway goes nowhere.
    pub(crate) fn take_oneways(&mut self, id: u32) -> Vec<u64> {
        let group = self.groups.iter_mut().find(|group| group.names.contains(&id));
        group.map_or(Vec::new(), |group| std::mem::take(&mut group.oneways))
    }

    fn group_of(&mut self, pattern: &EventPattern, event: &Event) -> usize {
        // An id that a step expects does not tell them apart, because no event has one.
        let without_id = |pattern: &EventPattern| match pattern.clone() {
            EventPattern::Request { method, target, content, .. } => {
                EventPattern::Request { id: None, method, target, content }
            }
            other => other,
        };
        let pattern = without_id(pattern);
        let is_alike = |group: &Group| {
            group.patterns.iter().all(|other| differs(other, event).is_none())
                && group.events.iter().all(|other| differs(&pattern, other).is_none())
        };
        let at = self.groups.iter().position(is_alike);
        let at = at.unwrap_or_else(|| {
            self.groups.push(Group::default());
            self.groups.len() - 1
        });
        let group = &mut self.groups[at];
        group.patterns.push(pattern);
        group.events.push(event.clone());
        at
    }

    /// Takes the response out of what was sent that a scenario means by `id`; `fits` says which can be it. The id on the
    /// wire becomes the scenario's. `None`: there is no choice, or none of the choice fits.
    pub(crate) fn take(
        &mut self,
        id: u32,
        sent: &mut VecDeque<Sent>,
        fits: impl Fn(&Message) -> bool,
    ) -> Option<SentFrame> {
        let group = self.groups.iter_mut().find(|group| group.names.contains(&id))?;
        // The scenario's own order goes first.
        let (own, others): (Vec<u32>, Vec<u32>) = group.ids.iter().copied().partition(|other| *other == id);
        let found = own.into_iter().chain(others).find_map(|other| {
            let is_it = |sent: &Sent| matches!(sent, Sent::Frame(frame) if frame.id == other && fits(&frame.message));
            sent.iter().position(is_it)
        })?;
        let Some(Sent::Frame(mut frame)) = sent.remove(found) else { return None };
        remove_first(&mut group.ids, frame.id);
        remove_first(&mut group.names, id);
        frame.id = id;
        Some(frame)
    }
}

impl Alike {
    /// Whether another response has left under this id, although a scenario still waits for one by that name: the
    /// two were exchanged, and a second response under it is one too many.
    pub(crate) fn is_answered(&self, id: u32) -> bool {
        self.groups.iter().any(|group| group.names.contains(&id) && !group.ids.contains(&id))
    }
}

fn remove_first(ids: &mut Vec<u32>, id: u32) {
    if let Some(at) = ids.iter().position(|known| *known == id) {
        ids.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::given_message;
    use crate::step::Content;

    fn sent(id: u32) -> Sent {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        Sent::Frame(SentFrame { id, message: given_message(plain).unwrap(), plain: Vec::new(), output: 1 })
    }

    #[test]
    fn each_id_is_answered_once() {
        let mut alike = Alike::default();
        for (id, target) in [(1, b"/a"), (2, b"/a"), (3, b"/b")] {
            let (method, target) = (b"GET".to_vec(), target.to_vec());
            let content = Content::default();
            let pattern =
                EventPattern::Request { id: Some(id), method: method.clone(), target: target.clone(), content };
            let (fields, body) = (Vec::new(), Vec::new());
            alike.add(id, &pattern, &Event::Request { ticket: 7, id: None, method, target, fields, body });
        }
        let mut queue = VecDeque::from([sent(2), sent(2), sent(3), sent(1)]);
        // What answers another request is not among the choice.
        assert_eq!(alike.take(3, &mut queue, |_| true).unwrap().id, 3);
        queue.pop_back();
        assert_eq!((alike.take(1, &mut queue, |_| true).unwrap().id, queue.len()), (1, 1));
        assert!(alike.take(2, &mut queue, |_| true).is_none() && alike.is_answered(2) && !alike.is_answered(1));
        queue.push_back(sent(1));
        assert!(alike.take(2, &mut queue, |_| false).is_none());
        assert_eq!((alike.take(2, &mut queue, |_| true).unwrap().id, queue.len()), (2, 1));
    }
}
