//! How much memory a training may take.

use std::path::PathBuf;
use std::sync::Arc;

use super::scratch::Scratch;
use crate::error::{Error, Result};

/// Kept back for what does not grow with the text: the program, documents being read, the finished tokenizer.
const RESERVED_BYTES: u64 = 160 << 20;
/// The least that a training can be asked to do with.
const MIN_BYTES: u64 = 256 << 20;
/// Tables of the merge loop: cells of pairs, sums by neighbour, tokens.
const TABLES_BYTES: u64 = 64 << 20;
const MIN_PLACES_BYTES: u64 = 16 << 20;
/// Memory of a piece while the pieces are ordered and laid out, and of each of its bytes while they are merged.
const PIECE_BYTES: u64 = 48;
const BYTE_BYTES: u64 = 7;

/// A bound on the memory of one training and a folder for what does not fit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    max_bytes: u64,
    pub(super) scratch: Arc<Scratch>,
}

impl MemoryBudget {
    /// A budget of `max_bytes` for the whole process. Counts that do not fit go to `folder`, by default that for
    /// temporary files, in files without a name: nothing is left of them, even after a kill.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryTooSmall`] below 256 MiB; [`Error::Spill`] if the folder takes no file.
    pub fn new(max_bytes: u64, folder: Option<PathBuf>) -> Result<Self> {
        if max_bytes < MIN_BYTES {
            return Err(Error::MemoryTooSmall { max_bytes, minimum_bytes: MIN_BYTES });
        }
        let folder = folder.unwrap_or_else(std::env::temp_dir);
        Ok(Self { max_bytes, scratch: Arc::new(Scratch::new(folder)?) })
    }

    /// What counting, and later merging, may take.
    pub(super) fn working_bytes(&self) -> u64 {
        self.max_bytes - RESERVED_BYTES
    }

    /// What the places of pairs may take while the text itself takes `text_bytes`.
    pub(super) fn bytes_beside(&self, text_bytes: u64) -> u64 {
        self.working_bytes().saturating_sub(text_bytes + TABLES_BYTES).max(MIN_PLACES_BYTES)
    }
}

/// The memory that training on a distinct piece takes.
pub(super) fn cost_bytes(piece: &[u8]) -> u64 {
    PIECE_BYTES + BYTE_BYTES * piece.len() as u64
}
