//! Several texts at once, each taken for one piece.
//!
//! Merging a piece gives what merging its parts does where no token holds the two bytes beside a cut. So a pattern made
//! for shorter pieces may propose cuts, and the parts, unlike the pieces, repeat and are found in the cache.

use super::Encoder;
use super::block::Gather;
use super::cuts::Cuts;
use crate::pattern::Pattern;
use crate::pretokenize::{READ_BYTES, Spans};

impl Encoder {
    /// Appends the ids of the texts that end at `ends` in `text`, which are all of it, to `out`: each as one piece.
    /// `pattern` changes nothing but the time.
    pub(crate) fn encode_joined_into(
        &mut self,
        text: &str,
        ends: &[usize],
        pattern: &Pattern,
        out: &mut Vec<u32>,
    ) {
        let (model, bytes) = (self.tokenizer.model(), text.as_bytes());
        let (Some(state), Some(&next_end)) = (&mut self.state, ends.first()) else { return };
        let gather = Gather { state: &mut *state, model, bytes, out: &mut *out };
        let mut joining = Joining { gather, cuts: model.cuts.as_ref(), start: 0, ends, next_end };
        pattern.hand_out(text, &mut joining);
        state.look_up(model, bytes, out);
    }

    /// Bytes of the token `id`.
    #[inline]
    pub(crate) fn token_bytes(&self, id: u32) -> usize {
        self.tokenizer.model().vocab.span(id).1
    }
}

/// Passes on the cuts that tokens do not reach across, and those between texts.
struct Joining<'a> {
    gather: Gather<'a>,
    cuts: Option<&'a Cuts>,
    /// Of the part that is not passed on yet.
    start: usize,
    /// Of the texts from the present one on, and the first of them.
    ends: &'a [usize],
    next_end: usize,
}

impl Joining<'_> {
    #[inline]
    fn is_joined(&self, at: usize) -> bool {
        self.cuts.is_none_or(|cuts| cuts.has_token_across(self.gather.bytes, at))
    }

    fn end_text(&mut self) {
        self.ends = &self.ends[1..];
        self.next_end = self.ends.first().copied().unwrap_or(usize::MAX);
    }

    #[inline]
    fn pass_on(&mut self, end: usize) {
        if end > self.start {
            self.gather.take(self.start, end);
            self.start = end;
        }
    }
}

impl Spans for Joining<'_> {
    #[inline]
    fn take(&mut self, _: usize, end: usize) {
        while self.next_end <= end {
            self.pass_on(self.next_end);
            self.end_text();
        }
        if end > self.start && !self.is_joined(end) {
            self.pass_on(end);
        }
    }

    #[inline(always)]
    fn take_all(&mut self, from: usize, starts: u64, bytes: Option<&[u8; READ_BYTES]>) {
        let Some(last) = starts.checked_ilog2() else { return };
        let mut kept = 0;
        let mut rest = starts;
        while rest != 0 {
            let place = rest.trailing_zeros();
            kept |= u64::from(!self.is_joined(from + place as usize)) << place;
            rest &= rest - 1;
        }
        while self.next_end <= from + last as usize {
            // The first texts may be empty.
            kept |= u64::from(self.next_end > from) << (self.next_end - from);
            self.end_text();
        }
        let Some(last) = kept.checked_ilog2() else { return };
        if self.start == from {
            self.gather.take_all(from, kept, bytes);
        } else {
            // What was held goes with the first part.
            let first = kept.trailing_zeros();
            self.pass_on(from + first as usize);
            let rest = (kept & (kept - 1)) >> first;
            self.gather.take_all(self.start, rest, self.gather.bytes[self.start..].first_chunk());
        }
        self.start = from + last as usize;
    }
}
