//! A file as plain bytes, whatever compresses it; a cut frame is an error.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Compression, Origin, SourceOptions};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 1 << 17;

/// A file that counts what is taken from it.
struct CountedFile {
    file: File,
    position: Arc<AtomicU64>,
}

impl Read for CountedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.position.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// The decompressed bytes of a file.
pub(super) struct Plain {
    reader: Box<dyn Read + Send>,
    origin: Origin,
}

impl Plain {
    pub(super) fn open(
        path: &Path,
        compression: Compression,
        options: &SourceOptions,
        position: Arc<AtomicU64>,
    ) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let size = file.metadata().map_err(|e| Error::io(path, "read the size of", e))?.len();
        // Neither decoder takes the absence of any frame for a cut one.
        if size == 0 && compression != Compression::Plain {
            return Err(Error::TruncatedInput { path: path.to_owned(), offset: 0 });
        }
        let origin = Origin { path: path.to_owned(), position: position.clone() };
        let buffered = BufReader::with_capacity(BUFFER_BYTES, CountedFile { file, position });
        let reader: Box<dyn Read + Send> = match compression {
            Compression::Plain => Box::new(buffered),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
            Compression::Zstd => {
                let mut decoder =
                    zstd::Decoder::with_buffer(buffered).map_err(|e| Error::io(path, "decompress", e))?;
                decoder
                    .window_log_max(options.window_log_max)
                    .map_err(|e| Error::io(path, "decompress", e))?;
                Box::new(decoder)
            }
        };
        Ok(Self { reader, origin })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Reads some bytes; 0 at the end of the file.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// Tells the system's errors, which carry a number, from those of the decoders.
    fn explain(&self, error: io::Error) -> Error {
        let path = self.origin.path.clone();
        if error.raw_os_error().is_some() {
            return Error::Io { path, action: "read", source: error };
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Error::TruncatedInput { path, offset: self.origin.position.load(Ordering::Relaxed) };
        }
        self.origin.corrupt(error)
    }
}
