//! The merge loop. A merge costs what its occurrences cost, however long the pieces are.

use super::TrainOptions;
use super::arena::{Arena, BORDER, INSIDE};
use super::changes::Changes;
use super::pairs::{PairKey, Pairs, pack, unpack};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::vocab::{MAX_TOKEN_BYTES, hash};

/// Occurrences between two looks at the cancel flag.
const CHECKED_PLACES: usize = 1 << 18;

/// The state of training.
#[derive(Debug)]
pub(super) struct Merger<'a> {
    options: &'a TrainOptions,
    progress: &'a Progress,
    arena: Arena,
    tokens: Vec<Vec<u8>>,
    /// Ids by the bytes of their tokens.
    ids: hashbrown::HashTable<u32>,
    merges: Vec<(u32, u32)>,
    pairs: Pairs,
    changes: Changes,
}

impl<'a> Merger<'a> {
    pub(super) fn new(
        arena: Arena,
        tokens: Vec<Vec<u8>>,
        options: &'a TrainOptions,
        progress: &'a Progress,
    ) -> Result<Self> {
        let least_count = i64::try_from(options.min_frequency).unwrap_or(i64::MAX).max(1);
        let mut merger = Self {
            options,
            progress,
            arena,
            tokens,
            ids: hashbrown::HashTable::with_capacity(options.vocab_size),
            merges: Vec::new(),
            pairs: Pairs::new(least_count),
            changes: Changes::new(options.vocab_size),
        };
        for id in 0..merger.tokens.len() as u32 {
            merger.index_token(id);
        }
        merger.find_pairs()?;
        Ok(merger)
    }

    fn index_token(&mut self, id: u32) {
        let tokens = &self.tokens;
        let code = |&id: &u32| hash(&tokens[id as usize]);
        self.ids.insert_unique(code(&id), id, code);
    }

    /// Counts the pairs of bytes.
    fn find_pairs(&mut self) -> Result<()> {
        let (symbols, mut weights) = self.arena.walk();
        self.progress.start("find pairs", symbols.len() as u64);
        for start in (1..symbols.len()).step_by(CHECKED_PLACES) {
            let end = (start + CHECKED_PLACES).min(symbols.len());
            for place in start..end {
                let (left, right) = (symbols[place - 1], symbols[place]);
                if left != BORDER && right != BORDER {
                    let place = place as u32 - 1;
                    self.pairs.add(pack(left, right), place, weights.at(place));
                }
            }
            self.progress.add((end - start) as u64);
            self.progress.check()?;
        }
        self.pairs.queue_all();
        Ok(())
    }

    /// Merges until the vocabulary is full or no pair is frequent enough. Returns the count of the last pair.
    pub(super) fn run(&mut self) -> Result<u64> {
        let mut last_count = 0;
        let wanted = self.options.vocab_size;
        self.progress.start("merge", (wanted - self.tokens.len()) as u64);
        while self.tokens.len() < wanted {
            self.progress.check()?;
            let Some((key, count)) = self.pairs.pop() else {
                break;
            };
            last_count = count;
            let before = self.tokens.len();
            if let Some(product) = self.product_of(key)? {
                self.merge(key, product)?;
            }
            self.progress.add((self.tokens.len() - before) as u64);
        }
        Ok(last_count as u64)
    }

    /// Id of the token that the pair makes, new or, if its bytes are one already, that one. `None` if it is too long.
    fn product_of(&mut self, key: PairKey) -> Result<Option<u32>> {
        let (left, right) = unpack(key);
        let bytes = [self.tokens[left as usize].as_slice(), &self.tokens[right as usize]].concat();
        let limit = self.options.max_token_bytes.unwrap_or(MAX_TOKEN_BYTES).min(MAX_TOKEN_BYTES);
        if bytes.len() > limit {
            return Ok(None);
        }
        let found = self.ids.find(hash(&bytes), |&id| self.tokens[id as usize] == bytes);
        if let Some(&id) = found {
            return match self.options.special_tokens.get(id as usize) {
                Some(content) => Err(Error::SpecialCollision { content: content.clone() }),
                None => Ok(Some(id)),
            };
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(bytes);
        self.index_token(id);
        Ok(Some(id))
    }

    /// Replaces the pair by `product` wherever it stands and brings the counts of the pairs around up to date.
    fn merge(&mut self, key: PairKey, product: u32) -> Result<()> {
        let (places, is_first) = self.pairs.take_places(key);
        if is_first {
            self.merges.push(unpack(key));
        }
        self.replace(&places, key, product)?;
        self.pairs.apply(&mut self.changes, key, product);
        Ok(())
    }

    fn replace(&mut self, places: &[u32], key: PairKey, product: u32) -> Result<()> {
        let (left, right) = unpack(key);
        let left_len = self.tokens[left as usize].len();
        let product_len = self.tokens[product as usize].len();
        let (symbols, mut weights) = self.arena.walk();
        let mut last_end = 0;
        for chunk in places.chunks(CHECKED_PLACES) {
            for &place in chunk {
                let start = place as usize;
                let (middle, end) = (start + left_len, start + product_len);
                if symbols[start] != left || symbols[middle] != right {
                    continue;
                }
                symbols[middle - 1] = INSIDE;
                symbols[middle] = INSIDE;
                symbols[start] = product;
                symbols[end - 1] = product;
                let (before, behind) = (symbols[start - 1], symbols[end]);
                let weight = weights.at(place);
                if start == last_end {
                    self.changes.after_product(product, (start - product_len) as u32, left, weight);
                } else if before != BORDER {
                    let before_place = start - self.tokens[before as usize].len();
                    self.changes.before(before, before_place as u32, weight);
                }
                if behind != BORDER {
                    self.changes.behind(behind, place, weight);
                }
                last_end = end;
            }
            self.progress.check()?;
        }
        Ok(())
    }

    /// Bytes by id, and the merges in order.
    pub(super) fn finish(self) -> (Vec<Vec<u8>>, Vec<(u32, u32)>) {
        (self.tokens, self.merges)
    }
}
