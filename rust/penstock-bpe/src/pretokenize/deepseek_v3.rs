//! DeepSeek-V3: three splits in sequence. Numbers are isolated in threes, then runs of Chinese and Japanese characters,
//! and what lies between is cut by a third pattern that sees nothing beyond its part.
//!
//! Done in one pass: the third split reads what ends its part as a number, which none of its rules takes.

use super::window::Window;
use super::{SpaceRun, Spans, run_of_bytes, run_up_to};
use crate::machine::{Machine, Work, wide};
use crate::unicode::{LETTER, MARK, NUMBER, PUNCTUATION, SPACE, SYMBOL, class_at};

const WORD: u8 = LETTER | MARK;
const SIGN: u8 = PUNCTUATION | SYMBOL;

/// Bits that no byte of ASCII has.
const BEYOND_ASCII: u64 = 0x8080_8080_8080_8080;

/// Hands out where each piece of `text` starts and ends.
pub(crate) fn scan(text: &str, spans: &mut impl Spans) {
    wide(Scan { text, spans });
}

struct Scan<'a, S> {
    text: &'a str,
    spans: &'a mut S,
}

impl<S: Spans> Work for Scan<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, machine: M) {
        let Self { text, spans } = self;
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let next = if starts_in_ascii(bytes, at)
                && let Some(window) = Window::read(bytes, at, machine)
            {
                window.hand_out(starts(&window), bytes, at, spans)
            } else {
                at
            };
            if next > at {
                at = next;
                continue;
            }
            let next = ideographs_end(bytes, at).unwrap_or_else(|| piece_end(text, at));
            spans.take(at, next);
            at = next;
        }
    }
}

/// Whether the next bytes are plain ASCII, enough of them for a window to pay.
#[inline]
fn starts_in_ascii(bytes: &[u8], at: usize) -> bool {
    bytes[at..].first_chunk().is_some_and(|first| u64::from_le_bytes(*first) & BEYOND_ASCII == 0)
}

/// End of the piece of Chinese characters alone that starts at `at`; `None` where another piece starts, or one that goes on
/// with kana.
#[inline]
fn ideographs_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    while let Some(four) = bytes[end..].first_chunk()
        && (0xE4_B880..=0xE9_BEA5).contains(&(u32::from_be_bytes(*four) >> 8))
    {
        end += 3;
    }
    // Kana and all else that may go on begin with other bytes.
    (end > at && bytes.get(end).is_some_and(|byte| !(0xE3..=0xE9).contains(byte))).then_some(end)
}

/// Where pieces start within the window, in which a piece starts at the first byte.
#[inline(always)]
fn starts(window: &Window) -> u64 {
    let &Window { letters, digits, signs, spaces, newlines, .. } = window;
    // Line breaks directly behind signs belong to them.
    let behind_signs = newlines & signs << 1;
    let white = window.white & !(newlines & !newlines.wrapping_add(behind_signs));
    let indents = white & !newlines;
    // A run of white space is cut behind its last line break, and before its last character if a word or sign follows.
    let run_starts = white & !(white << 1);
    let behind_lines = window.behind_last(white & newlines, indents);
    let handed_on = indents & (letters | signs) >> 1;
    // A space goes with the sign behind it, any white space but line breaks with the word behind it; so does one sign.
    let led_signs = signs & !(signs << 1) & !((spaces & white) << 1);
    let words = letters & !(letters << 1) & !(indents << 1) & !(led_signs << 1);
    run_starts | behind_lines | handed_on | led_signs | words | window.every_third(digits)
}

/// End of the piece that starts at `at`.
#[inline]
fn piece_end(text: &str, at: usize) -> usize {
    if is_cjk(&text.as_bytes()[at..]) {
        return piece_end_in_part::<true>(text, at);
    }
    let (class, length) = class_at(text, at);
    if class & NUMBER != 0 {
        return run_up_to(text, at + length, text.len(), NUMBER, 2);
    }
    if class & SIGN != 0 && length > 1 {
        // No rule but that of signs begins with one beyond ASCII.
        let signs = run_in_part::<false>(text, at + length, SIGN);
        return run_of_bytes(text, signs, text.len(), b"\r\n");
    }
    piece_end_in_part::<false>(text, at)
}

/// Whether the character at the start of `bytes` lies in `[一-龥぀-ゟ゠-ヿ]`: U+4E00 to U+9FA5 and U+3040 to U+30FF, three
/// bytes each.
#[inline]
fn is_cjk(bytes: &[u8]) -> bool {
    match bytes[0] {
        0xE3 => matches!(bytes[1], 0x81..=0x83),
        0xE4 => bytes[1] >= 0xB8,
        0xE5..=0xE8 => true,
        0xE9 => bytes[1] < 0xBE || (bytes[1] == 0xBE && bytes[2] <= 0xA5),
        _ => false,
    }
}

/// Class and length of the character at `at`; what ends a part inside or outside of `CJK` is a number.
#[inline]
fn class_in_part<const CJK: bool>(text: &str, at: usize) -> (u8, usize) {
    let bytes = &text.as_bytes()[at..];
    if CJK {
        if !is_cjk(bytes) {
            return (NUMBER, 1);
        }
        // All but the kana block and the ideographs' neighbours are letters without a look into the tables.
        return if bytes[0] > 0xE3 { (LETTER, 3) } else { class_at(text, at) };
    }
    if bytes[0] >= 0xE3 && is_cjk(bytes) { (NUMBER, 3) } else { class_at(text, at) }
}

#[inline]
fn run_in_part<const CJK: bool>(text: &str, mut at: usize, classes: u8) -> usize {
    while at < text.len() {
        let (class, length) = class_in_part::<CJK>(text, at);
        if class & classes == 0 {
            break;
        }
        at += length;
    }
    at
}

/// End of the piece of the third split at `at`: a match, or characters that no rule takes (controls, unassigned ones)
/// up to the next match or the end of the part.
#[inline]
fn piece_end_in_part<const CJK: bool>(text: &str, at: usize) -> usize {
    let mut next = at;
    while next < text.len() && class_in_part::<CJK>(text, next).0 & NUMBER == 0 {
        match match_end::<CJK>(text, next) {
            Ok(end) if next == at => return end,
            Ok(_) => return next,
            Err(behind) => next = behind,
        }
    }
    next
}

/// End of the match at `at`, or `Err` with the end of the character that no rule takes.
#[inline]
fn match_end<const CJK: bool>(text: &str, at: usize) -> Result<usize, usize> {
    let bytes = text.as_bytes();
    let end = text.len();
    let (class, length) = class_in_part::<CJK>(text, at);
    let behind = at + length;
    if class & WORD != 0 {
        return Ok(run_in_part::<CJK>(text, behind, WORD));
    }
    if bytes[at].is_ascii_punctuation() && behind < end && bytes[behind].is_ascii_alphabetic() {
        let letters = bytes[behind..].iter().position(|byte| !byte.is_ascii_alphabetic());
        return Ok(letters.map_or(end, |letters| behind + letters));
    }
    let next_class = if behind < end { class_in_part::<CJK>(text, behind).0 } else { NUMBER };
    let is_sign = class & SIGN != 0;
    if !is_sign && next_class & WORD != 0 && !matches!(bytes[at], b'\r' | b'\n') {
        return Ok(run_in_part::<CJK>(text, behind, WORD));
    }
    if is_sign || (bytes[at] == b' ' && next_class & SIGN != 0) {
        let signs = run_in_part::<CJK>(text, behind, SIGN);
        // Line breaks lie outside of Chinese and Japanese.
        return Ok(if CJK { signs } else { run_of_bytes(text, signs, end, b"\r\n") });
    }
    if class & SPACE == 0 {
        return Err(behind);
    }
    let run = SpaceRun::read(text, at, end);
    if run.line_end > at {
        return Ok(run.line_end);
    }
    let ends_part = run.end < end && class_in_part::<CJK>(text, run.end).0 & NUMBER != 0;
    Ok(if ends_part { run.end } else { run.without_last(at, end) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_characters(text: &str) -> Vec<(usize, usize)> {
        let mut spans = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let next = piece_end(text, at);
            spans.push((at, next));
            at = next;
        }
        spans
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Windows start at any place and end at any character, so every edge of theirs is met.
        #[test]
        fn windows_cut_as_single_characters_do(
            parts in prop::collection::vec(
                "[ \t\r\n]{1,5}|[a-z]{1,9}|[0-9]{1,7}|[.,<-]{1,4}|[a .\n]{1,9}|\x01|é|[一龥あ・々]{1,5}|、|\u{3000}| {60,70}|(\n ){30,40}",
                0..40,
            )
        ) {
            let text = parts.concat();
            let mut spans = Vec::new();
            scan(&text, &mut |start, end| spans.push((start, end)));
            prop_assert_eq!(spans, by_characters(&text), "{:?}", text);
        }
    }
}
