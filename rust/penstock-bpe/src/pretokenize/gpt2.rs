//! GPT-2: contractions, then runs of letters, numbers or the rest with one space before them.

use super::{SpaceRun, Spans, contraction, run_of, run_outside};
use crate::unicode::{LETTER, NUMBER, SPACE, class_at};

/// Hands out where each piece of `text` starts and ends.
pub(crate) fn scan(text: &str, spans: &mut impl Spans) {
    let end = text.len();
    let mut at = 0;
    while at < end {
        let next = piece_end(text, at, end);
        spans.take(at, next);
        at = next;
    }
}

#[inline]
fn piece_end(text: &str, at: usize, end: usize) -> usize {
    let shortened = contraction(text, at, end, false);
    if shortened > 0 {
        return at + shortened;
    }
    let body = if text.as_bytes()[at] == b' ' { at + 1 } else { at };
    if body < end {
        let (class, length) = class_at(text, body);
        if class & LETTER != 0 {
            return run_of(text, body + length, end, LETTER);
        }
        if class & NUMBER != 0 {
            return run_of(text, body + length, end, NUMBER);
        }
        if class & SPACE == 0 {
            return run_outside(text, body + length, end, SPACE | LETTER | NUMBER);
        }
    }
    SpaceRun::read(text, at, end).without_last(at, end)
}
