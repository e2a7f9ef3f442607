//! A table from packed pieces to their tokens that threads read and fill together, without locks: keys stored and compared
//! whole, the older of two making room where the table may not grow. One that may is followed by another.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::entry::{Entry, Evictions, FREE, Key, counted, uncounted};
use super::sync::{Arc, AtomicBool, AtomicUsize, FromZeros, Mutex, PART_PAIRS, Zeroed, prefetch};

/// Two entries of one or two cache lines. A piece stands in the pair that its hash names, or else in one of those beside it.
#[derive(Debug, FromZeros)]
#[repr(align(64))]
struct Pair<const WORDS: usize>([Entry<WORDS>; 2]);

/// Pairs that stand in for each other, a power of two.
pub(super) const PAIRS_BESIDE: usize = 4;
/// Of how many pieces for which there is no room one pushes out the first of its pair, so that no piece stays for ever; the
/// others push out the second.
const EVICTIONS_A_TURN: u64 = 16;

/// Pairs whose pieces are brought to a larger table together.
const GROUP_PAIRS: usize = 32;

/// A table that cannot grow.
#[derive(Debug)]
pub(crate) struct Table<const WORDS: usize> {
    pairs: Zeroed<Pair<WORDS>>,
    /// Hashes are cut to numbers of pairs by this: their upper bits, so that a larger table has the same order.
    shift: u32,
    /// Whether a larger one may follow.
    may_grow: bool,
    /// Pieces for which there was no room, where one may.
    pub(super) refused: AtomicUsize,
    evictions: Evictions,
    /// The table that follows, while threads fill it: so many parts of this one have been taken, and are there.
    pub(super) next: Mutex<Option<Arc<Self>>>,
    parts_taken: AtomicUsize,
    parts_done: AtomicUsize,
    pub(super) is_old: AtomicBool,
}

impl<const WORDS: usize> Pair<WORDS> {
    /// The tokens if `key` is here. `UNCHECKED`: see [`Entries::get`].
    #[inline]
    fn get<const UNCHECKED: bool>(&self, key: Key<WORDS>, places: &mut [u32]) -> Option<usize> {
        // Which of the two it is cannot be foreseen, so there is no branch for it.
        let entry = &self.0[usize::from(self.0[1].is_of(key))];
        if UNCHECKED { entry.get_unchecked(key, places) } else { entry.get(key, places) }
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.0[1].last() == FREE
    }
}

/// The entries of a table. Where it lies is known once, not looked up for each piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries<'a, const WORDS: usize>(&'a [Pair<WORDS>]);

impl<const WORDS: usize> Entries<'_, WORDS> {
    /// Writes the tokens of `key` to the first of `places`, of which there are two a word, and whatever stands behind them to
    /// the others. Returns how many tokens there are. `UNCHECKED` is for readers that ask for
    /// [`Table::evictions`] before and after.
    #[inline]
    pub(crate) fn get<const UNCHECKED: bool>(
        self,
        key: Key<WORDS>,
        pair: u32,
        places: &mut [u32],
    ) -> Option<usize> {
        let near = &self.0[pair as usize];
        let found = near.get::<UNCHECKED>(key, places);
        if found.is_none() && !near.has_room() {
            return self.get_beside::<UNCHECKED>(key, pair as usize, places);
        }
        found
    }

    /// [`get`](Self::get) where the pair of the key is full.
    #[inline]
    fn get_beside<const UNCHECKED: bool>(
        self,
        key: Key<WORDS>,
        pair: usize,
        places: &mut [u32],
    ) -> Option<usize> {
        for step in 1..PAIRS_BESIDE {
            let beside = &self.0[pair ^ step];
            let found = beside.get::<UNCHECKED>(key, places);
            if found.is_some() || beside.has_room() {
                return found;
            }
        }
        None
    }
}

impl<const WORDS: usize> Table<WORDS> {
    /// A table of `count` pairs, a power of two from [`PAIRS_BESIDE`] on.
    pub(super) fn new(count: usize, max_pairs: usize) -> Self {
        Self {
            pairs: Zeroed::new(count),
            shift: u64::BITS - count.trailing_zeros(),
            may_grow: count < max_pairs,
            refused: AtomicUsize::new(0),
            evictions: Evictions::new(),
            next: Mutex::new(None),
            parts_taken: AtomicUsize::new(0),
            parts_done: AtomicUsize::new(0),
            is_old: AtomicBool::new(false),
        }
    }

    #[inline]
    fn pair_of(&self, hash: u64) -> usize {
        (hash >> (self.shift & 63)) as usize
    }

    /// Brings near what [`Entries::get`] will look at. Returns the place to give it.
    #[inline]
    pub(crate) fn prefetch(&self, key: Key<WORDS>) -> u32 {
        let pair = self.pair_of(hash(key));
        prefetch(&self.pairs, pair);
        pair as u32
    }

    #[inline]
    pub(crate) fn entries(&self) -> Entries<'_, WORDS> {
        Entries(&self.pairs)
    }

    /// See [`Evictions::count`].
    #[inline]
    pub(crate) fn evictions(&self) -> usize {
        self.evictions.count()
    }

    /// Remembers `tokens`, at most two a word, for `key`.
    pub(crate) fn put(&self, key: Key<WORDS>, tokens: &[u32]) {
        let hash = hash(key);
        let mut words = [0; WORDS];
        for (index, &token) in tokens.iter().enumerate() {
            words[index / 2] |= u64::from(token) << (32 * (index % 2));
        }
        self.put_words(hash, counted(key, tokens.len()), words);
    }

    fn put_words(&self, hash: u64, key: Key<WORDS>, tokens: [u64; WORDS]) {
        let pair = self.pair_of(hash);
        for entry in (0..PAIRS_BESIDE).flat_map(|step| &self.pairs[pair ^ step].0) {
            let last = entry.last();
            // Another thread may have met the same piece at the same time.
            if (last == FREE && entry.write(last, key, tokens, &self.evictions)) || entry.is_of(key) {
                return;
            }
        }
        if self.may_grow {
            self.refused.fetch_add(1, Relaxed);
            return;
        }
        // Lower bits of the hash, which say nothing of the place.
        let entry = &self.pairs[pair].0[usize::from(!hash.is_multiple_of(EVICTIONS_A_TURN))];
        entry.write(entry.last(), key, tokens, &self.evictions);
    }

    /// Whether there is another one by now.
    #[inline]
    pub(crate) fn is_old(&self) -> bool {
        self.is_old.load(Acquire)
    }

    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.refused.load(Relaxed) > self.pairs.len() / 32
    }

    /// Brings a part of what is here to a larger table, if no other thread has taken the last one. Returns that table when
    /// all of it is there.
    pub(super) fn grow_by_a_part(&self, max_pairs: usize) -> Option<Arc<Self>> {
        let parts = self.pairs.len().div_ceil(PART_PAIRS);
        if self.parts_taken.load(Relaxed) >= parts {
            return None;
        }
        let larger = || Arc::new(Self::new((self.pairs.len() * 4).min(max_pairs), max_pairs));
        // Who has to wait goes on without: see `Shared`.
        let mut next = self.next.try_lock().ok()?;
        let number = self.parts_taken.fetch_add(1, Relaxed);
        let part = self.pairs.chunks(PART_PAIRS).nth(number)?;
        let larger = next.take().unwrap_or_else(larger);
        // This table may lie idle for long, and should not keep the memory of its successor.
        *next = (number + 1 < parts).then(|| Arc::clone(&larger));
        drop(next);
        part.chunks(GROUP_PAIRS).for_each(|group| larger.take_over(group));
        (self.parts_done.fetch_add(1, AcqRel) + 1 == parts).then_some(larger)
    }

    /// Takes all that is in `group`, up to [`GROUP_PAIRS`] pairs. Both tables have one order, so what is written lies near.
    fn take_over(&self, group: &[Pair<WORDS>]) {
        let mut hashed = [(0, [0; WORDS], [0; WORDS]); 2 * GROUP_PAIRS];
        let entries = group.iter().flat_map(|pair| &pair.0).filter_map(Entry::read);
        let mut count = 0;
        for ((key, tokens), place) in entries.zip(&mut hashed) {
            *place = (hash(uncounted(key)), key, tokens);
            prefetch(&self.pairs, self.pair_of(place.0));
            count += 1;
        }
        for &(hash, key, tokens) in &hashed[..count] {
            self.put_words(hash, key, tokens);
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
