//! Pieces gathered before they are looked up, so that the memory of one lookup arrives while others are prepared.

use std::ops::Range;

use super::State;
use super::cache::{SHORT_BYTES, SHORT_TOKENS, pack, pack_first};
use super::cuts::Cuts;
use super::lanes::{LANE_BYTES, LANES};
use crate::model::Model;
use crate::pretokenize::{READ_BYTES, Spans};

/// Pieces gathered: enough to hide memory and to have some new ones to merge in step, few enough to stay near.
const PIECES: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    /// The piece, packed; for a longer one its end.
    key: u128,
    start: usize,
    /// Where the table of short pieces may have it.
    place: u32,
}

impl Piece {
    #[inline]
    fn is_short(&self) -> bool {
        self.key >> 120 != 0
    }

    #[inline]
    fn range(&self) -> Range<usize> {
        self.start..if self.is_short() { self.start + (self.key >> 120) as usize } else { self.key as usize }
    }
}

/// A piece whose tokens the table of short ones did not give.
#[derive(Debug, Clone)]
struct Hole {
    /// Its number in the block.
    piece: usize,
    /// How many tokens of the block go before it.
    at: usize,
    found: Found,
}

/// Where the tokens of a hole are.
#[derive(Debug, Clone)]
enum Found {
    /// In the spare tokens.
    Spare(Range<usize>),
    /// In this lane, which it was the first to need or not.
    Lane { number: usize, is_first: bool },
}

/// Pieces of one text, not yet looked up.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pieces: Box<[Piece; PIECES]>,
    len: usize,
    /// Tokens on their way to the output, with room for all places of a last entry.
    tokens: Box<[u32; PIECES * SHORT_TOKENS + SHORT_TOKENS]>,
    holes: Vec<Hole>,
    spare: Vec<u32>,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self {
            pieces: Box::new([Piece::default(); PIECES]),
            len: 0,
            tokens: Box::new([0; PIECES * SHORT_TOKENS + SHORT_TOKENS]),
            holes: Vec::new(),
            spare: Vec::new(),
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
            Parts(self).take(start, end);
        }
    }

    #[inline(always)]
    fn take_all(&mut self, from: usize, starts: u64, bytes: Option<&[u8; READ_BYTES]>) {
        Parts(self).take_all(from, starts, bytes);
    }
}

/// Takes what is not to be cut further.
struct Parts<'a, 'b>(&'a mut Gather<'b>);

impl Spans for Parts<'_, '_> {
    /// Takes a piece or part of one, whose tokens will follow in the output when the block is full.
    #[inline(always)]
    fn take(&mut self, start: usize, end: usize) {
        let Gather { state: State { cache, .. }, bytes, .. } = &*self.0;
        let (key, place) = if end - start <= SHORT_BYTES {
            let key = pack(bytes, start, end);
            (key, cache.prefetch_short(key))
        } else {
            cache.prefetch_longer(bytes, start, end);
            (end as u128, 0)
        };
        self.0.put(Piece { key, start, place });
    }

    #[inline(always)]
    fn take_all(&mut self, from: usize, mut starts: u64, bytes: Option<&[u8; READ_BYTES]>) {
        let mut start = 0;
        while starts != 0 {
            let end = starts.trailing_zeros() as usize;
            starts &= starts - 1;
            let len = end - start;
            match bytes.and_then(|bytes| bytes[start & 63..].first_chunk()) {
                Some(first) if len <= SHORT_BYTES => {
                    let key = pack_first(first, len);
                    let place = self.0.state.cache.prefetch_short(key);
                    self.0.put(Piece { key, start: from + start, place });
                }
                _ => self.take(from + start, from + end),
            }
            start = end;
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    fn take_parts(&mut self, start: usize, end: usize) {
        match &self.model.cuts {
            Some(cuts) => cuts.hand_out_parts(self.bytes, start, end, &mut Parts(self)),
            None => Parts(self).take(start, end),
        }
    }

    #[inline(always)]
    fn put(&mut self, piece: Piece) {
        let block = &mut self.state.block;
        block.pieces[block.len % PIECES] = piece;
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
        let count = std::mem::take(&mut self.block.len).min(PIECES);
        let evictions = self.cache.evictions_of_short();
        let mut ready = self.look_up_short::<true>(count);
        if self.cache.evictions_of_short() != evictions {
            ready = self.look_up_short::<false>(count);
        }
        let mut from = 0;
        for group in 0..self.block.holes.len().div_ceil(LANES) {
            from = self.fill(model, bytes, group * LANES, from, out);
        }
        out.extend_from_slice(&self.block.tokens[from..ready]);
        self.cache.renew();
    }

    /// Looks up the first `count` pieces in the table of short ones. Returns how many tokens were found; what was not is a
    /// hole.
    #[inline]
    fn look_up_short<const UNCHECKED: bool>(&mut self, count: usize) -> usize {
        // Where things lie is found here, not once a piece.
        let (short, Block { pieces, tokens, holes, .. }) = (self.cache.short(), &mut self.block);
        let (pieces, tokens) = (&pieces[..count], &mut tokens[..]);
        holes.clear();
        let mut ready = 0;
        for (index, piece) in pieces.iter().enumerate() {
            if piece.is_short() {
                // All places are written, as that needs no loop; those in use stay.
                let places = &mut tokens[ready..ready + SHORT_TOKENS];
                if let Some(len @ 1..) = short.get::<UNCHECKED>(piece.key, piece.place, places) {
                    ready += len;
                    continue;
                }
            }
            holes.push(Hole { piece: index, at: ready, found: Found::Spare(0..0) });
        }
        ready
    }

    /// Appends the tokens of the block from the one numbered `from` to the last hole of a group, which begins with the hole
    /// numbered `first`. Returns how many tokens of the block are done.
    fn fill(
        &mut self,
        model: &Model,
        bytes: &[u8],
        first: usize,
        mut from: usize,
        out: &mut Vec<u32>,
    ) -> usize {
        let holes = first..self.block.holes.len().min(first + LANES);
        self.block.spare.clear();
        self.lanes.clear();
        for number in holes.clone() {
            self.block.holes[number].found = self.find(model, bytes, first, number);
        }
        self.lanes.merge(&model.pairs);
        for number in holes {
            let Hole { piece, at, found } = &self.block.holes[number];
            out.extend_from_slice(&self.block.tokens[from..*at]);
            from = *at;
            match found {
                Found::Spare(range) => out.extend_from_slice(&self.block.spare[range.clone()]),
                Found::Lane { number, is_first } => {
                    let start = out.len();
                    self.lanes.append(*number, out);
                    if *is_first {
                        self.cache.put(&bytes[self.block.pieces[*piece].range()], &out[start..]);
                    }
                }
            }
        }
        from
    }

    /// Finds the tokens of a hole, or gives it a lane, maybe that of an equal piece since the hole numbered `first`.
    fn find(&mut self, model: &Model, bytes: &[u8], first: usize, number: usize) -> Found {
        let found = self.block.holes[number].piece;
        let piece = &bytes[self.block.pieces[found].range()];
        let start = self.block.spare.len();
        // An earlier group may have met the same piece.
        if self.cache.append(piece, &mut self.block.spare) {
            return Found::Spare(start..self.block.spare.len());
        }
        if piece.len() > LANE_BYTES || model.whole_piece(piece).is_some() {
            let mut tokens = std::mem::take(&mut self.block.spare);
            self.encode_new_piece(model, piece, &mut tokens);
            self.block.spare = tokens;
            return Found::Spare(start..self.block.spare.len());
        }
        for earlier in &self.block.holes[first..number] {
            if let Found::Lane { number, .. } = earlier.found
                && bytes[self.block.pieces[earlier.piece].range()] == *piece
            {
                return Found::Lane { number, is_first: false };
            }
        }
        let number = self.lanes.add(piece, &model.pairs, model.cuts.as_ref());
        Found::Lane { number, is_first: true }
    }
}
