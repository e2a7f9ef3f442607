//! A long `str` from UTF-8.

use penstock_bpe::ask_for_huge_pages;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::decoding::text_of;
use crate::unicode::Unicode;

/// From so many bytes on, a text that is not all ASCII is long.
pub(crate) const LONG_BYTES: usize = 1 << 18;
/// A slice, its bytes and its text stay in the nearest caches.
const SLICE_BYTES: usize = 1 << 14;

/// What CPython needs to know to reserve the memory of a text.
#[derive(Default)]
pub(crate) struct Shape {
    characters: usize,
    /// The highest byte. In UTF-8 it tells how many bytes the widest character takes in CPython.
    highest: u8,
}

impl Shape {
    /// Counts more bytes of a text in UTF-8.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // As many as a byte can count, so that many are counted at once.
        for part in bytes.chunks(255) {
            let starts = part.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(u8::from(byte & 0xC0 != 0x80)));
            self.characters += usize::from(starts);
            self.highest = part.iter().copied().fold(self.highest, u8::max);
        }
    }

    /// A character that CPython stores as widely as the widest of the text, and its width in bytes.
    fn widest(&self) -> (u32, usize) {
        match self.highest {
            0..0x80 => (0x7F, 1),
            0x80..0xC4 => (0xFF, 1),
            0xC4..0xF0 => (0xFFFF, 2),
            _ => (0x10_FFFF, 4),
        }
    }
}

/// The text of `bytes`, whose shape this is; `None` if they are not UTF-8, or where this way is closed or does not pay.
///
/// CPython begins every text with a byte a character, and copies all of it when a wider one comes. What takes 32 MB is new
/// memory each time, and on ordinary pages the faults of 48 MB cost 15 ms, more than decoding 12 MB of ids. So the memory
/// is reserved at once, on huge pages, and filled slice by slice.
pub(crate) fn long_text<'py>(
    py: Python<'py>,
    bytes: &[u8],
    shape: &Shape,
) -> PyResult<Option<Bound<'py, PyString>>> {
    let (mut rest, mut done) = (bytes, 0);
    let Some(unicode) = Unicode::get().filter(|_| shape.highest >= 0x80) else { return Ok(None) };
    let (widest, width) = shape.widest();
    let text = unicode.reserve(py, shape.characters, widest)?;
    ask_for_huge_pages(text.as_ptr().cast::<u8>(), shape.characters * width);
    while !rest.is_empty() {
        let (slice, others) = rest.split_at(border(rest));
        let Ok(part) = text_of(py, slice, c"strict") else { return Ok(None) };
        done += unicode.copy(&text, done, &part, 0, slice.len())?;
        rest = others;
    }
    Ok((done == shape.characters).then_some(text))
}

/// The end of a slice at the start of `bytes`, between two characters if they are UTF-8.
fn border(bytes: &[u8]) -> usize {
    let is_start = |&place: &usize| bytes.get(place).is_none_or(|byte| byte & 0xC0 != 0x80);
    let end = SLICE_BYTES.min(bytes.len());
    (1..=end).rev().take(4).find(is_start).unwrap_or(end)
}
