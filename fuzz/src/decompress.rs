//! Each decompressor, through both roles: any bytes behind a valid hello. The input is what is on the wire.

use crate::links::{check_client, check_server, hello};

/// The first byte says which compression, and how the rest is cut.
pub fn check(input: &[u8]) {
    let Some((flags, rest)) = input.split_first() else { return };
    let wire = [&hello(flags & 3)[..], rest].concat();
    if flags & 4 == 0 {
        check_server(&wire, flags >> 3, true);
    } else {
        check_client(&wire, flags >> 3, true);
    }
}
