//! SuperBPE: tokens that reach across spaces.
//!
//! The first part of the vocabulary is learned as always. Then the text is cut into lines instead of words, with numbers
//! apart as before, spelled with the tokens there are, and merging goes on. The tokenizer that comes out cuts text into
//! those lines and applies all merges, so any program that reads a tokenizer.json encodes with it.

use super::{TrainOptions, Trained, WordCounts, train_from, train_with_report};
use crate::error::{Error, Result};
use crate::pattern::{Family, Pattern};
use crate::pretokenize::sequence::Step;
use crate::pretokenize::split::Split;
use crate::progress::Progress;
use crate::unicode::{NUMBER, class_of};

/// A line with the line breaks behind it.
const LINES: &str = r"[^\r\n]+[\r\n]*|[\r\n]+";
const SINGLE_NUMBERS: &str = r"\p{N}";
const NUMBERS: &str = r"\p{N}{1,3}";
/// A token holds at most so many words.
const MAX_TOKEN_WORDS: usize = 4;

/// Bytes that are looked at together.
const PLAIN_BLOCK_BYTES: usize = 16;

/// Calls `emit` with the pieces of `text` that [`Pattern::across_spaces`] cuts, in one pass: lines, and apart from them
/// numbers in groups of `group` digits (0: not apart).
pub(super) fn for_each_line(text: &str, group: usize, mut emit: impl FnMut(&str)) {
    let bytes = text.as_bytes();
    let is_break = |byte: u8| byte == b'\r' || byte == b'\n';
    let (mut start, mut at) = (0, 0);
    // Characters of the group of digits that ends at `at`.
    let mut digits = 0;
    while at < bytes.len() {
        let (is_digit, len) = match bytes[at] {
            byte if byte < 0x80 => (byte.is_ascii_digit(), 1),
            _ => text[at..].chars().next().map_or((false, 1), |c| (class_of(c) & NUMBER != 0, c.len_utf8())),
        };
        let is_digit = is_digit && group > 0;
        let ends_line = at > start && is_break(bytes[at - 1]) && !is_break(bytes[at]);
        if (is_digit && (digits == 0 || digits == group)) || (!is_digit && digits > 0) || ends_line {
            if at > start {
                emit(&text[start..at]);
            }
            (start, digits) = (at, 0);
        }
        digits = if is_digit { digits + 1 } else { 0 };
        at += len;
        if digits == 0 && !is_break(bytes[at - 1]) {
            at += plain_len(&bytes[at..]);
        }
    }
    if start < bytes.len() {
        emit(&text[start..]);
    }
}

/// Bytes at the start of `bytes` that no cut is next to: ASCII without digits and line breaks, in whole blocks.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    let is_plain = |byte: &u8| byte.is_ascii() & !byte.is_ascii_digit() & (*byte != b'\r') & (*byte != b'\n');
    let blocks = bytes.as_chunks::<PLAIN_BLOCK_BYTES>().0;
    let plain = blocks.iter().take_while(|block| block.iter().fold(true, |all, byte| all & is_plain(byte)));
    plain.count() * PLAIN_BLOCK_BYTES
}

impl Pattern {
    /// Digits to a group, if this is [`across_spaces`](Self::across_spaces) of something.
    pub(super) fn line_digits(&self) -> Option<usize> {
        let steps = self.steps();
        let source = |step: &Step| match step {
            Step::Split(split) if split.is_plain() => Some(split.source().to_owned()),
            _ => None,
        };
        let sources: Option<Vec<String>> = steps.iter().map(source).collect();
        match sources?.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [LINES] => Some(0),
            [SINGLE_NUMBERS, LINES] => Some(1),
            [NUMBERS, LINES] => Some(3),
            _ => None,
        }
    }

    /// The pattern that SuperBPE cuts by after learning words by this one: lines, and numbers as before.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a pattern of the user's own, of which it is not known how it treats numbers.
    pub fn across_spaces(&self) -> Result<Self> {
        let numbers = match self.family() {
            Some(Family::Gpt2) => None,
            Some(
                Family::Qwen2
                | Family::Qwen3_5
                | Family::Tekken
                | Family::DeepseekLlm
                | Family::DeepseekCoder,
            ) => Some(SINGLE_NUMBERS),
            Some(_) => Some(NUMBERS),
            None => {
                let found = format!("SuperBPE with the pattern `{}`", self.name());
                return Err(Error::Unsupported { found, expected: "a pattern with a name" });
            }
        };
        let expressions = numbers.into_iter().chain([LINES]);
        let steps = expressions.map(|e| Ok(Step::Split(Split::new(e)?))).collect::<Result<_>>()?;
        Ok(Self::from_steps(steps))
    }
}

/// Learns a SuperBPE tokenizer: words from `words` until the vocabulary holds `word_share` of `options.vocab_size`, then
/// from `lines`, the same text counted by [`Pattern::across_spaces`]. Its report tells of the lines.
///
/// # Errors
///
/// Those of [`train`](super::train); [`Error::BadShare`] for a share that is not between 0 and 1.
pub fn train_super(
    words: WordCounts,
    mut lines: WordCounts,
    word_share: f64,
    options: &TrainOptions,
    progress: &Progress,
) -> Result<Trained> {
    if !(0.0..1.0).contains(&word_share) {
        return Err(Error::BadShare { share: word_share.to_string() });
    }
    let smallest = 256 + options.special_tokens.len();
    let word_size = ((options.vocab_size as f64 * word_share) as usize).max(smallest);
    let word_options = TrainOptions { vocab_size: word_size.min(options.vocab_size), ..options.clone() };
    // The words are to have all of a budget now, and the lines later.
    lines.set_aside(progress)?;
    let trained = train_with_report(words, &word_options, progress)?;
    let line_options = TrainOptions {
        pattern: lines.pattern().clone(),
        base: Some(trained.tokenizer),
        max_token_words: Some(MAX_TOKEN_WORDS),
        ..options.clone()
    };
    let last_count = Some(trained.report.last_count);
    let mut trained_on_lines = train_from(lines, &line_options, last_count, progress)?;
    trained_on_lines.report.merges += trained.report.merges;
    Ok(trained_on_lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_cut_as_by_the_pattern(text in "([a 0-9\r\n٣½²你é.\u{2028}]|[a-z ,]{14,40}){0,40}") {
            for family in [Pattern::Gpt2, Pattern::Qwen2, Pattern::DeepseekV3] {
                let pattern = family.across_spaces().unwrap();
                let (mut wanted, mut found) = (Vec::new(), Vec::new());
                pattern.for_each_piece(&text, |piece| wanted.push(piece.to_owned()));
                for_each_line(&text, pattern.line_digits().unwrap(), |piece| found.push(piece.to_owned()));
                prop_assert_eq!(found, wanted);
            }
        }

        #[test]
        fn threads_change_nothing(
            texts in prop::collection::vec(r"(the |cat |\t\t?|  ?|f\(x|\)|::|</?b>|\r?\n|[0-9]{1,4}|你好|世界，|é|[a-c.,]){0,60}", 1..12),
            family in 0..Pattern::NAMES.len(), merges in 0_usize..60
        ) {
            let pattern = Pattern::from_name(Pattern::NAMES[family]).unwrap();
            let trained = |threads: usize| {
                let counts = [pattern.clone(), pattern.across_spaces().unwrap()].map(|pattern| {
                    let mut counts = WordCounts::new(pattern);
                    texts.iter().for_each(|text| counts.add_text(text));
                    counts.add_piece(b"\xFFa\xFFa the", 2).unwrap();
                    counts
                });
                let options =
                    TrainOptions { vocab_size: 257 + merges, pattern: pattern.clone(), threads, ..TrainOptions::default() };
                let [words, lines] = counts;
                let trained = train_super(words, lines, 0.9, &options, &Progress::new()).unwrap();
                (trained.tokenizer.sha256().to_owned(), trained.report.merges)
            };
            prop_assert_eq!(trained(1), trained(3));
        }
    }
}
