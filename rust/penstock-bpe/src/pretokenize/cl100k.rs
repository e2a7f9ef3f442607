//! cl100k and its relatives Llama 3, Qwen 2 and Qwen 3.5, which differ in how many digits stand together, in what white
//! space at the very end of the text does, and in whether marks are letters.

use super::{SpaceRun, Spans, contraction, run_of, run_of_bytes, run_outside, run_up_to};
use crate::unicode::{NUMBER, SPACE, class_at};

/// Hands out where each piece of `text` starts and ends. At most `DIGITS` numbers make a piece; with `WHOLE_TAIL`, white
/// space that ends the text is one piece even if it holds line breaks. Words are of the classes `WORD`.
pub(crate) fn scan<const DIGITS: usize, const WHOLE_TAIL: bool, const WORD: u8>(
    text: &str,
    spans: &mut impl Spans,
) {
    let end = text.len();
    let mut at = 0;
    while at < end {
        let next = piece_end::<DIGITS, WHOLE_TAIL, WORD>(text, at, end);
        spans.take(at, next);
        at = next;
    }
}

#[inline]
fn piece_end<const DIGITS: usize, const WHOLE_TAIL: bool, const WORD: u8>(
    text: &str,
    at: usize,
    end: usize,
) -> usize {
    let (class, length) = class_at(text, at);
    if class & WORD != 0 {
        return run_of(text, at + length, end, WORD);
    }
    if class & NUMBER != 0 {
        return run_up_to(text, at + length, end, NUMBER, DIGITS - 1);
    }
    let first = text.as_bytes()[at];
    let shortened = contraction(text, at, end, true);
    if shortened > 0 {
        return at + shortened;
    }
    let behind = at + length;
    let next_class = if behind < end { class_at(text, behind).0 } else { SPACE };
    if next_class & WORD != 0 && !matches!(first, b'\r' | b'\n') {
        return run_of(text, behind, end, WORD);
    }
    if class & SPACE == 0 || (first == b' ' && next_class & (SPACE | WORD | NUMBER) == 0) {
        let marks = run_outside(text, behind, end, SPACE | WORD | NUMBER);
        return run_of_bytes(text, marks, end, b"\r\n");
    }
    let run = SpaceRun::read(text, at, end);
    if WHOLE_TAIL && run.end == end {
        return end;
    }
    if run.line_end > at { run.line_end } else { run.without_last(at, end) }
}
