//! The tokenizer's trainer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use penstock_bpe::Pattern;
use penstock_bpe::progress::Progress;
use penstock_bpe::train::{self, MemoryBudget, Report, TrainOptions, Trained};
use penstock_data::{CountOptions, SourceOptions};
use pyo3::prelude::*;
use serde_json::json;

use crate::boundary::guarded;
use crate::error::Fault;
use crate::job::Job;
use crate::tokenizer::Tokenizer;

/// What Python asks for, read from the attributes of one object.
#[derive(FromPyObject)]
pub(crate) struct Request {
    vocab_size: usize,
    pattern: String,
    special_tokens: Vec<String>,
    min_frequency: u64,
    max_token_bytes: Option<usize>,
    threads: Option<usize>,
    max_memory: Option<u64>,
    spill_folder: Option<PathBuf>,
    weights: BTreeMap<String, u64>,
    max_bytes: u64,
    extend: Option<Py<Tokenizer>>,
    counts: Vec<PathBuf>,
    save_counts: Option<PathBuf>,
    word_share: Option<f64>,
}

impl Request {
    fn pattern(&self) -> Result<Pattern, Fault> {
        Ok(match &self.extend {
            // Asked before the text is counted.
            Some(extended) => {
                extended.get().0.check_extendable()?;
                extended.get().0.pattern().clone()
            }
            None => Pattern::from_name(&self.pattern)?,
        })
    }

    /// The pattern of words, and for SuperBPE that of lines.
    fn patterns(&self) -> Result<Vec<Pattern>, Fault> {
        let words = self.pattern()?;
        let lines = self.word_share.map(|_| words.across_spaces()).transpose()?;
        Ok(std::iter::once(words).chain(lines).collect())
    }

    fn budget(&self) -> Result<Option<MemoryBudget>, Fault> {
        let budget = self.max_memory.map(|bytes| MemoryBudget::new(bytes, self.spill_folder.clone()));
        Ok(budget.transpose()?)
    }

    /// Counts of nothing, one for each pattern.
    fn no_counts(&self) -> Result<Vec<train::WordCounts>, Fault> {
        let (patterns, budget) = (self.patterns()?, self.budget()?);
        let shares = patterns.len();
        let counts = patterns.into_iter().map(|pattern| {
            let counts = match &budget {
                Some(budget) => train::WordCounts::within(budget, shares, pattern),
                None => train::WordCounts::new(pattern),
            };
            counts.normalized_as(self.extend.as_ref().map(|extended| &extended.get().0))
        });
        Ok(counts.collect())
    }

    fn count(
        &self,
        paths: &[PathBuf],
        text_field: String,
        progress: &Progress,
    ) -> Result<Vec<train::WordCounts>, Fault> {
        if paths.is_empty() {
            return self.no_counts();
        }
        let source = SourceOptions { text_field, ..SourceOptions::default() };
        let options = CountOptions {
            patterns: self.patterns()?,
            extended: self.extend.as_ref().map(|extended| extended.get().0.clone()),
            budget: self.budget()?,
            weights: self.weights.clone(),
            max_bytes: (self.max_bytes > 0).then_some(self.max_bytes),
            threads: self.threads.unwrap_or(0),
        };
        Ok(penstock_data::count_corpus(paths, &source, &options, progress)?)
    }

    /// Adds the counts of files, saves the sum if that is wanted, and trains on it.
    fn train(self, counts: Vec<train::WordCounts>, progress: &Progress) -> Result<Trained, Fault> {
        let mut counts = counts.into_iter();
        let mut words = counts.next().ok_or_else(taken)?;
        let pattern = self.pattern()?;
        for path in &self.counts {
            words.merge_saved(path, progress)?;
        }
        if let Some(path) = &self.save_counts {
            words.save(path, progress)?;
        }
        let options = TrainOptions {
            vocab_size: self.vocab_size,
            pattern,
            special_tokens: self.special_tokens,
            min_frequency: self.min_frequency,
            max_token_bytes: self.max_token_bytes,
            threads: self.threads.unwrap_or(0),
            base: self.extend.map(|extended| extended.get().0.clone()),
            ..TrainOptions::default()
        };
        Ok(match (self.word_share, counts.next()) {
            (Some(share), Some(lines)) => train::train_super(words, lines, share, &options, progress)?,
            _ => train::train_with_report(words, &options, progress)?,
        })
    }
}

/// Counts of pieces, fed with texts from Python.
#[pyclass(module = "penstock._core")]
pub(crate) struct WordCounts {
    counts: Option<Vec<train::WordCounts>>,
    left_bytes: Option<usize>,
}

#[pymethods]
impl WordCounts {
    #[new]
    fn new(py: Python<'_>, request: Request) -> PyResult<Self> {
        guarded(py, || {
            let left_bytes = (request.max_bytes > 0).then_some(request.max_bytes as usize);
            Ok::<_, Fault>(Self { counts: Some(request.no_counts()?), left_bytes })
        })
    }

    fn add(&mut self, py: Python<'_>, texts: Vec<String>) -> PyResult<bool> {
        guarded(py, || {
            let counts = self.counts.as_mut().ok_or_else(taken)?;
            for text in &texts {
                if self.left_bytes == Some(0) {
                    return Ok::<_, Fault>(false);
                }
                counts
                    .iter_mut()
                    .try_for_each(|counts| counts.add_weighted_text(text, 1, &Progress::new()))?;
                self.left_bytes = self.left_bytes.map(|left| left.saturating_sub(text.len()));
            }
            Ok(self.left_bytes != Some(0))
        })
    }
}

fn taken() -> Fault {
    Fault::internal("these counts were used by an earlier training")
}

/// Starts to train on files; the result is the tokenizer, and the report as JSON.
#[pyfunction]
pub(crate) fn train_on_files(paths: Vec<PathBuf>, text_field: String, request: Request) -> PyResult<Job> {
    Job::start(
        move |progress: &Progress| {
            let counts = request.count(&paths, text_field, progress)?;
            request.train(counts, progress)
        },
        hand,
    )
}

/// Starts to train on counts, which it takes out of `counts`.
#[pyfunction]
pub(crate) fn train_on_counts(
    py: Python<'_>,
    mut counts: PyRefMut<'_, WordCounts>,
    request: Request,
) -> PyResult<Job> {
    let counts = counts.counts.take().ok_or_else(|| taken().into_exception(py))?;
    Job::start(move |progress: &Progress| request.train(counts, progress), hand)
}

fn hand(py: Python<'_>, trained: Trained) -> PyResult<Bound<'_, PyAny>> {
    Ok((Tokenizer(trained.tokenizer), report_json(&trained.report)).into_pyobject(py)?.into_any())
}

fn report_json(report: &Report) -> String {
    let counted = &report.counted;
    let sampling = counted.sampling.map(|sampling| {
        json!({
            "counts_below": sampling.counts_below,
            "kept_pieces": sampling.kept_pieces,
            "kept_bytes": sampling.kept_bytes,
            "standard_error": sampling.standard_error(report.last_count),
        })
    });
    json!({
        "pieces": counted.pieces,
        "distinct_pieces": counted.distinct_pieces,
        "distinct_bytes": counted.distinct_bytes,
        "spilled_bytes": counted.spilled_bytes,
        "sampling": sampling,
        "merges": report.merges,
        "last_count": report.last_count,
    })
    .to_string()
}
