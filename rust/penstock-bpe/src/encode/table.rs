//! A table from packed pieces to their tokens: keys stored and compared whole, bounded, the older of two making room.

use crate::machine::{prefetch, with_huge_pages};

/// A key and its tokens, side by side in memory.
#[derive(Debug, Clone, Copy)]
struct Entry<K, const TOKENS: usize> {
    /// With the number of tokens and one in its free bits; all zero in a free place.
    key: K,
    tokens: [u32; TOKENS],
}

/// Two entries of one or two cache lines. A piece stands in the pair that its hash names, or else in one of those beside it.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Pair<K, const TOKENS: usize>([Entry<K, TOKENS>; 2]);

/// A packed piece whose four uppermost bits are free.
pub(crate) trait Key: Copy + Eq {
    /// Marks a free place. No piece packs to it.
    const FREE: Self;

    fn hash(self) -> u64;

    /// The key with `count`, less than 15, in its free bits.
    fn with(self, count: usize) -> Self;

    /// What [`with`](Self::with) put there.
    fn count(self) -> usize;

    /// The key without it.
    fn bare(self) -> Self;

    /// Whether `entry` is this key with any count.
    fn is_of(self, entry: Self) -> bool;
}

impl Key for u128 {
    const FREE: Self = 0;

    #[inline]
    fn hash(self) -> u64 {
        let (low, high) = (self as u64 ^ 0xD6E8_FEB8_6659_FD93, (self >> 64) as u64 ^ 0x9E37_79B9_7F4A_7C15);
        let product = u128::from(low) * u128::from(high);
        product as u64 ^ (product >> 64) as u64
    }

    #[inline]
    fn with(self, count: usize) -> Self {
        self | (count as u128 + 1) << 124
    }

    #[inline]
    fn count(self) -> usize {
        (self >> 124) as usize - 1
    }

    #[inline]
    fn bare(self) -> Self {
        self << 4 >> 4
    }

    #[inline]
    fn is_of(self, entry: Self) -> bool {
        let differing = self ^ entry;
        differing as u64 | ((differing >> 64) as u64) << 4 == 0
    }
}

impl Key for [u128; 2] {
    const FREE: Self = [0; 2];

    #[inline]
    fn hash(self) -> u64 {
        (self[0] ^ self[1].rotate_left(59)).hash() ^ self[1].hash().rotate_left(29)
    }

    #[inline]
    fn with(self, count: usize) -> Self {
        [self[0], self[1].with(count)]
    }

    #[inline]
    fn count(self) -> usize {
        self[1].count()
    }

    #[inline]
    fn bare(self) -> Self {
        [self[0], self[1].bare()]
    }

    #[inline]
    fn is_of(self, entry: Self) -> bool {
        self[0] == entry[0] && self[1].is_of(entry[1])
    }
}

/// Pairs that stand in for each other, a power of two.
const PAIRS_BESIDE: usize = 4;
/// How often a piece that is pushed out pushes out the first of its pair instead, so that no piece stays for ever.
const EVICTIONS_A_TURN: usize = 16;

/// Grows while pieces push each other out, up to a bound.
#[derive(Debug)]
pub(crate) struct Table<K, const TOKENS: usize> {
    pairs: Vec<Pair<K, TOKENS>>,
    /// Hashes are cut to numbers of pairs by this: their upper bits, so that growing keeps the order.
    shift: u32,
    /// Entries pushed out since the table last grew.
    evicted: usize,
    max_pairs: usize,
}

impl<K: Key, const TOKENS: usize> Clone for Table<K, TOKENS> {
    fn clone(&self) -> Self {
        let mut pairs = with_huge_pages(self.pairs.len());
        pairs.extend_from_slice(&self.pairs);
        Self { pairs, ..*self }
    }
}

impl<K: Key, const TOKENS: usize> Table<K, TOKENS> {
    /// A table for about `pieces` that grows to at most `max_pairs`, a power of two from [`PAIRS_BESIDE`] on.
    pub(crate) fn new(pieces: usize, max_pairs: usize) -> Self {
        let mut table = Self { pairs: Vec::new(), shift: 0, evicted: 0, max_pairs };
        table.clear_for(pieces.next_power_of_two().clamp(PAIRS_BESIDE, max_pairs));
        table
    }

    /// Makes room for `count` pairs, all free, and returns the former ones.
    fn clear_for(&mut self, count: usize) -> Vec<Pair<K, TOKENS>> {
        let mut pairs = with_huge_pages(count);
        pairs.resize(count, Pair([Entry { key: K::FREE, tokens: [0; TOKENS] }; 2]));
        self.shift = u64::BITS - count.trailing_zeros();
        self.evicted = 0;
        std::mem::replace(&mut self.pairs, pairs)
    }

    /// The number of the pair in which `key` belongs.
    #[inline]
    fn pair_of(&self, key: K) -> u32 {
        (key.hash() >> (self.shift & 63)) as u32
    }

    /// Brings near what [`get`](Self::get) will look at. Returns the place to give it, until something is put.
    #[inline]
    pub(crate) fn prefetch(&self, key: K) -> u32 {
        let pair = self.pair_of(key);
        prefetch(&self.pairs, pair as usize);
        pair
    }

    /// The tokens of `key` as they are stored, and how many of them count.
    #[inline]
    pub(crate) fn get(&self, key: K, pair: u32) -> Option<(&[u32; TOKENS], usize)> {
        let near = &self.pairs[pair as usize];
        let mut entry = near.entry_of(key);
        if !key.is_of(entry.key) {
            if near.0[1].key == K::FREE {
                return None;
            }
            entry = self.entry_beside(key, pair as usize)?;
        }
        Some((&entry.tokens, entry.key.count()))
    }

    /// The entry of `key` where its pair is full.
    #[inline]
    fn entry_beside(&self, key: K, pair: usize) -> Option<&Entry<K, TOKENS>> {
        for step in 1..PAIRS_BESIDE {
            let beside = &self.pairs[pair ^ step];
            let entry = beside.entry_of(key);
            if key.is_of(entry.key) {
                return Some(entry);
            }
            if beside.0[1].key == K::FREE {
                return None;
            }
        }
        None
    }

    /// Remembers `tokens`, at most `TOKENS`, for `key`, which is not yet known.
    pub(crate) fn put(&mut self, key: K, tokens: &[u32]) {
        let mut entry = Entry { key: key.with(tokens.len()), tokens: [0; TOKENS] };
        entry.tokens[..tokens.len()].copy_from_slice(tokens);
        self.put_entry(entry);
        if self.evicted > self.pairs.len() / 32 && self.pairs.len() < self.max_pairs {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let old = self.clear_for((self.pairs.len() * 4).min(self.max_pairs));
        for entry in old.iter().flat_map(|pair| &pair.0) {
            if entry.key != K::FREE {
                self.put_entry(*entry);
            }
        }
    }

    fn put_entry(&mut self, entry: Entry<K, TOKENS>) {
        let pair = self.pair_of(entry.key.bare()) as usize;
        for step in 0..PAIRS_BESIDE {
            if let Some(place) = self.pairs[pair ^ step].0.iter_mut().find(|place| place.key == K::FREE) {
                *place = entry;
                return;
            }
        }
        self.evicted += 1;
        let [first, second] = &mut self.pairs[pair].0;
        if self.evicted.is_multiple_of(EVICTIONS_A_TURN) {
            *first = *second;
        }
        *second = entry;
    }
}

impl<K: Key, const TOKENS: usize> Pair<K, TOKENS> {
    /// The entry that may be that of `key`.
    #[inline]
    fn entry_of(&self, key: K) -> &Entry<K, TOKENS> {
        // Which of the two it is cannot be foreseen, so there is no branch for it.
        &self.0[usize::from(key.is_of(self.0[1].key))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More keys than there is room for, some of which differ in a single bit: what is found is what was put.
    #[test]
    fn what_is_found_was_put() {
        let mut table = Table::<u128, 4>::new(4, 1 << 8);
        let key = |number: u128| ((number * 3) << 40) | (7 << 120) | (number % 2);
        let tokens = |number: u128| [number as u32, !number as u32, 5, 6];
        let find = |table: &Table<u128, 4>, number: u128| {
            let place = table.prefetch(key(number));
            table.get(key(number), place).map(|(tokens, count)| tokens[..count].to_vec())
        };
        let mut found = 0;
        for number in 0..2000 {
            assert_eq!(find(&table, number), None, "{number}");
            table.put(key(number), &tokens(number)[..number as usize % 5]);
            assert_eq!(
                find(&table, number),
                Some(tokens(number)[..number as usize % 5].to_vec()),
                "{number}"
            );
            for earlier in (0..number).step_by(97) {
                let kept = find(&table, earlier);
                assert!(kept.is_none() || kept == Some(tokens(earlier)[..earlier as usize % 5].to_vec()));
                found += usize::from(kept.is_some());
            }
        }
        assert!(found > 1000 && table.pairs.len() == 1 << 8);
    }
}
