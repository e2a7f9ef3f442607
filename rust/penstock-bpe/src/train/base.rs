//! The vocabulary that a training starts from: the bytes, or all of a tokenizer that is to be extended.

use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHashSet};

use super::TrainOptions;
use crate::byte_level::alphabet;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::model::Parts;
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::tokenizer::{SpecialToken, Tokenizer};
use crate::vocab::hash;

/// Spellings that a thread remembers, and the longest.
const MAX_KNOWN_PARTS: usize = 1 << 18;
const MAX_KNOWN_BYTES: usize = 64;
const MAX_MERGING_THREADS: usize = 8;

/// Tokens and merges before the first one that is learned.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Bytes by id; empty for ids that no token has.
    pub(super) tokens: Vec<Vec<u8>>,
    pub(super) merges: Vec<(u32, u32)>,
    pub(super) specials: Vec<SpecialToken>,
    /// Ids of tokens that text cannot become by merging.
    pub(super) unreachable: FxHashSet<u32>,
}

impl Base {
    /// What `options` start from: the special tokens and the bytes; or the tokenizer to be extended, and behind it the
    /// special tokens that it does not have.
    pub(super) fn new(options: &TrainOptions) -> Result<Self> {
        let mut base = Self::default();
        if let Some(extended) = &options.base {
            base.copy(extended)?;
        }
        for content in &options.special_tokens {
            if base.specials.iter().all(|token| token.content != *content) {
                let id = base.tokens.len() as u32;
                base.specials.push(SpecialToken::new(content.as_str(), id));
                base.unreachable.insert(id);
                base.tokens.push(content.as_bytes().to_vec());
            }
        }
        if options.base.is_none() {
            base.tokens.extend(alphabet().map(|byte| vec![byte]));
        }
        Ok(base)
    }

    fn copy(&mut self, extended: &Tokenizer) -> Result<()> {
        let model = extended.model();
        let refuse = |reason| Err(Error::NotExtendable { reason });
        if model.ignore_merges || model.rank_by_product {
            return refuse(
                "it looks up whole pieces or ranks merges by their products, so new merges would not be used as learned",
            );
        }
        if model.sentencepiece.is_some() {
            return refuse("it came from a SentencePiece model, which merges characters");
        }
        if model.normalizer != Normalizer::None {
            return refuse("it normalises text, and counts are of text as it is");
        }
        self.tokens = (0..extended.vocab_size() as u32)
            .map(|id| extended.id_to_bytes(id).map_or_else(Vec::new, <[u8]>::to_vec))
            .collect();
        self.merges = extended.merges().iter().map(|merge| (merge.left, merge.right)).collect();
        self.specials = extended.special_tokens().to_vec();
        let added = self.specials.iter().map(|token| token.id).collect::<FxHashSet<_>>();
        // What is found by its text and not by merging has another id, or none, as bytes.
        let is_merged = |&id: &u32| {
            let bytes = self.tokens[id as usize].as_slice();
            bytes.is_empty() || model.vocab.find(bytes) != Some(id)
        };
        self.unreachable = (0..self.tokens.len() as u32).filter(is_merged).chain(added).collect();
        Ok(())
    }

    /// The tokens that text can be spelled with, and their merges, as a tokenizer that takes any text for one piece.
    pub(super) fn unsplit(&self) -> Result<Tokenizer> {
        let mut tokens = self.tokens.clone();
        self.unreachable.iter().for_each(|&id| tokens[id as usize].clear());
        let parts = Parts { tokens, merges: self.merges.clone(), ..Parts::default() };
        Tokenizer::from_parts(Pattern::from_steps(Vec::new()), parts)
    }

    /// Contents of special tokens, by id.
    pub(super) fn special_contents(&self) -> FxHashMap<u32, String> {
        self.specials.iter().map(|token| (token.id, token.content.clone())).collect()
    }

    /// The finished tokenizer.
    pub(super) fn finish(
        mut self,
        pattern: Pattern,
        mut tokens: Vec<Vec<u8>>,
        merges: Vec<(u32, u32)>,
    ) -> Result<Tokenizer> {
        self.unreachable.iter().for_each(|&id| tokens[id as usize].clear());
        self.merges.extend(merges);
        let (merges, specials, unreachable) = (self.merges, self.specials, self.unreachable);
        Tokenizer::from_parts(pattern, Parts { tokens, merges, specials, unreachable, ..Parts::default() })
    }
}

impl Tokenizer {
    /// The tokenizer of the first `vocab_size` ids: what training to that size would have made, where this one was
    /// trained.
    ///
    /// # Errors
    ///
    /// [`Error::BadPrefix`] if a byte or a special token would be lost, or the vocabulary is smaller than that;
    /// [`Error::NotExtendable`] for a tokenizer whose merges do not go by their place.
    pub fn prefix(&self, vocab_size: usize) -> Result<Self> {
        let mut base = Base::default();
        base.copy(self)?;
        let is_kept = |id: u32| (id as usize) < vocab_size;
        let bytes = (0..).zip(&base.tokens).filter(|(_, token)| token.len() == 1).map(|(id, _)| id);
        let minimum =
            bytes.chain(base.specials.iter().map(|token| token.id)).max().map_or(0, |id| id as usize + 1);
        if !(minimum..=self.vocab_size()).contains(&vocab_size) {
            return Err(Error::BadPrefix { vocab_size: self.vocab_size(), wanted: vocab_size, minimum });
        }
        let merges = self.merges().iter();
        let merges =
            merges.filter(|merge| is_kept(merge.left) && is_kept(merge.right) && is_kept(merge.product));
        base.merges = merges.map(|merge| (merge.left, merge.right)).collect();
        base.unreachable.retain(|&id| is_kept(id));
        let mut tokens = std::mem::take(&mut base.tokens);
        tokens.truncate(vocab_size);
        base.finish(self.pattern().clone(), tokens, Vec::new())
    }
}

/// Spells pieces with the tokens of a base.
#[derive(Debug)]
pub(super) struct Speller {
    /// Of the text within a piece; `None` if there are no merges and every byte is spelled by itself.
    merging: Option<Merging>,
    byte_ids: [u32; 256],
}

#[derive(Debug)]
struct Merging {
    encoder: Encoder,
    /// Cuts pieces further, so that what is encoded repeats.
    pattern: Pattern,
    /// Bytes that stand side by side within a token: (first, second) as a number.
    joined: Arc<[bool]>,
    known: Known,
}

/// Spellings of parts that came before.
#[derive(Debug, Default)]
struct Known {
    /// End of the part in `bytes` and of its spelling in `symbols`, by number; each begins where the last ended.
    ends: Vec<(usize, usize)>,
    bytes: Vec<u8>,
    symbols: Vec<u32>,
    numbers: HashTable<u32>,
}

impl Known {
    fn bytes_of(&self, number: u32) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize].0);
        &self.bytes[start..self.ends[number as usize].0]
    }

    fn find(&self, part: &[u8]) -> Option<&[u32]> {
        let number = *self.numbers.find(hash(part), |&number| self.bytes_of(number) == part)?;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize].1);
        Some(&self.symbols[start..self.ends[number as usize].1])
    }

    fn insert(&mut self, part: &[u8], symbols: &[u32]) {
        if self.ends.len() >= MAX_KNOWN_PARTS || part.len() > MAX_KNOWN_BYTES {
            return;
        }
        self.bytes.extend_from_slice(part);
        self.symbols.extend_from_slice(symbols);
        self.ends.push((self.bytes.len(), self.symbols.len()));
        let number = self.ends.len() as u32 - 1;
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.insert_unique(hash(part), number, |&number| hash(self.bytes_of(number)));
        self.numbers = numbers;
    }
}

impl Speller {
    /// Spellers for up to `threads` threads with the tokens of `base`, which were made of text cut by `pattern`.
    pub(super) fn several(base: &Base, pattern: &Pattern, threads: usize) -> Result<Vec<Self>> {
        let mut byte_ids = [0; 256];
        for (id, token) in (0..).zip(&base.tokens) {
            if let [byte] = token[..]
                && !base.unreachable.contains(&id)
            {
                byte_ids[usize::from(byte)] = id;
            }
        }
        let speller = |merging| Self { merging, byte_ids };
        if base.merges.is_empty() {
            return Ok((0..threads).map(|_| speller(None)).collect());
        }
        let mut joined = vec![false; 1 << 16];
        for token in &base.tokens {
            token.windows(2).for_each(|pair| joined[joint(pair[0], pair[1])] = true);
        }
        let (joined, unsplit): (Arc<[bool]>, _) = (joined.into(), base.unsplit()?);
        let merging = |_| Merging {
            encoder: unsplit.encoder(),
            pattern: pattern.clone(),
            joined: Arc::clone(&joined),
            known: Known::default(),
        };
        // Each has a memory of its own of what it spelled.
        Ok((0..threads.min(MAX_MERGING_THREADS)).map(merging).map(Some).map(speller).collect())
    }

    /// Appends the tokens of `piece`: what merging it as one gives.
    pub(super) fn spell(&mut self, piece: &[u8], symbols: &mut Vec<u32>) {
        match (&mut self.merging, std::str::from_utf8(piece)) {
            (Some(merging), Ok(text)) => merging.spell(text, symbols),
            // Pieces are text but for those that a caller has made up.
            _ => symbols.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)])),
        }
    }
}

impl Merging {
    /// Where no token holds the two bytes beside a cut, nothing merges across it, so the parts can be encoded one by one.
    fn spell(&mut self, text: &str, symbols: &mut Vec<u32>) {
        let Self { encoder, pattern, joined, known } = self;
        let mut encode = |part: &str| match known.find(part.as_bytes()) {
            Some(spelled) => symbols.extend_from_slice(spelled),
            None => {
                let start = symbols.len();
                encoder.encode_into(part, symbols);
                known.insert(part.as_bytes(), &symbols[start..]);
            }
        };
        let (mut start, mut end) = (0, 0);
        pattern.for_each_piece(text, |part| {
            let is_joined = end > 0 && joined[joint(text.as_bytes()[end - 1], text.as_bytes()[end])];
            if end > start && !is_joined {
                encode(&text[start..end]);
                start = end;
            }
            end += part.len();
        });
        if start < text.len() {
            encode(&text[start..]);
        }
    }
}

fn joint(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}
