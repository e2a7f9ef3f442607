//! Pieces gathered before they are looked up, so that the memory of one lookup arrives while others are prepared.

use super::State;
use super::cache::{SHORT_BYTES, SHORT_TOKENS, pack};
use crate::model::Model;

/// Pieces gathered: enough to hide memory, few enough to stay near.
const PIECES: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// The piece, packed; 0 for a longer one.
    key: u128,
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

impl State {
    /// Takes the piece `bytes[start..end]`, whose tokens will follow in `out` when the block is full.
    #[inline]
    pub(super) fn gather(
        &mut self,
        model: &Model,
        bytes: &[u8],
        start: usize,
        end: usize,
        out: &mut Vec<u32>,
    ) {
        let key = if end - start <= SHORT_BYTES {
            let key = pack(bytes, start, end);
            self.cache.prefetch_short(key);
            key
        } else {
            self.cache.prefetch_longer(bytes, start, end);
            0
        };
        self.block.pieces[self.block.len] = Piece { key, start, end };
        self.block.len += 1;
        if self.block.len == PIECES {
            self.look_up(model, bytes, out);
        }
    }

    /// Appends the tokens of all pieces gathered to `out`.
    #[inline(never)]
    pub(super) fn look_up(&mut self, model: &Model, bytes: &[u8], out: &mut Vec<u32>) {
        let count = std::mem::take(&mut self.block.len);
        let mut ready = 0;
        for index in 0..count {
            let Piece { key, start, end } = self.block.pieces[index];
            let found = if key == 0 { None } else { self.cache.short(key) };
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
