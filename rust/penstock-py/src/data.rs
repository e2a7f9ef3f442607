//! Packing, datasets and streams.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use numpy::{IntoPyArray, PyArray1};
use penstock_bpe::Chance;
use penstock_bpe::progress::Progress;
use penstock_data::{BodyCompression, OnBadLine, PackMode, PackOptions, SourceOptions, State, StreamOptions};
use pyo3::prelude::*;

use crate::boundary::guarded;
use crate::buffer::{Arrays, Returned, into_arrays};
use crate::error::Fault;
use crate::job::Job;
use crate::tokenizer::Tokenizer;

/// Starts to pack; the result is the report as JSON.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn pack(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    out: PathBuf,
    seq_len: usize,
    mtp_depth: usize,
    mode: &str,
    seed: u64,
    boundary_split: f64,
    compression: &str,
    shard_bytes: u64,
    threads: Option<usize>,
    text_field: String,
    on_bad_line: &str,
    max_line_bytes: u64,
) -> PyResult<Job> {
    let modes = [PackMode::BestFit, PackMode::Concatenate];
    let bodies = [BodyCompression::None, BodyCompression::Lz4, BodyCompression::Zstd];
    let lines = [OnBadLine::Fail, OnBadLine::Skip];
    let options = PackOptions {
        seq_len,
        mtp_depth,
        seed,
        boundary_split: guarded(py, || Chance::new("boundary_split", boundary_split))?,
        mode: named(py, "mode", mode, &modes, PackMode::name)?,
        compression: named(py, "compression", compression, &bodies, BodyCompression::name)?,
        shard_bytes,
        threads: threads.unwrap_or(0),
        source: SourceOptions {
            text_field,
            max_line_bytes,
            on_bad_line: named(py, "on_bad_line", on_bad_line, &lines, OnBadLine::name)?,
            ..SourceOptions::default()
        },
        ..PackOptions::default()
    };
    let tokenizer = tokenizer.0.clone();
    Job::start(
        move |progress: &Progress| {
            let report = penstock_data::pack(&paths, &tokenizer, &out, &options, progress)?;
            to_json(&report)
        },
        |py, report| Ok(report.into_pyobject(py)?.into_any()),
    )
}

/// The choice that goes by `given`.
fn named<T: Copy>(
    py: Python<'_>,
    option: &str,
    given: &str,
    choices: &[T],
    name: impl Fn(T) -> &'static str,
) -> PyResult<T> {
    choices.iter().copied().find(|&choice| name(choice) == given).ok_or_else(|| {
        let known: Vec<_> = choices.iter().map(|&choice| name(choice)).collect();
        Fault::config(format!("{option} = {given:?}, expected one of {}", known.join(", ")))
            .into_exception(py)
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal(&error.to_string()))
}

/// A packed dataset, opened.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct Dataset(penstock_data::Dataset);

/// Tokens, document ends, document ids.
type RowArrays<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u64>>);

#[pymethods]
impl Dataset {
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guarded(py, || penstock_data::Dataset::open(&path)).map(Self)
    }

    fn manifest(&self, py: Python<'_>) -> PyResult<String> {
        guarded(py, || to_json(self.0.manifest()))
    }

    fn row<'py>(&self, py: Python<'py>, index: u64) -> PyResult<RowArrays<'py>> {
        let row = guarded(py, || self.0.row(index))?;
        Ok((
            row.tokens().to_vec().into_pyarray(py),
            row.doc_ends().to_vec().into_pyarray(py),
            row.doc_ids().to_vec().into_pyarray(py),
        ))
    }

    fn documents(&self, py: Python<'_>, doc_ids: Vec<u64>) -> PyResult<String> {
        guarded(py, || to_json(&self.0.documents(&doc_ids)?))
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        guarded(py, || self.0.verify(&Progress::new()))
    }

    fn sample_row(&self, seed: u64, epoch: u64, k: u64) -> u64 {
        penstock_data::order::sample_row(self.0.rows(), seed, epoch, k)
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.0.rows()
    }

    #[getter]
    fn seq_len(&self) -> usize {
        self.0.seq_len()
    }

    #[getter]
    fn lookahead(&self) -> usize {
        self.0.lookahead()
    }
}

/// Batches, read ahead by a thread.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct Stream {
    stream: Mutex<penstock_data::Stream>,
    returned: Returned,
}

#[pymethods]
impl Stream {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        dataset: &Dataset,
        global_batch_size: usize,
        seed: u64,
        rank: usize,
        world_size: usize,
        prefetch_batches: usize,
        state: Option<&str>,
    ) -> PyResult<Self> {
        let options = StreamOptions { global_batch_size, rank, world_size, seed, prefetch_batches };
        let stream = guarded(py, || {
            let start = state.map(State::from_json).transpose()?;
            penstock_data::Stream::new(dataset.0.clone(), options, start.as_ref())
        })?;
        Ok(Self { stream: Mutex::new(stream), returned: Arc::default() })
    }

    fn next<'py>(&self, py: Python<'py>, timeout_seconds: f64) -> PyResult<Option<Arrays<'py>>> {
        let timeout = Duration::try_from_secs_f64(timeout_seconds).unwrap_or(Duration::ZERO);
        let (batch, dataset) = guarded(py, || {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            for batch in self.returned.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                stream.recycle(batch);
            }
            let batch = stream.next_timeout(timeout)?;
            Ok::<_, Fault>((batch, stream.dataset().clone()))
        })?;
        batch.map(|batch| into_arrays(py, batch, &dataset, Arc::clone(&self.returned))).transpose()
    }

    fn state(&self, py: Python<'_>) -> PyResult<String> {
        guarded::<_, Fault>(py, || {
            Ok(self.stream.lock().unwrap_or_else(PoisonError::into_inner).state().to_json())
        })
    }
}
