//! One text file is one document, byte for byte but for a leading byte order mark.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::decompress::Plain;
use super::{Compression, Outcome, Record, RecordReader, SourceOptions};
use crate::error::{BadLine, Result};

const CHUNK_BYTES: usize = 1 << 18;
const BYTE_ORDER_MARK: char = '\u{feff}';

pub(super) struct TextFile {
    input: Plain,
    max_bytes: u64,
    done: bool,
}

impl TextFile {
    pub(super) fn open(
        path: &Path,
        compression: Compression,
        options: &SourceOptions,
        position: Arc<AtomicU64>,
    ) -> Result<Self> {
        let input = Plain::open(path, compression, options, position)?;
        Ok(Self { input, max_bytes: options.max_line_bytes, done: false })
    }

    /// All bytes, or `None` if there are more than the cap.
    fn read_all(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        loop {
            let filled = bytes.len();
            bytes.resize(filled + CHUNK_BYTES, 0);
            let read = self.input.read(&mut bytes[filled..])?;
            bytes.truncate(filled + read);
            if bytes.len() as u64 > self.max_bytes {
                return Ok(None);
            }
            if read == 0 {
                return Ok(Some(bytes));
            }
        }
    }
}

impl RecordReader for TextFile {
    fn next_record(&mut self) -> Result<Option<Outcome>> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let Some(bytes) = self.read_all()? else {
            return Ok(Some(self.input.origin().bad(1, 0, BadLine::TooLong(self.max_bytes))));
        };
        Ok(Some(match String::from_utf8(bytes) {
            Ok(mut text) => {
                if text.starts_with(BYTE_ORDER_MARK) {
                    text.drain(..BYTE_ORDER_MARK.len_utf8());
                }
                Ok(Record { text, source: None, id: None })
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let line = 1 + memchr::memchr_iter(b'\n', &error.as_bytes()[..at]).count() as u64;
                self.input.origin().bad(line, at as u64, BadLine::InvalidUtf8)
            }
        }))
    }
}
