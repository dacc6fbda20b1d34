//! A client's connection, with requests in flight, with arbitrary input.

/// The first byte is [`crate::links::settings`].
pub fn check(input: &[u8]) {
    if let Some((wire, seed, eof)) = crate::links::settings(input) {
        crate::links::check_client(&wire, seed, eof);
    }
}
