//! One compressed stream a direction (spec/03-compression.md): the seam behind which every compression stands.
//!
//! An [`Encoder`] turns batches of plain bytes into wire bytes that the peer can decode up to the last byte of the
//! batch. A [`Decoder`] turns wire bytes, cut anywhere, into plain bytes, a bounded amount at a time.

mod deflate;
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use bytes::BytesMut;

use super::config::{Compression, Dictionary};
use super::error::ErrorKind;

/// Most plain bytes that one call of [`Decoder::decode`] yields: what bounds memory whatever the ratio
/// (R-decompress-bound). A snappy chunk cannot be divided, so this is its maximum.
pub(crate) const STEP_BYTES: usize = 64 * 1024;

/// What a deflater and an inflater with the largest window take, roughly.
const DEFLATER_BYTES: usize = 300 * 1024;
const INFLATER_BYTES: usize = 64 * 1024;

/// The sending side of a direction.
pub(crate) enum Encoder {
    None,
    Deflate(deflate::Encoder),
    Snappy(Box<snappy::Encoder>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Encoder),
}

impl Encoder {
    /// `level` counts if the compression has levels, `dictionary` for zstd.
    pub(crate) fn new(compression: Compression, level: Option<u8>, dictionary: Option<&Dictionary>) -> Self {
        #[cfg(not(feature = "zstd"))]
        let _ = dictionary;
        let level = effective_level(compression, level).unwrap_or_default();
        match compression {
            Compression::None => Self::None,
            Compression::Deflate => Self::Deflate(deflate::Encoder::new(level)),
            Compression::Snappy => Self::Snappy(Box::new(snappy::Encoder::new())),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(level, dictionary)),
        }
    }

    /// Changes the level, if there is one, from the next batch.
    pub(crate) fn set_level(&mut self, level: u8) {
        let level = level.clamp(LEVELS.0, LEVELS.1);
        match self {
            Self::None | Self::Snappy(_) => {}
            Self::Deflate(encoder) => encoder.set_level(level),
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.set_level(level),
        }
    }

    /// Roughly how many bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Deflate(_) => DEFLATER_BYTES,
            Self::Snappy(_) => 2 * STEP_BYTES,
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.memory(),
        }
    }

    /// Appends `batch` to `wire`, compressed and flushed (R-flush-boundary).
    pub(crate) fn encode(&mut self, batch: &[u8], wire: &mut Vec<u8>) {
        match self {
            Self::None => wire.extend_from_slice(batch),
            Self::Deflate(encoder) => encoder.encode(batch, wire),
            Self::Snappy(encoder) => encoder.encode(batch, wire),
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.encode(batch, wire),
        }
    }
}

/// The first and the last level.
const LEVELS: (u8, u8) = (1, 9);

/// The level of a compression if this is wished for; `None` if it has none.
pub(crate) fn effective_level(compression: Compression, level: Option<u8>) -> Option<u8> {
    compression.default_level().map(|default| level.unwrap_or(default).clamp(LEVELS.0, LEVELS.1))
}

/// The receiving side of a direction.
pub(crate) enum Decoder {
    None,
    Deflate(deflate::Decoder),
    Snappy(snappy::Decoder),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Decoder),
}

impl Decoder {
    /// Zstd understands what needs one of these dictionaries, or none.
    pub(crate) fn new(compression: Compression, dictionaries: &[Dictionary]) -> Self {
        #[cfg(not(feature = "zstd"))]
        let _ = dictionaries;
        match compression {
            Compression::None => Self::None,
            Compression::Deflate => Self::Deflate(deflate::Decoder::new()),
            Compression::Snappy => Self::Snappy(snappy::Decoder::new()),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstd::Decoder::new(dictionaries)),
        }
    }

    /// Takes some of `wire` and appends at most [`STEP_BYTES`] to `plain`; returns how much of `wire` it took.
    ///
    /// A call that takes nothing and appends nothing has no more to give until there is more input. On an error,
    /// what came before it has been appended to `plain`, however the input was cut.
    pub(crate) fn decode(&mut self, wire: &[u8], plain: &mut BytesMut) -> Result<usize, ErrorKind> {
        match self {
            Self::None => {
                let taken = wire.len().min(STEP_BYTES);
                plain.extend_from_slice(&wire[..taken]);
                Ok(taken)
            }
            Self::Deflate(decoder) => decoder.decode(wire, plain),
            Self::Snappy(decoder) => decoder.decode(wire, plain),
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.decode(wire, plain),
        }
    }

    /// The dictionary that the stream needs, as far as it has come.
    pub(crate) fn dictionary(&self) -> Option<&Dictionary> {
        match self {
            Self::None | Self::Deflate(_) | Self::Snappy(_) => None,
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.dictionary(),
        }
    }

    /// Roughly how many bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Deflate(_) => INFLATER_BYTES,
            Self::Snappy(_) => 2 * STEP_BYTES,
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.memory(),
        }
    }

    /// Whether the wire so far ends where no sender ends it: inside a snappy chunk or a unit of a zstd stream, or between
    /// two flush points.
    pub(crate) fn is_inside_unit(&self) -> bool {
        match self {
            Self::None => false,
            Self::Deflate(decoder) => decoder.is_between_flushes(),
            Self::Snappy(decoder) => decoder.is_inside_chunk(),
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.is_inside_unit(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes `wire`, fed in pieces of the given sizes, until an error or the end.
    pub(crate) fn decode_cut(
        compression: Compression,
        wire: &[u8],
        cuts: impl Iterator<Item = usize>,
    ) -> (Vec<u8>, Option<ErrorKind>) {
        let mut decoder = Decoder::new(compression, &[]);
        let mut plain = BytesMut::new();
        let mut rest = wire;
        for cut in cuts.chain(std::iter::once(usize::MAX)) {
            let (mut piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            loop {
                let before = plain.len();
                match decoder.decode(piece, &mut plain) {
                    Err(error) => return (plain.to_vec(), Some(error)),
                    Ok(taken) => {
                        piece = &piece[taken..];
                        if taken == 0 && plain.len() == before {
                            break;
                        }
                    }
                }
            }
            assert!(piece.is_empty(), "a decoder that yields nothing has taken everything");
        }
        (plain.to_vec(), None)
    }

    fn encode(compression: Compression, batches: &[Vec<u8>]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, None, None);
        let mut wire = Vec::new();
        for batch in batches {
            encoder.encode(batch, &mut wire);
        }
        wire
    }

    fn any_compression() -> impl Strategy<Value = Compression> {
        proptest::sample::select(&Compression::ALL[..])
    }

    /// Batches with repetition, so that there is something to compress, up to more than one snappy chunk.
    fn any_batch() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..300),
            (any::<u8>(), 1usize..200_000).prop_map(|(byte, n)| vec![byte; n]),
            (proptest::collection::vec(any::<u8>(), 1..2000), 1usize..60).prop_map(|(part, n)| part.repeat(n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_encoded_is_decoded_under_any_cut(
            compression in any_compression(),
            batches in proptest::collection::vec(any_batch(), 1..5),
            cuts in proptest::collection::vec(1usize..5000, 0..50),
        ) {
            let wire = encode(compression, &batches);
            let (plain, error) = decode_cut(compression, &wire, cuts.into_iter());
            prop_assert_eq!(error, None);
            prop_assert!(plain == batches.concat());
        }

        #[test]
        fn each_batch_is_decodable_when_it_has_arrived(
            compression in any_compression(),
            batches in proptest::collection::vec(any_batch(), 1..5),
        ) {
            // R-flush-boundary
            let mut encoder = Encoder::new(compression, None, None);
            let mut decoder = Decoder::new(compression, &[]);
            let mut plain = BytesMut::new();
            for batch in &batches {
                let mut wire = Vec::new();
                encoder.encode(batch, &mut wire);
                let mut rest = &wire[..];
                loop {
                    let before = plain.len();
                    let taken = decoder.decode(rest, &mut plain).unwrap();
                    rest = &rest[taken..];
                    if taken == 0 && plain.len() == before { break }
                }
                prop_assert!(plain.split() == batch[..]);
                prop_assert!(!decoder.is_inside_unit());
            }
        }

        #[test]
        fn damage_gives_the_same_bytes_and_error_under_any_cut(
            compression in any_compression(),
            batches in proptest::collection::vec(any_batch(), 1..3),
            at in any::<proptest::sample::Index>(),
            flip in 1u8..,
            cuts in proptest::collection::vec(1usize..3000, 0..50),
        ) {
            let mut wire = encode(compression, &batches);
            let at = at.index(wire.len());
            wire[at] ^= flip;
            let whole = decode_cut(compression, &wire, std::iter::empty());
            let cut = decode_cut(compression, &wire, cuts.into_iter());
            prop_assert!(whole == cut);
        }

        #[test]
        fn one_call_yields_a_bounded_amount(
            compression in any_compression(),
            n in 1usize..3_000_000,
        ) {
            let wire = encode(compression, &[vec![b'a'; n]]);
            let mut decoder = Decoder::new(compression, &[]);
            let mut rest = &wire[..];
            loop {
                let mut plain = BytesMut::new();
                let taken = decoder.decode(rest, &mut plain).unwrap();
                rest = &rest[taken..];
                prop_assert!(plain.len() <= STEP_BYTES);
                if taken == 0 && plain.is_empty() { break }
            }
        }
    }

    #[test]
    fn the_inflater_survives_arbitrary_bytes() {
        proptest!(|(compression in any_compression(), wire in proptest::collection::vec(any::<u8>(), 0..600))| {
            let whole = decode_cut(compression, &wire, std::iter::empty());
            let cut = decode_cut(compression, &wire, std::iter::repeat_n(1, wire.len()));
            prop_assert!(whole == cut);
        });
    }
}
