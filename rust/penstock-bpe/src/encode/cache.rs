//! Tokens of pieces met before, by any thread: bounded memory, whole pieces compared.

use std::ops::Range;
use std::sync::{Arc, RwLock};

use hashbrown::HashTable;

use super::shared::Shared;
use super::table::{Entries, Table};
use crate::vocab::hash;

/// The longest piece of the table of short ones.
pub(crate) const SHORT_BYTES: usize = 15;
/// The most tokens an entry of that table holds.
pub(crate) const SHORT_TOKENS: usize = 4;
/// The longest piece of the table of middling ones, and the most tokens of its entries.
const MIDDLING_BYTES: usize = 30;
const MIDDLING_TOKENS: usize = 8;
/// Bounds of the two tables, in pairs of entries: room for what 400 MB of text have that differs.
const MAX_SHORT_PAIRS: usize = 1 << 20;
const MAX_MIDDLING_PAIRS: usize = 1 << 18;
const FIRST_MIDDLING: usize = 1 << 12;
/// Longer pieces than this repeat too rarely to be kept.
const LONG_BYTES: usize = 1 << 12;
/// The table of other pieces has parts, so that threads seldom meet in one.
const LONG_PARTS: usize = 16;
/// A part starts anew when it holds so much: pieces, tokens, and where they are.
const LONG_PART_BYTES: usize = (32 << 20) / LONG_PARTS;

/// A cache of all threads: at most about 64 MiB of short pieces, 32 MiB of middling ones, 64 MiB of others, of which up to
/// half is room to grow, and while a table is followed by another, that one too.
#[derive(Debug)]
pub(crate) struct SharedCache {
    short: Shared<2>,
    middling: Shared<4>,
    long: [RwLock<Long>; LONG_PARTS],
}

impl SharedCache {
    /// A cache that will soon hold `pieces` short ones.
    pub(crate) fn new(pieces: usize) -> Self {
        Self {
            short: Shared::new(pieces, MAX_SHORT_PAIRS),
            middling: Shared::new(FIRST_MIDDLING, MAX_MIDDLING_PAIRS),
            long: Default::default(),
        }
    }
}

/// What one thread has of the cache.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    short: Arc<Table<2>>,
    middling: Arc<Table<4>>,
    shared: Arc<SharedCache>,
}

impl Cache {
    pub(crate) fn new(shared: &Arc<SharedCache>) -> Self {
        Self { short: shared.short.table(), middling: shared.middling.table(), shared: Arc::clone(shared) }
    }

    /// Goes on with new tables where others or this thread have filled the present ones. What was brought near is then
    /// elsewhere, so no piece may be on its way.
    #[inline]
    pub(crate) fn renew(&mut self) {
        self.shared.short.renew(&mut self.short);
        self.shared.middling.renew(&mut self.middling);
    }

    /// Whether a table of it is no longer in use elsewhere.
    pub(crate) fn is_old(&self) -> bool {
        self.short.is_old() || self.middling.is_old()
    }

    /// Brings near what [`Short::get`] will look at. Returns the place to give it, until the cache is renewed.
    #[inline]
    pub(crate) fn prefetch_short(&self, key: u128) -> u32 {
        self.short.prefetch(halves(key))
    }

    /// Brings near what [`append`](Self::append) will look at.
    #[inline]
    pub(crate) fn prefetch_longer(&self, bytes: &[u8], start: usize, end: usize) {
        if end - start <= MIDDLING_BYTES {
            self.middling.prefetch(pack_middling(&bytes[start..end]));
        }
    }

    /// The short pieces.
    #[inline]
    pub(crate) fn short(&self) -> Short<'_> {
        Short(self.short.entries())
    }

    /// See [`Table::evictions`].
    pub(crate) fn evictions_of_short(&self) -> usize {
        self.short.evictions()
    }

    /// Appends the tokens of `piece` to `out` if they are known.
    pub(crate) fn append(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() <= SHORT_BYTES {
            let key = halves(pack(piece, 0, piece.len()));
            let mut tokens = [0; SHORT_TOKENS];
            match self.short.entries().get::<false>(key, self.short.prefetch(key), &mut tokens) {
                None => return false,
                Some(0) => {}
                Some(len) => {
                    out.extend_from_slice(&tokens[..len]);
                    return true;
                }
            }
        } else if piece.len() <= MIDDLING_BYTES {
            let key = pack_middling(piece);
            let mut tokens = [0; MIDDLING_TOKENS];
            if let Some(len) =
                self.middling.entries().get::<false>(key, self.middling.prefetch(key), &mut tokens)
            {
                out.extend_from_slice(&tokens[..len]);
                return true;
            }
        }
        piece.len() <= LONG_BYTES && self.append_long(piece, out)
    }

    /// Remembers the tokens of `piece`, if there is room for them.
    pub(crate) fn put(&self, piece: &[u8], tokens: &[u32]) {
        if piece.len() <= SHORT_BYTES {
            let is_elsewhere = tokens.len() > SHORT_TOKENS;
            self.short.put(halves(pack(piece, 0, piece.len())), if is_elsewhere { &[] } else { tokens });
            if is_elsewhere {
                self.put_long(piece, tokens);
            }
        } else if piece.len() <= MIDDLING_BYTES && tokens.len() <= MIDDLING_TOKENS {
            self.middling.put(pack_middling(piece), tokens);
        } else if piece.len() <= LONG_BYTES {
            self.put_long(piece, tokens);
        }
    }

    /// Nobody waits: what another thread has just locked is not known, and what cannot be put is not kept.
    fn append_long(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        let hash = hash(piece);
        self.long(hash).try_read().is_ok_and(|long| long.append(hash, piece, out))
    }

    fn put_long(&self, piece: &[u8], tokens: &[u32]) {
        let hash = hash(piece);
        if let Ok(mut long) = self.long(hash).try_write() {
            long.put(hash, piece, tokens);
        }
    }

    fn long(&self, hash: u64) -> &RwLock<Long> {
        &self.shared.long[(hash >> 40) as usize % LONG_PARTS]
    }
}

/// The short pieces of a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Short<'a>(Entries<'a, 2>);

impl Short<'_> {
    /// Writes the tokens of a short piece by its [`pack`] to the first of `places`, and returns how many there are; 0 where
    /// they are too many and [`Cache::append`] knows them. `UNCHECKED`: see [`Entries::get`].
    #[inline]
    pub(crate) fn get<const UNCHECKED: bool>(
        self,
        key: u128,
        place: u32,
        places: &mut [u32],
    ) -> Option<usize> {
        self.0.get::<UNCHECKED>(halves(key), place, places)
    }
}

/// Pieces of any length, or of many tokens.
#[derive(Debug, Default)]
struct Long {
    table: HashTable<Kept>,
    bytes: Vec<u8>,
    tokens: Vec<u32>,
}

/// Where a piece and its tokens are: less than [`LONG_PART_BYTES`] of either.
#[derive(Debug)]
struct Kept {
    bytes: Range<u32>,
    tokens: Range<u32>,
}

/// `range` as a place in memory.
fn place(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl Long {
    fn find(&self, hash: u64, piece: &[u8]) -> Option<&Kept> {
        self.table.find(hash, |kept| &self.bytes[place(&kept.bytes)] == piece)
    }

    fn append(&self, hash: u64, piece: &[u8], out: &mut Vec<u32>) -> bool {
        let found = self.find(hash, piece);
        if let Some(kept) = found {
            out.extend_from_slice(&self.tokens[place(&kept.tokens)]);
        }
        found.is_some()
    }

    fn put(&mut self, hash_of_piece: u64, piece: &[u8], tokens: &[u32]) {
        // Another thread may have met the same piece at the same time.
        if self.find(hash_of_piece, piece).is_some() {
            return;
        }
        let held = self.bytes.len() + size_of_val(&self.tokens[..]) + size_of::<Kept>() * self.table.len();
        if held + piece.len() + size_of_val(tokens) + size_of::<Kept>() > LONG_PART_BYTES {
            self.table.clear();
            self.bytes.clear();
            self.tokens.clear();
        }
        let (first_byte, first_token) = (self.bytes.len() as u32, self.tokens.len() as u32);
        self.bytes.extend_from_slice(piece);
        self.tokens.extend_from_slice(tokens);
        let kept = Kept {
            bytes: first_byte..self.bytes.len() as u32,
            tokens: first_token..self.tokens.len() as u32,
        };
        let arena = &self.bytes;
        self.table.insert_unique(hash_of_piece, kept, |kept| hash(&arena[place(&kept.bytes)]));
    }
}

/// The lowest bytes of a number, by how many.
static MASKS: [u128; 17] = {
    let mut masks = [0; 17];
    let mut len = 1;
    while len <= 16 {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

/// The short piece `bytes[start..end]` and, in the lower half of the top byte, its length, which is never 0.
#[inline]
pub(crate) fn pack(bytes: &[u8], start: usize, end: usize) -> u128 {
    load(bytes, start, end) | ((end - start) as u128) << 120
}

/// [`pack`] of `len` bytes, 1 to 15, at the start of `bytes`.
#[inline]
pub(crate) fn pack_first(bytes: &[u8; 16], len: usize) -> u128 {
    u128::from_le_bytes(*bytes) & MASKS[len & 15] | (len as u128) << 120
}

/// A piece of 16 to 30 bytes and, in the lower half of the top byte, its length less 15, which is never 0.
#[inline]
fn pack_middling(piece: &[u8]) -> [u64; 4] {
    let [first, second] = halves(load(piece, 0, 16));
    let [third, last] = halves(load(piece, 16, piece.len()) | (piece.len() as u128 - 15) << 120);
    [first, second, third, last]
}

/// The lower and the upper half.
#[inline]
fn halves(key: u128) -> [u64; 2] {
    [key as u64, (key >> 64) as u64]
}

/// `bytes[start..end]`, at most 16, as a number: by one load where behind them there is enough to read.
#[inline]
fn load(bytes: &[u8], start: usize, end: usize) -> u128 {
    if let Some(all) = bytes[start..].first_chunk::<16>() {
        return u128::from_le_bytes(*all) & MASKS[end - start];
    }
    bytes[start..end].iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_byte_and_the_length() {
        let bytes: Vec<u8> = (1..=40).map(|byte| byte * 6).collect();
        for len in 1..=SHORT_BYTES {
            for start in [0, 20, 40 - len] {
                let mut plain = [0; 16];
                plain[..len].copy_from_slice(&bytes[start..start + len]);
                plain[15] = len as u8;
                assert_eq!(pack(&bytes, start, start + len), u128::from_le_bytes(plain), "{len} {start}");
            }
        }
    }

    #[test]
    fn long_pieces_take_no_more_memory_than_promised() {
        for (bytes, tokens) in [(5, 5), (10, 5), (15, 15), (30, 9), (LONG_BYTES, LONG_BYTES)] {
            let mut long = Long::default();
            let mut most_bytes = 0;
            for number in 0..200_000_u32.min((16 << 20) / bytes as u32) {
                let mut piece = vec![b'a'; bytes];
                piece[..4].copy_from_slice(&number.to_le_bytes());
                long.put(hash(&piece), &piece, &vec![7; tokens]);
                let held = long.bytes.capacity() + 4 * long.tokens.capacity() + long.table.allocation_size();
                most_bytes = most_bytes.max(LONG_PARTS * held);
            }
            assert!(((16 << 20)..=(64 << 20)).contains(&most_bytes), "{bytes} {tokens}: {most_bytes}");
        }
    }

    #[test]
    fn packs_of_different_pieces_differ() {
        let bytes = [7; 40];
        let mut packs: Vec<_> = (16..=MIDDLING_BYTES).map(|len| pack_middling(&bytes[..len])).collect();
        packs.dedup();
        assert_eq!(packs.len(), MIDDLING_BYTES - 15);
        assert!(packs.iter().all(|pack| (1..16).contains(&(pack[3] >> 56))));
    }
}
