//! Distinct pieces and their counts in memory.

use hashbrown::HashTable;
use hashbrown::hash_table;

use super::order::in_order;
use super::run::content_hash;
use crate::error::{Error, Result, show};

/// Bytes that stand before a piece and say how long it is.
const LEN_BYTES: usize = size_of::<u32>();
/// Memory of a place for a word: the hash table is full at seven eighths and has a byte a place besides.
const PLACE_BYTES: usize = (size_of::<Word>() + 1) * 8 / 7 + 1;

/// Hash, piece and count, in the order of runs.
type Entry<'t> = (u64, &'t [u8], u64);

#[derive(Debug, Clone, Copy)]
struct Word {
    /// Of the piece, so that the table grows without reading pieces.
    hash: u64,
    start: usize,
    count: u64,
}

/// A table of counts. Pieces lie end to end in one buffer.
#[derive(Debug, Default)]
pub(super) struct Table {
    words: HashTable<Word>,
    pieces: Vec<u8>,
    /// Bytes of the pieces that have a word.
    bytes: u64,
}

/// The piece that starts at `start`.
#[inline]
fn piece_at(pieces: &[u8], start: usize) -> &[u8] {
    let (head, rest) = pieces[start..].split_at(LEN_BYTES);
    let len = head.try_into().map_or(0, u32::from_le_bytes);
    &rest[..len as usize]
}

impl Table {
    /// The count of `piece`, whose `hash` is known, if it is there.
    #[inline]
    pub(super) fn count_mut(&mut self, hash: u64, piece: &[u8]) -> Option<&mut u64> {
        let pieces = &self.pieces;
        let is_same = |word: &Word| word.hash == hash && piece_at(pieces, word.start) == piece;
        self.words.find_mut(hash, is_same).map(|word| &mut word.count)
    }

    /// Adds to the count of `piece`, whose `hash` is known.
    pub(super) fn add(&mut self, hash: u64, piece: &[u8], count: u64) -> Result<()> {
        let Self { words, pieces, bytes } = self;
        let is_same = |word: &Word| word.hash == hash && piece_at(pieces, word.start) == piece;
        match words.entry(hash, is_same, |word| word.hash) {
            hash_table::Entry::Occupied(mut entry) => {
                let sum = entry.get().count.checked_add(count);
                entry.get_mut().count = sum.ok_or_else(|| Error::CountOverflow { piece: show(piece) })?;
            }
            hash_table::Entry::Vacant(entry) => {
                let (size_bytes, limit_bytes) = (piece.len() as u64, u64::from(u32::MAX));
                let len = u32::try_from(piece.len());
                let len = len.map_err(|_| Error::CorpusTooLarge { size_bytes, limit_bytes })?;
                entry.insert(Word { hash, start: pieces.len(), count });
                pieces.extend_from_slice(&len.to_le_bytes());
                pieces.extend_from_slice(piece);
                *bytes += size_bytes;
            }
        }
        Ok(())
    }

    /// Whether a further piece of `len` bytes would take more than `max_bytes`, at the moment when the table grows and
    /// with what it takes to write everything out.
    pub(super) fn is_full(&self, len: usize, max_bytes: usize) -> bool {
        let places = self.words.capacity();
        let places = if self.words.len() == places { 3 * places } else { places };
        let needed = places * PLACE_BYTES + self.pieces.len() + len + LEN_BYTES;
        needed + self.words.len() * size_of::<Entry<'_>>() > max_bytes
    }

    /// Makes room for `other`, unless both together would take more than `max_bytes`. Without room beforehand, pieces
    /// that come in the order of another table's hashes would crowd the beginning of this one.
    pub(super) fn make_room(&mut self, other: &Self, max_bytes: Option<usize>) -> bool {
        let words = self.words.len() + other.words.len();
        let places = (words * 8 / 7).next_power_of_two() + self.words.capacity();
        let needed = places * PLACE_BYTES + self.pieces.len() + other.pieces.len();
        if max_bytes.is_some_and(|max_bytes| needed + words * size_of::<Entry<'_>>() > max_bytes) {
            return false;
        }
        self.words.reserve(other.words.len(), |word| word.hash);
        true
    }

    /// Forgets the pieces, not the memory.
    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.pieces.clear();
        self.bytes = 0;
    }

    /// Changes every count, and forgets pieces whose count becomes 0.
    pub(super) fn recount(&mut self, mut recounted: impl FnMut(&[u8], u64) -> u64) {
        let Self { words, pieces, bytes } = self;
        words.retain(|word| {
            let piece = piece_at(pieces, word.start);
            word.count = recounted(piece, word.count);
            if word.count == 0 {
                *bytes -= piece.len() as u64;
            }
            word.count > 0
        });
    }

    /// Calls `take` with the pieces and their counts in the order of runs; `check` may end that early.
    pub(super) fn for_each_ordered(
        &self,
        check: impl Fn() -> Result<()> + Sync,
        mut take: impl FnMut(&[u8], u64) -> Result<()>,
    ) -> Result<()> {
        let mut entries: Vec<Entry<'_>> =
            self.iter().map(|(piece, count)| (content_hash(piece), piece, count)).collect();
        check()?;
        in_order(&mut entries, 1, &check, |&(_, piece, count)| take(piece, count))
    }

    /// The pieces and their counts, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.iter_hashed().map(|(_, piece, count)| (piece, count))
    }

    /// The pieces with their hashes and counts, in no order.
    pub(super) fn iter_hashed(&self) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.words.iter().map(|word| (word.hash, piece_at(&self.pieces, word.start), word.count))
    }

    /// Number of distinct pieces.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Bytes of the distinct pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}
