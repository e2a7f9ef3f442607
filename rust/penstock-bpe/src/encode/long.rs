//! Merging long pieces window by window, so that the memory of one merge stays near and time grows with length alone.
//!
//! A sequence of tokens is what merging makes of their bytes if it is so for every two neighbours: as long as no merge
//! has crossed a border, what lies between two borders merges as it would alone, so the first to cross one would also
//! cross it when its two tokens stand alone. And what merging makes of some bytes it makes, token by token, of any run of
//! its tokens. So two windows may be joined where they share a token: each pair of neighbours is in one of them.

use super::merge::Workspace;
use crate::model::Model;

/// Bytes merged at a time.
const WINDOW_BYTES: usize = 1 << 11;
/// Pieces beyond this length are merged in windows.
const LONG_PIECE_BYTES: usize = 2 * WINDOW_BYTES;
/// The same for runs of one byte, which then cost next to nothing.
const RUN_WINDOW_BYTES: usize = 1 << 8;
/// Tokens at the end of a window that what follows may change, at most a quarter of them.
const HELD_TOKENS: usize = 32;
/// The longest piece that is merged as one: places are 32-bit numbers.
const MAX_MERGED_BYTES: usize = u32::MAX as usize - 1;

impl Workspace {
    /// Appends the tokens of `piece`, of any length, to `out`.
    pub(crate) fn merge_any(&mut self, piece: &[u8], model: &Model, out: &mut Vec<u32>) {
        if piece.len() <= RUN_WINDOW_BYTES {
            return self.merge(piece, &model.pairs, model.cuts.as_ref(), out);
        }
        let is_run = piece.iter().all(|&byte| byte == piece[0]);
        let window_bytes = match piece.len() {
            _ if is_run => RUN_WINDOW_BYTES,
            LONG_PIECE_BYTES.. => WINDOW_BYTES,
            _ => usize::MAX,
        };
        let start = out.len();
        if !self.merge_windows(piece, window_bytes, model, out) {
            out.truncate(start);
            // No machine of today could merge a longer piece in one.
            for part in piece.chunks(MAX_MERGED_BYTES) {
                self.merge(part, &model.pairs, model.cuts.as_ref(), out);
            }
        }
    }

    /// `false` where a window does not begin with the token that it shares with the one before: what follows reached
    /// further back than the tokens held.
    fn merge_windows(
        &mut self,
        piece: &[u8],
        window_bytes: usize,
        model: &Model,
        out: &mut Vec<u32>,
    ) -> bool {
        let size_of = |token: &u32| model.vocab.get(*token).len();
        // The last token in `out`, which is also the first of the window.
        let mut shared = None;
        let mut window: &[u8] = &[];
        let mut tokens = Vec::new();
        let mut at = 0_usize;
        loop {
            let end = char_border(piece, at.saturating_add(window_bytes));
            // Runs of one letter, and all that repeats in step with the windows, need no second merge.
            if window != &piece[at..end] {
                window = &piece[at..end];
                tokens.clear();
                self.merge(window, &model.pairs, model.cuts.as_ref(), &mut tokens);
            }
            if shared.is_some_and(|token| tokens[0] != token) {
                return false;
            }
            let is_last = end == piece.len();
            let held = if is_last { 0 } else { HELD_TOKENS.min(tokens.len() / 4) };
            let kept = &tokens[usize::from(shared.is_some())..tokens.len() - held];
            out.extend_from_slice(kept);
            if is_last {
                return true;
            }
            let [.., last] = kept else { return false };
            at = end - tokens[tokens.len() - held..].iter().map(size_of).sum::<usize>() - size_of(last);
            shared = Some(*last);
        }
    }
}

/// The last border of characters up to `at`, or the end.
fn char_border(piece: &[u8], at: usize) -> usize {
    let is_border = |&at: &usize| piece.get(at).is_none_or(|byte| byte & 0xC0 != 0x80);
    let at = at.min(piece.len());
    (at.saturating_sub(3)..=at).rev().find(is_border).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::tests::tokenizer;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn windows_merge_as_the_whole(
            unit in "a|[abc]{1,9}|[abcé]{30,60}|[a-d]{2000,3000}",
            other in "[abcé]{0,9}",
            len in 300_usize..20_000,
        ) {
            let tokenizer = tokenizer();
            let model = tokenizer.model();
            let text = unit.repeat(len / unit.len()) + &other + &unit.repeat(len / unit.len() / 2);
            let (mut whole, mut windows) = (Vec::new(), vec![7]);
            let mut workspace = Workspace::default();
            workspace.merge(text.as_bytes(), &model.pairs, model.cuts.as_ref(), &mut whole);
            workspace.merge_any(text.as_bytes(), model, &mut windows);
            prop_assert_eq!(&windows[1..], &whole[..]);
        }
    }
}
