//! Arbitrary bytes where a hello should be, at both roles.

use crate::links::{check_client, check_server};

/// The first byte says how the rest is cut.
pub fn check(input: &[u8]) {
    let Some((seed, rest)) = input.split_first() else { return };
    // A hello and what a peer sends at once behind it.
    let rest = &rest[..rest.len().min(64)];
    check_server(rest, *seed, true);
    check_client(rest, *seed, true);
    check_server(rest, *seed, false);
    check_client(rest, *seed, false);
}
