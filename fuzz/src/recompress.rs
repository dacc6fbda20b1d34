//! Coded bodies and recipes of strangers (`src/proxy/recompress`), which are pure and are compiled in here as they stand.
//!
//! preflate is left out, unless its feature is on: its panics are caught where it is used, and end the process here.

use arbitrary::{Arbitrary, Unstructured};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use coding::{Coding, Undecodable, decode, encode};
use exact::{Encoder, find, make};
use field::{Exact, Mark, Peer};

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/recompress/coding.rs"]
mod coding;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/recompress/exact.rs"]
mod exact;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/recompress/field.rs"]
mod field;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/recompress/wrap.rs"]
mod wrap;

/// More is not decoded.
const LIMIT: usize = 64 * 1024;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    coding: u8,
    encoder: u8,
    flag: bool,
    recipe: &'a [u8],
    fields: Vec<(bool, &'a [u8])>,
    body: &'a [u8],
}

/// A body, a recipe and two fields of strangers.
pub fn check(input: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) {
        examine(input);
    }
}

fn examine(input: Input<'_>) {
    let coding = Coding::ALL[usize::from(input.coding % 4)];
    match decode(coding, input.body, LIMIT) {
        Ok(decoded) => {
            assert!(decoded.plain.len() <= LIMIT, "{coding:?} beyond the limit");
            if let Some((encoder, recipe)) = find(coding, input.body, &decoded, usize::MAX, Encoder::is_bounded) {
                let made = make(coding, encoder, &recipe, &decoded.plain);
                assert_eq!(made.as_deref(), Some(input.body), "{coding:?} by {encoder:?} is not exact");
                carry(Mark { coding, exact: Some(exact(encoder, recipe, input.body)), strong_etag: input.flag });
            }
        }
        Err(Undecodable::TooLarge | Undecodable::Malformed) => {}
    }
    // The same bytes as content: coded and decoded again they are the same.
    let coded = encode(coding, input.body).expect("an encoder takes everything");
    assert_eq!(decode(coding, &coded, input.body.len()).expect("what was coded").plain, input.body);
    // A recipe of somebody hostile makes nothing much longer than the body, or nothing.
    let encoder = Encoder::ALL[usize::from(input.encoder % 4)];
    if encoder.is_bounded()
        && let Some(made) = make(coding, encoder, input.recipe, input.body)
    {
        let most = 2 * input.body.len() + input.recipe.len() + 1024;
        assert!(made.len() <= most, "{encoder:?}: {} bytes of {}", made.len(), input.body.len());
    }
    read(input.fields);
}

fn exact(encoder: Encoder, recipe: Vec<u8>, body: &[u8]) -> Exact {
    Exact { encoder, length: body.len(), crc: 7, recipe }
}

/// A mark arrives as it was put.
fn carry(mark: Mark) {
    let mut headers = HeaderMap::new();
    mark.put(&mut headers);
    assert!(Mark::is_on(&headers));
    assert_eq!(Mark::take(&mut headers), Some(mark));
    assert!(headers.is_empty());
}

/// Whatever the two fields say, reading them ends, and takes the mark away.
fn read(fields: Vec<(bool, &[u8])>) {
    let mut headers = HeaderMap::new();
    for (is_mark, value) in fields {
        let name = HeaderName::from_static(if is_mark { "teleport-coding" } else { "teleport-recompress" });
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let _ = Peer::of(&headers);
    if let Some(mark) = Mark::take(&mut headers) {
        carry(mark);
    }
    assert!(!Mark::is_on(&headers));
}
