//! The pairs that may still be merged, and which of them is next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashMap;

use super::changes::Changes;

/// A pair of neighbours, packed so that pairs order as (left, right).
pub(super) type PairKey = u64;

/// The key of a pair.
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
    /// Places of its left token, ascending. Some may have been merged away since.
    places: Vec<u32>,
    is_merged: bool,
}

/// Counts and places of pairs, with the most frequent at hand.
#[derive(Debug)]
pub(super) struct Pairs {
    pairs: FxHashMap<PairKey, Pair>,
    /// Count as it was when pushed, and pair: the largest count first, then the smallest pair.
    queue: BinaryHeap<(i64, Reverse<PairKey>)>,
    /// Pairs that stand less often are not merged.
    least_count: i64,
}

impl Pairs {
    /// No pairs yet.
    pub(super) fn new(least_count: i64) -> Self {
        Self { pairs: FxHashMap::default(), queue: BinaryHeap::new(), least_count }
    }

    /// Counts an occurrence of a pair; the next one is not before `place`.
    #[inline]
    pub(super) fn add(&mut self, key: PairKey, place: u32, weight: i64) {
        let pair = self.pairs.entry(key).or_default();
        pair.count += weight;
        pair.places.push(place);
    }

    /// Queues all pairs that were added.
    pub(super) fn queue_all(&mut self) {
        self.pairs.retain(|_, pair| pair.count >= self.least_count);
        self.queue.extend(self.pairs.iter().map(|(&key, pair)| (pair.count, Reverse(key))));
    }

    /// The most frequent pair and its count. Counts only fall while a pair waits, so an entry found too high goes back corrected.
    pub(super) fn pop(&mut self) -> Option<(PairKey, i64)> {
        while let Some((pushed, Reverse(key))) = self.queue.pop() {
            let count = self.pairs.get(&key).map_or(0, |pair| pair.count);
            if count == pushed {
                return Some((key, count));
            }
            if count >= self.least_count {
                self.queue.push((count, Reverse(key)));
            } else {
                self.pairs.remove(&key);
            }
        }
        None
    }

    /// Takes the places of a pair that is merged now, and tells whether this is the first time. Its count stays as it
    /// is: HF does so, and it shows in the rare case that a token made in two ways brings the pair back.
    pub(super) fn take_places(&mut self, key: PairKey) -> (Vec<u32>, bool) {
        let Some(pair) = self.pairs.get_mut(&key) else {
            return (Vec::new(), false);
        };
        let is_first = !std::mem::replace(&mut pair.is_merged, true);
        (std::mem::take(&mut pair.places), is_first)
    }

    /// Applies the changes of a merge of `key` into `product`, and empties them.
    pub(super) fn apply(&mut self, changes: &mut Changes, key: PairKey, product: u32) {
        let (left, right) = unpack(key);
        changes.lost_before.drain(|before, count| self.lose(pack(before, left), count));
        changes.lost_behind.drain(|behind, count| self.lose(pack(right, behind), count));
        changes.born_before.drain(|before, count| self.bear(pack(before, product), count));
        changes.born_behind.drain(|behind, count| self.bear(pack(product, behind), count));
        for (before, place) in changes.places_before.drain(..) {
            self.place(pack(before, product), place);
        }
        for (behind, place) in changes.places_behind.drain(..) {
            self.place(pack(product, behind), place);
        }
    }

    fn lose(&mut self, key: PairKey, count: i64) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.count -= count;
        }
    }

    /// Adds a pair that a merge made. Its count never rises after that merge, so one too rare is not even kept.
    fn bear(&mut self, key: PairKey, count: i64) {
        if count >= self.least_count {
            let pair = self.pairs.entry(key).or_default();
            pair.count += count;
            self.queue.push((pair.count, Reverse(key)));
        }
    }

    #[inline]
    fn place(&mut self, key: PairKey, place: u32) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.places.push(place);
        }
    }
}
