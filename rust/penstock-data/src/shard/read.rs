//! Rows of a shard, none handed out unchecked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::FileDecoder;
use arrow_schema::Schema;
use xxhash_rust::xxh3::xxh3_64;

use super::frame::{check_layout, footer_schema, frame_hash};
use super::{Identity, row_hash};
use crate::decoder::contained;
use crate::error::{Error, Result};
use crate::folder::{hex, open_member};
use crate::manifest::{BatchEntry, ShardEntry};

/// How shards are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// Mapped into memory: nothing is copied. A file that is cut in place while it is read kills the process (SIGBUS).
    #[default]
    Mmap,
    /// Read a batch at a time: for file systems that do not map, and folders that others write to.
    Read,
}

/// A row whose checksum was found right. Cheap to clone: it shares the batch's memory.
#[derive(Debug, Clone)]
pub struct Row {
    tokens: ScalarBuffer<u32>,
    doc_ends: ScalarBuffer<u32>,
    doc_ids: ScalarBuffer<u64>,
}

impl Row {
    /// All `seq_len + lookahead` token ids.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The exclusive ends of the document pieces, rising; what follows the last is padding.
    #[must_use]
    pub fn doc_ends(&self) -> &[u32] {
        &self.doc_ends
    }

    /// The document of each piece.
    #[must_use]
    pub fn doc_ids(&self) -> &[u64] {
        &self.doc_ids
    }
}

/// The columns of a decoded batch.
#[derive(Debug)]
pub(crate) struct Decoded {
    tokens: ScalarBuffer<u32>,
    doc_ends: ScalarBuffer<u32>,
    end_offsets: OffsetBuffer<i32>,
    doc_ids: ScalarBuffer<u64>,
    id_offsets: OffsetBuffer<i32>,
    hashes: ScalarBuffer<u64>,
}

#[derive(Debug)]
enum Body {
    Mapped(Buffer),
    File(File),
}

/// Which batch of a shard, and which row of that batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) batch: usize,
    pub(crate) row: usize,
}

/// An open shard whose frame was found right.
#[derive(Debug)]
pub(crate) struct ShardReader {
    path: PathBuf,
    body: Body,
    width: usize,
    schema: Arc<Schema>,
    batches: Vec<BatchEntry>,
    first_rows: Vec<u64>,
    compressed: bool,
}

impl ShardReader {
    /// Opens the shard that `holder`'s entry describes, in `folder`.
    ///
    /// # Errors
    /// [`Error::UnsafeName`], [`Error::Io`], and [`Error::Corruption`] if anything but the bodies differs from the entry.
    pub(crate) fn open(
        holder: &Path,
        folder: &Path,
        entry: &ShardEntry,
        identity: Identity,
        compressed: bool,
        mode: ReadMode,
    ) -> Result<Self> {
        let (path, file) = open_member(holder, folder, &entry.file)?;
        let size = file.metadata().map_err(|e| Error::io(&path, "read the size of", e))?.len();
        if size != entry.size {
            let detail = format!("it has {size} bytes, its fragment says {}", entry.size);
            return Err(Error::corrupt(&path, "", detail));
        }
        let first_rows = check_layout(holder, entry)?;
        let body = match mode {
            ReadMode::Mmap => {
                Body::Mapped(crate::mmap::map(&file).map_err(|e| Error::io(&path, "map into memory", e))?)
            }
            ReadMode::Read => Body::File(file),
        };
        let schema = identity.schema();
        let batches = entry.batches.clone();
        let shard = Self { path, body, width: identity.width(), schema, batches, first_rows, compressed };
        shard.check_frame(entry)?;
        Ok(shard)
    }

    /// Where row `row` of the shard is.
    pub(crate) fn locate(&self, row: u64) -> Block {
        let batch = self.first_rows.partition_point(|first| *first <= row).saturating_sub(1);
        let first = self.first_rows.get(batch).copied().unwrap_or_default();
        Block { batch, row: usize::try_from(row - first).unwrap_or(usize::MAX) }
    }

    pub(crate) fn batch_count(&self) -> usize {
        self.batches.len()
    }

    /// Whether decoding a batch costs next to nothing and no memory.
    pub(crate) fn is_zero_copy(&self) -> bool {
        !self.compressed && matches!(self.body, Body::Mapped(_))
    }

    /// Decodes a batch. A compressed one is hashed first: its lengths are not to be believed unseen.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corruption`].
    pub(crate) fn decode(&self, batch: usize) -> Result<Decoded> {
        let entry = self.batches.get(batch).ok_or(Error::Internal("a batch past the end of its shard"))?;
        let block = self.block(entry)?;
        if self.compressed {
            self.check_block(batch, entry, &block)?;
        }
        let metadata_bytes =
            i32::try_from(entry.1).map_err(|_| self.corrupt(batch, "its metadata is too long"))?;
        let body_bytes = i64::try_from(entry.2).map_err(|_| self.corrupt(batch, "its body is too long"))?;
        let place = arrow_ipc::Block::new(0, metadata_bytes, body_bytes);
        let decoder = FileDecoder::new(self.schema.clone(), MetadataVersion::V5);
        let decoded = contained(|| decoder.read_record_batch(&place, &block))
            .map_err(|detail| self.corrupt(batch, detail))?
            .ok_or_else(|| self.corrupt(batch, "it is no record batch"))?;
        if decoded.num_rows() != entry.3 as usize {
            return Err(
                self.corrupt(batch, format!("it has {} rows, expected {}", decoded.num_rows(), entry.3))
            );
        }
        Decoded::new(&decoded).ok_or_else(|| self.corrupt(batch, "its columns are not those of the format"))
    }

    /// Hands out a row of a decoded batch.
    ///
    /// # Errors
    /// [`Error::Corruption`] if its checksum is wrong.
    pub(crate) fn row(&self, decoded: &Decoded, place: Block) -> Result<Row> {
        let row_in_shard = self.first_rows[place.batch] + place.row as u64;
        let wrong = |detail: &str| {
            Err(Error::corrupt(
                &self.path,
                format!(", batch {}, row {row_in_shard} of the shard", place.batch),
                detail,
            ))
        };
        let Some((row, hash)) = decoded.row(place.row, self.width) else {
            return wrong("its columns have different lengths");
        };
        if row_hash(row_in_shard, &row.tokens, &row.doc_ends, &row.doc_ids) != hash {
            return wrong("its checksum differs");
        }
        let rising = row.doc_ends.iter().scan(0, |last, end| Some(*end > std::mem::replace(last, *end)));
        let in_range = row.doc_ends.last().is_none_or(|end| *end as usize <= self.width);
        if row.doc_ends.len() != row.doc_ids.len() || !rising.into_iter().all(|rises| rises) || !in_range {
            return wrong("its document ends make no sense");
        }
        Ok(row)
    }

    /// Checks every byte of a batch and every row in it; returns how many rows these are.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corruption`].
    pub(crate) fn verify_batch(&self, batch: usize) -> Result<u64> {
        let entry = self.batches.get(batch).ok_or(Error::Internal("a batch past the end of its shard"))?;
        self.check_block(batch, entry, &self.block(entry)?)?;
        let decoded = self.decode(batch)?;
        (0..entry.3 as usize).try_for_each(|row| self.row(&decoded, Block { batch, row }).map(|_| ()))?;
        Ok(u64::from(entry.3))
    }

    fn block(&self, entry: &BatchEntry) -> Result<Buffer> {
        let length = usize::try_from(u64::from(entry.1) + entry.2).unwrap_or(usize::MAX);
        self.read(entry.0, length).map_err(|e| Error::io(&self.path, "read", e))
    }

    /// Some bytes of the file; their range was checked against its size.
    fn read(&self, offset: u64, length: usize) -> io::Result<Buffer> {
        match &self.body {
            Body::Mapped(whole) => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                if offset.checked_add(length).is_none_or(|end| end > whole.len()) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(whole.slice_with_length(offset, length))
            }
            Body::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(Buffer::from_vec(bytes))
            }
        }
    }

    fn check_block(&self, batch: usize, entry: &BatchEntry, block: &Buffer) -> Result<()> {
        if hex(xxh3_64(block)) == entry.4 { Ok(()) } else { Err(self.corrupt(batch, "its checksum differs")) }
    }

    /// The hash of all that is not a body, then the schema that it holds.
    fn check_frame(&self, entry: &ShardEntry) -> Result<()> {
        let hash = frame_hash(&entry.batches, entry.size, |offset, length| self.read(offset, length))
            .map_err(|e| Error::io(&self.path, "read", e))?;
        let wrong = |detail: String| Error::corrupt(&self.path, "", detail);
        if hex(hash) != entry.frame_xxh3 {
            return Err(wrong("its schema, batch headers or footer differ from their checksum".to_owned()));
        }
        let tail_start = entry.batches.last().map_or(0, |last| last.0 + u64::from(last.1) + last.2);
        let tail = usize::try_from(entry.size - tail_start).unwrap_or(usize::MAX);
        let tail = self.read(tail_start, tail).map_err(|e| Error::io(&self.path, "read", e))?;
        let found = contained(|| footer_schema(&tail).ok_or("its footer is unreadable")).map_err(wrong)?;
        if found != *self.schema {
            return Err(wrong(format!("its schema is {found}, expected {}", self.schema)));
        }
        Ok(())
    }

    fn corrupt(&self, batch: usize, detail: impl Into<String>) -> Error {
        Error::corrupt(&self.path, format!(", batch {batch}"), detail)
    }
}

impl Decoded {
    fn new(batch: &RecordBatch) -> Option<Self> {
        let tokens = batch.column(0).as_fixed_size_list_opt()?;
        let ends = batch.column(1).as_list_opt::<i32>()?;
        let ids = batch.column(2).as_list_opt::<i32>()?;
        Some(Self {
            tokens: tokens.values().as_primitive_opt::<UInt32Type>()?.values().clone(),
            doc_ends: ends.values().as_primitive_opt::<UInt32Type>()?.values().clone(),
            end_offsets: ends.offsets().clone(),
            doc_ids: ids.values().as_primitive_opt::<UInt64Type>()?.values().clone(),
            id_offsets: ids.offsets().clone(),
            hashes: batch.column(3).as_primitive_opt::<UInt64Type>()?.values().clone(),
        })
    }

    fn row(&self, row: usize, width: usize) -> Option<(Row, u64)> {
        let hash = *self.hashes.get(row)?;
        let start = row.checked_mul(width)?;
        (start + width <= self.tokens.len()).then_some(())?;
        let (ends, ends_len) = span(&self.end_offsets, row, self.doc_ends.len())?;
        let (ids, ids_len) = span(&self.id_offsets, row, self.doc_ids.len())?;
        let row = Row {
            tokens: self.tokens.slice(start, width),
            doc_ends: self.doc_ends.slice(ends, ends_len),
            doc_ids: self.doc_ids.slice(ids, ids_len),
        };
        Some((row, hash))
    }
}

/// Start and length of a list, if it lies within its values.
fn span(offsets: &[i32], row: usize, values: usize) -> Option<(usize, usize)> {
    let start = usize::try_from(*offsets.get(row)?).ok()?;
    let end = usize::try_from(*offsets.get(row + 1)?).ok()?;
    (start <= end && end <= values).then(|| (start, end - start))
}
