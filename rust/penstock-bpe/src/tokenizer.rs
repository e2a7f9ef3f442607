//! The tokenizer as its users see it.

use std::path::Path;
use std::sync::Arc;

use crate::encode::pairs::Merge;
use crate::encode::{Allowed, Encoder};
use crate::error::{Error, Result};
use crate::model::{Model, Parts};
use crate::pattern::Pattern;
use crate::vocab::MAX_ID;

/// Spellings of the token that ends a document, the first found being taken.
const END_OF_TEXT: [&str; 5] =
    ["<|endoftext|>", "<｜end▁of▁sentence｜>", "<|end_of_text|>", "<|end_of_sentence|>", "</s>"];

/// A token added to the vocabulary by its text: a control token if `special`, else a word that is never split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its text.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// Whether text may become it only where the caller allows that.
    pub special: bool,
    /// Whether it takes the white space before it.
    pub lstrip: bool,
    /// Whether it takes the white space behind it.
    pub rstrip: bool,
    /// Whether it is found only where no word character touches it.
    pub single_word: bool,
    /// Whether it is looked for in the normalised text.
    pub normalized: bool,
}

impl SpecialToken {
    /// A control token without further conditions.
    pub fn new(content: impl Into<String>, id: u32) -> Self {
        let content = content.into();
        Self {
            content,
            id,
            special: true,
            lstrip: false,
            rstrip: false,
            single_word: false,
            normalized: false,
        }
    }
}

/// A byte-level BPE tokenizer. Cheap to clone; shared freely between threads.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    model: Arc<Model>,
}

impl Tokenizer {
    /// A tokenizer of `tokens` (their place is their id), merged by `merges` (pairs of ids, the first going first).
    /// The `specials` may stand among the tokens, with the same bytes, or behind them. Without merges every byte is
    /// one token.
    ///
    /// # Errors
    ///
    /// The variant of [`Error`] that names the first fault: an empty, long or repeated token, a byte without a token, a
    /// merge that names or makes no token, a special token that conflicts with another.
    pub fn new(
        pattern: Pattern,
        tokens: Vec<Vec<u8>>,
        merges: Vec<(u32, u32)>,
        specials: Vec<SpecialToken>,
    ) -> Result<Self> {
        if let Some(id) = tokens.iter().position(Vec::is_empty) {
            return Err(Error::EmptyToken { id: id as u32 });
        }
        Self::from_parts(pattern, Parts { tokens, merges, specials, ..Parts::default() })
    }

    pub(crate) fn from_parts(pattern: Pattern, parts: Parts) -> Result<Self> {
        if parts.tokens.len() > MAX_ID as usize {
            return Err(Error::IdTooLarge { id: parts.tokens.len() as u64 - 1, limit: MAX_ID });
        }
        Model::new(pattern, parts).map(Self::from_model)
    }

    pub(crate) fn from_model(model: Model) -> Self {
        Self { model: Arc::new(model) }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Reads a folder that holds a `tokenizer.json` or a `tokenizer.model`, a `*.json` of that format, a `*.tiktoken` rank
    /// file, or a SentencePiece `*.model`. A rank
    /// file needs the name of its `pattern`; for the others it is optional and must agree with the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::FileTooLarge`] naming the path, [`Error::InFile`] naming path and place,
    /// [`Error::PatternNeeded`], [`Error::PatternConflict`], [`Error::Pattern`], [`Error::UnknownFormat`].
    pub fn from_file(path: &Path, pattern: Option<&str>) -> Result<Self> {
        crate::format::load(path, pattern, None)
    }

    /// [`from_file`](Self::from_file), by way of the file `cache`, which is written if it is not there, is damaged, or was
    /// made from another source. A SentencePiece model is read as it is.
    ///
    /// # Errors
    ///
    /// As there; [`Error::Io`] where the cache cannot be written.
    pub fn from_file_cached(path: &Path, pattern: Option<&str>, cache: &Path) -> Result<Self> {
        crate::format::load(path, pattern, Some(cache))
    }

    /// Reads a tokenizer.json from memory; `origin` stands in errors.
    ///
    /// # Errors
    ///
    /// [`Error::InFile`] naming `origin` and the place.
    pub fn from_json(bytes: &[u8], origin: &Path) -> Result<Self> {
        crate::format::json::read(bytes, origin)
    }

    /// Reads a rank file from memory; `origin` stands in errors. Known vocabularies get their special tokens, others
    /// `<|endoftext|>` behind their last token.
    ///
    /// # Errors
    ///
    /// [`Error::InFile`] naming `origin` and the line.
    pub fn from_tiktoken(bytes: &[u8], pattern: Pattern, origin: &Path) -> Result<Self> {
        crate::format::tiktoken::read(bytes, pattern, origin)
    }

    /// Writes the tokenizer: a rank file for `*.tiktoken`, a tokenizer.json for `*.json`, else a folder with
    /// `tokenizer.json` and `tokenizer_config.json`, as transformers loads it. Each file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::NotARankFile`] where a rank file would lose something.
    pub fn save(&self, path: &Path) -> Result<()> {
        crate::format::save(self, path)
    }

    /// The content of its tokenizer.json.
    ///
    /// # Errors
    ///
    /// [`Error::OnlyAsModel`] for what came from a SentencePiece model.
    pub fn to_json(&self) -> Result<String> {
        crate::format::to_json(self)
    }

    /// All that it is, for another process of this version: what a cache file holds. `None` for what came from a
    /// SentencePiece model.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        crate::format::cache::write(self, 0)
    }

    /// The tokenizer that [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    ///
    /// [`Error::Bytes`] for those that are damaged or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        crate::format::cache::read(bytes, 0, Path::new("<bytes>")).ok_or(Error::Bytes)
    }

    /// Reads a SentencePiece model of the kind BPE from memory; `origin` stands in errors.
    ///
    /// # Errors
    ///
    /// [`Error::InFile`] naming `origin` and what is damaged, or what would give other ids than SentencePiece.
    pub fn from_sentencepiece(bytes: &[u8], origin: &Path) -> Result<Self> {
        crate::format::sentencepiece::read(bytes, origin)
    }

    /// The SentencePiece model that it came from, if it did.
    #[must_use]
    pub fn sentencepiece_model(&self) -> Option<&[u8]> {
        self.model.sentencepiece.as_ref().map(|origin| origin.source.as_slice())
    }

    /// Hex SHA-256 of all that decides about ids: equal for equal tokenizers, whatever file they came from.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.model.sha256
    }

    /// The largest id and one: special tokens count.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// The split pattern.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.model.pattern
    }

    /// Name of the split pattern; `custom` if it has none.
    #[must_use]
    pub fn pattern_name(&self) -> &str {
        self.model.pattern.name()
    }

    /// The id of the token of exactly these bytes, special tokens included.
    #[must_use]
    pub fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        let special = std::str::from_utf8(token).ok().and_then(|content| self.model.special_ids.get(content));
        let is_known = |id: &u32| (*id as usize) < self.vocab_size();
        special.copied().or_else(|| self.model.vocab.find(token).filter(is_known))
    }

    /// The bytes of `id`; those of its text for a special token. `None` for an unused id.
    #[must_use]
    pub fn id_to_bytes(&self, id: u32) -> Option<&[u8]> {
        let bytes = self.model.vocab.get(id);
        (!bytes.is_empty() && (id as usize) < self.vocab_size()).then_some(bytes)
    }

    /// The added tokens, by id.
    #[must_use]
    pub fn special_tokens(&self) -> &[SpecialToken] {
        &self.model.specials
    }

    /// The special token that ends a document, by its usual spellings.
    #[must_use]
    pub fn eot_id(&self) -> Option<u32> {
        let is_special =
            |content: &&str| self.model.specials.iter().any(|t| t.special && t.content == **content);
        let content = END_OF_TEXT.iter().find(|content| is_special(content))?;
        self.model.special_ids.get(*content).copied()
    }

    /// The merge rules, the first going first.
    #[must_use]
    pub fn merges(&self) -> &[Merge] {
        let hidden = self.model.sentencepiece.as_ref().map_or(0, |origin| origin.character_merges);
        &self.model.merges[hidden..]
    }

    /// The ids of `text`. Special tokens in it are text; added tokens that are not special are found.
    #[must_use]
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        self.encode(text, &Allowed::None)
    }

    /// The ids of `text`, where the `allowed` special tokens become their ids. A text of a megabyte or more is shared
    /// among all cores.
    #[must_use]
    pub fn encode(&self, text: &str, allowed: &Allowed) -> Vec<u32> {
        self.encode_batch(&[text], allowed, 0).0
    }

    /// An encoder with the memory of one thread.
    #[must_use]
    pub fn encoder(&self) -> Encoder {
        Encoder::new(self)
    }

    /// The number of ids of `text`.
    #[must_use]
    pub fn count_tokens(&self, text: &str) -> usize {
        self.encode_ordinary(text).len()
    }
}
