//! Cutting text into pieces before merging: hand-written scanners of the known split patterns, one file a family.
//!
//! Every scanner looks at each character a bounded number of times, whatever the text, and hands out the pieces that
//! the family's regular expression (see [`crate::pattern`]) would match, in order and without a gap.

mod backward;
pub(crate) mod cl100k;
pub(crate) mod deepseek_early;
pub(crate) mod deepseek_v3;
mod dialect;
pub(crate) mod gpt2;
mod linear;
pub(crate) mod o200k;
pub(crate) mod sequence;
pub(crate) mod split;
mod window;

use crate::unicode::{LETTER, MARK, SPACE, class_at};

/// What a scanner hands its pieces to, in order: a closure, or what wants to be built into the scanner's loop.
pub(crate) trait Spans {
    /// Takes the piece from `start` to `end`.
    fn take(&mut self, start: usize, end: usize);

    /// Takes all pieces, which need no further cutting, from `from` to the last place of `starts`, a bit a byte from `from` on; the lowest bit,
    /// which is `from`, is not among them. `bytes` is what the text holds there.
    #[inline(always)]
    fn take_all(&mut self, from: usize, mut starts: u64, bytes: Option<&[u8; READ_BYTES]>) {
        let _ = bytes;
        let mut start = from;
        while starts != 0 {
            let end = from + starts.trailing_zeros() as usize;
            self.take(start, end);
            start = end;
            starts &= starts - 1;
        }
    }
}

/// Bytes of a window and of a load at its last one.
pub(crate) const READ_BYTES: usize = 64 + 16;

impl<F: FnMut(usize, usize)> Spans for F {
    #[inline]
    fn take(&mut self, start: usize, end: usize) {
        self(start, end);
    }
}

/// End of the run of characters of `classes` that starts at `at`; `at` itself if there is none.
#[inline]
fn run_of(text: &str, mut at: usize, end: usize, classes: u8) -> usize {
    while at < end {
        let (class, length) = class_at(text, at);
        if class & classes == 0 {
            break;
        }
        at += length;
    }
    at
}

/// End of the run of characters outside `classes` that starts at `at`.
#[inline]
fn run_outside(text: &str, mut at: usize, end: usize, classes: u8) -> usize {
    while at < end {
        let (class, length) = class_at(text, at);
        if class & classes != 0 {
            break;
        }
        at += length;
    }
    at
}

/// End of the run of bytes of `set` (ASCII) that starts at `at`.
#[inline]
fn run_of_bytes(text: &str, mut at: usize, end: usize, set: &[u8]) -> usize {
    while at < end && set.contains(&text.as_bytes()[at]) {
        at += 1;
    }
    at
}

/// End of at most `limit` characters of `classes` from `at` on.
#[inline]
fn run_up_to(text: &str, mut at: usize, end: usize, classes: u8, limit: usize) -> usize {
    for _ in 0..limit {
        if at >= end {
            break;
        }
        let (class, length) = class_at(text, at);
        if class & classes == 0 {
            break;
        }
        at += length;
    }
    at
}

/// A run of white space and the places where a pattern may cut it.
struct SpaceRun {
    /// Behind the last character.
    end: usize,
    /// Behind the last CR or LF; the start if there is none.
    line_end: usize,
    /// Before the last character.
    last: usize,
}

impl SpaceRun {
    /// Reads the run that starts at `start`, where a white-space character stands.
    #[inline]
    fn read(text: &str, start: usize, end: usize) -> Self {
        let mut run = Self { end: start, line_end: start, last: start };
        while run.end < end {
            let (class, length) = class_at(text, run.end);
            if class & SPACE == 0 {
                break;
            }
            run.last = run.end;
            run.end += length;
            if matches!(text.as_bytes()[run.last], b'\r' | b'\n') {
                run.line_end = run.end;
            }
        }
        run
    }

    /// End of the match of `\s+(?!\S)|\s+`: the last character is left for what follows, unless it is the only one.
    #[inline]
    fn without_last(&self, start: usize, end: usize) -> usize {
        if self.end == end || self.last == start { self.end } else { self.last }
    }
}

/// Length in bytes of the match of `'s|'t|'re|'ve|'m|'ll|'d` at `at`, or 0. Without regard to case if `any_case`, where
/// Unicode's simple folding also makes the long s (U+017F) an s.
#[inline]
fn contraction(text: &str, at: usize, end: usize, any_case: bool) -> usize {
    let bytes = &text.as_bytes()[at..end];
    if bytes.len() < 2 || bytes[0] != b'\'' {
        return 0;
    }
    let fold = |byte: u8| {
        if any_case { byte.to_ascii_lowercase() } else { byte }
    };
    let first = fold(bytes[1]);
    if matches!(first, b's' | b'd' | b'm' | b't') {
        return 2;
    }
    let second = bytes.get(2).map_or(0, |&byte| fold(byte));
    match (first, second) {
        (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => 3,
        // U+017F in UTF-8.
        (0xC5, _) if any_case && bytes.get(2) == Some(&0xBF) => 3,
        _ => 0,
    }
}

/// The first place behind the first `least` bytes of `text` where cutting it changes no piece of any family: behind a
/// letter, and before what neither goes on with a word nor starts a contraction.
pub(crate) fn safe_cut(text: &str, least: usize) -> Option<usize> {
    let mut at = (least..text.len()).find(|&at| text.is_char_boundary(at))?;
    let mut is_behind_letter = false;
    while at < text.len() {
        let (class, length) = class_at(text, at);
        if is_behind_letter && class & (LETTER | MARK) == 0 && text.as_bytes()[at] != b'\'' {
            return Some(at);
        }
        is_behind_letter = class & LETTER != 0;
        at += length;
    }
    None
}

#[cfg(test)]
mod tests;
