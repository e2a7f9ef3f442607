//! A table from packed pieces to their tokens: keys stored and compared whole, bounded, the older of two making room.

use crate::machine::{prefetch, with_huge_pages};

/// A key and its tokens, side by side in memory.
#[derive(Debug, Clone, Copy)]
struct Entry<K, const TOKENS: usize> {
    /// With the number of tokens and one in its free bits; all zero in a free place.
    key: K,
    tokens: [u32; TOKENS],
}

/// Two entries of one or two cache lines.
type Pair<K, const TOKENS: usize> = [Entry<K, TOKENS>; 2];

/// Two pairs side by side, as memory fetches lines. A piece stands in the pair that its hash names, or else in the other.
#[derive(Debug, Clone, Copy)]
#[repr(align(128))]
struct Set<K, const TOKENS: usize>([Pair<K, TOKENS>; 2]);

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
        let folded = (self as u64) ^ ((self >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (folded ^ folded >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15)
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
        (self ^ entry) << 4 == 0
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

/// How often a piece that is pushed out pushes out the first of its pair instead, so that no piece stays for ever.
const EVICTIONS_A_TURN: usize = 16;

/// Grows while pieces push each other out, up to a bound.
#[derive(Debug)]
pub(crate) struct Table<K, const TOKENS: usize> {
    sets: Vec<Set<K, TOKENS>>,
    /// Hashes are cut to numbers of pairs by this.
    shift: u32,
    /// Entries pushed out since the table last grew.
    evicted: usize,
    max_sets: usize,
}

impl<K: Key, const TOKENS: usize> Clone for Table<K, TOKENS> {
    fn clone(&self) -> Self {
        let mut sets = with_huge_pages(self.sets.len());
        sets.extend_from_slice(&self.sets);
        Self { sets, ..*self }
    }
}

impl<K: Key, const TOKENS: usize> Table<K, TOKENS> {
    /// A table for about `pieces` that grows to at most `max_sets`, a power of two from 2 on.
    pub(crate) fn new(pieces: usize, max_sets: usize) -> Self {
        let count = (pieces / 2).next_power_of_two().clamp(2, max_sets);
        let mut sets = with_huge_pages(count);
        sets.resize(count, Self::EMPTY);
        Self { sets, shift: Self::shift_of(count), evicted: 0, max_sets }
    }

    const EMPTY: Set<K, TOKENS> = Set([[Entry { key: K::FREE, tokens: [0; TOKENS] }; 2]; 2]);

    /// The upper bits of a 32-bit hash are numbers of pairs, so that growing keeps the order.
    fn shift_of(sets: usize) -> u32 {
        u32::BITS - (sets * 2).trailing_zeros()
    }

    /// Brings near what [`get`](Self::get) will look at. Returns the hash of `key`.
    #[inline]
    pub(crate) fn prefetch(&self, key: K) -> u32 {
        let hash = upper(key.hash());
        let pair = (hash >> self.shift) as usize;
        if let Some(Set(pairs)) = self.sets.get(pair / 2) {
            prefetch(pairs, pair % 2);
        }
        hash
    }

    /// The tokens of `key` as they are stored, and how many of them count.
    #[inline]
    pub(crate) fn get(&self, key: K, hash: u32) -> Option<(&[u32; TOKENS], usize)> {
        let pair = (hash >> self.shift) as usize;
        let Set(pairs) = &self.sets[pair / 2];
        let mut entry = Self::entry_of(&pairs[pair % 2], key);
        if !key.is_of(entry.key) {
            if pairs[pair % 2][1].key == K::FREE {
                return None;
            }
            entry = Self::entry_of(&pairs[1 - pair % 2], key);
        }
        key.is_of(entry.key).then(|| (&entry.tokens, entry.key.count()))
    }

    /// The entry of a pair that may be that of `key`.
    #[inline]
    fn entry_of(pair: &Pair<K, TOKENS>, key: K) -> &Entry<K, TOKENS> {
        // Which of the two it is cannot be foreseen, so there is no branch for it.
        &pair[usize::from(key.is_of(pair[1].key))]
    }

    /// Remembers `tokens`, at most `TOKENS`, for `key`, which is not yet known.
    pub(crate) fn put(&mut self, key: K, tokens: &[u32]) {
        let mut entry = Entry { key: key.with(tokens.len()), tokens: [0; TOKENS] };
        entry.tokens[..tokens.len()].copy_from_slice(tokens);
        self.put_entry(entry);
        if self.evicted > self.sets.len() / 16 && self.sets.len() < self.max_sets {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let count = self.sets.len() * 2;
        let mut grown = with_huge_pages(count);
        grown.resize(count, Self::EMPTY);
        let old = std::mem::replace(&mut self.sets, grown);
        self.shift = Self::shift_of(count);
        self.evicted = 0;
        for entry in old.iter().flat_map(|Set(pairs)| pairs.as_flattened()) {
            if entry.key != K::FREE {
                self.put_entry(*entry);
            }
        }
    }

    fn put_entry(&mut self, entry: Entry<K, TOKENS>) {
        let pair = (upper(entry.key.bare().hash()) >> self.shift) as usize;
        let Set(pairs) = &mut self.sets[pair / 2];
        for pair in [pair % 2, 1 - pair % 2] {
            if let Some(place) = pairs[pair].iter_mut().find(|place| place.key == K::FREE) {
                *place = entry;
                return;
            }
        }
        self.evicted += 1;
        let [first, second] = &mut pairs[pair % 2];
        if self.evicted.is_multiple_of(EVICTIONS_A_TURN) {
            *first = *second;
        }
        *second = entry;
    }
}

/// The half of a hash that is mixed best.
#[inline]
fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}
