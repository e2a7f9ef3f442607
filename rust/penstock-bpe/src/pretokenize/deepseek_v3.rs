//! DeepSeek-V3: three splits in sequence. Numbers are isolated in threes, then runs of Chinese and Japanese characters,
//! and what lies between is cut by a third pattern that sees nothing beyond its part.

use super::{SpaceRun, run_of, run_of_bytes, run_up_to};
use crate::unicode::{LETTER, MARK, NUMBER, PUNCTUATION, SPACE, SYMBOL, class_at};

/// Hands out the pieces of `text`.
pub(crate) fn scan(text: &str, emit: &mut impl FnMut(&str)) {
    let end = text.len();
    let mut at = 0;
    while at < end {
        let numbers = run_up_to(text, at, end, NUMBER, 3);
        if numbers > at {
            emit(&text[at..numbers]);
            at = numbers;
            continue;
        }
        let part = part_end(text, at, end);
        scan_part(text, at, part, emit);
        at = part;
    }
}

/// Whether the character at `at` lies in `[一-龥぀-ゟ゠-ヿ]`: U+4E00 to U+9FA5 and U+3040 to U+30FF, three bytes each.
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

/// End of the part that starts at `at`: before the next number, and where Chinese or Japanese begins or ends.
#[inline]
fn part_end(text: &str, at: usize, end: usize) -> usize {
    let bytes = text.as_bytes();
    let mut next = at;
    if is_cjk(&bytes[at..]) {
        while next < end && is_cjk(&bytes[next..]) {
            next += 3;
        }
        return next;
    }
    while next < end {
        let (class, length) = class_at(text, next);
        if class & NUMBER != 0 || (length == 3 && is_cjk(&bytes[next..])) {
            break;
        }
        next += length;
    }
    next
}

/// The third split, on one part. What no rule matches (controls, unassigned characters) is handed out as it stands.
#[inline]
fn scan_part(text: &str, start: usize, end: usize, emit: &mut impl FnMut(&str)) {
    let mut at = start;
    let mut unmatched = start;
    while at < end {
        match match_end(text, at, end) {
            Ok(next) => {
                if unmatched < at {
                    emit(&text[unmatched..at]);
                }
                emit(&text[at..next]);
                at = next;
                unmatched = next;
            }
            Err(next) => at = next,
        }
    }
    if unmatched < end {
        emit(&text[unmatched..end]);
    }
}

/// End of the match at `at`, or `Err` with the end of the character that no rule takes.
#[inline]
fn match_end(text: &str, at: usize, end: usize) -> Result<usize, usize> {
    let bytes = text.as_bytes();
    let (class, length) = class_at(text, at);
    let behind = at + length;
    if class & (LETTER | MARK) != 0 {
        return Ok(run_of(text, behind, end, LETTER | MARK));
    }
    if bytes[at].is_ascii_punctuation() && behind < end && bytes[behind].is_ascii_alphabetic() {
        let mut next = behind + 1;
        while next < end && bytes[next].is_ascii_alphabetic() {
            next += 1;
        }
        return Ok(next);
    }
    let next_class = if behind < end { class_at(text, behind).0 } else { 0 };
    let is_mark = class & (PUNCTUATION | SYMBOL) != 0;
    if !is_mark && next_class & (LETTER | MARK) != 0 && !matches!(bytes[at], b'\r' | b'\n') {
        return Ok(run_of(text, behind, end, LETTER | MARK));
    }
    if is_mark || (bytes[at] == b' ' && next_class & (PUNCTUATION | SYMBOL) != 0) {
        let marks = run_of(text, behind, end, PUNCTUATION | SYMBOL);
        return Ok(run_of_bytes(text, marks, end, b"\r\n"));
    }
    if class & SPACE == 0 {
        return Err(behind);
    }
    let run = SpaceRun::read(text, at, end);
    Ok(if run.line_end > at { run.line_end } else { run.without_last(at, end) })
}
