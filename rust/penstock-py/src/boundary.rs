//! Every export passes through [`guarded`], so that a panic becomes `penstock.InternalError`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;

use crate::error::Fault;

/// Run `work` without the GIL; an error becomes its exception and a panic an `InternalError`.
pub(crate) fn guarded<T, E>(py: Python<'_>, work: impl FnOnce() -> Result<T, E> + Send) -> PyResult<T>
where
    T: Send,
    E: Into<Fault> + Send,
{
    py.detach(|| caught(work)).map_err(|fault| fault.into_exception(py))
}

/// `work` with a panic turned into a [`Fault`].
pub(crate) fn caught<T, E: Into<Fault>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Into::into),
        Err(payload) => Err(Fault::internal(panic_message(payload.as_ref()))),
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Panics behind the boundary, so that a test can see what reaches Python.
#[pyfunction]
#[allow(clippy::panic)]
pub(crate) fn _panic_for_tests(py: Python<'_>) -> PyResult<()> {
    guarded::<(), Fault>(py, || panic!("asked for by a test"))
}
