//! The distinct pieces of a corpus as one array of symbols.
//!
//! Every byte has a slot, and a slot between two pieces holds [`BORDER`]. A token's id stands in the first and in the
//! last slot of its bytes, so that both neighbours of a token are found without links; the slots between hold
//! [`INSIDE`]. Pieces are ordered by count, so a place's weight comes from a short list of places where it changes.

use std::cmp::Reverse;

use crate::error::{Error, Result};
use crate::progress::Progress;

use super::order::in_order;
use super::table::Table;

/// Stands before, between and behind pieces.
pub(super) const BORDER: u32 = u32::MAX;
/// Stands within a token of more than two bytes.
pub(super) const INSIDE: u32 = u32::MAX - 1;
/// Places are 32-bit numbers.
const MAX_SLOTS: u64 = u32::MAX as u64 - 1;

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
        counts: Table,
        byte_ids: &[u32; 256],
        threads: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let size_bytes = counts.bytes() + counts.len() as u64 + 1;
        if size_bytes > MAX_SLOTS {
            return Err(Error::CorpusTooLarge { size_bytes, limit_bytes: MAX_SLOTS });
        }
        progress.start("order pieces", counts.len() as u64);
        let mut words: Vec<(Reverse<u64>, &[u8])> = counts
            .iter()
            .filter(|(piece, _)| piece.len() > 1)
            .map(|(piece, n)| (Reverse(n), piece))
            .collect();
        let mut arena = Self { symbols: Vec::with_capacity(size_bytes as usize), classes: Vec::new() };
        arena.symbols.push(BORDER);
        let check = || Ok(progress.check()?);
        in_order(&mut words, threads, &check, |&(Reverse(count), piece)| {
            if arena.classes.last().is_none_or(|&(_, last)| last != count) {
                arena.classes.push((arena.symbols.len() as u32, count));
            }
            arena.symbols.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
            arena.symbols.push(BORDER);
            progress.add(1);
        })?;
        Ok(arena)
    }

    /// The symbols, and the weights of places that only grow.
    pub(super) fn walk(&mut self) -> (&mut [u32], Weights<'_>) {
        (&mut self.symbols, Weights { classes: &self.classes, count: 0, end: 0 })
    }
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
