//! A table from packed pieces to their tokens: keys stored and compared whole, bounded, the older of two making room.

use crate::machine::{prefetch, with_huge_pages};

/// A key and its tokens, side by side in memory.
#[derive(Debug, Clone, Copy)]
struct Entry<K, const TOKENS: usize> {
    key: K,
    tokens: [u32; TOKENS],
    len: u32,
}

/// One or two cache lines. The first entry stays while others come and go in the second.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Set<K, const TOKENS: usize>([Entry<K, TOKENS>; 2]);

/// A packed piece.
pub(crate) trait Key: Copy + Eq {
    /// Marks a free place. No piece packs to it.
    const FREE: Self;

    fn hash(self) -> u64;
}

impl Key for u128 {
    const FREE: Self = 0;

    #[inline]
    fn hash(self) -> u64 {
        let folded = (self as u64) ^ ((self >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (folded ^ folded >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl Key for [u128; 2] {
    const FREE: Self = [0; 2];

    #[inline]
    fn hash(self) -> u64 {
        (self[0] ^ self[1].rotate_left(59)).hash() ^ self[1].hash().rotate_left(29)
    }
}

/// How often a piece that is pushed out pushes out the first of its set instead, so that no piece stays for ever.
const EVICTIONS_A_TURN: usize = 16;

/// Grows while pieces push each other out, up to a bound.
#[derive(Debug)]
pub(crate) struct Table<K, const TOKENS: usize> {
    sets: Vec<Set<K, TOKENS>>,
    /// Entries pushed out since the table last grew.
    evicted: usize,
    max_sets: usize,
}

impl<K: Key, const TOKENS: usize> Clone for Table<K, TOKENS> {
    fn clone(&self) -> Self {
        let mut sets = with_huge_pages(self.sets.len());
        sets.extend_from_slice(&self.sets);
        Self { sets, evicted: self.evicted, max_sets: self.max_sets }
    }
}

impl<K: Key, const TOKENS: usize> Table<K, TOKENS> {
    /// A table for about `pieces` that grows to at most `max_sets`, a power of two.
    pub(crate) fn new(pieces: usize, max_sets: usize) -> Self {
        let sets = pieces.next_power_of_two().min(max_sets);
        Self { sets: Self::empty_sets(sets), evicted: 0, max_sets }
    }

    const EMPTY: Set<K, TOKENS> = Set([Entry { key: K::FREE, tokens: [0; TOKENS], len: 0 }; 2]);

    fn empty_sets(count: usize) -> Vec<Set<K, TOKENS>> {
        let mut sets = with_huge_pages(count);
        sets.resize(count, Self::EMPTY);
        sets
    }

    #[inline]
    fn set_of(&self, hash: u32) -> usize {
        hash as usize & (self.sets.len() - 1)
    }

    /// Brings near what [`get`](Self::get) will look at. Returns the hash of `key`.
    #[inline]
    pub(crate) fn prefetch(&self, key: K) -> u32 {
        let hash = upper(key.hash());
        prefetch(&self.sets, self.set_of(hash));
        hash
    }

    /// The tokens of `key` as they are stored, and how many of them count.
    #[inline]
    pub(crate) fn get(&self, key: K, hash: u32) -> Option<(&[u32; TOKENS], usize)> {
        let set = &self.sets[self.set_of(hash)].0;
        // Which of the two it is cannot be foreseen, so there is no branch for it.
        let entry = &set[usize::from(set[1].key == key)];
        (entry.key == key).then_some((&entry.tokens, entry.len as usize))
    }

    /// Remembers `tokens`, at most `TOKENS`, for `key`.
    pub(crate) fn put(&mut self, key: K, tokens: &[u32]) {
        let mut entry = Entry { key, tokens: [0; TOKENS], len: tokens.len() as u32 };
        entry.tokens[..tokens.len()].copy_from_slice(tokens);
        self.put_entry(entry);
        if self.evicted > self.sets.len() / 16 && self.sets.len() < self.max_sets {
            let grown = Self::empty_sets(self.sets.len() * 2);
            let old = std::mem::replace(&mut self.sets, grown);
            old.iter().flat_map(|set| &set.0).for_each(|&entry| self.put_entry(entry));
            self.evicted = 0;
        }
    }

    fn put_entry(&mut self, entry: Entry<K, TOKENS>) {
        if entry.key == K::FREE {
            return;
        }
        let place = self.set_of(upper(entry.key.hash()));
        let set = &mut self.sets[place].0;
        if set[0].key == K::FREE {
            set[0] = entry;
            return;
        }
        if set[1].key != K::FREE {
            self.evicted += 1;
            if self.evicted.is_multiple_of(EVICTIONS_A_TURN) {
                set[0] = set[1];
            }
        }
        set[1] = entry;
    }
}

/// The half of a hash that is mixed best.
#[inline]
fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}
