//! The normalisations that a tokenizer.json may ask for.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

/// What is done to text before it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Normalizer {
    /// Nothing.
    #[default]
    None,
    /// Canonical composition.
    Nfc,
    /// Compatibility composition.
    Nfkc,
    /// SentencePiece's: its mark for a space is one, and a text begins with a space of its own.
    SentencePiece {
        /// Whether it does.
        dummy_prefix: bool,
    },
}

impl Normalizer {
    /// The normalised text; borrowed where a quick look shows that nothing changes.
    pub(crate) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::None => Cow::Borrowed(text),
            Self::Nfc if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes => {
                Cow::Borrowed(text)
            }
            Self::Nfc => Cow::Owned(text.nfc().collect()),
            Self::Nfkc if text.is_ascii() || is_nfkc_quick(text.chars()) == IsNormalized::Yes => {
                Cow::Borrowed(text)
            }
            Self::Nfkc => Cow::Owned(text.nfkc().collect()),
            Self::SentencePiece { .. } if text.is_empty() => Cow::Borrowed(text),
            Self::SentencePiece { dummy_prefix: false } if !text.contains('\u{2581}') => Cow::Borrowed(text),
            Self::SentencePiece { dummy_prefix } => {
                let prefix = if dummy_prefix { " " } else { "" };
                Cow::Owned([prefix, text].concat().replace('\u{2581}', " "))
            }
        }
    }

    /// Its name in a tokenizer.json.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Nfc => Some("NFC"),
            Self::Nfkc => Some("NFKC"),
            Self::SentencePiece { dummy_prefix: true } => Some("SentencePiece with a dummy prefix"),
            Self::SentencePiece { dummy_prefix: false } => Some("SentencePiece"),
        }
    }
}
