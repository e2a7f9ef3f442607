//! The characters of a `str`, read and written in slices.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

type New = unsafe extern "C" fn(ffi::Py_ssize_t, u32) -> *mut ffi::PyObject;
type CopyCharacters = unsafe extern "C" fn(
    *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
    ffi::Py_ssize_t,
    ffi::Py_ssize_t,
) -> ffi::Py_ssize_t;

/// Two functions that are not of the limited API, but that every CPython since 3.3 has had, unchanged. Where they are not
/// found, there is the long way.
#[derive(Clone, Copy)]
pub(crate) struct Unicode {
    new: New,
    copy: CopyCharacters,
}

#[allow(unsafe_code)]
impl Unicode {
    #[cfg(target_os = "linux")]
    pub(crate) fn get() -> Option<Self> {
        use std::mem::transmute;
        use std::sync::OnceLock;

        static FOUND: OnceLock<Option<Unicode>> = OnceLock::new();
        // SAFETY: the names end with a null, and the functions that have them have these types.
        *FOUND.get_or_init(|| unsafe {
            let new = libc::dlsym(libc::RTLD_DEFAULT, c"PyUnicode_New".as_ptr());
            let copy = libc::dlsym(libc::RTLD_DEFAULT, c"PyUnicode_CopyCharacters".as_ptr());
            if new.is_null() || copy.is_null() {
                return None;
            }
            Some(Self {
                new: transmute::<*mut libc::c_void, New>(new),
                copy: transmute::<*mut libc::c_void, CopyCharacters>(copy),
            })
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn get() -> Option<Self> {
        None
    }

    /// A text of `len` characters, none wider than `widest`, that are still to be written.
    pub(crate) fn reserve(self, py: Python<'_>, len: usize, widest: u32) -> PyResult<Bound<'_, PyString>> {
        // SAFETY: the function gives a `str` that is ours, or null and an exception.
        unsafe {
            let text = (self.new)(len as ffi::Py_ssize_t, widest);
            Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
        }
    }

    /// Writes the `len` characters of `from` behind the first `skipped`, or as many as there are, to those of `text` from
    /// `start` on; returns their number.
    pub(crate) fn copy(
        self,
        text: &Bound<'_, PyString>,
        start: usize,
        from: &Bound<'_, PyString>,
        skipped: usize,
        len: usize,
    ) -> PyResult<usize> {
        let [start, skipped, len] = [start, skipped, len].map(|number| number as ffi::Py_ssize_t);
        // SAFETY: both are `str`, and the function itself refuses to write to one that others hold, beyond its end, or
        // characters wider than its own, and to read beyond the end of the other.
        let copied = unsafe { (self.copy)(text.as_ptr(), start, from.as_ptr(), skipped, len) };
        usize::try_from(copied).map_err(|_| PyErr::fetch(text.py()))
    }
}

/// Characters of a slice.
pub(crate) const SLICE_CHARACTERS: usize = 1 << 10;

/// Slices of a long text, their characters as numbers.
pub(crate) struct Slices {
    unicode: Unicode,
    /// A copy of the slice: CPython gives numbers for a whole text only. Both stay in the nearest cache.
    copied: Py<PyString>,
    characters: Box<[u32; SLICE_CHARACTERS]>,
}

impl Slices {
    pub(crate) fn new(py: Python<'_>, unicode: Unicode) -> PyResult<Self> {
        let copied = unicode.reserve(py, SLICE_CHARACTERS, char::MAX.into())?.unbind();
        Ok(Self { unicode, copied, characters: Box::new([0; SLICE_CHARACTERS]) })
    }

    /// The characters of `text` from `start` on, as many as there are and have room; for the first slice, all that have room.
    #[allow(unsafe_code)]
    pub(crate) fn read(&mut self, text: &Bound<'_, PyString>, start: usize) -> PyResult<&[u32]> {
        let Self { unicode, copied, characters } = self;
        let len = unicode.copy(copied.bind(text.py()), 0, text, start, SLICE_CHARACTERS)?;
        let room = SLICE_CHARACTERS as ffi::Py_ssize_t;
        // SAFETY: both have room for so many, and all of the copy was written when the first slice was.
        let read = unsafe { ffi::PyUnicode_AsUCS4(copied.as_ptr(), characters.as_mut_ptr(), room, 0) };
        if read.is_null() { Err(PyErr::fetch(text.py())) } else { Ok(&characters[..len]) }
    }
}
