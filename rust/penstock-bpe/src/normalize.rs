//! The normalisations that a tokenizer.json may ask for.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, Hir, HirKind};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

/// The characters of Unicode 9, which are all that HF tokenizers normalise: their library stays at that version.
static OF_UNICODE_9: LazyLock<Vec<(char, char)>> = LazyLock::new(|| {
    let hir = regex_syntax::parse(r"\p{Age=9.0}");
    match hir.as_ref().map(Hir::kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class.iter().map(|r| (r.start(), r.end())).collect(),
        _ => Vec::new(),
    }
});

/// `text` normalised but for the later characters, none of which reorders or joins with others there.
fn compose(text: &str, normalise: impl Fn(&str) -> String) -> String {
    let ranges = &*OF_UNICODE_9;
    let is_later = |character: char| {
        // All before this one were there already.
        character >= '\u{378}' && {
            let next = ranges.partition_point(|&(first, _)| first <= character);
            next.checked_sub(1).is_none_or(|place| ranges[place].1 < character)
        }
    };
    let mut whole = String::with_capacity(text.len());
    for part in text.split_inclusive(is_later) {
        let run = part.trim_end_matches(is_later);
        whole.push_str(&normalise(run));
        whole.push_str(&part[run.len()..]);
    }
    whole
}

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
            Self::Nfc => Cow::Owned(compose(text, |run| run.nfc().collect())),
            Self::Nfkc if text.is_ascii() || is_nfkc_quick(text.chars()) == IsNormalized::Yes => {
                Cow::Borrowed(text)
            }
            Self::Nfkc => Cow::Owned(compose(text, |run| run.nfkc().collect())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_after_unicode_9_stay_where_they_are() {
        assert_eq!(Normalizer::Nfc.apply("a\u{301}\u{323}"), "ạ\u{301}");
        assert_eq!(Normalizer::Nfc.apply("e\u{1DFA}\u{301}a\u{301}"), "e\u{1DFA}\u{301}á");
        assert_eq!(Normalizer::Nfkc.apply("\u{32FF}\u{33FF}"), "\u{32FF}gal");
        assert_eq!(Normalizer::Nfc.apply("\u{11935}\u{11930}a\u{301}"), "\u{11935}\u{11930}á");
    }
}
