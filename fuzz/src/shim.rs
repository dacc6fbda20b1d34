//! What a shim may say, and what it may have sent: the readers of the conformance suite.

use teleport_conformance::scenario::Role;
use teleport_conformance::shim::{Answer, Description, Event};
use teleport_conformance::wire::Reader;

/// The first byte chooses the reader.
pub fn check(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else { return };
    match which % 4 {
        0 => drop(serde_json::from_slice::<Answer>(rest)),
        1 => drop(serde_json::from_slice::<Event>(rest)),
        2 => drop(serde_json::from_slice::<Description>(rest)),
        _ => {
            let role = if which & 4 == 0 { Role::Client } else { Role::Server };
            let mut reader = Reader::new(role);
            for piece in rest.chunks(usize::from(which >> 3) + 1) {
                reader.take(piece);
            }
        }
    }
}
