//! Documents into rows of fixed length (docs/format.md section 2). No files, no threads: a pure function of its inputs.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::order::{GOLDEN, mix};

/// A document, or a part of one, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'t> {
    pub(crate) doc_id: u64,
    pub(crate) tokens: &'t [u32],
}

/// Takes finished rows.
pub(crate) trait RowSink {
    /// Takes the pieces of a row in order; what they leave of its width is padding.
    ///
    /// # Errors
    /// Whatever stops the sink from keeping the row.
    fn write_row(&mut self, pieces: &[Piece<'_>]) -> Result<()>;
}

/// Input positions and width of the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) seq_len: usize,
    pub(crate) lookahead: usize,
}

impl Shape {
    fn width(self) -> usize {
        self.seq_len + self.lookahead
    }

    /// Most tokens that a row can hold so that each of them but the first is the target of one of its positions.
    fn room(self) -> usize {
        self.seq_len + 1
    }
}

/// What packing did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) pad_tokens: u64,
    pub(crate) cut_documents: u64,
}

impl Tally {
    fn add_row(&mut self, shape: Shape, filled: usize) {
        self.rows += 1;
        self.pad_tokens += shape.seq_len.saturating_sub(filled) as u64;
    }
}

/// Packs the documents of one task.
pub(crate) enum Packer {
    BestFit(BestFit),
    Concatenate(Concatenate),
}

impl Packer {
    /// Adds a document, which may finish rows.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn add(&mut self, document: Piece<'_>, sink: &mut dyn RowSink) -> Result<()> {
        match self {
            Self::BestFit(packer) => packer.add(document, sink),
            Self::Concatenate(packer) => packer.add(document, sink),
        }
    }

    /// Finishes all open rows.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn finish(&mut self, sink: &mut dyn RowSink) -> Result<Tally> {
        match self {
            Self::BestFit(packer) => packer.finish(sink),
            Self::Concatenate(packer) => packer.finish(sink),
        }
    }
}

/// A row in the making.
#[derive(Default)]
struct Bin {
    tokens: Vec<u32>,
    /// Document and end of each piece.
    pieces: Vec<(u64, usize)>,
}

impl Bin {
    fn push(&mut self, doc_id: u64, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.pieces.push((doc_id, self.tokens.len()));
    }

    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let starts = std::iter::once(0).chain(self.pieces.iter().map(|piece| piece.1));
        starts
            .zip(&self.pieces)
            .map(|(start, (doc_id, end))| Piece { doc_id: *doc_id, tokens: &self.tokens[start..*end] })
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.pieces.clear();
    }
}

/// Best fit, longest first within a window of documents.
pub(crate) struct BestFit {
    shape: Shape,
    open_bins: usize,
    seed: u64,
    window_tokens: Vec<u32>,
    /// Document, start and length of what waits in the window.
    window: Vec<(u64, usize, usize)>,
    /// Open rows by (room left, number).
    open: BTreeMap<(usize, u64), Bin>,
    opened: u64,
    spare: Vec<Bin>,
    tally: Tally,
}

impl BestFit {
    pub(crate) fn new(shape: Shape, open_bins: usize, seed: u64, task: u32) -> Self {
        let seed = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(GOLDEN.wrapping_mul(u64::from(task) + 1)));
        Self {
            shape,
            open_bins,
            seed,
            window_tokens: Vec::new(),
            window: Vec::new(),
            open: BTreeMap::new(),
            opened: 0,
            spare: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn add(&mut self, document: Piece<'_>, sink: &mut dyn RowSink) -> Result<()> {
        let Piece { doc_id, tokens } = document;
        let mut rest = tokens;
        while rest.len() > self.shape.room() {
            let leading = &rest[..rest.len().min(self.shape.width())];
            self.tally.add_row(self.shape, leading.len());
            sink.write_row(&[Piece { doc_id, tokens: leading }])?;
            rest = &rest[self.shape.seq_len..];
        }
        self.tally.cut_documents += u64::from(rest.len() < tokens.len());
        self.window.push((doc_id, self.window_tokens.len(), rest.len()));
        self.window_tokens.extend_from_slice(rest);
        if self.window_tokens.len() >= self.open_bins * self.shape.room() {
            self.place_window(sink)?;
        }
        Ok(())
    }

    fn place_window(&mut self, sink: &mut dyn RowSink) -> Result<()> {
        let mut window = std::mem::take(&mut self.window);
        let tokens = std::mem::take(&mut self.window_tokens);
        // Stable: earlier first among equals.
        window.sort_by_key(|(_, _, length)| std::cmp::Reverse(*length));
        for (doc_id, start, length) in window.drain(..) {
            self.place(Piece { doc_id, tokens: &tokens[start..start + length] }, sink)?;
        }
        self.window = window;
        self.window_tokens = tokens;
        self.window_tokens.clear();
        Ok(())
    }

    fn place(&mut self, piece: Piece<'_>, sink: &mut dyn RowSink) -> Result<()> {
        let length = piece.tokens.len();
        let best = self.open.range((length, 0)..).next().map(|(key, _)| *key);
        let ((room, number), mut bin) = match best.and_then(|key| self.open.remove_entry(&key)) {
            Some(found) => found,
            None => self.open_bin(length, sink)?,
        };
        bin.push(piece.doc_id, piece.tokens);
        if room == length {
            self.close(bin, sink)
        } else {
            self.open.insert((room - length, number), bin);
            Ok(())
        }
    }

    /// An empty row, for which the fullest one is closed if too many are open. A piece that fills its row needs no place among them.
    fn open_bin(&mut self, length: usize, sink: &mut dyn RowSink) -> Result<((usize, u64), Bin)> {
        let needs_place = length < self.shape.room();
        if needs_place
            && self.open.len() >= self.open_bins
            && let Some((_, fullest)) = self.open.pop_first()
        {
            self.close(fullest, sink)?;
        }
        self.opened += 1;
        Ok(((self.shape.room(), self.opened), self.spare.pop().unwrap_or_default()))
    }

    fn close(&mut self, mut bin: Bin, sink: &mut dyn RowSink) -> Result<()> {
        let mut pieces: Vec<Piece<'_>> = bin.pieces().collect();
        shuffle(&mut pieces, self.seed.wrapping_add(GOLDEN.wrapping_mul(self.tally.rows)));
        sink.write_row(&pieces)?;
        drop(pieces);
        self.tally.add_row(self.shape, bin.tokens.len());
        bin.clear();
        self.spare.push(bin);
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn RowSink) -> Result<Tally> {
        self.place_window(sink)?;
        let mut rest: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        rest.sort_unstable_by_key(|((_, number), _)| *number);
        for (_, bin) in rest {
            self.close(bin, sink)?;
        }
        Ok(self.tally)
    }
}

/// Fisher and Yates, drawing from splitmix64.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = mix(seed);
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(GOLDEN);
        let chosen = mix(state) % (last as u64 + 1);
        items.swap(last, usize::try_from(chosen).unwrap_or(last));
    }
}

/// Rows filled in input order, cut wherever they end.
pub(crate) struct Concatenate {
    shape: Shape,
    row: Bin,
    tally: Tally,
}

impl Concatenate {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape, row: Bin::default(), tally: Tally::default() }
    }

    fn add(&mut self, document: Piece<'_>, sink: &mut dyn RowSink) -> Result<()> {
        let Piece { doc_id, tokens } = document;
        let mut rest = tokens;
        loop {
            if self.row.tokens.len() >= self.shape.seq_len {
                self.close(sink)?;
            }
            let begin = self.row.tokens.len();
            if begin + rest.len() <= self.shape.room() {
                self.row.push(doc_id, rest);
                break;
            }
            let leading = rest.len().min(self.shape.width() - begin);
            self.row.push(doc_id, &rest[..leading]);
            self.close(sink)?;
            rest = &rest[self.shape.seq_len - begin..];
        }
        self.tally.cut_documents += u64::from(rest.len() < tokens.len());
        Ok(())
    }

    fn close(&mut self, sink: &mut dyn RowSink) -> Result<()> {
        let pieces: Vec<Piece<'_>> = self.row.pieces().collect();
        sink.write_row(&pieces)?;
        drop(pieces);
        self.tally.add_row(self.shape, self.row.tokens.len());
        self.row.clear();
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn RowSink) -> Result<Tally> {
        if !self.row.tokens.is_empty() {
            self.close(sink)?;
        }
        Ok(self.tally)
    }
}

#[cfg(test)]
mod tests;
