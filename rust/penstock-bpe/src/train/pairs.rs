//! The pairs that may still be merged, and which of them is next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::changes::{Change, Changes};

/// A pair of neighbours, packed so that pairs order as (left, right).
pub(super) type PairKey = u64;

/// Memory of a pair besides its places: slab, table and queue, and what the allocator adds to a list.
pub(super) const PAIR_BYTES: u64 = 112;
/// Memory of a place.
pub(super) const PLACE_BYTES: u64 = size_of::<u32>() as u64;

/// The key of a pair.
#[inline]
pub(super) fn pack(left: u32, right: u32) -> PairKey {
    u64::from(left) << 32 | u64::from(right)
}

/// The pair of a key.
pub(super) fn unpack(key: PairKey) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

#[derive(Debug, Default)]
struct Pair {
    count: i64,
    /// Places of its left token. Some may have been merged away since.
    places: Vec<u32>,
    is_merged: bool,
}

/// Counts and places of the pairs that stand often enough, with the most frequent at hand.
///
/// Pairs below `least` are not held at all. A pair's count never rises after the merge that made it, so none of them can
/// be next before the pairs held run out; then the text is read again with a lower `least`. The exception are tokens
/// made in two ways: their new pairs may add to old ones, and `blind_count` bounds the count of such that are not held.
#[derive(Debug)]
pub(super) struct Pairs {
    numbers: FxHashMap<PairKey, u32>,
    pairs: Vec<Pair>,
    free: Vec<u32>,
    /// Count as it was when pushed, and pair: the largest count first, then the smallest pair.
    queue: BinaryHeap<(i64, Reverse<PairKey>)>,
    least: i64,
    blind_count: i64,
    held_bytes: u64,
}

impl Pairs {
    /// No pairs yet, and none below `least`.
    pub(super) fn new(least: i64) -> Self {
        Self {
            numbers: FxHashMap::default(),
            pairs: Vec::new(),
            free: Vec::new(),
            queue: BinaryHeap::new(),
            least,
            blind_count: 0,
            held_bytes: 0,
        }
    }

    /// The count below which pairs are not held.
    pub(super) fn least(&self) -> i64 {
        self.least
    }

    /// Memory of the pairs held, about.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Whether no pair is left that could be merged.
    pub(super) fn is_exhausted(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds a pair that is not held yet.
    pub(super) fn insert(&mut self, key: PairKey, count: i64, places: Vec<u32>) {
        self.held_bytes += PAIR_BYTES + PLACE_BYTES * places.capacity() as u64;
        let pair = Pair { count, places, is_merged: false };
        let number = match self.free.pop() {
            Some(number) => {
                self.pairs[number as usize] = pair;
                number
            }
            None => {
                self.pairs.push(pair);
                self.pairs.len() as u32 - 1
            }
        };
        self.numbers.insert(key, number);
    }

    /// Whether the pair is held.
    pub(super) fn holds(&self, key: PairKey) -> bool {
        self.numbers.contains_key(&key)
    }

    /// Queues all pairs.
    pub(super) fn queue_all(&mut self) {
        let pairs = &self.pairs;
        let count = |&number: &u32| pairs[number as usize].count;
        let entries: Vec<_> =
            self.numbers.iter().map(|(&key, number)| (count(number), Reverse(key))).collect();
        self.queue = entries.into();
    }

    /// What is known of merged pairs, by key: their counts stay as they are when merged. HF does so, and it shows in
    /// the rare case that a token made in two ways brings the pair back.
    pub(super) fn merged_counts(&self) -> FxHashMap<PairKey, i64> {
        let numbers = self.numbers.iter();
        let pair = |number: u32| &self.pairs[number as usize];
        numbers.filter(|&(_, &n)| pair(n).is_merged).map(|(&key, &n)| (key, pair(n).count)).collect()
    }

    /// Restores a merged pair, whose `count` stayed and that now stands at `places`.
    pub(super) fn insert_merged(&mut self, key: PairKey, count: i64, places: Vec<u32>) {
        self.insert(key, count, places);
        if let Some(&number) = self.numbers.get(&key) {
            self.pairs[number as usize].is_merged = true;
        }
    }

    /// The most frequent pair and its count; `None` if a pair that is not held could be more frequent, or none is left.
    /// Counts only fall while a pair waits, so an entry found too high goes back corrected.
    pub(super) fn pop(&mut self) -> Option<(PairKey, i64)> {
        while let Some((pushed, Reverse(key))) = self.queue.pop() {
            let number = self.numbers.get(&key).copied();
            let count = number.map_or(0, |number| self.pairs[number as usize].count);
            if count == pushed {
                if count <= self.blind_count {
                    self.queue.push((count, Reverse(key)));
                    return None;
                }
                return Some((key, count));
            }
            if count >= self.least {
                self.queue.push((count, Reverse(key)));
            } else if let Some(number) = number {
                self.remove(key, number);
            }
        }
        None
    }

    fn remove(&mut self, key: PairKey, number: u32) {
        let pair = &mut self.pairs[number as usize];
        if !pair.is_merged {
            let places = std::mem::take(&mut pair.places);
            let freed_bytes = PAIR_BYTES + PLACE_BYTES * places.capacity() as u64;
            self.held_bytes = self.held_bytes.saturating_sub(freed_bytes);
            self.numbers.remove(&key);
            self.free.push(number);
        }
    }

    /// Takes the places of a pair that is merged now, ascending, and tells whether this is the first time.
    pub(super) fn take_places(&mut self, key: PairKey) -> (Vec<u32>, bool) {
        let Some(&number) = self.numbers.get(&key) else {
            return (Vec::new(), false);
        };
        let pair = &mut self.pairs[number as usize];
        let is_first = !std::mem::replace(&mut pair.is_merged, true);
        let mut places = std::mem::take(&mut pair.places);
        self.held_bytes = self.held_bytes.saturating_sub(PLACE_BYTES * places.capacity() as u64);
        // Out of order only where several merges made the pair.
        if !places.is_sorted() {
            places.sort_unstable();
        }
        (places, is_first)
    }

    /// Applies the changes of a merge of `key` into `product`, and empties them. A product that is not new may add to
    /// pairs that exist.
    pub(super) fn apply(&mut self, changes: &mut Changes, key: PairKey, product: u32, is_new: bool) {
        let (left, right) = unpack(key);
        let least = if is_new { self.least } else { 1 };
        changes.before.drain(least, |before, change| match change {
            Change::Lost(count) => self.lose(pack(before, left), count),
            Change::Born(count, places) => self.bear(pack(before, product), count, places, is_new),
        });
        changes.behind.drain(least, |behind, change| match change {
            Change::Lost(count) => self.lose(pack(right, behind), count),
            Change::Born(count, places) => self.bear(pack(product, behind), count, places, is_new),
        });
    }

    #[inline]
    fn lose(&mut self, key: PairKey, count: i64) {
        if let Some(&number) = self.numbers.get(&key) {
            self.pairs[number as usize].count -= count;
        }
    }

    fn bear(&mut self, key: PairKey, count: i64, mut places: Vec<u32>, is_new: bool) {
        if let Some(&number) = self.numbers.get(&key) {
            let pair = &mut self.pairs[number as usize];
            pair.count += count;
            self.held_bytes += PLACE_BYTES * places.len() as u64;
            pair.places.append(&mut places);
            self.queue.push((pair.count, Reverse(key)));
        } else if is_new || self.least <= 1 {
            self.insert(key, count, places);
            self.queue.push((count, Reverse(key)));
        } else {
            self.blind_count = self.blind_count.max(count + self.least - 1);
        }
    }
}
