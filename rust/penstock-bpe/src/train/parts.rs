//! Pieces cut into parts ahead of time, while the tokens that will spell them are still being learned.
//!
//! Parts repeat, so that each distinct one is spelled once, and pieces by looking up numbers.

use std::ops::Range;

use hashbrown::HashTable;

use super::arena::Word;
use super::order::in_order;
use super::table::Table;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::pretokenize::Spans;
use crate::progress::Progress;
use crate::vocab::hash;

/// Pieces are cut together, in texts of about this size.
const TEXT_BYTES: usize = 1 << 16;

/// Pieces as lists of parts, the most frequent first.
#[derive(Debug, Default)]
pub(super) struct PartedPieces {
    /// Count of a piece, and where its parts end in `numbers`.
    pieces: Vec<(u64, usize)>,
    /// Of the parts, piece by piece.
    numbers: Vec<u32>,
    distinct: Distinct,
}

/// Parts by number, end to end.
#[derive(Debug, Default)]
struct Distinct {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    numbers: HashTable<(u64, u32)>,
}

impl Distinct {
    fn range(&self, number: u32) -> Range<usize> {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        start..self.ends[number as usize]
    }

    #[inline]
    fn number_of(&mut self, part: &[u8]) -> u32 {
        let hash = hash(part);
        let is_same =
            |&(other, number): &(u64, u32)| other == hash && self.bytes[self.range(number)] == *part;
        if let Some(&(_, number)) = self.numbers.find(hash, is_same) {
            return number;
        }
        let number = self.ends.len() as u32;
        self.bytes.extend_from_slice(part);
        self.ends.push(self.bytes.len());
        self.numbers.insert_unique(hash, (hash, number), |&(hash, _)| hash);
        number
    }
}

impl PartedPieces {
    /// Cuts the pieces of `counts`, also where `pattern` cuts several of them put together.
    pub(super) fn new(counts: &Table, pattern: &Pattern, progress: &Progress) -> Result<Self> {
        let mut words = Word::list(counts);
        let mut parted = Self { pieces: Vec::with_capacity(words.len()), ..Self::default() };
        let (mut text, mut waiting) = (String::new(), Vec::new());
        let check = || Ok(progress.check()?);
        in_order(&mut words, 1, &check, |word| {
            match std::str::from_utf8(word.piece) {
                Ok(piece) => {
                    text.push_str(piece);
                    waiting.push((word.count, text.len()));
                }
                // Made up by a caller. It is not cut.
                Err(_) => {
                    parted.cut(&mut text, &mut waiting, pattern);
                    parted.numbers.push(parted.distinct.number_of(word.piece));
                    parted.pieces.push((word.count, parted.numbers.len()));
                }
            }
            if text.len() >= TEXT_BYTES {
                check()?;
                parted.cut(&mut text, &mut waiting, pattern);
            }
            Ok(())
        })?;
        parted.cut(&mut text, &mut waiting, pattern);
        Ok(parted)
    }

    /// Cuts `text`, which is pieces of these counts and ends, and empties both.
    fn cut(&mut self, text: &mut String, pieces: &mut Vec<(u64, usize)>, pattern: &Pattern) {
        let mut cutting = Cutting { parted: self, text: text.as_bytes(), start: 0, pieces };
        pattern.hand_out(text, &mut cutting);
        text.clear();
        pieces.clear();
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Number of distinct parts.
    pub(super) fn distinct_parts(&self) -> usize {
        self.distinct.ends.len()
    }

    /// Bytes of a part.
    pub(super) fn part(&self, number: u32) -> &[u8] {
        &self.distinct.bytes[self.distinct.range(number)]
    }

    /// A share of the distinct parts that has about as many bytes as any other.
    pub(super) fn share_of_distinct(&self, share: usize, shares: usize) -> Range<usize> {
        let border = |share: usize| {
            let bytes = part_of(self.distinct.bytes.len(), share, shares);
            self.distinct.ends.partition_point(|&end| end <= bytes)
        };
        border(share)..border(share + 1)
    }

    /// A share of the pieces that has about as many parts as any other.
    pub(super) fn share_of_pieces(&self, share: usize, shares: usize) -> Range<usize> {
        let border = |share: usize| {
            let parts = part_of(self.numbers.len(), share, shares);
            self.pieces.partition_point(|&(_, end)| end <= parts)
        };
        border(share)..border(share + 1)
    }

    /// Counts and parts of some pieces.
    pub(super) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (u64, &[u32])> {
        let mut start = range.start.checked_sub(1).map_or(0, |before| self.pieces[before].1);
        self.pieces[range].iter().map(move |&(count, end)| {
            let parts = &self.numbers[start..end];
            start = end;
            (count, parts)
        })
    }
}

fn part_of(len: usize, share: usize, shares: usize) -> usize {
    (len as u128 * share as u128 / shares as u128) as usize
}

/// Takes the cuts of a pattern and adds those between pieces.
struct Cutting<'a> {
    parted: &'a mut PartedPieces,
    text: &'a [u8],
    start: usize,
    /// Counts and ends of the pieces from the present one on.
    pieces: &'a [(u64, usize)],
}

impl Cutting<'_> {
    #[inline]
    fn pass_on(&mut self, end: usize) {
        if end > self.start {
            let number = self.parted.distinct.number_of(&self.text[self.start..end]);
            self.parted.numbers.push(number);
            self.start = end;
        }
    }
}

impl Spans for Cutting<'_> {
    #[inline]
    fn take(&mut self, _: usize, end: usize) {
        while let Some((&(count, piece_end), rest)) = self.pieces.split_first()
            && piece_end <= end
        {
            self.pass_on(piece_end);
            self.parted.pieces.push((count, self.parted.numbers.len()));
            self.pieces = rest;
        }
        self.pass_on(end);
    }
}
