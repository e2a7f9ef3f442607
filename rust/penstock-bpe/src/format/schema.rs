//! The shape of a tokenizer.json, as far as it is read.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What is looked at first, since the rest differs between kinds of models.
#[derive(Debug, Deserialize)]
pub(super) struct Probe {
    pub(super) model: ProbeModel,
}

/// The kind of model.
#[derive(Debug, Deserialize)]
pub(super) struct ProbeModel {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: Bpe,
}

/// A token added by its text.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) normalized: bool,
}

/// The model.
#[derive(Debug, Deserialize)]
pub(super) struct Bpe {
    pub(super) dropout: Option<f64>,
    pub(super) unk_token: Option<String>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: Entries,
    pub(super) merges: Vec<MergeText>,
}

/// The vocabulary in the order of the file, repetitions included.
#[derive(Debug)]
pub(super) struct Entries(pub(super) Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of token: id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// A merge, written `["a", "b"]` or `"a b"`.
#[derive(Debug)]
pub(super) enum MergeText {
    Pair(String, String),
    Joined(String),
}

impl MergeText {
    /// The two parts, if there are two.
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(left, right) => Some((left, right)),
            Self::Joined(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        }
    }
}

impl<'de> Deserialize<'de> for MergeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = MergeText;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a merge: two token strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MergeText, E> {
                Ok(MergeText::Joined(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<MergeText, A::Error> {
                let (left, right) = (items.next_element()?, items.next_element()?);
                let surplus: Option<String> = items.next_element()?;
                match (left, right, surplus) {
                    (Some(left), Some(right), None) => Ok(MergeText::Pair(left, right)),
                    _ => Err(A::Error::custom("expected a merge of two token strings")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}
