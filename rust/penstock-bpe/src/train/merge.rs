//! The merge loop. A merge costs what its occurrences cost, however long the pieces are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::TrainOptions;
use super::arena::{Arena, BORDER, INSIDE};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::vocab::{MAX_TOKEN_BYTES, hash};

/// Occurrences between two looks at the cancel flag.
const CHECKED_PLACES: usize = 1 << 18;

/// A pair of neighbours, packed so that pairs order as (left, right).
type PairKey = u64;

fn pack(left: u32, right: u32) -> PairKey {
    u64::from(left) << 32 | u64::from(right)
}

/// A pair that may still be merged.
#[derive(Debug, Default)]
struct Pair {
    count: i64,
    /// Places of its left token, ascending. Some may have been merged away since.
    places: Vec<u32>,
    is_merged: bool,
}

/// Sums by neighbour during one merge, by token id; only `touched` ids are not 0.
#[derive(Debug, Default)]
struct Sums {
    counts: Vec<i64>,
    is_touched: Vec<bool>,
    touched: Vec<u32>,
}

impl Sums {
    fn new(ids: usize) -> Self {
        Self {
            counts: vec![0; ids],
            is_touched: vec![false; ids],
            touched: Vec::new(),
        }
    }

    #[inline]
    fn add(&mut self, id: u32, count: i64) {
        let index = id as usize;
        if !self.is_touched[index] {
            self.is_touched[index] = true;
            self.touched.push(id);
        }
        self.counts[index] += count;
    }

    /// Calls `take` with each touched id and its sum, in the order of first touch, and leaves all at 0.
    fn drain(&mut self, mut take: impl FnMut(u32, i64)) {
        for id in self.touched.drain(..) {
            let index = id as usize;
            take(id, std::mem::take(&mut self.counts[index]));
            self.is_touched[index] = false;
        }
    }
}

/// The state of training.
#[derive(Debug)]
pub(super) struct Merger<'a> {
    options: &'a TrainOptions,
    progress: &'a Progress,
    arena: Arena,
    tokens: Vec<Vec<u8>>,
    merges: Vec<(u32, u32)>,
    /// Hash of a token's bytes -> ids with that hash.
    ids: hashbrown::HashTable<u32>,
    pairs: FxHashMap<PairKey, Pair>,
    /// Count as it was when pushed, and pair: the largest count first, then the smallest pair.
    queue: BinaryHeap<(i64, Reverse<PairKey>)>,
    /// Changes of one merge: of (neighbour, left), (right, neighbour), (neighbour, product), (product, neighbour).
    lost_before: Sums,
    lost_behind: Sums,
    born_before: Sums,
    born_behind: Sums,
    /// Births of one merge: neighbour and place of the left token of the new pair.
    places_before: Vec<(u32, u32)>,
    places_behind: Vec<(u32, u32)>,
}

impl<'a> Merger<'a> {
    pub(super) fn new(
        arena: Arena,
        tokens: Vec<Vec<u8>>,
        options: &'a TrainOptions,
        progress: &'a Progress,
    ) -> Result<Self> {
        let sums = || Sums::new(options.vocab_size);
        let mut merger = Self {
            options,
            progress,
            arena,
            ids: hashbrown::HashTable::with_capacity(options.vocab_size),
            tokens,
            merges: Vec::new(),
            pairs: FxHashMap::with_hasher(FxBuildHasher),
            queue: BinaryHeap::new(),
            lost_before: sums(),
            lost_behind: sums(),
            born_before: sums(),
            born_behind: sums(),
            places_before: Vec::new(),
            places_behind: Vec::new(),
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

    fn least_count(&self) -> i64 {
        i64::try_from(self.options.min_frequency)
            .unwrap_or(i64::MAX)
            .max(1)
    }

    /// Counts the pairs of bytes.
    fn find_pairs(&mut self) -> Result<()> {
        let (symbols, mut weights) = self.arena.walk();
        self.progress.start("find pairs", symbols.len() as u64);
        for start in (1..symbols.len()).step_by(CHECKED_PLACES) {
            let end = (start + CHECKED_PLACES).min(symbols.len());
            for place in start..end {
                let (left, right) = (symbols[place - 1], symbols[place]);
                if left == BORDER || right == BORDER {
                    continue;
                }
                let pair = self.pairs.entry(pack(left, right)).or_default();
                pair.count += weights.at(place as u32 - 1);
                pair.places.push(place as u32 - 1);
            }
            self.progress.add((end - start) as u64);
            self.progress.check()?;
        }
        let least = self.least_count();
        let ready = self.pairs.iter().filter(|(_, pair)| pair.count >= least);
        self.queue
            .extend(ready.map(|(&key, pair)| (pair.count, Reverse(key))));
        Ok(())
    }

    /// Merges until the vocabulary is full or no pair is frequent enough.
    pub(super) fn run(&mut self) -> Result<()> {
        let wanted = self.options.vocab_size;
        self.progress
            .start("merge", (wanted - self.tokens.len()) as u64);
        while self.tokens.len() < wanted {
            self.progress.check()?;
            let Some(key) = self.pop() else {
                break;
            };
            let (left, right) = ((key >> 32) as u32, key as u32);
            let before = self.tokens.len();
            if let Some(product) = self.product_of(left, right)? {
                self.list(key);
                self.merge_everywhere(key, product)?;
            }
            self.progress.add((self.tokens.len() - before) as u64);
        }
        Ok(())
    }

    /// Lists the merge, once.
    fn list(&mut self, key: PairKey) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            if !pair.is_merged {
                self.merges.push(((key >> 32) as u32, key as u32));
            }
            pair.is_merged = true;
        }
    }

    /// The most frequent pair. Counts only fall while a pair waits, so an entry found too high goes back corrected.
    fn pop(&mut self) -> Option<PairKey> {
        while let Some((pushed, Reverse(key))) = self.queue.pop() {
            let count = self.pairs.get(&key).map_or(0, |pair| pair.count);
            if count == pushed {
                return Some(key);
            }
            if count >= self.least_count() {
                self.queue.push((count, Reverse(key)));
            } else {
                self.pairs.remove(&key);
            }
        }
        None
    }

    /// Id of the token that the pair makes, new or, if its bytes are one already, that one. `None` if it is too long.
    fn product_of(&mut self, left: u32, right: u32) -> Result<Option<u32>> {
        let bytes = [
            self.tokens[left as usize].as_slice(),
            &self.tokens[right as usize],
        ]
        .concat();
        let limit = self
            .options
            .max_token_bytes
            .unwrap_or(MAX_TOKEN_BYTES)
            .min(MAX_TOKEN_BYTES);
        if bytes.len() > limit {
            return Ok(None);
        }
        let found = self
            .ids
            .find(hash(&bytes), |&id| self.tokens[id as usize] == bytes);
        if let Some(&id) = found {
            if let Some(content) = self.options.special_tokens.get(id as usize) {
                return Err(Error::SpecialCollision {
                    content: content.clone(),
                });
            }
            return Ok(Some(id));
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(bytes);
        self.index_token(id);
        Ok(Some(id))
    }

    /// Replaces the pair by `product` at all its places and brings the counts of the pairs around up to date.
    fn merge_everywhere(&mut self, key: PairKey, product: u32) -> Result<()> {
        // The count of a merged pair is left as it was: HF does so, and it shows where a token is made in two ways.
        let places = self
            .pairs
            .get_mut(&key)
            .map(|pair| std::mem::take(&mut pair.places))
            .unwrap_or_default();
        let (left, right) = ((key >> 32) as u32, key as u32);
        let (left_len, right_len) = (
            self.tokens[left as usize].len(),
            self.tokens[right as usize].len(),
        );
        let (symbols, mut weights) = self.arena.walk();
        let mut last_end = 0;
        let mut lost_within = 0;
        for chunk in places.chunks(CHECKED_PLACES) {
            for &place in chunk {
                let start = place as usize;
                let middle = start + left_len;
                let end = middle + right_len;
                if symbols[start] != left || symbols[middle] != right {
                    continue;
                }
                symbols[middle - 1] = INSIDE;
                symbols[middle] = INSIDE;
                symbols[start] = product;
                symbols[end - 1] = product;
                let (before, behind) = (symbols[start - 1], symbols[end]);
                let weight = weights.at(place);
                if before != BORDER {
                    if start == last_end {
                        // The neighbour was made by this same merge, which took this left token for its neighbour.
                        lost_within += weight;
                    } else {
                        self.lost_before.add(before, weight);
                    }
                    self.born_before.add(before, weight);
                    self.places_before
                        .push((before, (start - self.tokens[before as usize].len()) as u32));
                }
                if behind != BORDER {
                    self.lost_behind.add(behind, weight);
                    self.born_behind.add(behind, weight);
                    self.places_behind.push((behind, place));
                }
                last_end = end;
            }
            self.progress.check()?;
        }
        if lost_within > 0 {
            self.born_behind.add(left, -lost_within);
        }
        self.lose(left, right);
        self.bear(product);
        Ok(())
    }

    /// Lowers the counts of the pairs that one merge of (left, right) broke.
    fn lose(&mut self, left: u32, right: u32) {
        let pairs = &mut self.pairs;
        let mut lose = |key: PairKey, count: i64| {
            if let Some(pair) = pairs.get_mut(&key) {
                pair.count -= count;
            }
        };
        self.lost_before
            .drain(|before, count| lose(pack(before, left), count));
        self.lost_behind
            .drain(|behind, count| lose(pack(right, behind), count));
    }

    /// Adds the pairs that one merge into `product` made. A pair's count never rises after the merge that makes it, so
    /// those that are too rare already are not even kept.
    fn bear(&mut self, product: u32) {
        let least = self.least_count();
        let (pairs, queue) = (&mut self.pairs, &mut self.queue);
        let mut bear = |key: PairKey, count: i64| {
            if count >= least {
                let pair = pairs.entry(key).or_default();
                pair.count += count;
                queue.push((pair.count, Reverse(key)));
            }
        };
        self.born_before
            .drain(|before, count| bear(pack(before, product), count));
        self.born_behind
            .drain(|behind, count| bear(pack(product, behind), count));
        let mut place = |key: PairKey, place: u32| {
            if let Some(pair) = pairs.get_mut(&key) {
                pair.places.push(place);
            }
        };
        self.places_before
            .drain(..)
            .for_each(|(before, at)| place(pack(before, product), at));
        self.places_behind
            .drain(..)
            .for_each(|(behind, at)| place(pack(product, behind), at));
    }

    /// Bytes by id, and the merges in order.
    pub(super) fn finish(self) -> (Vec<Vec<u8>>, Vec<(u32, u32)>) {
        (self.tokens, self.merges)
    }
}
