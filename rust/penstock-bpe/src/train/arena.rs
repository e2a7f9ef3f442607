//! The distinct pieces of a corpus as one array of symbols.
//!
//! A token takes one slot or more, its span, and its id stands in the first and the last of them, so that both
//! neighbours of a token are found without links; the slots between hold [`INSIDE`]. A slot between two pieces holds
//! [`BORDER`]. Pieces are ordered by count, so a place's weight comes from a short list of places where it changes.

use std::cmp::{Ordering, Reverse};

use super::order::in_order;
use super::table::Table;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Stands before, between and behind pieces.
pub(super) const BORDER: u32 = u32::MAX;
/// Stands within a token of more than two slots.
pub(super) const INSIDE: u32 = u32::MAX - 1;
/// Places are 32-bit numbers.
const MAX_SLOTS: u64 = u32::MAX as u64 - 1;
/// Slots between two looks at the cancel flag.
pub(super) const CHECKED_SLOTS: usize = 1 << 20;

/// The pieces, laid out.
#[derive(Debug)]
pub(super) struct Arena {
    /// The slots.
    symbols: Vec<u32>,
    /// Where the count of pieces changes: first slot, count. By place.
    classes: Vec<(u32, u64)>,
    /// Slots by token id.
    spans: Vec<u32>,
}

/// A piece to be laid out.
#[derive(Debug)]
struct Word<'t> {
    count: u64,
    piece: &'t [u8],
}

impl Word<'_> {
    /// Equally frequent pieces as they lie in memory, where they are read one after another.
    fn key(&self) -> (Reverse<u64>, *const u8) {
        (Reverse(self.count), self.piece.as_ptr())
    }
}

impl Ord for Word<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Word<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Word<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Word<'_> {}

impl Arena {
    /// Lays out the pieces of `counts`, each as the symbols that `spell` appends, one slot a symbol. The most frequent
    /// come first; nothing depends on the order of equally frequent ones.
    pub(super) fn new(
        counts: Table,
        mut spell: impl FnMut(&[u8], &mut Vec<u32>),
        threads: usize,
        progress: &Progress,
    ) -> Result<Self> {
        progress.start("order pieces", counts.len() as u64);
        let words = counts.iter().filter(|(piece, _)| piece.len() > 1);
        let mut words: Vec<Word<'_>> = words.map(|(piece, count)| Word { count, piece }).collect();
        let mut arena = Self { symbols: vec![BORDER], classes: Vec::new(), spans: Vec::new() };
        let size_bytes = counts.bytes() + counts.len() as u64;
        let check = || Ok(progress.check()?);
        in_order(&mut words, threads, &check, |&Word { count, piece }| {
            let start = arena.symbols.len();
            if start as u64 > MAX_SLOTS {
                return Err(Error::CorpusTooLarge { size_bytes, limit_bytes: MAX_SLOTS });
            }
            spell(piece, &mut arena.symbols);
            if arena.symbols.len() - start < 2 {
                arena.symbols.truncate(start);
                return Ok(());
            }
            if arena.classes.last().is_none_or(|&(_, last)| last != count) {
                arena.classes.push((start as u32, count));
            }
            arena.symbols.push(BORDER);
            progress.add(1);
            Ok(())
        })?;
        if arena.symbols.len() as u64 > MAX_SLOTS {
            return Err(Error::CorpusTooLarge { size_bytes, limit_bytes: MAX_SLOTS });
        }
        arena.symbols.shrink_to_fit();
        Ok(arena)
    }

    /// Tells that the token `id` takes `span` slots, that of a new id, or one slot.
    pub(super) fn set_span(&mut self, id: u32, span: u32) {
        let index = id as usize;
        if index >= self.spans.len() {
            self.spans.resize(index + 1, 1);
        }
        self.spans[index] = span;
    }

    /// Slots of the token `id`.
    pub(super) fn span(&self, id: u32) -> u32 {
        self.spans[id as usize]
    }

    /// The slots.
    pub(super) fn symbols(&self) -> &[u32] {
        &self.symbols
    }

    /// The slots, the spans by token id, and the weights by place.
    pub(super) fn parts(&mut self) -> (&mut [u32], &[u32], Weights<'_>) {
        (&mut self.symbols, &self.spans, Weights::new(&self.classes))
    }

    /// The weights by place.
    pub(super) fn weights(&self) -> Weights<'_> {
        Weights::new(&self.classes)
    }

    /// Moves everything together: one slot a token, and no pieces of a single token.
    pub(super) fn compact(&mut self, progress: &Progress) -> Result<()> {
        let mut weights = Weights::new(&self.classes);
        let mut classes: Vec<(u32, u64)> = Vec::new();
        let (mut from, mut to, mut start, mut next_check) = (1, 1, 1, 0);
        while from < self.symbols.len() {
            let symbol = self.symbols[from];
            self.symbols[to] = symbol;
            to += 1;
            if symbol != BORDER {
                from += self.spans[symbol as usize] as usize;
                continue;
            }
            if to - start <= 2 {
                to = start;
            } else {
                let count = weights.at(from as u32 - 1) as u64;
                if classes.last().is_none_or(|&(_, last)| last != count) {
                    classes.push((start as u32, count));
                }
                start = to;
            }
            from += 1;
            if from > next_check {
                progress.check()?;
                next_check = from + CHECKED_SLOTS;
            }
        }
        self.symbols.truncate(to);
        self.symbols.shrink_to_fit();
        self.classes = classes;
        self.spans.fill(1);
        Ok(())
    }
}

/// The count of the piece at a place, asked for in the order of places.
#[derive(Debug, Clone)]
pub(super) struct Weights<'a> {
    /// Classes behind the current one.
    classes: &'a [(u32, u64)],
    count: u64,
    /// First place behind the current class.
    end: u32,
}

impl<'a> Weights<'a> {
    fn new(classes: &'a [(u32, u64)]) -> Self {
        Self { classes, count: 0, end: 0 }
    }

    /// Count of the piece that holds `place`; `place` is not before the last one asked for.
    #[inline]
    pub(super) fn at(&mut self, place: u32) -> i64 {
        if place >= self.end {
            let passed = self.classes.partition_point(|&(start, _)| start <= place);
            if passed > 0 {
                self.count = self.classes[passed - 1].1;
            }
            self.classes = &self.classes[passed..];
            self.end = self.classes.first().map_or(u32::MAX, |&(start, _)| start);
        }
        self.count as i64
    }
}
