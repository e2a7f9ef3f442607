//! The folder that takes what memory has no room for.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::run::{Run, RunWriter};
use crate::error::{Error, Result};

/// Takes runs. Its files have no names, so nothing is left of them, however the process ends.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    written_bytes: AtomicU64,
}

impl Scratch {
    /// A scratch in `folder`, which must take a file now: a wrong folder is told before hours of counting.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        let scratch = Self { folder, written_bytes: AtomicU64::new(0) };
        scratch.new_file()?;
        Ok(scratch)
    }

    /// Bytes written so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Appends the run that `fill` writes to `file`, which is made when it is not there yet.
    pub(super) fn append(
        &self,
        file: &mut Option<Arc<File>>,
        fill: impl FnOnce(&mut RunWriter<&File>) -> Result<()>,
    ) -> Result<Run> {
        let file = match file {
            Some(file) => file,
            None => file.insert(Arc::new(self.new_file()?)),
        };
        let start = file.metadata().map_err(|source| self.explain(source))?.len();
        let mut writer = RunWriter::new(file.as_ref());
        fill(&mut writer)?;
        let (_, len) = writer.finish().map_err(|source| self.explain(source))?;
        self.written_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(Run { file: Arc::clone(file), path: self.folder.clone(), start, end: start + len })
    }

    fn new_file(&self) -> Result<File> {
        tempfile::tempfile_in(&self.folder).map_err(|source| self.explain(source))
    }

    fn explain(&self, source: io::Error) -> Error {
        Error::Spill { folder: self.folder.clone(), written_bytes: self.written_bytes(), source }
    }
}
