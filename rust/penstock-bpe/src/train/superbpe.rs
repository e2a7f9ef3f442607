//! SuperBPE: tokens that reach across spaces.
//!
//! The first part of the vocabulary is learned as always. Then the text is cut into lines instead of words, with numbers
//! apart as before, spelled with the tokens there are, and merging goes on. The tokenizer that comes out cuts text into
//! those lines and applies all merges, so any program that reads a tokenizer.json encodes with it.

use super::{TrainOptions, Trained, WordCounts, train_with_report};
use crate::error::{Error, Result};
use crate::pattern::{Family, Pattern};
use crate::pretokenize::sequence::{CustomRegex, Step};
use crate::progress::Progress;

/// A line with the line breaks behind it.
const LINES: &str = r"[^\r\n]+[\r\n]*|[\r\n]+";
/// A token holds at most so many words.
const MAX_TOKEN_WORDS: usize = 4;

impl Pattern {
    /// The pattern that SuperBPE cuts by after learning words by this one: lines, and numbers as before.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a pattern of the user's own, of which it is not known how it treats numbers.
    pub fn across_spaces(&self) -> Result<Self> {
        let numbers = match self.family() {
            Some(Family::Gpt2) => None,
            Some(Family::Qwen2) => Some(r"\p{N}"),
            Some(_) => Some(r"\p{N}{1,3}"),
            None => {
                let found = format!("SuperBPE with the pattern `{}`", self.name());
                return Err(Error::Unsupported { found, expected: "a pattern with a name" });
            }
        };
        let expressions = numbers.into_iter().chain([LINES]);
        let steps = expressions.map(|e| Ok(Step::Regex(CustomRegex::new(e)?))).collect::<Result<_>>()?;
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
    lines: WordCounts,
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
    let trained = train_with_report(words, &word_options, progress)?;
    let line_options = TrainOptions {
        pattern: lines.pattern().clone(),
        base: Some(trained.tokenizer),
        max_token_words: Some(MAX_TOKEN_WORDS),
        ..options.clone()
    };
    let mut trained_on_lines = train_with_report(lines, &line_options, progress)?;
    trained_on_lines.report.merges += trained.report.merges;
    Ok(trained_on_lines)
}
