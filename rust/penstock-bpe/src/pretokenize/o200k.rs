//! o200k: words are cut where lower case turns to upper case, and take a contraction behind them. Tekken: the same
//! without contractions.

use super::{SpaceRun, Spans, contraction, run_of, run_of_bytes, run_outside, run_up_to};
use crate::unicode::{LETTER, LOWER, MARK, NUMBER, OTHER_LETTER, SPACE, UPPER, class_at};

/// Characters that may stand in either half of a word.
const EITHER: u8 = OTHER_LETTER | MARK;
const UPPER_HALF: u8 = UPPER | EITHER;
const LOWER_HALF: u8 = LOWER | EITHER;

/// Hands out where each piece of `text` starts and ends. At most `DIGITS` numbers make a piece.
pub(crate) fn scan<const DIGITS: usize, const CONTRACTIONS: bool>(text: &str, spans: &mut impl Spans) {
    let end = text.len();
    let mut at = 0;
    while at < end {
        let next = piece_end::<DIGITS, CONTRACTIONS>(text, at, end);
        spans.take(at, next);
        at = next;
    }
}

#[inline]
fn piece_end<const DIGITS: usize, const CONTRACTIONS: bool>(text: &str, at: usize, end: usize) -> usize {
    let (class, length) = class_at(text, at);
    if let Some(word) = word_end(text, at, end, class, length) {
        return if CONTRACTIONS { word + contraction(text, word, end, true) } else { word };
    }
    if class & NUMBER != 0 {
        return run_up_to(text, at + length, end, NUMBER, DIGITS - 1);
    }
    let behind = at + length;
    let next_class = if behind < end { class_at(text, behind).0 } else { SPACE };
    let space_before = text.as_bytes()[at] == b' ' && next_class & (SPACE | LETTER | NUMBER) == 0;
    if class & SPACE == 0 || space_before {
        let marks = run_outside(text, behind, end, SPACE | LETTER | NUMBER);
        return run_of_bytes(text, marks, end, b"\r\n/");
    }
    let run = SpaceRun::read(text, at, end);
    if run.line_end > at { run.line_end } else { run.without_last(at, end) }
}

/// End of the word at `at`, with or without one other character before it: the first rule if it matches (a word that
/// ends in its lower half), else the second (capitals alone).
#[inline]
fn word_end(text: &str, at: usize, end: usize, class: u8, length: usize) -> Option<usize> {
    let may_lead = class & (LETTER | NUMBER) == 0 && !matches!(text.as_bytes()[at], b'\r' | b'\n');
    let led = if may_lead { Halves::read(text, at + length, end) } else { Halves::EMPTY };
    // Without a leader only a letter or a mark can start a word, and a leader that is a mark may start one itself.
    let bare = if class & (LETTER | MARK) != 0 { Halves::read(text, at, end) } else { Halves::EMPTY };
    led.mixed.or(bare.mixed).or(led.capitals).or(bare.capitals)
}

/// The two ways in which a word can match at one place.
struct Halves {
    /// End of upper half (may be empty) and lower half (may not).
    mixed: Option<usize>,
    /// End of an upper half without a lower one.
    capitals: Option<usize>,
}

impl Halves {
    const EMPTY: Self = Self { mixed: None, capitals: None };

    #[inline]
    fn read(text: &str, start: usize, end: usize) -> Self {
        let mut at = start;
        // Behind the last character of the upper half that could as well belong to the lower one.
        let mut last_either = None;
        while at < end {
            let (class, length) = class_at(text, at);
            if class & UPPER_HALF == 0 {
                break;
            }
            at += length;
            if class & EITHER != 0 {
                last_either = Some(at);
            }
        }
        let lower_end = run_of(text, at, end, LOWER_HALF);
        let mixed = if lower_end > at { Some(lower_end) } else { last_either };
        let capitals = if at > start { Some(at) } else { None };
        Self { mixed, capitals }
    }
}
