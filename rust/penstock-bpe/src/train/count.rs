//! How often each distinct piece stands in a corpus.

use hashbrown::HashTable;

use crate::error::{Error, Result, show};
use crate::pattern::Pattern;
use crate::vocab::hash;

#[derive(Debug, Clone, Copy)]
struct Word {
    start: usize,
    len: usize,
    count: u64,
}

/// Distinct pieces and their counts. Make one a thread and [`merge`](Self::merge) them: sums do not depend on the order.
#[derive(Debug)]
pub struct WordCounts {
    pattern: Pattern,
    words: HashTable<Word>,
    arena: Vec<u8>,
    total: u64,
}

impl WordCounts {
    /// Nothing counted yet; text will be cut by `pattern`.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, words: HashTable::new(), arena: Vec::new(), total: 0 }
    }

    /// Counts the pieces of `text`. The ends of a text are ends of pieces.
    pub fn add_text(&mut self, text: &str) {
        let Self { pattern, words, arena, total } = self;
        // One piece at a time cannot overflow 64 bits in any run that ends.
        pattern.for_each_piece(text, |piece| {
            let word = find_or_insert(words, arena, piece.as_bytes());
            word.count = word.count.saturating_add(1);
            *total = total.saturating_add(1);
        });
    }

    /// Counts `piece`, which is not cut, `count` times.
    ///
    /// # Errors
    ///
    /// [`Error::CountOverflow`] if its count or the sum of all would not fit 64 bits.
    pub fn add_piece(&mut self, piece: &[u8], count: u64) -> Result<()> {
        if piece.is_empty() || count == 0 {
            return Ok(());
        }
        let overflow = || Error::CountOverflow { piece: show(piece) };
        let total = self.total.checked_add(count).ok_or_else(overflow)?;
        let word = find_or_insert(&mut self.words, &mut self.arena, piece);
        word.count = word.count.checked_add(count).ok_or_else(overflow)?;
        self.total = total;
        Ok(())
    }

    /// Adds the counts of `other`.
    ///
    /// # Errors
    ///
    /// [`Error::PatternMismatch`] if the other was cut by another pattern; [`Error::CountOverflow`].
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if self.pattern != other.pattern {
            let (counted, wanted) = (other.pattern.name(), self.pattern.name());
            return Err(Error::PatternMismatch { counted, wanted });
        }
        other.iter().try_for_each(|(piece, count)| self.add_piece(piece, count))
    }

    /// The pieces and their counts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.words.iter().map(|word| (bytes_of(&self.arena, word), word.count))
    }

    /// The pattern that text is cut by.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Number of distinct pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Bytes of the distinct pieces.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arena.len() as u64
    }

    /// Number of pieces counted, with repetitions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

fn bytes_of<'a>(arena: &'a [u8], word: &Word) -> &'a [u8] {
    &arena[word.start..word.start + word.len]
}

/// The entry of `piece`, made with count 0 if it is new.
#[inline]
fn find_or_insert<'w>(words: &'w mut HashTable<Word>, arena: &mut Vec<u8>, piece: &[u8]) -> &'w mut Word {
    let found =
        words.entry(hash(piece), |word| bytes_of(arena, word) == piece, |word| hash(bytes_of(arena, word)));
    match found {
        hashbrown::hash_table::Entry::Occupied(entry) => entry.into_mut(),
        hashbrown::hash_table::Entry::Vacant(entry) => {
            let start = arena.len();
            arena.extend_from_slice(piece);
            entry.insert(Word { start, len: piece.len(), count: 0 }).into_mut()
        }
    }
}
