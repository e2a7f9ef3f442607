//! Python's texts as UTF-8.

use std::sync::OnceLock;

use penstock_bpe::Intake;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;

use crate::error::Fault;
use crate::unicode::{SLICE_CHARACTERS, Slices, Unicode};

/// From this many characters on, a text may be read in parts.
const LONG_CHARACTERS: usize = 1 << 20;
/// Slices of a long text that are looked at before it is read.
const SAMPLES: usize = 16;
/// Characters that are looked at together: few enough to have many without a rare one among them.
const BLOCK_CHARACTERS: usize = 32;
/// Bytes that a character takes at most.
const MAX_BYTES: usize = 4;

/// A text whose UTF-8 is made when it is asked for.
pub(crate) enum Unread {
    /// As CPython makes it, which keeps it: a nanosecond a byte of Chinese, once.
    Whole { text: Py<PyString>, read: OnceLock<PyBackedStr> },
    /// One emoji gives all of a text four bytes a character, from which CPython makes UTF-8 one by one: two nanoseconds a
    /// character, and it keeps as much memory again. Read in slices, most of which have no such character, and encoded part
    /// by part, the same takes half a nanosecond and little memory, but again for each pass. Chinese gains nothing by it.
    InParts { text: Py<PyString>, unicode: Unicode },
}

impl Unread {
    pub(crate) fn new(text: Bound<'_, PyString>) -> PyResult<Self> {
        let unicode = Unicode::get().filter(|_| is_long(&text));
        if let Some(unicode) = unicode
            && is_better_in_parts(unicode, &text)?
        {
            return Ok(Self::InParts { text: text.unbind(), unicode });
        }
        Ok(Self::Whole { text: text.unbind(), read: OnceLock::new() })
    }

    /// Hands the text to `intake`.
    pub(crate) fn hand_over<'t>(
        &'t self,
        py: Python<'_>,
        intake: &mut (dyn Intake<'t, PyErr> + Send),
    ) -> PyResult<()> {
        match self {
            Self::Whole { text, read } => {
                if read.get().is_none() {
                    _ = read.set(PyBackedStr::try_from(text.bind(py).clone())?);
                }
                read.get().into_iter().for_each(|text| intake.text(text));
                Ok(())
            }
            Self::InParts { text, unicode } => {
                let mut parts = Parts { text, slices: Slices::new(py, *unicode)?, at: 0 };
                // Others need not wait while a part is encoded.
                py.detach(|| {
                    intake.parts(&mut |utf8, bytes| Python::attach(|py| parts.read(py, utf8, bytes)))
                })
            }
        }
    }
}

/// How many characters a text has, whatever its class says.
#[allow(unsafe_code)]
pub(crate) fn characters(text: &Bound<'_, PyString>) -> usize {
    // SAFETY: it is a `str`, so there is a length.
    let len = unsafe { ffi::PyUnicode_GetLength(text.as_ptr()) };
    usize::try_from(len).unwrap_or(0)
}

fn is_long(text: &Bound<'_, PyString>) -> bool {
    text.is_exact_instance_of::<PyString>() && characters(text) >= LONG_CHARACTERS
}

/// Whether a long text is nearly all ASCII, but not all.
fn is_better_in_parts(unicode: Unicode, text: &Bound<'_, PyString>) -> PyResult<bool> {
    if text.call_method0("isascii")?.extract()? {
        return Ok(false);
    }
    let (mut slices, len) = (Slices::new(text.py(), unicode)?, characters(text));
    let mut others = 0;
    for start in (0..len).step_by(len / SAMPLES) {
        let slice = slices.read(text, start)?;
        others += slice.iter().filter(|&&character| character >= 0x80).count();
    }
    Ok(others < SAMPLES * SLICE_CHARACTERS / 8)
}

/// A text that is read part by part.
struct Parts<'t> {
    text: &'t Py<PyString>,
    slices: Slices,
    /// The first character that has not been read.
    at: usize,
}

impl Parts<'_> {
    /// Appends about `bytes` of UTF-8, and says whether there may be more.
    fn read(&mut self, py: Python<'_>, utf8: &mut String, bytes: usize) -> PyResult<bool> {
        let mut room = [0; MAX_BYTES * SLICE_CHARACTERS];
        let (text, enough) = (self.text.bind(py), utf8.len() + bytes);
        while utf8.len() < enough {
            let slice = self.slices.read(text, self.at)?;
            let Some(made) = to_utf8(slice, &mut room) else { return Err(no_utf8(text)) };
            utf8.push_str(made);
            self.at += slice.len();
            if slice.len() < SLICE_CHARACTERS {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// CPython's own exception for a text that has no UTF-8, which says where.
fn no_utf8(text: &Bound<'_, PyString>) -> PyErr {
    let none =
        || Fault::internal("characters without UTF-8 in a text that has some").into_exception(text.py());
    text.to_str().err().unwrap_or_else(none)
}

/// The UTF-8 of `characters`, written to `bytes`; `None` if one of them has none.
fn to_utf8<'a>(characters: &[u32], bytes: &'a mut [u8; MAX_BYTES * SLICE_CHARACTERS]) -> Option<&'a str> {
    let (blocks, rest) = characters.as_chunks::<BLOCK_CHARACTERS>();
    let mut len = 0;
    for block in blocks {
        if block.iter().fold(0, |all, character| all | character) < 0x80 {
            bytes[len..len + BLOCK_CHARACTERS].copy_from_slice(&block.map(|character| character as u8));
            len += BLOCK_CHARACTERS;
        } else {
            len += one_by_one(block, &mut bytes[len..])?;
        }
    }
    len += one_by_one(rest, &mut bytes[len..])?;
    str::from_utf8(&bytes[..len]).ok()
}

fn one_by_one(characters: &[u32], bytes: &mut [u8]) -> Option<usize> {
    let encoded =
        |len: usize, &character| Some(len + char::from_u32(character)?.encode_utf8(&mut bytes[len..]).len());
    characters.iter().try_fold(0, encoded)
}
