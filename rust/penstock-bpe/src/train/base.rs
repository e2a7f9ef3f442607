//! The vocabulary that a training starts from: the bytes, or all of a tokenizer that is to be extended.

use rustc_hash::{FxHashMap, FxHashSet};

use super::TrainOptions;
use crate::byte_level::alphabet;
use crate::error::{Error, Result};
use crate::model::Parts;
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::tokenizer::{SpecialToken, Tokenizer};

/// Tokens and merges before the first one that is learned.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Bytes by id; empty for ids that no token has.
    pub(super) tokens: Vec<Vec<u8>>,
    pub(super) merges: Vec<(u32, u32)>,
    pub(super) specials: Vec<SpecialToken>,
    /// Ids of tokens that text cannot become by merging.
    pub(super) unreachable: FxHashSet<u32>,
    /// What is done to text before it is cut.
    pub(super) normalizer: Normalizer,
    /// A piece that is a token becomes it, whatever the merges say.
    pub(super) ignore_merges: bool,
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
        extended.check_extendable()?;
        let model = extended.model();
        (self.normalizer, self.ignore_merges) = (model.normalizer, model.ignore_merges);
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
        let (merges, ignore_merges) = (self.merges.clone(), self.ignore_merges);
        let parts = Parts { tokens, merges, ignore_merges, ..Parts::default() };
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
        let Self { merges, specials, unreachable, normalizer, ignore_merges, .. } = self;
        let parts =
            Parts { normalizer, tokens, merges, ignore_merges, specials, unreachable, ..Parts::default() };
        Tokenizer::from_parts(pattern, parts)
    }
}

impl Tokenizer {
    /// Whether training can go on from this tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::NotExtendable`] for one whose merges do not go by their place, as those of rank files and SentencePiece
    /// models.
    pub fn check_extendable(&self) -> Result<()> {
        let model = self.model();
        let refuse = |reason| Err(Error::NotExtendable { reason });
        if model.rank_by_product {
            return refuse("it ranks merges by their products, so new merges would not be used as learned");
        }
        if model.sentencepiece.is_some() {
            return refuse("it came from a SentencePiece model, which merges characters");
        }
        Ok(())
    }

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
