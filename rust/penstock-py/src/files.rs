//! Files of documents, encoded into memory.

use std::path::PathBuf;

use numpy::IntoPyArray;
use penstock_bpe::progress::Progress;
use penstock_data::{EncodeOptions, EncodedFiles, SourceOptions};
use pyo3::prelude::*;

use crate::boundary::guarded;
use crate::job::Job;
use crate::tokenizer::{Tokenizer, variation};

/// Starts to encode; the result is that of a batch.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn encode_files(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    text_field: String,
    max_line_bytes: u64,
    end_of_text: bool,
    boundary_split: f64,
    dropout: f64,
    seed: u64,
    threads: Option<usize>,
) -> PyResult<Job> {
    let options = EncodeOptions {
        source: SourceOptions { text_field, max_line_bytes, ..SourceOptions::default() },
        variation: guarded(py, || variation(boundary_split, dropout, seed))?,
        end_of_text,
        threads: threads.unwrap_or(0),
    };
    let tokenizer = tokenizer.0.clone();
    Job::start(
        move |progress: &Progress| penstock_data::encode_files(&paths, &tokenizer, &options, progress),
        |py, EncodedFiles { ids, offsets }| {
            Ok((ids.into_pyarray(py), offsets.into_pyarray(py)).into_pyobject(py)?.into_any())
        },
    )
}
