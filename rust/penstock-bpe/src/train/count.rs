//! How often each distinct piece stands in a corpus.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::memory::{MemoryBudget, cost_bytes};
use super::report::{Counted, Sampling};
use super::run::{Run, sum_runs};
use super::sample::{Histogram, sampled_count};
use super::saved;
use super::superbpe::for_each_line;
use super::table::Table;
use crate::error::{Error, Result, show};
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
use crate::vocab::hash;

/// Pieces between two looks at the cancel flag.
const CHECKED_PIECES: usize = 1 << 14;
/// The longest piece that counts as one within a budget.
const MAX_PART_BYTES: usize = 1 << 18;

/// Distinct pieces and their counts. Make one a thread and [`merge`](Self::merge) them: sums do not depend on the order.
#[derive(Debug)]
pub struct WordCounts {
    pattern: Pattern,
    /// What is done to text before it is cut.
    normalizer: Normalizer,
    /// Of a pattern of lines: digits to a group.
    line_digits: Option<usize>,
    /// Pieces counted, with repetitions.
    total: u64,
    table: Table,
    /// What the table may take before it is written out, and where to.
    limit: Option<(usize, MemoryBudget)>,
    /// What is not in the table.
    runs: Vec<Run>,
    /// Holds the runs that this one has written.
    file: Option<Arc<File>>,
    /// The first failure of `add_text`.
    failure: Option<Error>,
}

impl WordCounts {
    /// Nothing counted yet; text will be cut by `pattern`.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self {
            line_digits: pattern.line_digits(),
            pattern,
            normalizer: Normalizer::None,
            total: 0,
            table: Table::default(),
            limit: None,
            runs: Vec::new(),
            file: None,
            failure: None,
        }
    }

    /// One of `shares` counts that together keep to `budget`: what does not fit goes to disk. A piece of more than
    /// 256 KiB counts as several, so that it can be sampled in parts.
    #[must_use]
    pub fn within(budget: &MemoryBudget, shares: usize, pattern: Pattern) -> Self {
        let share_bytes = budget.working_bytes() as usize / shares.max(1);
        Self { limit: Some((share_bytes, budget.clone())), ..Self::new(pattern) }
    }

    /// The same for texts that are normalised as a tokenizer does that is to be extended, if there is one.
    #[must_use]
    pub fn normalized_as(self, extended: Option<&Tokenizer>) -> Self {
        Self { normalizer: normalizer_of(extended), ..self }
    }

    /// Counts that were [saved](Self::save), of `pattern` and text as it is. Merge them into others, which may have a
    /// budget.
    ///
    /// # Errors
    ///
    /// [`Error::CountsFile`], [`Error::Io`];
    /// [`Error::Cancelled`].
    pub fn open(path: &Path, pattern: &Pattern, progress: &Progress) -> Result<Self> {
        Self::new(pattern.clone()).saved(path, progress)
    }

    /// Counts that were saved, of the same pattern and normalisation.
    fn saved(&self, path: &Path, progress: &Progress) -> Result<Self> {
        let (run, total) = saved::open(path, &self.pattern, self.normalizer, progress)?;
        let empty = Self { normalizer: self.normalizer, ..Self::new(self.pattern.clone()) };
        Ok(Self { total, runs: vec![run], ..empty })
    }

    /// Adds counts that were saved.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) and [`merge`](Self::merge).
    pub fn merge_saved(&mut self, path: &Path, progress: &Progress) -> Result<()> {
        let saved = self.saved(path, progress)?;
        self.merge_watched(saved, progress)
    }

    /// Writes the counts to a file of our own, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] naming the file; [`Error::Spill`], [`Error::CountOverflow`]; [`Error::Cancelled`].
    pub fn save(&mut self, path: &Path, progress: &Progress) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.limit.is_none() {
            self.read_runs(progress)?;
        } else if !self.runs.is_empty() {
            self.spill(progress)?;
        }
        progress.start("save counts", 0);
        saved::write(path, &self.pattern, self.normalizer, self.total, |push| {
            if self.runs.is_empty() {
                self.table.for_each_ordered(|| Ok(progress.check()?), |piece, count| push(piece, count))
            } else {
                sum_runs(&self.runs, progress, push)
            }
        })
    }

    /// Brings runs into the table, whatever memory that takes.
    fn read_runs(&mut self, progress: &Progress) -> Result<()> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let table = &mut self.table;
        sum_runs(&self.runs, progress, |piece, count| table.add(hash(piece), piece, count))?;
        self.runs.clear();
        Ok(())
    }

    /// Counts the pieces of `text`. The ends of a text are ends of pieces. What goes wrong is told by
    /// [`merge`](Self::merge) and by training.
    pub fn add_text(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = self.add_weighted_text(text, 1, &Progress::new()).err();
        }
    }

    /// Counts the pieces of `text` as if it stood in the corpus `weight` times.
    ///
    /// # Errors
    ///
    /// [`Error::Spill`] if a full table cannot be written out; [`Error::CountOverflow`]; [`Error::Cancelled`], soon
    /// however long the text is.
    pub fn add_weighted_text(&mut self, text: &str, weight: u64, progress: &Progress) -> Result<()> {
        let (pattern, line_digits) = (self.pattern.clone(), self.line_digits);
        let text = &*self.normalizer.apply(text);
        let (mut result, mut pieces) = (Ok(()), 0_usize);
        let add = |piece: &str| {
            pieces += 1;
            if result.is_ok() && pieces.is_multiple_of(CHECKED_PIECES) {
                result = progress.check().map_err(Error::from);
            }
            if result.is_ok() {
                let piece = piece.as_bytes();
                result = self.add(hash(piece), piece, weight, progress);
            }
        };
        match line_digits {
            Some(group) => for_each_line(text, group, add),
            None => pattern.for_each_piece(text, add),
        }
        result
    }

    /// Counts `piece`, which is not cut, `count` times.
    ///
    /// # Errors
    ///
    /// [`Error::CountOverflow`] if its count or the sum of all would not fit 64 bits; [`Error::Spill`].
    pub fn add_piece(&mut self, piece: &[u8], count: u64) -> Result<()> {
        self.add(hash(piece), piece, count, &Progress::new())
    }

    #[inline]
    fn add(&mut self, hash: u64, piece: &[u8], count: u64, progress: &Progress) -> Result<()> {
        if piece.is_empty() || count == 0 {
            return Ok(());
        }
        let overflow = || Error::CountOverflow { piece: show(piece) };
        let total = self.total.checked_add(count).ok_or_else(overflow)?;
        let Some(known) = self.table.count_mut(hash, piece) else {
            return self.add_new(hash, piece, count, progress);
        };
        *known = known.checked_add(count).ok_or_else(overflow)?;
        self.total = total;
        Ok(())
    }

    #[inline(never)]
    fn add_new(&mut self, hash_of_piece: u64, piece: &[u8], count: u64, progress: &Progress) -> Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            let mut len = rest.len();
            if let Some((max_bytes, _)) = self.limit {
                len = part_len(rest);
                if self.table.is_full(len, max_bytes) {
                    self.spill(progress)?;
                }
            }
            let (part, behind) = rest.split_at(len);
            // Each part counts, as each will be found in the table.
            let overflow = || Error::CountOverflow { piece: show(part) };
            let total = self.total.checked_add(count).ok_or_else(overflow)?;
            let hash = if part.len() == piece.len() { hash_of_piece } else { hash(part) };
            self.table.add(hash, part, count)?;
            self.total = total;
            rest = behind;
        }
        Ok(())
    }

    /// Writes the table out as a run, if there is a budget.
    fn spill(&mut self, progress: &Progress) -> Result<()> {
        if let Some((_, budget)) = &self.limit
            && self.table.len() > 0
        {
            let table = &self.table;
            self.runs.push(budget.scratch.append(&mut self.file, |writer| {
                table.for_each_ordered(
                    || Ok(progress.check()?),
                    |piece, count| {
                        writer.push(piece, count);
                        Ok(())
                    },
                )
            })?);
            self.table.clear();
        }
        Ok(())
    }

    /// Gives its memory back until it is needed, if there is a budget.
    pub(super) fn set_aside(&mut self, progress: &Progress) -> Result<()> {
        self.spill(progress)?;
        if self.limit.is_some() {
            self.table = Table::default();
        }
        Ok(())
    }

    /// Adds the counts of `other`.
    ///
    /// # Errors
    ///
    /// [`Error::PatternMismatch`] if the other was cut by another pattern; [`Error::CountOverflow`]; [`Error::Spill`].
    pub fn merge(&mut self, other: Self) -> Result<()> {
        self.merge_watched(other, &Progress::new())
    }

    /// Does what [`merge`](Self::merge) does, and ends with [`Error::Cancelled`] soon after `progress` was cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`merge`](Self::merge).
    pub fn merge_watched(&mut self, mut other: Self, progress: &Progress) -> Result<()> {
        if self.pattern != other.pattern {
            let (counted, wanted) = (other.pattern.name(), self.pattern.name());
            return Err(Error::PatternMismatch { counted, wanted });
        }
        check_normalizers(other.normalizer, self.normalizer)?;
        if let Some(failure) = other.failure.take() {
            return Err(failure);
        }
        let max_bytes = self.limit.as_ref().map(|&(max_bytes, _)| max_bytes);
        if !other.runs.is_empty() || !self.table.make_room(&other.table, max_bytes) {
            other.spill(progress)?;
        }
        let in_table: u64 = other.table.iter().map(|(_, count)| count).sum();
        let overflow = || Error::CountOverflow { piece: show(b"all pieces together") };
        self.total = self.total.checked_add(other.total - in_table).ok_or_else(overflow)?;
        self.runs.append(&mut other.runs);
        for (index, (hash, piece, count)) in other.table.iter_hashed().enumerate() {
            self.add(hash, piece, count, progress)?;
            if index.is_multiple_of(CHECKED_PIECES) {
                progress.check()?;
            }
        }
        Ok(())
    }

    /// Brings the counts into memory, or of more than fit the budget a sample.
    pub(super) fn into_table(mut self, progress: &Progress) -> Result<(Table, Counted)> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let Some((_, budget)) = self.limit.clone() else {
            self.read_runs(progress)?;
            let all = Histogram::of_all(self.table.len(), self.table.bytes());
            return Ok(self.counted(all, 1));
        };
        let mut histogram = Histogram::new();
        if self.runs.is_empty() {
            for (index, (piece, count)) in self.table.iter().enumerate() {
                histogram.add(piece, count, cost_bytes(piece));
                if index % CHECKED_PIECES == 0 {
                    progress.check()?;
                }
            }
            let k = histogram.fit(budget.working_bytes());
            if k > 1 {
                self.table.recount(|piece, count| sampled_count(piece, count, k));
            }
            return Ok(self.counted(histogram, k));
        }
        self.spill(progress)?;
        self.table = Table::default();
        sum_runs(&self.runs, progress, |piece, count| {
            histogram.add(piece, count, cost_bytes(piece));
            Ok(())
        })?;
        let k = histogram.fit(budget.working_bytes());
        let table = &mut self.table;
        sum_runs(&self.runs, progress, |piece, count| match sampled_count(piece, count, k) {
            0 => Ok(()),
            count => table.add(hash(piece), piece, count),
        })?;
        Ok(self.counted(histogram, k))
    }

    fn counted(self, all: Histogram, k: u64) -> (Table, Counted) {
        let (kept_pieces, kept_bytes) = (self.table.len() as u64, self.table.bytes());
        let counted = Counted {
            pieces: self.total,
            distinct_pieces: all.pieces,
            distinct_bytes: all.bytes,
            spilled_bytes: self.limit.map_or(0, |(_, budget)| budget.scratch.written_bytes()),
            sampling: (k > 1).then_some(Sampling { counts_below: k, kept_pieces, kept_bytes }),
        };
        (self.table, counted)
    }

    /// The pieces that memory holds and their counts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.table.iter()
    }

    /// The pattern that text is cut by.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether text was normalised as `base` does.
    pub(super) fn check_normalizer(&self, base: Option<&Tokenizer>) -> Result<()> {
        check_normalizers(self.normalizer, normalizer_of(base))
    }

    pub(super) fn budget(&self) -> Option<&MemoryBudget> {
        self.limit.as_ref().map(|(_, budget)| budget)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Number of pieces counted, with repetitions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

fn normalizer_of(extended: Option<&Tokenizer>) -> Normalizer {
    extended.map_or(Normalizer::None, |tokenizer| tokenizer.model().normalizer)
}

fn check_normalizers(counted: Normalizer, wanted: Normalizer) -> Result<()> {
    let name = |normalizer: Normalizer| normalizer.name().unwrap_or("no normaliser");
    let (counted, wanted) = (name(counted), name(wanted));
    if counted == wanted { Ok(()) } else { Err(Error::PatternMismatch { counted, wanted }) }
}

/// Bytes of the first part of `piece`; parts end where characters do.
fn part_len(piece: &[u8]) -> usize {
    if piece.len() <= MAX_PART_BYTES {
        return piece.len();
    }
    // A character has at most four bytes; what is no text may end anywhere.
    let ends = (MAX_PART_BYTES - 3..=MAX_PART_BYTES).rev();
    ends.into_iter().find(|&end| piece[end] & 0xC0 != 0x80).unwrap_or(MAX_PART_BYTES)
}
