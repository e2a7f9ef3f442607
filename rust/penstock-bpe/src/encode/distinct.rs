//! Merging pieces that do not repeat: no cache is asked, nor filled.

use super::cuts::Cuts;
use super::lanes::{LANE_BYTES, LANES, Lanes};
use super::merge::Workspace;
use crate::tokenizer::Tokenizer;

/// A tokenizer without a cache, for pieces that are cut already.
#[derive(Debug)]
pub(crate) struct Distinct {
    tokenizer: Tokenizer,
    lanes: Lanes,
    workspace: Workspace,
    tokens: Vec<u32>,
}

impl Distinct {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, lanes: Lanes::new(), workspace: Workspace::default(), tokens: Vec::new() }
    }

    /// Whether some token may hold these two bytes side by side.
    #[inline]
    pub(crate) fn joins(&self, before: u8, behind: u8) -> bool {
        self.tokenizer.model().cuts.as_ref().is_none_or(|cuts| cuts.joins(before, behind))
    }

    /// Appends the tokens of a piece, which is not empty, to `out`.
    pub(crate) fn merge(&mut self, piece: &[u8], out: &mut Vec<u32>) {
        self.workspace.merge_any(piece, self.tokenizer.model(), out);
    }

    /// Whether merging the bytes of two tokens gives these two.
    pub(crate) fn keeps(&mut self, before: u32, behind: u32) -> bool {
        let vocab = &self.tokenizer.model().vocab;
        let bytes = [vocab.get(before), vocab.get(behind)].concat();
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.clear();
        self.merge(&bytes, &mut tokens);
        let is_kept = tokens == [before, behind];
        self.tokens = tokens;
        is_kept
    }

    /// Calls `take` with the tokens of each text of `pieces`, none of which is empty.
    pub(crate) fn merge_all(&mut self, pieces: &[&[u8]], mut take: impl FnMut(&[u32])) {
        let tokenizer = self.tokenizer.clone();
        let cuts = tokenizer.model().cuts.as_ref();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(LANES);
        self.tokens.clear();
        for piece in pieces {
            let mut start = 0;
            let mut add = |_, end: usize| {
                parts.push(Part { bytes: &piece[start..end], is_last: end == piece.len() });
                start = end;
                if parts.len() == LANES {
                    self.merge_parts(&parts, &mut take);
                    parts.clear();
                }
            };
            match cuts {
                Some(cuts) if Cuts::are_likely(piece, 0, piece.len()) => {
                    cuts.hand_out_parts(piece, 0, piece.len(), &mut add);
                }
                _ => add(0, piece.len()),
            }
        }
        self.merge_parts(&parts, &mut take);
    }

    /// Merges up to [`LANES`] parts. Calls `take` with the tokens of each piece that is complete.
    fn merge_parts(&mut self, parts: &[Part<'_>], take: &mut impl FnMut(&[u32])) {
        let Self { tokenizer, lanes, workspace, tokens } = self;
        let model = tokenizer.model();
        let is_short = |part: &Part<'_>| part.bytes.len() <= LANE_BYTES;
        lanes.clear();
        for part in parts.iter().filter(|part| is_short(part)) {
            lanes.add(part.bytes, &model.pairs, model.cuts.as_ref());
        }
        lanes.merge(&model.pairs);
        let mut lane = 0;
        for part in parts {
            if is_short(part) {
                lanes.append(lane, tokens);
                lane += 1;
            } else {
                workspace.merge_any(part.bytes, model, tokens);
            }
            if part.is_last {
                take(tokens);
                tokens.clear();
            }
        }
    }
}

/// A part of a piece that merges on its own.
struct Part<'p> {
    bytes: &'p [u8],
    is_last: bool,
}
