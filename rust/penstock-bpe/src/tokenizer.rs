//! The tokenizer: a checked vocabulary with its merge rules and split pattern.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustc_hash::{FxHashMap, FxHashSet};
use sha2::{Digest, Sha256};

use crate::byte_level;
use crate::encode::pairs::{Merge, Pairs};
use crate::encode::{Allowed, Encoder, Matchers, State};
use crate::error::{Error, Result, show};
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::vocab::{MAX_ID, Vocab};

/// Spellings of the token that ends a document, the first found being taken.
const END_OF_TEXT: [&str; 5] = [
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_text|>",
    "<|end_of_sentence|>",
    "</s>",
];
/// States kept for later calls; more threads than this allocate anew.
const KEPT_STATES: usize = 64;
/// No token for a byte. Only for bytes that UTF-8 never uses.
const NO_BYTE: u32 = u32::MAX;

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

/// What a tokenizer is made from.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) normalizer: Normalizer,
    /// Bytes by id; empty where the id is unused or belongs to `specials`.
    pub(crate) tokens: Vec<Vec<u8>>,
    /// Ids of tokens that text cannot become.
    pub(crate) unreachable: FxHashSet<u32>,
    pub(crate) merges: Vec<(u32, u32)>,
    /// Merges rank by the id of their product instead of their place.
    pub(crate) rank_by_product: bool,
    /// A piece that is a token becomes it, whatever the merges say.
    pub(crate) ignore_merges: bool,
    pub(crate) specials: Vec<SpecialToken>,
}

/// The checked content of a tokenizer.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) pattern: Pattern,
    pub(crate) normalizer: Normalizer,
    pub(crate) vocab: Vocab,
    pub(crate) merges: Vec<Merge>,
    pub(crate) pairs: Pairs,
    pub(crate) rank_by_product: bool,
    pub(crate) ignore_merges: bool,
    /// By id.
    pub(crate) specials: Vec<SpecialToken>,
    special_ids: FxHashMap<String, u32>,
    sha256: String,
    text_matchers: OnceLock<Matchers>,
    all_matchers: OnceLock<Matchers>,
    states: Mutex<Vec<State>>,
}

impl Model {
    fn new(pattern: Pattern, mut parts: Parts) -> Result<Self> {
        let special_ids = place_specials(&mut parts)?;
        let hidden: FxHashSet<u32> = parts
            .specials
            .iter()
            .filter(|t| t.special)
            .map(|t| t.id)
            .collect();
        let vocab = Vocab::new(&parts.tokens, |id| {
            !hidden.contains(&id) && !parts.unreachable.contains(&id)
        })?;
        check_spellings(&vocab, &parts.specials)?;
        let byte_ids = byte_ids(&vocab)?;
        let merges = resolve_merges(&vocab, &parts.merges, &special_ids)?;
        let pairs = if parts.rank_by_product {
            Pairs::by_product(&merges, byte_ids, vocab.len())?
        } else {
            Pairs::by_place(&merges, byte_ids)?
        };
        let mut model = Self {
            pattern,
            normalizer: parts.normalizer,
            vocab,
            merges,
            pairs,
            rank_by_product: parts.rank_by_product,
            ignore_merges: parts.ignore_merges,
            specials: parts.specials,
            special_ids,
            sha256: String::new(),
            text_matchers: OnceLock::new(),
            all_matchers: OnceLock::new(),
            states: Mutex::new(Vec::new()),
        };
        model.sha256 = model.digest();
        Ok(model)
    }

    /// The hash of everything that decides about ids, in one fixed order.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(b"penstock tokenizer 1");
        part(self.pattern.canonical().as_bytes());
        part(self.normalizer.name().unwrap_or_default().as_bytes());
        part(&[u8::from(self.ignore_merges), u8::from(self.rank_by_product)]);
        for id in 0..self.vocab.len() as u32 {
            part(self.vocab.get(id));
        }
        part(b"merges");
        for merge in &self.merges {
            part(&(u64::from(merge.left) << 32 | u64::from(merge.right)).to_le_bytes());
        }
        part(b"specials");
        for token in &self.specials {
            let flags = [
                token.special,
                token.lstrip,
                token.rstrip,
                token.single_word,
                token.normalized,
            ];
            part(&token.id.to_le_bytes());
            part(&flags.map(u8::from));
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The token that `piece` is without merging, where the tokenizer asks for that look first.
    #[inline]
    pub(crate) fn whole_piece(&self, piece: &[u8]) -> Option<u32> {
        if self.ignore_merges {
            self.vocab.find(piece)
        } else {
            None
        }
    }

    /// Matchers for text in which no special token is allowed.
    pub(crate) fn matchers_of_text(&self) -> &Matchers {
        self.text_matchers
            .get_or_init(|| Matchers::new(self, &Allowed::None))
    }

    /// Calls `work` with the matchers for `allowed`.
    pub(crate) fn with_matchers(&self, allowed: &Allowed, work: impl FnOnce(&Matchers)) {
        match allowed {
            Allowed::None => work(self.matchers_of_text()),
            Allowed::All => work(
                self.all_matchers
                    .get_or_init(|| Matchers::new(self, allowed)),
            ),
            Allowed::Set(_) => work(&Matchers::new(self, allowed)),
        }
    }

    pub(crate) fn take_state(&self) -> State {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.pop().unwrap_or_else(State::new)
    }

    pub(crate) fn give_state(&self, state: State) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() < KEPT_STATES {
            states.push(state);
        }
    }
}

/// Puts the added tokens at their ids and orders them by id. Returns the id of each spelling.
fn place_specials(parts: &mut Parts) -> Result<FxHashMap<String, u32>> {
    let mut ids = FxHashMap::default();
    let ordinary_len = parts.tokens.len();
    for (index, token) in parts.specials.iter().enumerate() {
        if token.content.is_empty() {
            return Err(Error::EmptySpecial { index });
        }
        if token.id > MAX_ID {
            return Err(Error::IdTooLarge {
                id: u64::from(token.id),
                limit: MAX_ID,
            });
        }
        if ids.insert(token.content.clone(), token.id).is_some() {
            return Err(Error::DuplicateSpecial {
                content: token.content.clone(),
            });
        }
        let place = token.id as usize;
        if place >= parts.tokens.len() {
            parts.tokens.resize_with(place + 1, Vec::new);
        }
        let found = &mut parts.tokens[place];
        let is_new = found.is_empty();
        if is_new {
            *found = token.content.as_bytes().to_vec();
        } else if found != token.content.as_bytes() {
            let (content, found) = (token.content.clone(), show(found));
            return Err(Error::SpecialConflict {
                content,
                id: token.id,
                found,
            });
        }
        // What was added is found by its text, not by merging bytes.
        if is_new || place >= ordinary_len {
            parts.unreachable.insert(token.id);
        }
    }
    parts.specials.sort_by_key(|token| token.id);
    Ok(ids)
}

/// Refuses an added token whose text is how a tokenizer.json spells another token: such a file would give it that id.
fn check_spellings(vocab: &Vocab, specials: &[SpecialToken]) -> Result<()> {
    for token in specials {
        let spelled = byte_level::to_bytes(&token.content).and_then(|bytes| vocab.find(&bytes));
        if let Some(other) = spelled.filter(|&other| other != token.id) {
            let found = format!("the token that files spell alike, {other}");
            return Err(Error::SpecialConflict {
                content: token.content.clone(),
                id: token.id,
                found,
            });
        }
    }
    Ok(())
}

fn byte_ids(vocab: &Vocab) -> Result<[u32; 256]> {
    let mut ids = [NO_BYTE; 256];
    for (byte, id) in (0..=255).zip(&mut ids) {
        match vocab.find(&[byte]) {
            Some(found) => *id = found,
            // No text in UTF-8 holds these, and some vocabularies leave them out.
            None if matches!(byte, 0xC0 | 0xC1 | 0xF5..=0xFF) => {}
            None => return Err(Error::MissingByte { byte }),
        }
    }
    Ok(ids)
}

fn resolve_merges(
    vocab: &Vocab,
    merges: &[(u32, u32)],
    special_ids: &FxHashMap<String, u32>,
) -> Result<Vec<Merge>> {
    let mut resolved = Vec::with_capacity(merges.len());
    let mut joined = Vec::new();
    for (index, &(left, right)) in merges.iter().enumerate() {
        for part in [left, right] {
            let bytes = vocab.get(part);
            if bytes.is_empty() || vocab.find(bytes) != Some(part) {
                return Err(Error::DanglingMerge {
                    index,
                    part: format!("id {part}"),
                });
            }
        }
        joined.clear();
        joined.extend_from_slice(vocab.get(left));
        joined.extend_from_slice(vocab.get(right));
        let Some(product) = vocab.find(&joined) else {
            let content = String::from_utf8_lossy(&joined);
            if special_ids.contains_key(content.as_ref()) {
                return Err(Error::MergeMakesSpecial {
                    index,
                    content: content.into_owned(),
                });
            }
            return Err(Error::DanglingMerge {
                index,
                part: show(&joined),
            });
        };
        resolved.push(Merge {
            left,
            right,
            product,
        });
    }
    Ok(resolved)
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
        Self::from_parts(
            pattern,
            Parts {
                tokens,
                merges,
                specials,
                ..Parts::default()
            },
        )
    }

    pub(crate) fn from_parts(pattern: Pattern, parts: Parts) -> Result<Self> {
        if parts.tokens.len() > MAX_ID as usize {
            return Err(Error::IdTooLarge {
                id: parts.tokens.len() as u64 - 1,
                limit: MAX_ID,
            });
        }
        Ok(Self {
            model: Arc::new(Model::new(pattern, parts)?),
        })
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Reads a folder that holds a `tokenizer.json`, a `*.json` of that format, or a `*.tiktoken` rank file. A rank
    /// file needs the name of its `pattern`; for the others it is optional and must agree with the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::FileTooLarge`] naming the path, [`Error::InFile`] naming path and place,
    /// [`Error::PatternNeeded`], [`Error::PatternConflict`], [`Error::UnknownPattern`], [`Error::UnknownFormat`].
    pub fn from_file(path: &Path, pattern: Option<&str>) -> Result<Self> {
        crate::format::load(path, pattern)
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
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::format::to_json(self)
    }

    /// Hex SHA-256 of all that decides about ids: equal for equal tokenizers, whatever file they came from.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.model.sha256
    }

    /// The largest id and one: special tokens count.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.model.vocab.len()
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
        let special = std::str::from_utf8(token)
            .ok()
            .and_then(|content| self.model.special_ids.get(content));
        special.copied().or_else(|| self.model.vocab.find(token))
    }

    /// The bytes of `id`; those of its text for a special token. `None` for an unused id.
    #[must_use]
    pub fn id_to_bytes(&self, id: u32) -> Option<&[u8]> {
        let bytes = self.model.vocab.get(id);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// The added tokens, by id.
    #[must_use]
    pub fn special_tokens(&self) -> &[SpecialToken] {
        &self.model.specials
    }

    /// The special token that ends a document, by its usual spellings.
    #[must_use]
    pub fn eot_id(&self) -> Option<u32> {
        let is_special = |content: &&str| {
            self.model
                .specials
                .iter()
                .any(|t| t.special && t.content == **content)
        };
        let content = END_OF_TEXT.iter().find(|content| is_special(content))?;
        self.model.special_ids.get(*content).copied()
    }

    /// The merge rules, the first going first.
    #[must_use]
    pub fn merges(&self) -> &[Merge] {
        &self.model.merges
    }

    /// The ids of `text`. Special tokens in it are text; added tokens that are not special are found.
    #[must_use]
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        self.encode(text, &Allowed::None)
    }

    /// The ids of `text`, where the `allowed` special tokens become their ids.
    #[must_use]
    pub fn encode(&self, text: &str, allowed: &Allowed) -> Vec<u32> {
        let mut ids = Vec::new();
        self.encoder().encode_allowed_into(text, allowed, &mut ids);
        ids
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
