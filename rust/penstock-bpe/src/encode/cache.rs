//! Tokens of pieces met before: bounded memory, whole pieces compared.

use hashbrown::HashTable;

use crate::vocab::hash;

/// The longest piece that fits the table of short ones.
const SHORT_BYTES: usize = 15;
/// The most tokens that an entry of that table holds.
const SHORT_TOKENS: usize = 3;
const SHORT_SETS: usize = 1 << 16;
/// Longer pieces than this repeat too rarely to be kept.
const LONG_BYTES: usize = 512;
/// The table of long pieces starts anew beyond this many bytes of pieces.
const LONG_ARENA_BYTES: usize = 4 << 20;

/// A short piece, packed with its length, and its tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Short {
    /// 0 when free.
    key: u128,
    tokens: [u32; SHORT_TOKENS],
    len: u32,
}

/// One cache line: the newer piece first.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Short; 2]);

#[derive(Debug)]
struct Long {
    bytes: std::ops::Range<usize>,
    tokens: std::ops::Range<usize>,
}

/// A cache of one thread: at most about 4 MiB of short pieces and as much of long ones.
#[derive(Debug)]
pub(crate) struct Cache {
    sets: Vec<Set>,
    long: HashTable<Long>,
    long_bytes: Vec<u8>,
    long_tokens: Vec<u32>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            sets: vec![Set::default(); SHORT_SETS],
            long: HashTable::new(),
            long_bytes: Vec::new(),
            long_tokens: Vec::new(),
        }
    }

    /// Appends the tokens of `piece` to `out` if they are known.
    #[inline]
    pub(crate) fn get(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() > SHORT_BYTES {
            return self.get_long(piece, out);
        }
        let key = pack(piece);
        let set = &self.sets[set_of(key)];
        for entry in &set.0 {
            if entry.key == key {
                // All places are copied, as that needs no loop, and those in use kept.
                let end = out.len() + entry.len as usize;
                out.extend_from_slice(&entry.tokens);
                out.truncate(end);
                return true;
            }
        }
        false
    }

    fn get_long(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() > LONG_BYTES {
            return false;
        }
        let found = self.long.find(hash(piece), |entry| &self.long_bytes[entry.bytes.clone()] == piece);
        if let Some(entry) = found {
            out.extend_from_slice(&self.long_tokens[entry.tokens.clone()]);
        }
        found.is_some()
    }

    /// Remembers the tokens of `piece`, in place of older ones if need be.
    pub(crate) fn put(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.len() > SHORT_BYTES {
            self.put_long(piece, tokens);
            return;
        }
        if tokens.len() > SHORT_TOKENS {
            return;
        }
        let key = pack(piece);
        let mut entry = Short { key, len: tokens.len() as u32, ..Short::default() };
        entry.tokens[..tokens.len()].copy_from_slice(tokens);
        let set = &mut self.sets[set_of(key)];
        set.0 = [entry, set.0[0]];
    }

    fn put_long(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.len() > LONG_BYTES {
            return;
        }
        if self.long_bytes.len() + piece.len() > LONG_ARENA_BYTES {
            self.long.clear();
            self.long_bytes.clear();
            self.long_tokens.clear();
        }
        let bytes = self.long_bytes.len()..self.long_bytes.len() + piece.len();
        let kept = self.long_tokens.len()..self.long_tokens.len() + tokens.len();
        self.long_bytes.extend_from_slice(piece);
        self.long_tokens.extend_from_slice(tokens);
        let arena = &self.long_bytes;
        let entry = Long { bytes, tokens: kept };
        self.long.insert_unique(hash(piece), entry, |entry| hash(&arena[entry.bytes.clone()]));
    }
}

/// The piece and, in the top byte, its length, which is never 0. Loads of fixed size that overlap where they must are
/// several times quicker than a copy of any length.
#[inline]
fn pack(piece: &[u8]) -> u128 {
    let len = piece.len();
    let (low, high) = if let (Some(first), Some(last)) = (piece.first_chunk::<8>(), piece.last_chunk::<8>()) {
        let last = u128::from(u64::from_le_bytes(*last)) >> (8 * (16 - len));
        (u64::from_le_bytes(*first), last as u64)
    } else if let (Some(first), Some(last)) = (piece.first_chunk::<4>(), piece.last_chunk::<4>()) {
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4));
        (u64::from(u32::from_le_bytes(*first)) | last, 0)
    } else {
        let byte = |place: usize| u64::from(piece[place]) << (8 * place);
        (byte(0) | byte(len / 2) | byte(len - 1), 0)
    };
    u128::from(low) | u128::from(high) << 64 | (len as u128) << 120
}

#[inline]
fn set_of(key: u128) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let mixed = (folded ^ folded >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 48) as usize & (SHORT_SETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_byte_and_the_length() {
        for len in 1..=SHORT_BYTES {
            let piece: Vec<u8> = (1..=len as u8).map(|byte| byte * 17).collect();
            let mut plain = [0; 16];
            plain[..len].copy_from_slice(&piece);
            plain[15] = len as u8;
            assert_eq!(pack(&piece), u128::from_le_bytes(plain), "{len}");
        }
    }
}
