//! Python's texts as UTF-8.

use std::ops::Deref;
use std::sync::OnceLock;

use penstock_bpe::with_huge_pages;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyString;

use crate::unicode::{SLICE_CHARACTERS, Slices};

/// From this many characters on, a text is read in parts.
const LONG_CHARACTERS: usize = 1 << 20;
/// Characters that are looked at together: few enough to have many without a rare one among them.
const BLOCK_CHARACTERS: usize = 32;
/// Bytes that a character takes at most.
const MAX_BYTES: usize = 4;

/// The UTF-8 of a text.
pub(crate) enum Text {
    /// CPython's own, which it keeps: a nanosecond a byte of Chinese, once. To make it here from UCS-4 and throw it away was
    /// no faster cold, and a fifth slower for texts that come again.
    Kept(PyBackedStr),
    /// One emoji gives all of a text four bytes a character, from which CPython makes UTF-8 one by one: two nanoseconds a
    /// character, and it keeps as much memory again. A long text is read in parts, most of which have no such character:
    /// half a nanosecond, most of it for memory.
    Made(String),
}

impl Text {
    pub(crate) fn of(text: Bound<'_, PyString>) -> PyResult<Self> {
        let len = characters(&text);
        if len >= LONG_CHARACTERS
            && !text.call_method0("isascii")?.extract()?
            && let Some(made) = read_in_parts(&text, len)?
        {
            return Ok(Self::Made(made));
        }
        PyBackedStr::try_from(text).map(Self::Kept)
    }
}

/// The UTF-8 of a text of `len` characters; `None` for Chinese and its like, which gain nothing, and for what has none.
fn read_in_parts(text: &Bound<'_, PyString>, len: usize) -> PyResult<Option<String>> {
    let Some(mut parts) = Slices::of(text.clone())? else { return Ok(None) };
    let mut made = String::from_utf8(with_huge_pages(len + len / 8)).unwrap_or_default();
    let mut bytes = [0; MAX_BYTES * SLICE_CHARACTERS];
    for start in (0..len).step_by(SLICE_CHARACTERS) {
        let part = to_utf8(parts.read(start)?, &mut bytes).filter(|_| made.len() <= start + start / 4);
        let Some(part) = part else { return Ok(None) };
        made.push_str(part);
    }
    Ok(Some(made))
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
