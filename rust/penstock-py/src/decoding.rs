//! Ids to Python's `bytes` and `str`.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::{ptr, slice};

use penstock_bpe::{Error, Tokenizer, ask_for_huge_pages};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::boundary::guarded;
use crate::error::Fault;
use crate::ids::{Ids, read};
use crate::long_text::{LONG_BYTES, Shape, long_text};

/// Ids of a list that are read, with the GIL, before they are decoded without it: a megabyte of memory instead of one that
/// is as large as the text.
const PART_IDS: usize = 1 << 18;

#[allow(unsafe_code)]
pub(crate) fn to_bytes<'py>(
    py: Python<'py>,
    tokenizer: &Tokenizer,
    ids: &[u32],
) -> PyResult<Bound<'py, PyBytes>> {
    let len = guarded(py, || tokenizer.decoded_len(ids))?;
    // SAFETY: without bytes to copy this gives a `bytes` of `len` bytes that are still to be written, which nobody else
    // sees yet, or null and an exception. All of them are written below.
    let (bytes, memory) = unsafe {
        let bytes = ffi::PyBytes_FromStringAndSize(ptr::null(), len as ffi::Py_ssize_t);
        let bytes = Bound::from_owned_ptr_or_err(py, bytes)?.cast_into_unchecked::<PyBytes>();
        let start = ffi::PyBytes_AsString(bytes.as_ptr()).cast::<MaybeUninit<u8>>();
        (bytes, slice::from_raw_parts_mut(start, len))
    };
    ask_for_huge_pages(memory.as_ptr(), len);
    guarded(py, || {
        let end = tokenizer.decode_into(ids, memory)?;
        // Only where another thread changed the ids meanwhile.
        memory[end..].fill(MaybeUninit::new(0));
        Ok::<_, Fault>(())
    })?;
    Ok(bytes)
}

/// The text of `ids`; `errors` as in `bytes.decode`.
pub(crate) fn to_str<'py>(
    tokenizer: &Tokenizer,
    ids: &Bound<'py, PyAny>,
    errors: &str,
) -> PyResult<Bound<'py, PyString>> {
    let py = ids.py();
    let mut decoded = Decoded::default();
    if let Ok(list) = ids.cast::<PyList>() {
        let len = list.len();
        let mut part = Vec::with_capacity(len.min(PART_IDS));
        for start in (0..len).step_by(PART_IDS) {
            read(list, start..len.min(start + PART_IDS), &mut part)?;
            guarded(py, || decoded.add(tokenizer, &part, len))?;
        }
    } else {
        let ids: Ids<'_> = ids.extract()?;
        let ids = ids.as_slice()?;
        guarded(py, || decoded.add(tokenizer, ids, ids.len()))?;
    }
    let Decoded { bytes, shape, .. } = decoded;
    if bytes.len() >= LONG_BYTES
        && let Some(text) = long_text(py, &bytes, &shape)?
    {
        return Ok(text);
    }
    text_of(py, &bytes, &CString::new(errors)?)
}

/// The bytes of the first ids.
#[derive(Default)]
struct Decoded {
    ids: usize,
    bytes: Vec<u8>,
    shape: Shape,
}

impl Decoded {
    /// Takes more of `count` ids.
    fn add(&mut self, tokenizer: &Tokenizer, ids: &[u32], count: usize) -> penstock_bpe::Result<()> {
        if self.ids == 0 {
            self.bytes = tokenizer.room_for(ids, count)?;
        }
        let done = self.ids;
        self.ids += ids.len();
        tokenizer.decode_onto(ids, &mut self.bytes, |new| self.shape.add(new)).map_err(|error| match error {
            Error::UnknownId { id, index, vocab_size } => {
                Error::UnknownId { id, index: done + index, vocab_size }
            }
            other => other,
        })
    }
}

/// `bytes.decode("utf-8", errors)`
#[allow(unsafe_code)]
pub(crate) fn text_of<'py>(py: Python<'py>, bytes: &[u8], errors: &CStr) -> PyResult<Bound<'py, PyString>> {
    let (start, len) = (bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
    // SAFETY: start and length are those of a slice, and `errors` ends with a null. What comes is a `str` that is ours, or
    // null and an exception.
    unsafe {
        let text = ffi::PyUnicode_DecodeUTF8(start, len, errors.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}
