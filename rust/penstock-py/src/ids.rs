//! Ids from Python, and back as lists.

use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

use numpy::PyReadonlyArray1;
use penstock_bpe::with_huge_pages;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyBool, PyInt, PyList};

use crate::error::Fault;

/// Ids as `penstock.decoding.as_ids` hands them over.
pub(crate) enum Ids<'py> {
    Array(PyReadonlyArray1<'py, u32>),
    List(Vec<u32>),
}

impl<'py> FromPyObject<'_, 'py> for Ids<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.cast::<PyList>() {
            Ok(list) => {
                let mut ids = with_huge_pages(list.len());
                read(&list, 0..list.len(), &mut ids)?;
                Ok(Self::List(ids))
            }
            Err(_) => Ok(Self::Array(object.extract()?)),
        }
    }
}

impl Ids<'_> {
    pub(crate) fn as_slice(&self) -> PyResult<&[u32]> {
        match self {
            Self::Array(array) => Ok(array.as_slice()?),
            Self::List(ids) => Ok(ids),
        }
    }
}

/// Items of a list that are asked for before the first of them is looked at.
const BLOCK_ITEMS: usize = 256;

/// Puts the ids in this part of `list` into `ids`. Reading the numbers from memory is most of the time.
#[allow(unsafe_code)]
pub(crate) fn read(list: &Bound<'_, PyList>, part: Range<usize>, ids: &mut Vec<u32>) -> PyResult<()> {
    ids.clear();
    let mut items = [ptr::null_mut(); BLOCK_ITEMS];
    with_critical_section(list, || {
        while ids.len() < part.len() {
            let start = part.start + ids.len();
            // Nothing beyond the end is asked for, as the exception that makes is an object, and a garbage collection.
            let end = part.end.min(list.len());
            if start >= end {
                ids.push(read_one(list, start)?);
                continue;
            }
            let items = &mut items[..BLOCK_ITEMS.min(end - start)];
            for (index, item) in (start..).zip(&mut *items) {
                // SAFETY: `list` is a list, whose items are asked for by place, out of range giving null.
                *item = unsafe { ffi::PyList_GetItem(list.as_ptr(), index as ffi::Py_ssize_t) };
                prefetch(*item);
            }
            for &item in &*items {
                // SAFETY: a borrowed item lives as long as nothing changes the list, and nothing runs from where it was
                // asked for: no other thread, by the lock of the interpreter or the list, and no code of Python, since
                // every item before was exactly an `int`.
                let id = unsafe {
                    if !item.is_null() && ffi::Py_TYPE(item) == &raw mut ffi::PyLong_Type {
                        ffi::PyLong_AsUnsignedLongLong(item)
                    } else {
                        u64::MAX
                    }
                };
                let Ok(id) = u32::try_from(id) else {
                    ids.push(read_one(list, part.start + ids.len())?);
                    // That may have run anything, so the others are asked for again.
                    break;
                };
                ids.push(id);
            }
        }
        Ok(())
    })
}

/// Asks for an object to be brought near. Changes nothing but time.
#[inline]
#[allow(unsafe_code)]
fn prefetch(object: *const ffi::PyObject) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(object.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = object;
}

/// The id at `index`, which is no small `int`, but perhaps something that stands for one, as numpy's numbers do.
#[cold]
fn read_one(list: &Bound<'_, PyList>, index: usize) -> PyResult<u32> {
    let py = list.py();
    // Of the first look.
    drop(PyErr::take(py));
    let item = list.get_item(index)?;
    let id = if item.is_instance_of::<PyBool>() { None } else { item.extract().ok() };
    id.ok_or_else(|| {
        let shown = item.repr().map_or_else(|_| item.get_type().to_string(), |shown| shown.to_string());
        let expected = "ids are whole numbers from 0 to 2**32 - 1; decode_batch takes several lists of them";
        Fault::tokenizer(format!("token {index}: {shown:.40} is no id: {expected}")).into_exception(py)
    })
}

/// Ids from here on are numbers of their own.
const MAX_SHARED: usize = 1 << 18;

/// The numbers of ids met so far. To share them costs a third of making them, eight bytes an id instead of forty,
/// and their lists are gone in a quarter of the time.
static SHARED: Mutex<Vec<Option<Py<PyInt>>>> = Mutex::new(Vec::new());

/// Makes lists of ids; without the shared numbers where some are too large, or where they are in use.
struct Lists(Option<MutexGuard<'static, Vec<Option<Py<PyInt>>>>>);

impl Lists {
    /// For all of `ids` or parts of them.
    fn of(ids: &[u32]) -> Self {
        let count = ids.iter().max().map_or(0, |&id| id as usize + 1);
        // A garbage collection within `PyList::new` may run code that comes here again.
        let mut shared = SHARED.try_lock().ok().filter(|_| count <= MAX_SHARED);
        if let Some(shared) = &mut shared
            && shared.len() < count
        {
            shared.resize_with(count.next_power_of_two(), || None);
        }
        Self(shared)
    }

    fn list<'py>(&mut self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        let Some(shared) = &mut self.0 else { return PyList::new(py, ids) };
        PyList::new(
            py,
            ids.iter()
                // Another thread may have changed the ids meanwhile.
                .map(|&id| match shared.get_mut(id as usize) {
                    Some(number) => number.get_or_insert_with(|| PyInt::new(py, id).unbind()).clone_ref(py),
                    None => PyInt::new(py, id).unbind(),
                }),
        )
    }
}

/// The ids of an array as a list of `int`.
#[pyfunction]
pub(crate) fn to_list<'py>(py: Python<'py>, ids: PyReadonlyArray1<'_, u32>) -> PyResult<Bound<'py, PyList>> {
    list(py, ids.as_slice()?)
}

/// Ids as a list of `int`.
pub(crate) fn list<'py>(py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
    Lists::of(ids).list(py, ids)
}

/// A list of `int` for each two neighbours of `offsets`, between which its ids lie.
#[pyfunction]
pub(crate) fn to_lists<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray1<'_, u32>,
    offsets: PyReadonlyArray1<'_, i64>,
) -> PyResult<Bound<'py, PyList>> {
    let (ids, offsets) = (ids.as_slice()?, offsets.as_slice()?);
    let _uncollected = Uncollected::new(py);
    let mut lists = Lists::of(ids);
    let list = |ends: &[i64]| {
        let range = usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok());
        let part = range.and_then(|(start, end)| ids.get(start..end)).ok_or_else(|| {
            let wrong = format!("offsets {} and {} do not lie in {} ids", ends[0], ends[1], ids.len());
            Fault::tokenizer(wrong).into_exception(py)
        });
        lists.list(py, part?)
    };
    PyList::new(py, offsets.windows(2).map(list).collect::<PyResult<Vec<_>>>()?)
}

/// No garbage is collected while this lives and the GIL is held. Every 700 lists CPython would look at all of their items,
/// a quarter of the time that encoding and listing take, and find nothing that nobody needs.
struct Uncollected(bool);

#[allow(unsafe_code)]
impl Uncollected {
    fn new(_: Python<'_>) -> Self {
        // SAFETY: the GIL is held.
        Self(unsafe { ffi::PyGC_Disable() } != 0)
    }
}

#[allow(unsafe_code)]
impl Drop for Uncollected {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: the GIL is held, as it was when this was made.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}
