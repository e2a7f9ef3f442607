//! Learning a vocabulary: count the pieces of a corpus, then merge the most frequent pair again and again.

mod arena;
mod base;
mod changes;
mod count;
mod index;
mod memory;
mod merge;
mod order;
mod pairs;
mod replace;
mod report;
mod run;
mod sample;
mod saved;
mod scratch;
mod shards;
mod spell;
mod superbpe;
mod table;

use rustc_hash::FxHashSet;

use base::Base;
pub use count::WordCounts;
pub use memory::MemoryBudget;
pub use report::{Counted, Report, Sampling};
use spell::Speller;
pub use superbpe::train_super;

use crate::error::{Error, Result, show};
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::threads::thread_count;
use crate::tokenizer::Tokenizer;

/// What to learn.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Tokens in all: special tokens, 256 bytes and merges. Fewer come out if the corpus runs out of pairs.
    pub vocab_size: usize,
    /// How text is cut; that of the counts.
    pub pattern: Pattern,
    /// Special tokens, which get the first ids.
    pub special_tokens: Vec<String>,
    /// A pair must stand this often to be merged; 0 means 1.
    pub min_frequency: u64,
    /// No token gets longer than this, nor than 4096 bytes.
    pub max_token_bytes: Option<usize>,
    /// A tokenizer to extend: it keeps its ids and merges, and what is learned comes behind them. Special tokens that
    /// it has not follow it directly. The result cuts text by `pattern`.
    pub base: Option<Tokenizer>,
    /// No token holds more words, or parts of words, than this.
    pub max_token_words: Option<usize>,
    /// Threads to use (0 = one a core): to order and spell pieces and to find pairs; merging itself runs on one. They
    /// change nothing but the time.
    pub threads: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            vocab_size: 128_000,
            pattern: Pattern::DeepseekV3,
            special_tokens: vec!["<|endoftext|>".to_owned()],
            min_frequency: 0,
            max_token_bytes: None,
            base: None,
            max_token_words: None,
            threads: 0,
        }
    }
}

/// What a training makes.
#[derive(Debug)]
pub struct Trained {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// How it came about.
    pub report: Report,
}

/// Learns a tokenizer from `counts`. Ids are those of HF's trainer given the byte-level alphabet: special tokens, bytes
/// by the code point of their byte-level character, merges. The most frequent pair is merged first, of equal ones that
/// with the smaller (left, right) ids. The same counts give the same tokenizer, bit for bit.
///
/// # Errors
///
/// [`Error::VocabTooSmall`], [`Error::EmptyCorpus`], [`Error::PatternMismatch`], [`Error::EmptySpecial`],
/// [`Error::DuplicateSpecial`], [`Error::SpecialCollision`], [`Error::CorpusTooLarge`], [`Error::CountOverflow`],
/// [`Error::Spill`], [`Error::CountsFile`];
/// [`Error::Cancelled`] within a fraction of a second after `progress` was cancelled.
pub fn train(counts: WordCounts, options: &TrainOptions, progress: &Progress) -> Result<Tokenizer> {
    train_with_report(counts, options, progress).map(|trained| trained.tokenizer)
}

/// Does what [`train`] does and reports on it.
///
/// # Errors
///
/// Those of [`train`].
pub fn train_with_report(counts: WordCounts, options: &TrainOptions, progress: &Progress) -> Result<Trained> {
    train_from(counts, options, None, progress)
}

/// Trains with a guess of the last merge's count. A good one saves readings of the text, and none changes the outcome.
fn train_from(
    counts: WordCounts,
    options: &TrainOptions,
    last_count: Option<u64>,
    progress: &Progress,
) -> Result<Trained> {
    check(&counts, options)?;
    progress.check()?;
    let base = Base::new(options)?;
    let minimum = base.tokens.len();
    if options.vocab_size < minimum {
        return Err(Error::VocabTooSmall { vocab_size: options.vocab_size, minimum });
    }
    let budget = counts.budget().cloned();
    let (table, counted) = counts.into_table(progress)?;
    let inner_pattern = options.base.as_ref().map_or(&options.pattern, Tokenizer::pattern);
    let spellers = Speller::several(&base, inner_pattern, thread_count(options.threads))?;
    let arena = arena::Arena::new(table, spellers, progress)?;
    let text_bytes = size_of_val(arena.symbols()) as u64;
    let places_bytes = budget.map_or(u64::MAX, |budget| budget.bytes_beside(text_bytes));
    let mut merger = merge::Merger::new(arena, &base, places_bytes, options, progress);
    merger.run(last_count)?;
    let (tokens, merges, last_count) = merger.finish();
    let report = Report { counted, merges: merges.len(), last_count };
    Ok(Trained { tokenizer: base.finish(options.pattern.clone(), tokens, merges)?, report })
}

fn check(counts: &WordCounts, options: &TrainOptions) -> Result<()> {
    let vocab_size = options.vocab_size;
    if vocab_size > crate::vocab::MAX_ID as usize {
        return Err(Error::IdTooLarge { id: vocab_size as u64, limit: crate::vocab::MAX_ID });
    }
    if *counts.pattern() != options.pattern {
        let (counted, wanted) = (counts.pattern().name(), options.pattern.name());
        return Err(Error::PatternMismatch { counted, wanted });
    }
    counts.check_normalizer(options.base.as_ref())?;
    let mut seen = FxHashSet::default();
    for (index, content) in options.special_tokens.iter().enumerate() {
        if content.is_empty() {
            return Err(Error::EmptySpecial { index });
        }
        if !seen.insert(content) {
            return Err(Error::DuplicateSpecial { content: content.clone() });
        }
        // One byte is a token of the alphabet.
        if content.len() == 1 {
            return Err(Error::SpecialCollision { content: content.clone() });
        }
    }
    if counts.is_empty() {
        return Err(Error::EmptyCorpus);
    }
    if u128::from(counts.total()) * 2 > i64::MAX as u128 {
        return Err(Error::CountOverflow { piece: show(b"all pieces together") });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod count_tests;
#[cfg(test)]
mod extend_tests;
