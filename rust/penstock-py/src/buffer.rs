//! A batch as numpy arrays over its own memory, which is used again once numpy lets go of it.

use std::sync::{Arc, Mutex, PoisonError};

use numpy::ndarray::{ArrayView1, ArrayView2};
use numpy::{PyArray1, PyArray2};
use penstock_data::{Batch, Dataset};
use pyo3::prelude::*;

use crate::error::Fault;

/// Step, tokens, positions, document ends, offsets of the ends.
pub(crate) type Arrays<'py> = (
    u64,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<usize>>,
);

/// Batches that numpy has let go of, on their way back to the stream.
pub(crate) type Returned = Arc<Mutex<Vec<Batch>>>;

/// The owner of a batch's memory: the base object of its arrays.
#[pyclass(frozen)]
struct BatchMemory {
    batch: Mutex<Batch>,
    returned: Returned,
}

impl Drop for BatchMemory {
    fn drop(&mut self) {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }
}

/// Hand `batch` to numpy without a copy.
#[allow(unsafe_code)]
pub(crate) fn into_arrays<'py>(
    py: Python<'py>,
    batch: Batch,
    dataset: &Dataset,
    returned: Returned,
) -> PyResult<Arrays<'py>> {
    let step = batch.step;
    let (rows, seq_len) = (batch.rows, dataset.seq_len());
    let width = seq_len + dataset.lookahead();
    // The buffers of the vectors stay where they are when the batch moves into its owner.
    let parts = (
        slice_of(&batch.tokens),
        slice_of(&batch.positions),
        slice_of(&batch.doc_ends),
        slice_of(&batch.offsets),
    );
    let owner = Bound::new(py, BatchMemory { batch: Mutex::new(batch), returned })?.into_any();
    // SAFETY: each view is over a whole vector of the batch that `owner` holds. The owner is frozen and hands
    // the vectors out to nobody, so they neither move nor shrink until it is dropped, and every array below
    // keeps it alive as its base object. The shapes are checked against the lengths by `from_shape`.
    unsafe {
        let tokens =
            ArrayView2::from_shape((rows, width), parts.0.get()).map_err(|_| bad_shape(py, "tokens"))?;
        let positions =
            ArrayView2::from_shape((rows, seq_len), parts.1.get()).map_err(|_| bad_shape(py, "positions"))?;
        Ok((
            step,
            PyArray2::borrow_from_array(&tokens, owner.clone()),
            PyArray2::borrow_from_array(&positions, owner.clone()),
            PyArray1::borrow_from_array(&ArrayView1::from(parts.2.get()), owner.clone()),
            PyArray1::borrow_from_array(&ArrayView1::from(parts.3.get()), owner),
        ))
    }
}

fn bad_shape(py: Python<'_>, what: &str) -> PyErr {
    Fault::internal(&format!("a batch whose {what} have another size than its rows")).into_exception(py)
}

/// A slice whose lifetime its user answers for.
struct Detached<T>(*const T, usize);

fn slice_of<T>(values: &[T]) -> Detached<T> {
    Detached(values.as_ptr(), values.len())
}

impl<T> Detached<T> {
    /// # Safety
    ///
    /// The slice it was made of must be alive and unchanged for `'a`.
    #[allow(unsafe_code)]
    unsafe fn get<'a>(&self) -> &'a [T] {
        // SAFETY: pointer and length come from a slice, which the caller keeps alive.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }
}
