//! Pieces gathered before they are looked up, so that the memory of one lookup arrives while others are prepared.

use super::State;
use super::cache::{SHORT_BYTES, SHORT_TOKENS, pack};
use super::cuts::Cuts;
use crate::model::Model;
use crate::pretokenize::Spans;

/// Pieces gathered: enough to hide memory, few enough to stay near.
const PIECES: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// The piece, packed; 0 for a longer one.
    key: u128,
    hash: u32,
    start: usize,
    end: usize,
}

/// Pieces of one text, not yet looked up.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pieces: Box<[Piece; PIECES]>,
    len: usize,
    /// Tokens on their way to the output, with room for all places of a last entry.
    tokens: Box<[u32; PIECES * SHORT_TOKENS + SHORT_TOKENS]>,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self {
            pieces: Box::new([Piece::default(); PIECES]),
            len: 0,
            tokens: Box::new([0; PIECES * SHORT_TOKENS + SHORT_TOKENS]),
        }
    }
}

/// Where a scanner's pieces of one text go.
pub(super) struct Gather<'a> {
    pub(super) state: &'a mut State,
    pub(super) model: &'a Model,
    pub(super) bytes: &'a [u8],
    pub(super) out: &'a mut Vec<u32>,
}

impl Spans for Gather<'_> {
    /// Built into the scanners' loops: a call for each piece would cost a tenth of all.
    #[inline(always)]
    fn take(&mut self, start: usize, end: usize) {
        if Cuts::are_likely(self.bytes, start, end) {
            self.take_parts(start, end);
        } else {
            self.take_part(start, end);
        }
    }
}

impl Gather<'_> {
    #[inline(never)]
    fn take_parts(&mut self, start: usize, end: usize) {
        match &self.model.cuts {
            Some(cuts) => cuts.for_each_part(self.bytes, start, end, |start, end| self.take_part(start, end)),
            None => self.take_part(start, end),
        }
    }

    /// Takes a piece or part of one, whose tokens will follow in `out` when the block is full.
    #[inline(always)]
    fn take_part(&mut self, start: usize, end: usize) {
        let State { cache, block, .. } = &mut *self.state;
        let (key, hash) = if end - start <= SHORT_BYTES {
            let key = pack(self.bytes, start, end);
            (key, cache.prefetch_short(key))
        } else {
            cache.prefetch_longer(self.bytes, start, end);
            (0, 0)
        };
        block.pieces[block.len % PIECES] = Piece { key, hash, start, end };
        block.len += 1;
        if block.len == PIECES {
            self.state.look_up(self.model, self.bytes, self.out);
        }
    }
}

impl State {
    /// Appends the tokens of all pieces gathered to `out`.
    #[inline(never)]
    pub(super) fn look_up(&mut self, model: &Model, bytes: &[u8], out: &mut Vec<u32>) {
        let count = std::mem::take(&mut self.block.len);
        let mut ready = 0;
        for index in 0..count {
            let Piece { key, hash, start, end } = self.block.pieces[index];
            let found = if key == 0 { None } else { self.cache.short(key, hash) };
            if let Some((tokens, len @ 1..)) = found {
                // All places are copied, as that needs no loop; those in use stay.
                self.block.tokens[ready..ready + SHORT_TOKENS].copy_from_slice(tokens);
                ready += len;
                continue;
            }
            out.extend_from_slice(&self.block.tokens[..ready]);
            ready = 0;
            let piece = &bytes[start..end];
            let is_new = key != 0 && found.is_none();
            if is_new || !self.cache.append(piece, out) {
                self.encode_new_piece(model, piece, out);
            }
        }
        out.extend_from_slice(&self.block.tokens[..ready]);
    }
}
