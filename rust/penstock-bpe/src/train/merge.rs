//! The merge loop. A merge costs what its occurrences cost, however long the pieces are.
//!
//! It runs in stages. A stage reads the text, holds the pairs that stand often enough, merges until they run out, and
//! compacts the text, of which less is left each time. So rare pairs, of which there are most, are hardly ever held.

use rustc_hash::FxHashMap;

use super::TrainOptions;
use super::arena::{Arena, BORDER};
use super::base::Base;
use super::changes::Changes;
use super::index::{Past, Reading};
use super::pairs::{PairKey, Pairs, unpack};
use super::replace::Replacer;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::threads::thread_count;
use crate::vocab::{MAX_TOKEN_BYTES, hash};

/// Occurrences between two looks at the cancel flag.
const CHECKED_PLACES: usize = 1 << 16;
/// Places whose slots are asked for at once.
const FETCHED_PLACES: usize = 32;
/// The first stage ends about where a thousand merges are done: at this share of all symbols.
const FIRST_STAGE_SHARE: i64 = 40_000;
/// Memory for lists that is free again when a stage begins, so that it can get somewhere.
const STAGE_SHARE: u64 = 2;

/// The state of training.
#[derive(Debug)]
pub(super) struct Merger<'a> {
    options: &'a TrainOptions,
    progress: &'a Progress,
    arena: Arena,
    /// Bytes by id.
    tokens: Vec<Vec<u8>>,
    /// Special tokens, which no merge may make.
    specials: FxHashMap<u32, String>,
    /// Ids by the bytes of their tokens.
    ids: hashbrown::HashTable<u32>,
    /// Pairs that stand less often are never merged.
    least_count: i64,
    /// Memory for pairs and their places.
    budget_bytes: u64,
    past: Past,
    merges: Vec<(u32, u32)>,
    /// The count of each merge's pair.
    counts: Vec<i64>,
    pairs: Pairs,
    changes: Changes,
}

impl<'a> Merger<'a> {
    /// A trainer on the pieces of `arena`, which are spelled with the tokens of `base`; pairs and places take `budget_bytes`.
    pub(super) fn new(
        arena: Arena,
        base: &Base,
        budget_bytes: u64,
        options: &'a TrainOptions,
        progress: &'a Progress,
    ) -> Self {
        let least_count = i64::try_from(options.min_frequency).unwrap_or(i64::MAX).max(1);
        let mut merger = Self {
            options,
            progress,
            arena,
            tokens: base.tokens.clone(),
            specials: base.special_contents(),
            ids: hashbrown::HashTable::with_capacity(options.vocab_size),
            least_count,
            budget_bytes,
            past: Past::default(),
            merges: Vec::new(),
            counts: Vec::new(),
            pairs: Pairs::new(least_count),
            changes: Changes::new(options.vocab_size),
        };
        for id in 0..merger.tokens.len() as u32 {
            merger.arena.set_span(id, 1);
            if !merger.tokens[id as usize].is_empty() {
                merger.index_token(id);
            }
        }
        merger
    }

    fn index_token(&mut self, id: u32) {
        let tokens = &self.tokens;
        let code = |&id: &u32| hash(&tokens[id as usize]);
        self.ids.insert_unique(code(&id), id, code);
    }

    /// Merges until the vocabulary is full or no pair is frequent enough; `last_count` is a guess.
    pub(super) fn run(&mut self, last_count: Option<u64>) -> Result<()> {
        let mut wanted =
            last_count.map_or_else(|| self.first_least(), |count| count as i64).max(self.least_count);
        while self.tokens.len() < self.options.vocab_size {
            let budget_bytes = self.budget_bytes / STAGE_SHARE;
            self.pairs = self.reading().index(wanted, budget_bytes)?;
            self.run_stage()?;
            if self.tokens.len() == self.options.vocab_size {
                break;
            }
            if self.pairs.least() <= self.least_count && self.pairs.is_exhausted() {
                break;
            }
            self.past.merged = self.pairs.merged_counts();
            wanted = self.next_least();
            self.pairs = Pairs::new(wanted);
            self.arena.compact(self.progress)?;
        }
        Ok(())
    }

    fn reading(&self) -> Reading<'_> {
        let Self { arena, past, progress, .. } = self;
        Reading { arena, past, threads: thread_count(self.options.threads), progress }
    }

    fn run_stage(&mut self) -> Result<()> {
        let wanted = self.options.vocab_size;
        self.progress.start("merge", wanted as u64);
        self.progress.add(self.tokens.len() as u64);
        let mut is_fresh = true;
        while self.tokens.len() < wanted && (is_fresh || self.pairs.held_bytes() <= self.budget_bytes) {
            self.progress.check()?;
            let Some((key, count)) = self.pairs.pop() else {
                return Ok(());
            };
            let before = self.tokens.len();
            if let Some(product) = self.product_of(key)? {
                self.merge(key, count, product, product as usize == before)?;
                is_fresh = false;
            } else {
                self.past.refused.insert(key);
            }
            self.progress.add((self.tokens.len() - before) as u64);
        }
        Ok(())
    }

    /// The least count of the first stage.
    fn first_least(&self) -> i64 {
        let mut weights = self.arena.weights();
        let symbols = (0..).zip(self.arena.symbols()).filter(|&(_, &symbol)| symbol != BORDER);
        let total: i64 = symbols.map(|(place, _)| weights.at(place)).sum();
        (total / FIRST_STAGE_SHARE).max(self.least_count)
    }

    /// The least count of the next stage: half of what the counts so far, which fall about as a power of the number of
    /// merges, let expect of the last merge.
    fn next_least(&self) -> i64 {
        let done = self.counts.len();
        let left = self.options.vocab_size - self.tokens.len();
        if done < 64 {
            return self.least_count.max(self.pairs.least() / 16);
        }
        let (early, late) = (self.counts[done / 4] as f64, self.counts[done - 1] as f64);
        let slope = (early / late).ln() / 4_f64.ln();
        let growth = (done + left) as f64 / done as f64;
        let expected = late * growth.powf(-slope.max(0.5)) / 2.0;
        (expected as i64).min(self.pairs.least() / 2).max(self.least_count)
    }

    /// Id of the token that the pair makes, new or, if its bytes are one already, that one. `None` if it is too long, or
    /// if its bytes are a token that takes other slots: one that merges do not make, of a vocabulary that is extended.
    fn product_of(&mut self, key: PairKey) -> Result<Option<u32>> {
        let (left, right) = unpack(key);
        let bytes = [self.tokens[left as usize].as_slice(), &self.tokens[right as usize]].concat();
        let limit = self.options.max_token_bytes.unwrap_or(MAX_TOKEN_BYTES).min(MAX_TOKEN_BYTES);
        let most_words = self.options.max_token_words.unwrap_or(usize::MAX);
        if bytes.len() > limit || words(&bytes) > most_words {
            return Ok(None);
        }
        let span = self.arena.span(left) + self.arena.span(right);
        let found = self.ids.find(hash(&bytes), |&id| self.tokens[id as usize] == bytes);
        if let Some(&id) = found {
            return match self.specials.get(&id) {
                Some(content) => Err(Error::SpecialCollision { content: content.clone() }),
                None => Ok((self.arena.span(id) == span).then_some(id)),
            };
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(bytes);
        self.index_token(id);
        self.arena.set_span(id, span);
        Ok(Some(id))
    }

    /// Replaces the pair by `product` wherever it stands and brings the counts of the pairs around up to date.
    fn merge(&mut self, key: PairKey, count: i64, product: u32, is_new: bool) -> Result<()> {
        let (places, is_first) = self.pairs.take_places(key);
        if is_first {
            self.merges.push(unpack(key));
            self.counts.push(count);
        }
        self.replace(&places, key, product)?;
        drop(places);
        self.pairs.apply(&mut self.changes, key, product, is_new);
        Ok(())
    }

    fn replace(&mut self, places: &[u32], key: PairKey, product: u32) -> Result<()> {
        let (left, right) = unpack(key);
        let (symbols, spans, mut weights) = self.arena.parts();
        let mut replacer = Replacer { symbols, offset: 0, spans, left, right, product, last_end: 0 };
        for chunk in places.chunks(CHECKED_PLACES) {
            for few in chunk.chunks(FETCHED_PLACES) {
                replacer.fetch(few);
                for &place in few {
                    replacer.replace(place, &mut weights, &mut self.changes);
                }
            }
            self.progress.check()?;
        }
        Ok(())
    }

    /// Bytes by id, the merges in order, and the count of the last.
    pub(super) fn finish(self) -> (Vec<Vec<u8>>, Vec<(u32, u32)>, u64) {
        (self.tokens, self.merges, self.counts.last().map_or(0, |&count| count as u64))
    }
}

/// Words that a token holds: stretches without white space.
fn words(token: &[u8]) -> usize {
    let starts =
        token.windows(2).filter(|pair| pair[0].is_ascii_whitespace() && !pair[1].is_ascii_whitespace());
    usize::from(token.first().is_some_and(|byte| !byte.is_ascii_whitespace())) + starts.count()
}
