//! A table from packed pieces to their tokens that threads read and fill together, without locks: keys stored and compared
//! whole. An entry never changes once it is there; a table that becomes crowded is followed by another.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::machine::{prefetch, with_huge_pages};

/// A packed piece whose four uppermost bits are free. The rest of its last word is not zero.
type Key<const WORDS: usize> = [u64; WORDS];

/// Bits of the last word of a key that say, in the table, how many tokens there are, and one more.
const COUNT_BITS: u32 = 4;
/// The last word of an entry without a key.
const FREE: u64 = 0;
/// The last word of an entry that some thread is writing.
const BUSY: u64 = u64::MAX << (u64::BITS - COUNT_BITS);

/// A key and its tokens, side by side in memory.
#[derive(Debug)]
struct Entry<const WORDS: usize> {
    /// The last word is written last and read first: the others, and the tokens, are there when it is.
    key: [AtomicU64; WORDS],
    /// Two a word.
    tokens: [AtomicU64; WORDS],
}

/// Two entries of one or two cache lines. A piece stands in the pair that its hash names, or else in one of those beside it.
#[derive(Debug)]
#[repr(align(64))]
struct Pair<const WORDS: usize>([Entry<WORDS>; 2]);

/// Pairs that stand in for each other, a power of two.
const PAIRS_BESIDE: usize = 4;

/// A table that cannot grow.
#[derive(Debug)]
pub(crate) struct Table<const WORDS: usize> {
    pairs: Vec<Pair<WORDS>>,
    /// Hashes are cut to numbers of pairs by this: their upper bits, so that a larger table has the same order.
    shift: u32,
    /// How many tables this one came after.
    generation: u32,
    /// Pieces for which there was no room.
    refused: AtomicUsize,
    is_being_followed: AtomicBool,
    is_old: AtomicBool,
}

impl<const WORDS: usize> Entry<WORDS> {
    fn free() -> Self {
        let words = || std::array::from_fn(|_| AtomicU64::new(FREE));
        Self { key: words(), tokens: words() }
    }

    #[inline]
    fn last(&self) -> u64 {
        self.key[WORDS - 1].load(Acquire)
    }

    /// Whether this is the entry of `key`.
    #[inline]
    fn is_of(&self, key: Key<WORDS>) -> bool {
        let mut differing = (self.last() ^ key[WORDS - 1]) << COUNT_BITS;
        for (word, wanted) in self.key[..WORDS - 1].iter().zip(key) {
            differing |= word.load(Relaxed) ^ wanted;
        }
        differing == 0
    }

    /// Takes the entry if it is free.
    fn take(&self) -> bool {
        let last = &self.key[WORDS - 1];
        last.load(Relaxed) == FREE && last.compare_exchange(FREE, BUSY, Acquire, Relaxed).is_ok()
    }

    /// Writes an entry that was taken.
    fn write(&self, key: Key<WORDS>, tokens: [u64; WORDS]) {
        for (place, word) in self.tokens.iter().zip(tokens) {
            place.store(word, Relaxed);
        }
        for (place, word) in self.key[..WORDS - 1].iter().zip(key) {
            place.store(word, Relaxed);
        }
        self.key[WORDS - 1].store(key[WORDS - 1], Release);
    }

    /// The key, with the number of tokens in its free bits, and the tokens, if they are there.
    fn read(&self) -> Option<(Key<WORDS>, [u64; WORDS])> {
        let last = self.last();
        let words = |words: &[AtomicU64; WORDS]| words.each_ref().map(|word| word.load(Relaxed));
        (last != FREE && last != BUSY).then(|| (words(&self.key), words(&self.tokens)))
    }
}

impl<const WORDS: usize> Pair<WORDS> {
    /// The entry that may be that of `key`.
    #[inline]
    fn entry_of(&self, key: Key<WORDS>) -> &Entry<WORDS> {
        // Which of the two it is cannot be foreseen, so there is no branch for it.
        &self.0[usize::from(self.0[1].is_of(key))]
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.0[1].last() == FREE
    }
}

impl<const WORDS: usize> Table<WORDS> {
    /// A table of `count` pairs, a power of two from [`PAIRS_BESIDE`] on.
    fn new(count: usize, generation: u32) -> Self {
        let mut pairs = with_huge_pages(count);
        pairs.resize_with(count, || Pair([Entry::free(), Entry::free()]));
        Self {
            pairs,
            shift: u64::BITS - count.trailing_zeros(),
            generation,
            refused: AtomicUsize::new(0),
            is_being_followed: AtomicBool::new(false),
            is_old: AtomicBool::new(false),
        }
    }

    /// The number of the pair in which `key` belongs.
    #[inline]
    fn pair_of(&self, key: Key<WORDS>) -> u32 {
        (hash(key) >> (self.shift & 63)) as u32
    }

    /// Brings near what [`get`](Self::get) will look at. Returns the place to give it.
    #[inline]
    pub(crate) fn prefetch(&self, key: Key<WORDS>) -> u32 {
        let pair = self.pair_of(key);
        prefetch(&self.pairs, pair as usize);
        pair
    }

    /// Writes the tokens of `key` to the first places of `tokens`, of which there are two a word, and whatever stands
    /// behind them to the others. Returns how many tokens there are.
    #[inline]
    pub(crate) fn get(&self, key: Key<WORDS>, pair: u32, tokens: &mut [u32]) -> Option<usize> {
        let near = &self.pairs[pair as usize];
        let mut entry = near.entry_of(key);
        if !entry.is_of(key) {
            if near.has_room() {
                return None;
            }
            entry = self.entry_beside(key, pair as usize)?;
        }
        for (places, word) in tokens.as_chunks_mut::<2>().0.iter_mut().zip(&entry.tokens) {
            let word = word.load(Relaxed);
            *places = [word as u32, (word >> 32) as u32];
        }
        Some((entry.last() >> (u64::BITS - COUNT_BITS)) as usize - 1)
    }

    /// The entry of `key` where its pair is full.
    #[inline]
    fn entry_beside(&self, key: Key<WORDS>, pair: usize) -> Option<&Entry<WORDS>> {
        for step in 1..PAIRS_BESIDE {
            let beside = &self.pairs[pair ^ step];
            let entry = beside.entry_of(key);
            if entry.is_of(key) {
                return Some(entry);
            }
            if beside.has_room() {
                return None;
            }
        }
        None
    }

    /// Remembers `tokens`, at most two a word, for `key`, if there is room.
    pub(crate) fn put(&self, mut key: Key<WORDS>, tokens: &[u32]) {
        let pair = self.pair_of(key) as usize;
        let mut words = [0; WORDS];
        for (index, &token) in tokens.iter().enumerate() {
            words[index / 2] |= u64::from(token) << (32 * (index % 2));
        }
        key[WORDS - 1] |= (tokens.len() as u64 + 1) << (u64::BITS - COUNT_BITS);
        self.put_words(pair, key, words);
    }

    fn put_words(&self, pair: usize, key: Key<WORDS>, tokens: [u64; WORDS]) {
        for entry in (0..PAIRS_BESIDE).flat_map(|step| &self.pairs[pair ^ step].0) {
            if entry.take() {
                return entry.write(key, tokens);
            }
            // Another thread may have met the same piece at the same time.
            if entry.is_of(key) {
                return;
            }
        }
        self.refused.fetch_add(1, Relaxed);
    }

    /// Whether there is another one by now.
    #[inline]
    pub(crate) fn is_old(&self) -> bool {
        self.is_old.load(Acquire)
    }

    fn is_crowded(&self) -> bool {
        self.refused.load(Relaxed) > self.pairs.len() / 32
    }

    /// A larger table with all that is in this one, or one as large with half of it.
    fn next(&self, max_pairs: usize) -> Self {
        let count = (self.pairs.len() * 4).min(max_pairs);
        let next = Self::new(count, self.generation + 1);
        let entries = self.pairs.iter().flat_map(|pair| &pair.0);
        for (mut key, tokens) in entries.filter_map(Entry::read) {
            let last = key[WORDS - 1];
            key[WORDS - 1] = last << COUNT_BITS >> COUNT_BITS;
            // Lower bits of the hash, which say nothing of the place; another one each time, so that no piece stays for ever.
            let is_kept = count > self.pairs.len() || (hash(key) >> (self.generation % 32)) & 1 == 0;
            if is_kept {
                let pair = next.pair_of(key);
                key[WORDS - 1] = last;
                next.put_words(pair as usize, key, tokens);
            }
        }
        next.refused.store(0, Relaxed);
        next
    }
}

/// The table that all threads use: each has its own reference, which it renews.
#[derive(Debug)]
pub(crate) struct Shared<const WORDS: usize> {
    table: Mutex<Arc<Table<WORDS>>>,
    max_pairs: usize,
}

impl<const WORDS: usize> Shared<WORDS> {
    /// A table for about `pieces` that grows to at most `max_pairs`, a power of two from [`PAIRS_BESIDE`] on.
    pub(crate) fn new(pieces: usize, max_pairs: usize) -> Self {
        let count = pieces.next_power_of_two().clamp(PAIRS_BESIDE, max_pairs);
        Self { table: Mutex::new(Arc::new(Table::new(count, 0))), max_pairs }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Table<WORDS>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present table.
    pub(crate) fn table(&self) -> Arc<Table<WORDS>> {
        self.lock().clone()
    }

    /// Puts the present table in place of an old one, and a new one in place of one that has become crowded: its first
    /// thread to notice makes it, while the others go on.
    #[inline]
    pub(crate) fn renew(&self, table: &mut Arc<Table<WORDS>>) {
        if table.is_crowded() || table.is_old() {
            self.renew_crowded(table);
        }
    }

    #[cold]
    fn renew_crowded(&self, table: &mut Arc<Table<WORDS>>) {
        if !table.is_being_followed.swap(true, Relaxed) {
            let next = Arc::new(table.next(self.max_pairs));
            *self.lock() = next;
            table.is_old.store(true, Release);
        }
        if table.is_old() {
            *table = self.table();
        }
    }
}

/// A hash whose upper and lower bits all words have a say in.
#[inline]
fn hash<const WORDS: usize>(key: Key<WORDS>) -> u64 {
    key.as_chunks::<2>().0.iter().fold(0, |hash: u64, &[low, high]| {
        let (low, high) = (low ^ 0xD6E8_FEB8_6659_FD93, high ^ 0x9E37_79B9_7F4A_7C15);
        let product = u128::from(low ^ hash) * u128::from(high ^ hash.rotate_left(32));
        product as u64 ^ (product >> 64) as u64
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn key(number: u64) -> Key<2> {
        [(number * 3) | (number % 2) << 63, (number >> 8) | 7 << 56]
    }

    fn tokens(number: u64) -> Vec<u32> {
        [number as u32, !number as u32, 5, 6][..number as usize % 5].to_vec()
    }

    fn find(table: &Table<2>, number: u64) -> Option<Vec<u32>> {
        let mut tokens = [0; 4];
        let len = table.get(key(number), table.prefetch(key(number)), &mut tokens)?;
        Some(tokens[..len].to_vec())
    }

    /// More keys than there is room for, some of which differ in a single bit: what is found is what was put.
    #[test]
    fn what_is_found_was_put() {
        let shared = Shared::<2>::new(4, 1 << 8);
        let mut table = shared.table();
        let mut found = 0;
        for number in 0..2000 {
            assert_eq!(find(&table, number), None, "{number}");
            table.put(key(number), &tokens(number));
            for earlier in (0..=number).step_by(97) {
                let kept = find(&table, earlier);
                assert!(kept.is_none() || kept == Some(tokens(earlier)), "{earlier}");
                found += usize::from(kept.is_some());
            }
            shared.renew(&mut table);
        }
        assert!(found > 1000 && table.pairs.len() == 1 << 8 && table.generation > 5);
    }

    /// Whatever other threads put meanwhile, and while the table grows: what is found is what was put.
    #[test]
    fn threads_share_what_they_put() {
        let shared = Shared::<2>::new(64, 1 << 12);
        let run = || {
            let mut table = shared.table();
            for number in (0..30_000).map(|number| number % 3000) {
                match find(&table, number) {
                    Some(found) => assert_eq!(found, tokens(number), "{number}"),
                    None => table.put(key(number), &tokens(number)),
                }
                shared.renew(&mut table);
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(run)));
        assert!((0..3000).filter(|&number| find(&shared.table(), number).is_some()).count() > 2900);
    }
}
