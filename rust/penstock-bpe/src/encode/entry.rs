//! An entry of a table that threads read and write together, without locks.
//!
//! The last word of its key says what an entry is: [`FREE`]; [`BUSY`], while the one thread writes that put this word there;
//! or else an entry with a key, whose words were all stored before that one (`Release`). So who sees a key (`Acquire`) and
//! only then reads the tokens has those of this key, if the entry was free before. If it had another key, that one may be
//! seen with the tokens of the next. Against that there are two ways to read:
//!
//! - [`Entry::get`] compares the first word of the tokens before and after: an entry that made room for another has another
//!   number of writes in the spare bits of that word, which is stored before all others.
//! - [`Entry::get_unchecked`] leaves it to its caller to make sure, by [`Evictions`], that no entry of the table made room
//!   meanwhile.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::sync::{AtomicUsize, FromZeros, Words, fence};
use crate::vocab::MAX_ID;

/// A packed piece whose four uppermost bits are free. The rest of its last word is not zero.
pub(super) type Key<const WORDS: usize> = [u64; WORDS];

/// Bits of the last word of a key that say, in the table, how many tokens there are.
const COUNT_BITS: u32 = 4;
/// The last word of an entry without a key, as in memory that is all zero.
pub(super) const FREE: u64 = 0;
/// The last word of an entry that some thread is writing.
pub(super) const BUSY: u64 = u64::MAX << (u64::BITS - COUNT_BITS);
/// The bits of two tokens. In the first word the others count how often an entry made room for another.
const TOKENS: u64 = (MAX_ID as u64) << 32 | MAX_ID as u64;
/// One in those bits: adding it to a word with all bits of the tokens set carries from one of the gaps to the other.
const ONE_WRITE: u64 = MAX_ID as u64 + 1;

/// `key` with the number of its tokens, as entries have it.
pub(super) fn counted<const WORDS: usize>(mut key: Key<WORDS>, count: usize) -> Key<WORDS> {
    key[WORDS - 1] |= (count as u64) << (u64::BITS - COUNT_BITS);
    key
}

/// The key of an entry, without the number of tokens.
pub(super) fn uncounted<const WORDS: usize>(mut key: Key<WORDS>) -> Key<WORDS> {
    key[WORDS - 1] = key[WORDS - 1] << COUNT_BITS >> COUNT_BITS;
    key
}

/// A key and its tokens, side by side in memory.
#[derive(Debug, FromZeros)]
pub(super) struct Entry<const WORDS: usize> {
    key: Words<WORDS>,
    /// Two a word.
    tokens: Words<WORDS>,
}

impl<const WORDS: usize> Entry<WORDS> {
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.key[WORDS - 1].load(Acquire)
    }

    /// The last word if this is the entry of `key`.
    #[inline]
    fn last_of(&self, key: Key<WORDS>) -> Option<u64> {
        let last = self.last();
        let mut differing = (last ^ key[WORDS - 1]) << COUNT_BITS;
        for (word, wanted) in self.key[..WORDS - 1].iter().zip(key) {
            differing |= word.load(Relaxed) ^ wanted;
        }
        (differing == 0).then_some(last)
    }

    /// Whether this is the entry of `key`.
    #[inline]
    pub(super) fn is_of(&self, key: Key<WORDS>) -> bool {
        self.last_of(key).is_some()
    }

    /// Writes the tokens to `places` if this is the entry of `key`, and returns how many count.
    #[inline]
    pub(super) fn get(&self, key: Key<WORDS>, places: &mut [u32]) -> Option<usize> {
        self.undisturbed(|first| self.look(key, || first, places))
    }

    /// [`get`](Self::get) for callers who know, afterwards, whether any entry made room for another meanwhile.
    #[inline]
    pub(super) fn get_unchecked(&self, key: Key<WORDS>, places: &mut [u32]) -> Option<usize> {
        self.look(key, || self.tokens[0].load(Relaxed), places)
    }

    /// `first` gives the first word of the tokens, once the key has been seen.
    #[inline]
    fn look(&self, key: Key<WORDS>, first: impl FnOnce() -> u64, places: &mut [u32]) -> Option<usize> {
        let last = self.last_of(key)?;
        let first = first() & TOKENS;
        for (index, places) in places.as_chunks_mut::<2>().0.iter_mut().enumerate().take(WORDS) {
            let word = if index == 0 { first } else { self.tokens[index].load(Relaxed) };
            *places = [word as u32, (word >> 32) as u32];
        }
        Some((last >> (u64::BITS - COUNT_BITS)) as usize)
    }

    /// What `look` sees of an entry that nobody writes meanwhile. It is given the first word of the tokens.
    ///
    /// Who sees a key that was written later than that word sees, at the end, another such word; who sees one that was
    /// written earlier sees [`BUSY`] in its place. Only if an entry were written 2^18 times during one look, all would
    /// seem as before.
    #[inline]
    fn undisturbed<T>(&self, look: impl FnOnce(u64) -> Option<T>) -> Option<T> {
        let first = self.tokens[0].load(Acquire);
        let seen = look(first)?;
        fence(Acquire);
        (self.tokens[0].load(Relaxed) == first).then_some(seen)
    }

    /// The key, with the number of tokens in its free bits, and the tokens, if they are there.
    pub(super) fn read(&self) -> Option<(Key<WORDS>, [u64; WORDS])> {
        self.undisturbed(|first| {
            let last = self.last();
            let mut tokens = self.tokens.each_ref().map(|word| word.load(Relaxed));
            tokens[0] = first & TOKENS;
            (last != FREE && last != BUSY).then(|| {
                let mut key = self.key.each_ref().map(|word| word.load(Relaxed));
                key[WORDS - 1] = last;
                (key, tokens)
            })
        })
    }

    /// Writes the entry if its last word is `last` and nobody else does. If it had a key, that is one of `evictions`.
    pub(super) fn write(
        &self,
        last: u64,
        key: Key<WORDS>,
        tokens: [u64; WORDS],
        evictions: &Evictions,
    ) -> bool {
        if last == BUSY || self.key[WORDS - 1].compare_exchange(last, BUSY, Acquire, Relaxed).is_err() {
            return false;
        }
        let mut writes = self.tokens[0].load(Relaxed) & !TOKENS;
        if last != FREE {
            writes = (writes | TOKENS).wrapping_add(ONE_WRITE) & !TOKENS;
            evictions.0.fetch_add(1, Release);
        }
        fence(Release);
        self.tokens[0].store(tokens[0] | writes, Relaxed);
        fence(Release);
        for (place, word) in self.tokens.iter().zip(tokens).skip(1) {
            place.store(word, Relaxed);
        }
        for (place, word) in self.key[..WORDS - 1].iter().zip(key) {
            place.store(word, Relaxed);
        }
        self.key[WORDS - 1].store(key[WORDS - 1], Release);
        true
    }
}

/// Entries of a table that made room for another. Each is counted behind [`BUSY`] and before all that is then written: who
/// knows of it no longer sees the key that was there, and who has seen anything of the next one will know of it.
#[derive(Debug)]
pub(super) struct Evictions(AtomicUsize);

impl Evictions {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// How many there are so far. What was read unchecked between two equal answers is right.
    #[inline]
    pub(super) fn count(&self) -> usize {
        // The second answer may not come before what was read.
        fence(Acquire);
        self.0.load(Acquire)
    }
}
