//! Tokens of pieces met before: bounded memory, whole pieces compared.

use hashbrown::HashTable;

use super::table::Table;
use crate::vocab::hash;

/// The longest piece of the table of short ones.
pub(crate) const SHORT_BYTES: usize = 15;
/// The most tokens an entry of that table holds.
pub(crate) const SHORT_TOKENS: usize = 4;
/// The longest piece of the table of middling ones, and the most tokens of its entries.
const MIDDLING_BYTES: usize = 31;
const MIDDLING_TOKENS: usize = 8;
/// Bounds of the two tables, in pairs of entries: room for what 400 MB of text have that differs.
const MAX_SHORT_PAIRS: usize = 1 << 20;
const MAX_MIDDLING_PAIRS: usize = 1 << 18;
const FIRST_MIDDLING: usize = 1 << 12;
/// Longer pieces than this repeat too rarely to be kept.
const LONG_BYTES: usize = 1 << 12;
/// The table of other pieces starts anew beyond this many bytes of them.
const LONG_ARENA_BYTES: usize = 8 << 20;

/// A cache of one thread: at most about 64 MiB of short pieces, 32 MiB of middling ones, 16 MiB of others.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    short: Table<u128, SHORT_TOKENS>,
    middling: Table<[u128; 2], MIDDLING_TOKENS>,
    long: Long,
}

impl Cache {
    /// A cache that will soon hold `pieces` short ones.
    pub(crate) fn new(pieces: usize) -> Self {
        Self {
            short: Table::new(pieces, MAX_SHORT_PAIRS),
            middling: Table::new(FIRST_MIDDLING, MAX_MIDDLING_PAIRS),
            long: Long::default(),
        }
    }

    /// Brings near what [`short`](Self::short) will look at. Returns the place to give it, until a piece is put.
    #[inline]
    pub(crate) fn prefetch_short(&self, key: u128) -> u32 {
        self.short.prefetch(key)
    }

    /// Brings near what [`append`](Self::append) will look at.
    #[inline]
    pub(crate) fn prefetch_longer(&self, bytes: &[u8], start: usize, end: usize) {
        if end - start <= MIDDLING_BYTES {
            self.middling.prefetch(pack_middling(&bytes[start..end]));
        }
    }

    /// The tokens of a short piece by its [`pack`]: all places of the entry, and how many of them count; 0 where they are
    /// too many and [`append`](Self::append) knows them.
    #[inline]
    pub(crate) fn short(&self, key: u128, place: u32) -> Option<(&[u32; SHORT_TOKENS], usize)> {
        self.short.get(key, place)
    }

    /// Appends the tokens of `piece` to `out` if they are known.
    pub(crate) fn append(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() <= SHORT_BYTES {
            let key = pack(piece, 0, piece.len());
            match self.short.get(key, self.short.prefetch(key)) {
                None => return false,
                Some((_, 0)) => {}
                Some((tokens, len)) => {
                    out.extend_from_slice(&tokens[..len]);
                    return true;
                }
            }
        } else if piece.len() <= MIDDLING_BYTES {
            let key = pack_middling(piece);
            if let Some((tokens, len)) = self.middling.get(key, self.middling.prefetch(key)) {
                out.extend_from_slice(&tokens[..len]);
                return true;
            }
        }
        piece.len() <= LONG_BYTES && self.long.append(piece, out)
    }

    /// Remembers the tokens of `piece`, in place of older ones if need be.
    pub(crate) fn put(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.len() <= SHORT_BYTES {
            let is_elsewhere = tokens.len() > SHORT_TOKENS;
            self.short.put(pack(piece, 0, piece.len()), if is_elsewhere { &[] } else { tokens });
            if is_elsewhere {
                self.long.put(piece, tokens);
            }
        } else if piece.len() > SHORT_BYTES
            && piece.len() <= MIDDLING_BYTES
            && tokens.len() <= MIDDLING_TOKENS
        {
            self.middling.put(pack_middling(piece), tokens);
        } else if piece.len() <= LONG_BYTES {
            self.long.put(piece, tokens);
        }
    }
}

/// Pieces of any length, or of many tokens.
#[derive(Debug, Clone, Default)]
struct Long {
    table: HashTable<Kept>,
    bytes: Vec<u8>,
    tokens: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Kept {
    bytes: std::ops::Range<usize>,
    tokens: std::ops::Range<usize>,
}

impl Long {
    fn append(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        let found = self.table.find(hash(piece), |kept| &self.bytes[kept.bytes.clone()] == piece);
        if let Some(kept) = found {
            out.extend_from_slice(&self.tokens[kept.tokens.clone()]);
        }
        found.is_some()
    }

    fn put(&mut self, piece: &[u8], tokens: &[u32]) {
        if self.bytes.len() + piece.len() > LONG_ARENA_BYTES {
            self.table.clear();
            self.bytes.clear();
            self.tokens.clear();
        }
        let bytes = self.bytes.len()..self.bytes.len() + piece.len();
        let kept = self.tokens.len()..self.tokens.len() + tokens.len();
        self.bytes.extend_from_slice(piece);
        self.tokens.extend_from_slice(tokens);
        let arena = &self.bytes;
        let entry = Kept { bytes, tokens: kept };
        self.table.insert_unique(hash(piece), entry, |kept| hash(&arena[kept.bytes.clone()]));
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

/// A piece of 16 to 31 bytes and, in the lower half of the top byte, its length less 16.
#[inline]
fn pack_middling(piece: &[u8]) -> [u128; 2] {
    [load(piece, 0, 16), load(piece, 16, piece.len()) | (piece.len() as u128 - 16) << 120]
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
    fn packs_of_different_pieces_differ() {
        let bytes = [7; 40];
        let mut packs: Vec<_> = (16..=MIDDLING_BYTES).map(|len| pack_middling(&bytes[..len])).collect();
        packs.dedup();
        assert_eq!(packs.len(), MIDDLING_BYTES - 15);
        assert!(packs.iter().all(|pack| pack[1] >> 124 == 0));
    }
}
