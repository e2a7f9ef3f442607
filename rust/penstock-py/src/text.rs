//! Python's texts as UTF-8.

use std::ops::Deref;
use std::sync::OnceLock;

use penstock_bpe::with_huge_pages;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PySequence, PyString};

/// From this many characters on, a text is read in parts.
const LONG_CHARACTERS: usize = 1 << 20;
/// Characters of a part: few enough to have many without a rare character in them, enough to outweigh the call.
const PART_CHARACTERS: usize = 1 << 10;

/// The UTF-8 of a text.
pub(crate) enum Text {
    /// CPython's own, which it keeps: a nanosecond a byte of Chinese, once. To make it here from UCS-4 and throw it away was
    /// no faster cold, and a fifth slower for texts that come again.
    Kept(PyBackedStr),
    /// One emoji gives all of a text four bytes a character, from which CPython makes UTF-8 one by one: two nanoseconds a
    /// character, and it keeps as much memory again. A long text is read in parts, most of which have no such character.
    Made(String),
}

impl Text {
    pub(crate) fn of(text: Bound<'_, PyString>) -> PyResult<Self> {
        let len = characters(&text);
        if len < LONG_CHARACTERS || text.call_method0("isascii")?.extract()? {
            return PyBackedStr::try_from(text).map(Self::Kept);
        }
        let mut made = String::from_utf8(with_huge_pages(len + len / 8)).unwrap_or_default();
        let parts = text.cast::<PySequence>()?;
        for start in (0..len).step_by(PART_CHARACTERS) {
            let part = parts.get_slice(start, len.min(start + PART_CHARACTERS))?;
            match part.cast::<PyString>()?.to_str() {
                Ok(part) if made.len() <= start + start / 4 => made.push_str(part),
                // Chinese and its like gain nothing; and an error of the whole says where.
                _ => return PyBackedStr::try_from(text).map(Self::Kept),
            }
        }
        Ok(Self::Made(made))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Kept(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// How many characters a text has; 0 for one of a class that may say anything.
pub(crate) fn characters(text: &Bound<'_, PyString>) -> usize {
    if text.is_exact_instance_of::<PyString>() { text.len().unwrap_or(0) } else { 0 }
}

/// A text whose UTF-8 is made when it is asked for.
pub(crate) struct Unread {
    text: Py<PyString>,
    read: OnceLock<Text>,
}

impl Unread {
    pub(crate) fn new(text: Bound<'_, PyString>) -> Self {
        Self { text: text.unbind(), read: OnceLock::new() }
    }

    pub(crate) fn read(&self, py: Python<'_>) -> PyResult<&str> {
        if let Some(text) = self.read.get() {
            return Ok(text);
        }
        let text = Text::of(self.text.bind(py).clone())?;
        Ok(self.read.get_or_init(|| text))
    }
}
