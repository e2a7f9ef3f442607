//! Files of documents, encoded into memory.

use std::path::PathBuf;

use numpy::IntoPyArray;
use penstock_bpe::Chance;
use penstock_bpe::progress::Progress;
use penstock_data::{EncodeOptions, EncodedFiles, SourceOptions};
use pyo3::prelude::*;

use crate::boundary::guarded;
use crate::job::Job;
use crate::tokenizer::{IdsAndOffsets, Tokenizer, thread_count};

/// Encoding under way; its result is that of a batch.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct EncodeFilesJob(Job<EncodedFiles>);

#[pymethods]
impl EncodeFilesJob {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        tokenizer: &Tokenizer,
        text_field: String,
        max_line_bytes: u64,
        end_of_text: bool,
        boundary_split: f64,
        seed: u64,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let options = EncodeOptions {
            source: SourceOptions { text_field, max_line_bytes, ..SourceOptions::default() },
            boundary_split: guarded(py, || Chance::new("boundary_split", boundary_split))?,
            seed,
            end_of_text,
            threads: thread_count(threads),
        };
        let tokenizer = tokenizer.0.clone();
        Job::start(move |progress: &Progress| {
            penstock_data::encode_files(&paths, &tokenizer, &options, progress)
        })
        .map(Self)
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

    fn result<'py>(&self, py: Python<'py>) -> PyResult<IdsAndOffsets<'py>> {
        let EncodedFiles { ids, offsets } = self.0.result(py)?;
        Ok((ids.into_pyarray(py), offsets.into_pyarray(py)))
    }
}
