//! The distinct pieces of a corpus as one array of symbols.
//!
//! A token takes one slot or more, its span, and its id stands in the first and the last of them, so that both
//! neighbours of a token are found without links; the slots between hold [`INSIDE`]. A slot between two pieces holds
//! [`BORDER`]. Pieces are ordered by count, so a place's weight comes from a short list of places where it changes.

use std::cmp::{Ordering, Reverse};
use std::thread;

use super::order::in_order;
use super::spell::Speller;
use super::table::Table;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Stands before, between and behind pieces.
pub(super) const BORDER: u32 = u32::MAX;
/// Stands within a token of more than two slots.
pub(super) const INSIDE: u32 = u32::MAX - 1;
/// Places are 32-bit numbers.
const MAX_SLOTS: u64 = u32::MAX as u64 - 1;
/// Words that are spelled between two looks at the cancel flag, and their bytes.
const BATCH_WORDS: usize = 1 << 16;
const BATCH_BYTES: usize = 1 << 22;
/// Fewer are not worth a thread.
const MIN_PART_WORDS: usize = 1 << 10;
/// Slots between two looks at the cancel flag.
pub(super) const CHECKED_SLOTS: usize = 1 << 20;

/// The pieces, laid out.
#[derive(Debug)]
pub(super) struct Arena {
    layout: Layout,
    /// Slots by token id.
    spans: Vec<u32>,
}

/// Slots, and what the pieces in them count.
#[derive(Debug, Default)]
struct Layout {
    symbols: Vec<u32>,
    /// Where the count of pieces changes: first slot, count. By place.
    classes: Vec<(u32, u64)>,
}

impl Layout {
    /// Lays out the pieces of two symbols or more.
    fn push(&mut self, words: &[Word<'_>], speller: &mut Speller) {
        speller.spell(
            words,
            |word| word.piece,
            |word, symbols| {
                if symbols.len() > 1 {
                    self.begin_class(self.symbols.len(), word.count);
                    self.symbols.extend_from_slice(symbols);
                    self.symbols.push(BORDER);
                }
            },
        );
    }

    /// Pieces from `start` on count `count`. Places that do not fit are told by the length in the end.
    fn begin_class(&mut self, start: usize, count: u64) {
        if self.classes.last().is_none_or(|&(_, last)| last != count) {
            self.classes.push((start as u32, count));
        }
    }

    fn append(&mut self, mut later: Self) {
        let start = self.symbols.len();
        self.symbols.append(&mut later.symbols);
        for (place, count) in later.classes {
            self.begin_class(start + place as usize, count);
        }
    }
}

/// A piece to be laid out.
#[derive(Debug, Clone, Copy)]
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

/// Lays out the words of `batch` behind the others, a part a speller.
fn spell_batch(batch: &[Word<'_>], spellers: &mut [Speller], layout: &mut Layout) {
    let part_words = batch.len().div_ceil(spellers.len()).max(MIN_PART_WORDS);
    let work = |part: &[Word<'_>], speller: &mut Speller| {
        let mut layout = Layout::default();
        layout.push(part, speller);
        layout
    };
    let mut parts = batch.chunks(part_words).zip(spellers);
    let Some((first, own_speller)) = parts.next() else {
        return;
    };
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|(part, speller)| scope.spawn(move || work(part, speller))).collect();
        layout.push(first, own_speller);
        for other in others {
            match other.join() {
                Ok(part) => layout.append(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
}

impl Arena {
    /// Lays out the pieces of `counts` as the symbols that the spellers give, one slot a symbol, with a thread a
    /// speller. The most frequent come first; nothing depends on the order of equally frequent ones.
    pub(super) fn new(counts: Table, mut spellers: Vec<Speller>, progress: &Progress) -> Result<Self> {
        progress.start("order pieces", 2 * counts.len() as u64);
        let words = counts.iter().filter(|(piece, _)| piece.len() > 1);
        let mut words: Vec<Word<'_>> = words.map(|(piece, count)| Word { count, piece }).collect();
        let size_bytes = counts.bytes() + counts.len() as u64;
        let check = || Ok(progress.check()?);
        let mut layout = Layout { symbols: vec![BORDER], classes: Vec::new() };
        let threads = spellers.len();
        let mut batch = Vec::with_capacity(BATCH_WORDS);
        let mut spell = |batch: &mut Vec<Word<'_>>, layout: &mut Layout| {
            spell_batch(batch, &mut spellers, layout);
            progress.add(2 * batch.len() as u64);
            batch.clear();
            if layout.symbols.len() as u64 > MAX_SLOTS {
                return Err(Error::CorpusTooLarge { size_bytes, limit_bytes: MAX_SLOTS });
            }
            Ok(())
        };
        let mut batch_bytes = 0;
        in_order(&mut words, threads, &check, |&word| {
            batch_bytes += word.piece.len();
            batch.push(word);
            if batch.len() < BATCH_WORDS && batch_bytes < BATCH_BYTES {
                return Ok(());
            }
            batch_bytes = 0;
            check()?;
            spell(&mut batch, &mut layout)
        })?;
        spell(&mut batch, &mut layout)?;
        layout.symbols.shrink_to_fit();
        Ok(Self { layout, spans: Vec::new() })
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
        &self.layout.symbols
    }

    /// The slots, the spans by token id, and the weights by place.
    pub(super) fn parts(&mut self) -> (&mut [u32], &[u32], Weights<'_>) {
        (&mut self.layout.symbols, &self.spans, Weights::new(&self.layout.classes))
    }

    /// The weights by place.
    pub(super) fn weights(&self) -> Weights<'_> {
        Weights::new(&self.layout.classes)
    }

    /// Moves everything together: one slot a token, and no pieces of a single token.
    pub(super) fn compact(&mut self, progress: &Progress) -> Result<()> {
        let mut weights = Weights::new(&self.layout.classes);
        let mut classes: Vec<(u32, u64)> = Vec::new();
        let (mut from, mut to, mut start, mut next_check) = (1, 1, 1, 0);
        while from < self.layout.symbols.len() {
            let symbol = self.layout.symbols[from];
            self.layout.symbols[to] = symbol;
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
        self.layout.symbols.truncate(to);
        self.layout.symbols.shrink_to_fit();
        self.layout.classes = classes;
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
