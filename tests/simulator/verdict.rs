//! What is judged of a link when all is over: that nothing was lost that need not be.

use httpteleport::proto::{ConnectionError, ErrorKind, ServerConfig};

use super::ledger::{Ledger, Tally};
use super::link::Link;
use super::outbox::Outbox;

impl Link {
    /// When all is over: nothing was lost that need not be.
    pub fn check(&self, ledger: &Ledger, tally: &mut Tally) {
        let (Some(client), Some(server)) = (&self.client.closed, &self.server.closed) else {
            panic!("law 1: a link does not end");
        };
        for (role, end) in [("client", client), ("server", server)] {
            let code = end.as_ref().map_or("in order", |error| error.code());
            *tally.entry(format!("{role} ends: {code}")).or_default() += 1;
        }
        let compressions = (self.client.compression, self.server.compression);
        if let (Some(of_server), Some(of_client)) = compressions {
            assert_eq!((of_client, of_server), self.compressions);
        }
        // R-eof-truncated.
        for (receiver, sender, end) in [
            (self.client.stats_at_eof(), &self.server.outbox, client),
            (self.server.stats_at_eof(), &self.client.outbox, server),
        ] {
            let in_order = end.as_ref().is_none_or(|error| *error.kind() == ErrorKind::Closed);
            let between = receiver.is_none_or(|stats| sender.bounds.binary_search(&stats.plain_in).is_ok());
            assert!(between || !in_order, "the end of file inside a frame makes {end:?}");
        }
        self.check_complete(ledger, client.as_ref(), server.as_ref());
        let read_all = self.client.eof_told.is_some() && !self.client.broken && !self.down.lost;
        if server.is_none() && read_all {
            assert!(self.answered.is_subset(&self.got), "law 5: the client lacks answers: {client:?}");
        }
        let ends = server.as_ref().is_none_or(|error| *error.kind() == ErrorKind::DrainTimeout);
        let heard_all = self.server.eof_told.is_some() && self.server.close_told.is_none() && !self.up.lost;
        if ends && heard_all && compressions.1.is_some() {
            for &tag in &self.client.outbox.whole {
                let refused = ledger.request(tag).body().len() > self.server_limits.body_bytes;
                assert!(ledger.attempts[tag].seen || refused, "law 5: request {tag} has left and is not seen");
            }
        }
    }

    /// R-error-after-good: a frame that was received whole is told, whatever ends the link, unless its receiver had
    /// stopped reading before.
    fn check_complete(&self, ledger: &Ledger, client: Option<&ConnectionError>, server: Option<&ConnectionError>) {
        let ends = |outbox: &Outbox, plain_in: u64| {
            let count = outbox.bounds.iter().skip(1).take_while(|bound| **bound <= plain_in).count();
            outbox.whole[..count].iter().copied().filter(|tag| *tag != usize::MAX).collect::<Vec<_>>()
        };
        if !client.is_some_and(|error| matches!(error.kind(), ErrorKind::AbandonedLimit(_))) {
            for tag in ends(&self.server.outbox, self.client.conn.stats().plain_in) {
                assert!(!self.failed.contains(&tag), "law 2: the response to {tag} came and is not told");
            }
        }
        let usual = ServerConfig::default().config.limits;
        let unpaused = (self.server_limits.held_bytes, self.server_limits.output_bytes)
            == (usual.held_bytes, usual.output_bytes)
            && self.server_limits.pending_requests >= 1_000;
        let broken = server.is_some_and(|error| *error.kind() == ErrorKind::Transport);
        if broken && unpaused && self.server.may_drain.is_none() {
            for tag in ends(&self.client.outbox, self.server.conn.stats().plain_in) {
                let refused = ledger.request(tag).body().len() > self.server_limits.body_bytes;
                assert!(ledger.attempts[tag].seen || refused, "law 5: request {tag} came and is not told");
            }
        }
    }
}
