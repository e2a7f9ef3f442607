//! The distinct pieces of a corpus as one array of symbols.
//!
//! Every byte has a slot, and a slot between two pieces holds [`BORDER`]. A token's id stands in the first and in the
//! last slot of its bytes, so that both neighbours of a token are found without links; the slots between hold
//! [`INSIDE`]. Pieces are ordered by count, so a place's weight comes from a short list of places where it changes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::progress::Progress;

use super::WordCounts;

/// Stands before, between and behind pieces.
pub(super) const BORDER: u32 = u32::MAX;
/// Stands within a token of more than two bytes.
pub(super) const INSIDE: u32 = u32::MAX - 1;
/// Places are 32-bit numbers.
const MAX_SLOTS: u64 = u32::MAX as u64 - 1;
/// Pieces between two looks at the cancel flag.
const CHECKED_PIECES: usize = 1 << 17;

/// The pieces, laid out.
#[derive(Debug)]
pub(super) struct Arena {
    /// One slot a byte and one between pieces.
    symbols: Vec<u32>,
    /// Where the count of pieces changes: first slot, count. By place.
    classes: Vec<(u32, u64)>,
}

impl Arena {
    /// Lays out the pieces of `counts`, the most frequent first and equally frequent ones by their bytes.
    pub(super) fn new(
        counts: WordCounts,
        byte_ids: &[u32; 256],
        threads: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let size_bytes = counts.bytes() + counts.len() as u64 + 1;
        if size_bytes > MAX_SLOTS {
            return Err(Error::CorpusTooLarge { size_bytes, limit_bytes: MAX_SLOTS });
        }
        let words = ordered(&counts, threads, progress)?;
        progress.start("lay out pieces", words.len() as u64);
        let mut arena = Self { symbols: Vec::with_capacity(size_bytes as usize), classes: Vec::new() };
        arena.symbols.push(BORDER);
        for chunk in words.chunks(CHECKED_PIECES) {
            for &(piece, count) in chunk {
                if arena.classes.last().is_none_or(|&(_, last)| last != count) {
                    arena.classes.push((arena.symbols.len() as u32, count));
                }
                arena.symbols.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
                arena.symbols.push(BORDER);
            }
            progress.check()?;
            progress.add(chunk.len() as u64);
        }
        Ok(arena)
    }

    /// The symbols, and the weights of places that only grow.
    pub(super) fn walk(&mut self) -> (&mut [u32], Weights<'_>) {
        (&mut self.symbols, Weights { classes: &self.classes, count: 0, end: 0 })
    }
}

/// A piece and its count.
type Word<'a> = (&'a [u8], u64);

/// The pieces of more than one byte in the order of the arena. Sorted in chunks that are then merged, so that a cancel
/// is seen soon however many there are.
fn ordered<'a>(counts: &'a WordCounts, threads: usize, progress: &Progress) -> Result<Vec<Word<'a>>> {
    let order = |&(piece, count): &Word<'a>| (Reverse(count), piece);
    let mut words: Vec<Word<'a>> = counts.iter().filter(|(piece, _)| piece.len() > 1).collect();
    progress.start("order pieces", 2 * words.len() as u64);
    sort_chunks(&mut words, threads, progress, order);
    progress.check()?;
    let mut runs: Vec<_> = words.chunks(CHECKED_PIECES).map(<[Word<'a>]>::iter).collect();
    let mut heads: BinaryHeap<_> = runs
        .iter_mut()
        .enumerate()
        .filter_map(|(run, rest)| rest.next().map(|word| Reverse((order(word), run))))
        .collect();
    let mut merged = Vec::with_capacity(words.len());
    while let Some(Reverse(((Reverse(count), piece), run))) = heads.pop() {
        merged.push((piece, count));
        heads.extend(runs[run].next().map(|word| Reverse((order(word), run))));
        if merged.len().is_multiple_of(CHECKED_PIECES) {
            progress.check()?;
            progress.add(CHECKED_PIECES as u64);
        }
    }
    Ok(merged)
}

/// Sorts every chunk of [`CHECKED_PIECES`] words by `order`; leaves off when cancelled.
fn sort_chunks<'a, K: Ord>(
    words: &mut [Word<'a>],
    threads: usize,
    progress: &Progress,
    order: impl Fn(&Word<'a>) -> K + Sync,
) {
    let chunks = words.len().div_ceil(CHECKED_PIECES);
    let queue = Mutex::new(words.chunks_mut(CHECKED_PIECES));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(chunk) = next().filter(|_| !progress.is_cancelled()) {
            chunk.sort_unstable_by_key(&order);
            progress.add(chunk.len() as u64);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(chunks) {
            // A thread that cannot be started leaves its share to the others.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// The count of the piece at a place, asked for in the order of places.
#[derive(Debug)]
pub(super) struct Weights<'a> {
    /// Classes behind the current one.
    classes: &'a [(u32, u64)],
    count: u64,
    /// First place behind the current class.
    end: u32,
}

impl Weights<'_> {
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
