//! Lines of bounded length, with their numbers and offsets.

use std::ops::Range;

use super::decompress::Plain;
use crate::error::Result;

const CHUNK_BYTES: usize = 1 << 18;

/// Where a line lies in the buffer, and in the file.
pub(super) struct Span {
    /// 1-based.
    pub(super) number: u64,
    /// Offset of the first byte in the decompressed file.
    pub(super) offset: u64,
    /// The bytes without the newline; `None` if there are more than the cap.
    pub(super) range: Option<Range<usize>>,
}

pub(super) struct Lines {
    input: Plain,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    number: u64,
    offset: u64,
    max_bytes: usize,
}

impl Lines {
    pub(super) fn new(input: Plain, max_bytes: u64) -> Self {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let buffer = vec![0; CHUNK_BYTES];
        Self { input, buffer, start: 0, end: 0, at_end: false, number: 0, offset: 0, max_bytes }
    }

    pub(super) fn input(&self) -> &Plain {
        &self.input
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The next line. The last one needs no newline.
    pub(super) fn advance(&mut self) -> Result<Option<Span>> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(found) = memchr::memchr(b'\n', &unread[searched..]) {
                return Ok(Some(self.take(searched + found, 1)));
            }
            if unread.len() > self.max_bytes {
                return self.skip_line().map(Some);
            }
            if self.at_end {
                let rest = unread.len();
                return Ok((rest > 0).then(|| self.take(rest, 0)));
            }
            searched = unread.len();
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize, newline: usize) -> Span {
        let range = (length <= self.max_bytes).then_some(self.start..self.start + length);
        self.number += 1;
        let span = Span { number: self.number, offset: self.offset, range };
        self.start += length + newline;
        self.offset += (length + newline) as u64;
        span
    }

    /// Drops the rest of a line that is too long, without keeping it.
    fn skip_line(&mut self) -> Result<Span> {
        self.number += 1;
        let span = Span { number: self.number, offset: self.offset, range: None };
        loop {
            let unread = &self.buffer[self.start..self.end];
            let found = memchr::memchr(b'\n', unread);
            let dropped = found.map_or(unread.len(), |at| at + 1);
            self.start += dropped;
            self.offset += dropped as u64;
            if found.is_some() || self.at_end {
                return Ok(span);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let bytes = self.input.read(&mut self.buffer[self.end..])?;
        self.end += bytes;
        self.at_end = bytes == 0;
        Ok(())
    }
}
