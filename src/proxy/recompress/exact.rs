//! Getting the very bytes of a coded body again: finding an encoder that makes them, and a recipe for it.
//!
//! An encoder is a program with all that decides over its bytes, another version of it is another one. So the name of each
//! comes with a [`fingerprint`], which two ends must have in common.
//!
//! For DEFLATE there are two: zlib-rs at a level that the header gives away, which is cheap to try; and preflate, which
//! finds out how some other encoder works from what it made, and keeps the differences to its own guess in the recipe. It
//! costs 2 ms for the smallest body, and 10 to 100 ms for each MB. The latter is a feature of its own, for those who cannot
//! have its licence.

#[cfg(feature = "preflate")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use flate2::Compression;

use super::coding::{Coding, Decoded, ZstdForm, encode_brotli, encode_zstd};
use super::wrap::{Wrap, adler32, deflate, gzip_trailer};

/// Larger bodies would take too long to find out about.
pub(super) const MAX_PLAIN_BYTES: usize = 4 * 1024 * 1024;
/// The same for encoders that have to be tried one by one.
const MAX_TRIED_BYTES: usize = 256 * 1024;
/// How far preflate looks, a guard against streams that are made to cost much.
#[cfg(feature = "preflate")]
const MAX_CHAIN: u32 = 4096;
/// Levels of zstd, in the order in which they are likely; nobody pays for more in an answer.
const ZSTD_LEVELS: [i32; 9] = [3, 1, 6, 5, 4, 2, 9, 7, 8];
const BROTLI_QUALITIES: [i32; 7] = [4, 5, 6, 1, 3, 2, 0];
const MIN_BROTLI_LGWIN: i32 = 10;
const MAX_BROTLI_LGWIN: i32 = 24;

/// What makes coded bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    ZlibRs,
    Preflate,
    Brotli,
    Zstd,
}

impl Encoder {
    pub(super) const ALL: [Self; 4] = [Self::ZlibRs, Self::Preflate, Self::Brotli, Self::Zstd];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ZlibRs => "zlib-rs",
            Self::Preflate => "preflate",
            Self::Brotli => "brotli",
            Self::Zstd => "zstd",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoder| encoder.name() == name)
    }

    /// Whether it is part of this program.
    pub(super) const fn is_built(self) -> bool {
        !matches!(self, Self::Preflate) || cfg!(feature = "preflate")
    }

    /// Whether any recipe at all costs no more than the body is long. What preflate keeps can be made to go on for ever.
    pub(super) const fn is_bounded(self) -> bool {
        !matches!(self, Self::Preflate)
    }

    fn makes(self, coding: Coding) -> bool {
        match self {
            Self::ZlibRs | Self::Preflate => matches!(coding, Coding::Gzip | Coding::Deflate),
            Self::Brotli => coding == Coding::Brotli,
            Self::Zstd => coding == Coding::Zstd,
        }
    }
}

/// An encoder that makes `coded` of its plain body, and how, in a recipe of `most` bytes; of those that `may` be used.
pub(super) fn find(
    coding: Coding,
    coded: &[u8],
    decoded: &Decoded,
    most: usize,
    may: impl Fn(Encoder) -> bool,
) -> Option<(Encoder, Vec<u8>)> {
    let plain = &decoded.plain[..];
    if plain.len() > MAX_PLAIN_BYTES {
        return None;
    }
    let tried =
        |encoder, recipe: Option<Vec<u8>>| recipe.filter(|recipe| recipe.len() <= most).map(|recipe| (encoder, recipe));
    match (coding, &decoded.wrap) {
        (Coding::Gzip | Coding::Deflate, Some(wrap)) => {
            let zlib = may(Encoder::ZlibRs).then(|| find_zlib(coding, coded, plain, wrap)).flatten();
            tried(Encoder::ZlibRs, zlib).or_else(|| {
                let preflate = may(Encoder::Preflate).then(|| find_preflate(coded, plain, wrap, most)).flatten();
                tried(Encoder::Preflate, preflate)
            })
        }
        _ if plain.len() > MAX_TRIED_BYTES => None,
        (Coding::Brotli, _) if may(Encoder::Brotli) => tried(Encoder::Brotli, find_brotli(coded, plain)),
        (Coding::Zstd, _) if may(Encoder::Zstd) => tried(Encoder::Zstd, find_zstd(coded, plain)),
        _ => None,
    }
}

/// The coded body by its recipe. None if the recipe is none, or was for another body.
pub(super) fn make(coding: Coding, encoder: Encoder, recipe: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    if !encoder.makes(coding) {
        return None;
    }
    match encoder {
        Encoder::ZlibRs => {
            let (&level, header) = recipe.split_first()?;
            let level = Some(level).filter(|level| *level <= 9)?;
            Some(wrapped(coding, header, &deflate(plain, Compression::new(level.into()), None)?, plain))
        }
        Encoder::Preflate => {
            let (&length, rest) = recipe.split_first()?;
            let (header, corrections) = rest.split_at_checked(length.into())?;
            if plain.len() > MAX_PLAIN_BYTES {
                return None;
            }
            Some(wrapped(coding, header, &recreate(plain, corrections)?, plain))
        }
        Encoder::Brotli => {
            let &[quality, lgwin, hint] = recipe else { return None };
            let (quality, lgwin) = (i32::from(quality), i32::from(lgwin));
            let is_cheap = BROTLI_QUALITIES.contains(&quality) && plain.len() <= MAX_TRIED_BYTES;
            let is_window = (MIN_BROTLI_LGWIN..=MAX_BROTLI_LGWIN).contains(&lgwin);
            (is_cheap && is_window).then_some(())?;
            encode_brotli(plain, quality, lgwin, if hint == 0 { 0 } else { plain.len() })
        }
        Encoder::Zstd => {
            let &[level, has_size, has_checksum] = recipe else { return None };
            let level = i32::from(level);
            let is_cheap = ZSTD_LEVELS.contains(&level) && plain.len() <= MAX_TRIED_BYTES;
            is_cheap.then_some(())?;
            encode_zstd(plain, ZstdForm { level, has_size: has_size != 0, has_checksum: has_checksum != 0 })
        }
    }
}

/// A stream with what stands around it: the header as it was, and a trailer that follows from the content.
fn wrapped(coding: Coding, header: &[u8], stream: &[u8], plain: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Deflate => [header, stream, &adler32(plain).to_be_bytes()].concat(),
        _ => [header, stream, &gzip_trailer(plain)].concat(),
    }
}

fn find_zlib(coding: Coding, coded: &[u8], plain: &[u8], wrap: &Wrap) -> Option<Vec<u8>> {
    let stream = &coded[wrap.stream.clone()];
    let levels: &[u8] = match (coding, wrap.hint) {
        (Coding::Gzip, 4) | (Coding::Deflate, 0) => &[1],
        (Coding::Gzip, 2) => &[9],
        (Coding::Deflate, 3) => &[9, 8, 7],
        (Coding::Deflate, 1) => &[5, 4, 3, 2],
        _ => &[6, 5, 3],
    };
    let makes =
        |level: &&u8| deflate(plain, Compression::new((**level).into()), Some(stream)).is_some_and(|s| s == stream);
    let level = levels.iter().find(makes)?;
    Some([&[*level], &coded[..wrap.stream.start]].concat())
}

fn find_preflate(coded: &[u8], plain: &[u8], wrap: &Wrap, most: usize) -> Option<Vec<u8>> {
    let stream = &coded[wrap.stream.clone()];
    let header = &coded[..wrap.stream.start];
    let length = u8::try_from(header.len()).ok()?;
    let (corrections, text) = analyse(stream)?;
    // Seen before it is relied on.
    let is_sure = text == plain
        && corrections.len() <= most
        && recreate(plain, &corrections).is_some_and(|again| again == stream);
    is_sure.then(|| [&[length], header, &corrections].concat())
}

/// What preflate makes of a whole stream: the differences to its guess, and what the stream holds.
#[cfg(feature = "preflate")]
fn analyse(stream: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let config = preflate_rs::PreflateConfig {
        max_chain_length: MAX_CHAIN,
        plain_text_limit: MAX_PLAIN_BYTES,
        verify_compression: false,
    };
    let (found, text) = unharmed(|| preflate_rs::preflate_whole_deflate_stream(stream, &config).ok())?;
    (found.compressed_size == stream.len()).then(|| (found.corrections, text.text().to_vec()))
}

#[cfg(feature = "preflate")]
fn recreate(plain: &[u8], corrections: &[u8]) -> Option<Vec<u8>> {
    unharmed(|| preflate_rs::recreate_whole_deflate_stream(plain, corrections).ok())
}

#[cfg(not(feature = "preflate"))]
fn analyse(_: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    None
}

#[cfg(not(feature = "preflate"))]
fn recreate(_: &[u8], _: &[u8]) -> Option<Vec<u8>> {
    None
}

/// What is made of bytes of strangers may have faults that nobody knows; they cost that body its place, and nothing else.
#[cfg(feature = "preflate")]
fn unharmed<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok().flatten()
}

fn find_zstd(coded: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let &descriptor = coded.get(4)?;
    // RFC 8878, section 3.1.1.1: a size of the content, or one segment, which has one; a checksum.
    let has_size = descriptor >> 6 != 0 || descriptor & 0x20 != 0;
    let has_checksum = descriptor & 4 != 0;
    let makes = |level: &i32| {
        encode_zstd(plain, ZstdForm { level: *level, has_size, has_checksum }).is_some_and(|made| made == coded)
    };
    let level = ZSTD_LEVELS.into_iter().find(makes)?;
    Some(vec![level as u8, has_size.into(), has_checksum.into()])
}

fn find_brotli(coded: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let lgwin = brotli_window(*coded.first()?)?;
    BROTLI_QUALITIES.into_iter().find_map(|quality| {
        [0, plain.len()].into_iter().find_map(|hint| {
            let made = encode_brotli(plain, quality, lgwin, hint)?;
            (made == coded).then(|| vec![quality as u8, lgwin as u8, u8::from(hint != 0)])
        })
    })
}

/// The window that the first bits of a brotli stream tell of (RFC 7932, section 9.1).
fn brotli_window(first: u8) -> Option<i32> {
    match first & 0x7f {
        bits if bits & 1 == 0 => Some(16),
        bits if bits & 0xf != 1 => Some(i32::from(bits >> 1 & 7) + 17),
        0x01 => Some(17),
        0x21 => Some(10),
        0x31 => Some(11),
        0x41 => Some(12),
        0x51 => Some(13),
        0x61 => Some(14),
        0x71 => Some(15),
        _ => None,
    }
}

/// A checksum over what an encoder makes of a sample, in all the ways in which it is used: it differs where versions, or
/// processors, make a difference.
pub(super) fn fingerprint(encoder: Encoder) -> u32 {
    static PRINTS: OnceLock<[u32; 4]> = OnceLock::new();
    PRINTS.get_or_init(|| Encoder::ALL.map(print_of))[encoder as usize]
}

fn print_of(encoder: Encoder) -> u32 {
    let sample = sample();
    let recipes: Vec<Vec<u8>> = match encoder {
        Encoder::ZlibRs => (0..=9).map(|level| vec![level]).collect(),
        Encoder::Zstd => ZSTD_LEVELS.iter().flat_map(|l| [0, 1].map(|size| vec![*l as u8, size, size])).collect(),
        Encoder::Brotli => BROTLI_QUALITIES.iter().flat_map(|q| [0, 1].map(|hint| vec![*q as u8, 22, hint])).collect(),
        Encoder::Preflate => {
            let recipe = |level| {
                let (corrections, _) = analyse(&deflate(&sample, Compression::new(level), None)?)?;
                Some([vec![0], corrections].concat())
            };
            [1, 6].into_iter().filter_map(recipe).collect()
        }
    };
    let coding = Coding::ALL.into_iter().find(|coding| encoder.makes(*coding)).unwrap_or(Coding::Gzip);
    recipes.iter().fold(0, |sum, recipe| {
        let made = make(coding, encoder, recipe, &sample).unwrap_or_default();
        let sum = crc32c::crc32c_append(sum, &made);
        // What preflate understands differs by version, too.
        if encoder == Encoder::Preflate { crc32c::crc32c_append(sum, recipe) } else { sum }
    })
}

/// Text that encoders find something in, the same everywhere: 24 KiB, somewhat like JSON.
fn sample() -> Vec<u8> {
    let mut state: u32 = 2026;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let mut text = String::new();
    while text.len() < 24 * 1024 {
        let (id, word, price) = (next(), ["alpha", "beta", "gamma", "delta"][next() as usize % 4], next() % 1000);
        text.push_str(&format!(
            "{{\"id\":{id},\"name\":\"{word}-{}\",\"price\":{price}.{:02}}},",
            id % 97,
            price % 100
        ));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::coding::{decode, encode};
    use super::super::wrap::{encode_gzip, encode_zlib};
    use super::*;

    fn found(coding: Coding, coded: &[u8]) -> Option<Encoder> {
        let decoded = decode(coding, coded, 1 << 24).unwrap();
        let (encoder, recipe) = find(coding, coded, &decoded, usize::MAX, |_| true)?;
        let made = make(coding, encoder, &recipe, &decoded.plain).unwrap();
        assert!(made == coded, "{coding:?} by {encoder:?}");
        Some(encoder)
    }

    #[test]
    fn own_encoders_are_found_at_each_level() {
        for plain in [&b"x"[..], &sample()[..900], &sample()] {
            // Not each of them is among those that are tried before preflate is asked.
            for level in if cfg!(feature = "preflate") { 0..=9 } else { 6..=6 } {
                let level = Compression::new(level);
                assert!(found(Coding::Gzip, &encode_gzip(plain, level).unwrap()).is_some(), "{level:?}");
                assert!(found(Coding::Deflate, &encode_zlib(plain, level).unwrap()).is_some(), "{level:?}");
            }
            for level in ZSTD_LEVELS {
                for (has_size, has_checksum) in [(true, false), (true, true), (false, false), (false, true)] {
                    let coded = encode_zstd(plain, ZstdForm { level, has_size, has_checksum }).unwrap();
                    assert_eq!(found(Coding::Zstd, &coded), Some(Encoder::Zstd), "{level} {has_size}");
                }
            }
            for quality in BROTLI_QUALITIES {
                // With less quality smaller windows are not taken.
                for lgwin in if quality < 2 { [18, 20, 22, 24] } else { [10, 16, 17, 22] } {
                    let coded = encode_brotli(plain, quality, lgwin, 0).unwrap();
                    assert_eq!(found(Coding::Brotli, &coded), Some(Encoder::Brotli), "{quality} {lgwin}");
                }
            }
        }
        assert_eq!(found(Coding::Gzip, &encode(Coding::Gzip, &sample()).unwrap()), Some(Encoder::ZlibRs));
    }

    #[test]
    #[cfg(feature = "preflate")]
    fn another_implementation_of_deflate_is_found_out() {
        for level in 1..=9 {
            let stream = miniz_oxide::deflate::compress_to_vec_zlib(&sample(), level);
            assert_eq!(found(Coding::Deflate, &stream), Some(Encoder::Preflate), "{level}");
        }
    }

    #[test]
    fn bad_recipes_make_nothing() {
        let plain = sample();
        for encoder in Encoder::ALL {
            for coding in Coding::ALL {
                for recipe in [&[][..], &[255], &[255; 3], &[11, 22, 0], &[0, 255, 255], &[3; 400]] {
                    // Nothing, or something that its checksum tells from what was meant; and no panic.
                    let made = make(coding, encoder, recipe, &plain);
                    assert!(made.is_none() || encoder.makes(coding));
                }
            }
        }
    }

    #[test]
    fn fingerprints_differ() {
        let built: Vec<Encoder> = Encoder::ALL.into_iter().filter(|encoder| encoder.is_built()).collect();
        let prints: Vec<u32> = built.iter().map(|encoder| fingerprint(*encoder)).collect();
        assert!(prints.iter().enumerate().all(|(n, print)| !prints[..n].contains(print)), "{prints:x?}");
        assert!(built.iter().zip(prints).all(|(encoder, print)| print == print_of(*encoder)));
    }
}
