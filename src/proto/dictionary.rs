//! What both ends of a zstd stream know before it begins (spec/03-compression.md, 3.6).

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use zstd_safe::{CDict, DCtx};

/// A dictionary for zstd, trained on traffic that is like what is to come. Cheap to clone.
///
/// Its id stands at the head of each Zstandard frame that needs it; whoever has no dictionary with that id ends the link
/// with the code `zstd-dictionary`.
#[derive(Clone, PartialEq, Eq)]
pub struct Dictionary {
    id: NonZeroU32,
    bytes: Arc<[u8]>,
}

/// Why some bytes are no dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DictionaryError {
    /// They do not begin as a Zstandard dictionary does (RFC 8878, section 5), or have no id.
    Format,
    /// The tables in it are damaged.
    Corrupt,
    /// It is longer than [`Dictionary::MAX_BYTES`].
    TooLong,
}

impl fmt::Display for DictionaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => write!(f, "no Zstandard dictionary with an id"),
            Self::Corrupt => write!(f, "a damaged Zstandard dictionary"),
            Self::TooLong => write!(f, "a dictionary of more than {} bytes", Dictionary::MAX_BYTES),
        }
    }
}

impl std::error::Error for DictionaryError {}

impl Dictionary {
    /// The longest one.
    pub const MAX_BYTES: usize = 1 << 20;

    /// A dictionary in the format of RFC 8878, section 5, as `httptp train` and `zstd --train` write it.
    ///
    /// # Errors
    ///
    /// The bytes are none.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Result<Self, DictionaryError> {
        let bytes = bytes.into();
        if bytes.len() > Self::MAX_BYTES {
            return Err(DictionaryError::TooLong);
        }
        let id = zstd_safe::get_dict_id_from_dict(&bytes).ok_or(DictionaryError::Format)?;
        let decodes = DCtx::create().load_dictionary(&bytes).is_ok();
        if !decodes || CDict::try_create(&bytes, 3).is_none() {
            return Err(DictionaryError::Corrupt);
        }
        Ok(Self { id, bytes })
    }

    /// Its number, never 0.
    pub fn id(&self) -> u32 {
        self.id.get()
    }

    /// The bytes that it was made of.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dictionary({}, {} bytes)", self.id, self.bytes.len())
    }
}
