//! The tokenizer and its trainer.

use std::path::{Path, PathBuf};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use penstock_bpe::progress::Progress;
use penstock_bpe::train::{self, TrainOptions};
use penstock_bpe::{Allowed, Pattern};
use penstock_data::SourceOptions;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyBytes;

use crate::boundary::guarded;
use crate::error::Fault;
use crate::job::Job;

/// A tokenizer; immutable and shared between threads.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct Tokenizer(pub(crate) penstock_bpe::Tokenizer);

fn allowed_special(names: Option<Vec<String>>) -> Allowed {
    match names {
        None => Allowed::All,
        Some(names) if names.is_empty() => Allowed::None,
        Some(names) => Allowed::Set(names.into_iter().collect()),
    }
}

pub(crate) fn thread_count(threads: Option<usize>) -> usize {
    threads.filter(|&n| n > 0).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn from_file(py: Python<'_>, path: PathBuf, pattern: Option<&str>) -> PyResult<Self> {
        guarded(py, || penstock_bpe::Tokenizer::from_file(&path, pattern)).map(Self)
    }

    #[staticmethod]
    fn from_json(py: Python<'_>, text: &str) -> PyResult<Self> {
        guarded(py, || penstock_bpe::Tokenizer::from_json(text.as_bytes(), Path::new("<text>"))).map(Self)
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        guarded(py, || self.0.save(&path))
    }

    fn to_json(&self, py: Python<'_>) -> PyResult<String> {
        guarded::<_, Fault>(py, || Ok(self.0.to_json()))
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<Vec<String>>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let allowed = allowed_special(allowed);
        let ids = guarded::<_, Fault>(py, || Ok(self.0.encode(text, &allowed)))?;
        Ok(ids.into_pyarray(py))
    }

    #[allow(clippy::type_complexity)]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        allowed: Option<Vec<String>>,
        threads: Option<usize>,
    ) -> PyResult<(Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<i64>>)> {
        let allowed = allowed_special(allowed);
        let (ids, offsets) = guarded::<_, Fault>(py, || {
            let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
            Ok(self.0.encode_batch(&texts, &allowed, thread_count(threads)))
        })?;
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }

    fn count_tokens(&self, py: Python<'_>, text: &str) -> PyResult<usize> {
        guarded::<_, Fault>(py, || Ok(self.0.count_tokens(text)))
    }

    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let ids = ids.as_slice()?;
        let bytes = guarded(py, || self.0.decode_bytes(ids))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder(Some(self.0.stream_decoder()))
    }

    fn token_to_id(&self, token: &[u8]) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn id_to_bytes<'py>(&self, py: Python<'py>, token_id: u32) -> Option<Bound<'py, PyBytes>> {
        self.0.id_to_bytes(token_id).map(|bytes| PyBytes::new(py, bytes))
    }

    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.0.special_tokens().iter().filter(|t| t.special).map(|t| (t.content.clone(), t.id)).collect()
    }

    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let bytes = |id: u32| PyBytes::new(py, self.0.id_to_bytes(id).unwrap_or_default());
        self.0.merges().iter().map(|merge| (bytes(merge.left), bytes(merge.right))).collect()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    #[getter]
    fn eot_id(&self) -> Option<u32> {
        self.0.eot_id()
    }

    #[getter]
    fn pattern(&self) -> &str {
        self.0.pattern_name()
    }

    #[getter]
    fn sha256(&self) -> &str {
        self.0.sha256()
    }
}

/// Decodes id by id; holds back the bytes of an incomplete character.
#[pyclass(module = "penstock._core")]
pub(crate) struct StreamDecoder(Option<penstock_bpe::StreamDecoder>);

#[pymethods]
impl StreamDecoder {
    fn push(&mut self, py: Python<'_>, token_id: u32) -> PyResult<String> {
        guarded(py, || match &mut self.0 {
            Some(decoder) => decoder.push(token_id).map_err(Fault::from),
            None => Err(Fault::config(
                "push() after finish(): ask the tokenizer for a new stream_decoder()".into(),
            )),
        })
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<String> {
        guarded::<_, Fault>(py, || {
            Ok(self.0.take().map_or_else(String::new, penstock_bpe::StreamDecoder::finish))
        })
    }
}

/// Counts of pieces, fed with texts from Python.
#[pyclass(module = "penstock._core")]
pub(crate) struct WordCounts {
    counts: Option<train::WordCounts>,
    left_bytes: Option<usize>,
}

#[pymethods]
impl WordCounts {
    #[new]
    fn new(py: Python<'_>, pattern: &str, max_bytes: usize) -> PyResult<Self> {
        let pattern = guarded(py, || Pattern::from_name(pattern))?;
        let left_bytes = (max_bytes > 0).then_some(max_bytes);
        Ok(Self { counts: Some(train::WordCounts::new(pattern)), left_bytes })
    }

    fn add(&mut self, py: Python<'_>, texts: Vec<String>) -> PyResult<bool> {
        guarded(py, || {
            let counts = self.counts.as_mut().ok_or_else(taken)?;
            for text in &texts {
                if self.left_bytes == Some(0) {
                    return Ok::<_, Fault>(false);
                }
                counts.add_text(text);
                self.left_bytes = self.left_bytes.map(|left| left.saturating_sub(text.len()));
            }
            Ok(self.left_bytes != Some(0))
        })
    }
}

fn taken() -> Fault {
    Fault::internal("these counts were used by an earlier training")
}

/// Training under way.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct TrainTokenizerJob(Job<penstock_bpe::Tokenizer>);

#[pymethods]
impl TrainTokenizerJob {
    #[staticmethod]
    #[allow(clippy::too_many_arguments)]
    fn from_files(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        text_field: String,
        max_bytes: u64,
        vocab_size: usize,
        pattern: &str,
        special_tokens: Vec<String>,
        min_frequency: u64,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let options = options(py, vocab_size, pattern, special_tokens, min_frequency, threads)?;
        let source = SourceOptions { text_field, ..SourceOptions::default() };
        let max_bytes = (max_bytes > 0).then_some(max_bytes);
        Job::start(move |progress: &Progress| {
            let pattern = options.pattern.clone();
            let counts =
                penstock_data::count_corpus(&paths, pattern, &source, options.threads, max_bytes, progress)?;
            Ok::<_, Fault>(train::train(counts, &options, progress)?)
        })
        .map(Self)
    }

    #[staticmethod]
    fn from_counts(
        py: Python<'_>,
        mut counts: PyRefMut<'_, WordCounts>,
        vocab_size: usize,
        pattern: &str,
        special_tokens: Vec<String>,
        min_frequency: u64,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let options = options(py, vocab_size, pattern, special_tokens, min_frequency, threads)?;
        let counts = counts.counts.take().ok_or_else(|| taken().into_exception(py))?;
        Job::start(move |progress: &Progress| train::train(counts, &options, progress)).map(Self)
    }

    fn progress(&self) -> (String, u64, u64) {
        self.0.progress()
    }

    fn cancel(&self) {
        self.0.cancel();
    }

    fn wait(&self, py: Python<'_>, timeout_seconds: f64) -> bool {
        self.0.wait(py, timeout_seconds)
    }

    fn result(&self, py: Python<'_>) -> PyResult<Tokenizer> {
        self.0.result(py).map(Tokenizer)
    }
}

fn options(
    py: Python<'_>,
    vocab_size: usize,
    pattern: &str,
    special_tokens: Vec<String>,
    min_frequency: u64,
    threads: Option<usize>,
) -> PyResult<TrainOptions> {
    let pattern = guarded(py, || Pattern::from_name(pattern))?;
    let threads = thread_count(threads);
    Ok(TrainOptions {
        vocab_size,
        pattern,
        special_tokens,
        min_frequency,
        threads,
        ..TrainOptions::default()
    })
}
