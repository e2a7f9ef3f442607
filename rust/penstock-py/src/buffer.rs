//! A batch as numpy arrays over its own memory, which goes back to the stream when numpy lets go of it.

use std::sync::Arc;

use numpy::ndarray::{ArrayView1, ArrayView2};
use numpy::{PyArray1, PyArray2};
use penstock_data::stream::{Batch, Stream};
use pyo3::prelude::*;

/// Step, tokens, positions, document ends, offsets of the ends.
pub(crate) type Arrays<'py> = (
    u64,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<i64>>,
);

/// The owner of a batch's memory, as numpy sees it: the base object of its arrays.
#[pyclass(frozen)]
pub(crate) struct BatchMemory {
    batch: Option<Batch>,
    stream: Arc<Stream>,
}

impl Drop for BatchMemory {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.stream.recycle(batch);
        }
    }
}
