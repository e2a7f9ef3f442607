//! Rows in, shards out.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{FixedSizeListArray, ListArray, RecordBatch, UInt32Array, UInt64Array};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, DataType};

use super::frame::frame_hash;
use super::{Identity, item, row_hash};
use crate::error::{Error, Result};
use crate::folder::{HashingWriter, PendingFile, hex, sync_folder};
use crate::manifest::{BatchEntry, Parameters, ShardEntry};
use crate::pack::{Piece, RowSink};

/// The rows of a task: fills batches, closes shards, keeps their entries.
pub(crate) struct RowWriter {
    folder: PathBuf,
    task: u32,
    parameters: Parameters,
    pad_id: u32,
    rows_per_shard: u64,
    batch: Batch,
    open: Option<OpenShard>,
    finished: Vec<(PendingFile, ShardEntry)>,
}

/// A record batch in the making.
#[derive(Default)]
struct Batch {
    tokens: Vec<u32>,
    doc_ends: Vec<u32>,
    doc_ids: Vec<u64>,
    offsets: Vec<i32>,
    hashes: Vec<u64>,
}

struct OpenShard {
    pending: PendingFile,
    writer: FileWriter<BufWriter<HashingWriter>>,
    identity: Identity,
    rows: u64,
    batches: Vec<BatchEntry>,
}

impl RowWriter {
    /// Writes the shards of `task` into `folder`, padding rows with `pad_id`.
    pub(crate) fn new(folder: &Path, task: u32, parameters: &Parameters, pad_id: u32) -> Self {
        let row_bytes = 4 * (u64::from(parameters.seq_len) + u64::from(parameters.lookahead));
        let per_batch = u64::from(parameters.rows_per_batch);
        let batches = (parameters.shard_bytes / (row_bytes * per_batch)).max(1);
        Self {
            folder: folder.to_owned(),
            task,
            parameters: parameters.clone(),
            pad_id,
            rows_per_shard: batches * per_batch,
            batch: Batch::default(),
            open: None,
            finished: Vec::new(),
        }
    }

    /// Commits all shards and flushes their folder.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn commit(mut self) -> Result<Vec<ShardEntry>> {
        self.write_batch()?;
        self.close_shard()?;
        let mut entries = Vec::with_capacity(self.finished.len());
        for (pending, entry) in self.finished.drain(..) {
            pending.commit()?;
            entries.push(entry);
        }
        self.remove_later_shards(entries.len())?;
        sync_folder(&self.folder)?;
        Ok(entries)
    }

    /// Removes what an interrupted packing of other content left, so that the folder's files are those of the fragments.
    fn remove_later_shards(&self, first: usize) -> Result<()> {
        for shard in u32::try_from(first).unwrap_or(u32::MAX).. {
            let path = self.folder.join(Identity::new(self.task, shard, &self.parameters).file_name());
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(Error::io(&path, "remove", error)),
            }
        }
        Ok(())
    }

    fn rows_in_shard(&self) -> u64 {
        self.open.as_ref().map_or(0, |shard| shard.rows) + self.batch.hashes.len() as u64
    }

    fn open_shard(&mut self) -> Result<OpenShard> {
        let shard = u32::try_from(self.finished.len())
            .map_err(|_| Error::Overflow { what: "the shards of a task" })?;
        let identity = Identity::new(self.task, shard, &self.parameters);
        let pending = PendingFile::create(&self.folder.join(identity.file_name()))?;
        let file = pending.file()?.try_clone().map_err(|e| Error::io(pending.path(), "open", e))?;
        let file = HashingWriter::new(file);
        let failed = |e| arrow_io(pending.path(), 0, e);
        let compression = match self.parameters.compression.as_str() {
            "lz4" => Some(CompressionType::LZ4_FRAME),
            "zstd" => Some(CompressionType::ZSTD),
            _ => None,
        };
        let options = IpcWriteOptions::default().try_with_compression(compression).map_err(failed)?;
        let writer = FileWriter::try_new_with_options(BufWriter::new(file), &identity.schema(), options)
            .map_err(failed)?;
        Ok(OpenShard { pending, writer, identity, rows: 0, batches: Vec::new() })
    }

    fn write_batch(&mut self) -> Result<()> {
        if self.batch.hashes.is_empty() {
            return Ok(());
        }
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.open_shard()?,
        };
        let batch = std::mem::take(&mut self.batch).build(shard.identity)?;
        shard.write(&batch)?;
        self.open = Some(shard);
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(shard) = self.open.take() {
            self.finished.push(shard.finish()?);
        }
        Ok(())
    }
}

impl RowSink for RowWriter {
    fn write_row(&mut self, pieces: &[Piece<'_>]) -> Result<()> {
        let width = (self.parameters.seq_len + self.parameters.lookahead) as usize;
        let row_in_shard = self.rows_in_shard();
        let batch = &mut self.batch;
        if batch.tokens.capacity() == 0 {
            batch.tokens.reserve_exact(width * self.parameters.rows_per_batch as usize);
            batch.offsets.push(0);
        }
        let (first_token, first_piece) = (batch.tokens.len(), batch.doc_ends.len());
        for piece in pieces {
            batch.tokens.extend_from_slice(piece.tokens);
            let end = u32::try_from(batch.tokens.len() - first_token).unwrap_or(u32::MAX);
            batch.doc_ends.push(end);
            batch.doc_ids.push(piece.doc_id);
        }
        if batch.tokens.len() > first_token + width {
            return Err(Error::Internal("a row is longer than its width"));
        }
        batch.tokens.resize(first_token + width, self.pad_id);
        let pieces = i32::try_from(batch.doc_ends.len())
            .map_err(|_| Error::Overflow { what: "the pieces of a batch" })?;
        batch.offsets.push(pieces);
        batch.hashes.push(row_hash(
            row_in_shard,
            &batch.tokens[first_token..],
            &batch.doc_ends[first_piece..],
            &batch.doc_ids[first_piece..],
        ));
        if self.batch.hashes.len() == self.parameters.rows_per_batch as usize {
            self.write_batch()?;
            if self.rows_in_shard() == self.rows_per_shard {
                self.close_shard()?;
            }
        }
        Ok(())
    }
}

impl Batch {
    fn build(self, identity: Identity) -> Result<RecordBatch> {
        let internal = |_: ArrowError| Error::Internal("the columns of a batch do not fit together");
        let width =
            i32::try_from(identity.width()).map_err(|_| Error::Overflow { what: "the tokens of a row" })?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let tokens = Arc::new(UInt32Array::from(self.tokens));
        let tokens =
            FixedSizeListArray::try_new(item(DataType::UInt32), width, tokens, None).map_err(internal)?;
        let ends = Arc::new(UInt32Array::from(self.doc_ends));
        let ends =
            ListArray::try_new(item(DataType::UInt32), offsets.clone(), ends, None).map_err(internal)?;
        let ids = Arc::new(UInt64Array::from(self.doc_ids));
        let ids = ListArray::try_new(item(DataType::UInt64), offsets, ids, None).map_err(internal)?;
        let hashes = UInt64Array::from(self.hashes);
        RecordBatch::try_new(
            identity.schema(),
            vec![Arc::new(tokens), Arc::new(ends), Arc::new(ids), Arc::new(hashes)],
        )
        .map_err(internal)
    }
}

impl OpenShard {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let needed = batch.get_array_memory_size() as u64;
        let failed = |e| arrow_io(self.pending.path(), needed, e);
        // The buffer holds the schema still, or nothing: a block is hashed alone.
        self.writer.flush().map_err(failed)?;
        let target = self.writer.get_mut().get_mut();
        target.restart();
        let offset = target.bytes();
        self.writer.write(batch).and_then(|()| self.writer.flush()).map_err(failed)?;
        let target = self.writer.get_ref().get_ref();
        let rows =
            u32::try_from(batch.num_rows()).map_err(|_| Error::Overflow { what: "the rows of a batch" })?;
        // The footer tells, once it is there, how the block divides.
        self.batches.push(BatchEntry(offset, 0, target.bytes() - offset, rows, hex(target.digest())));
        self.rows += u64::from(rows);
        Ok(())
    }

    fn finish(mut self) -> Result<(PendingFile, ShardEntry)> {
        self.writer.finish().map_err(|e| arrow_io(self.pending.path(), 0, e))?;
        let size = self.writer.get_ref().get_ref().bytes();
        let file = self.pending.file()?;
        let failed = |e| Error::io(self.pending.path(), "read back", e);
        for entry in &mut self.batches {
            let metadata_bytes = metadata_bytes(file, entry.0).map_err(failed)?;
            entry.1 = metadata_bytes;
            entry.2 -= u64::from(metadata_bytes);
        }
        let read = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        };
        let frame_xxh3 = hex(frame_hash(&self.batches, size, read).map_err(failed)?);
        let entry = ShardEntry {
            file: self.identity.file_name(),
            size,
            rows: self.rows,
            frame_xxh3,
            batches: self.batches,
        };
        Ok((self.pending, entry))
    }
}

/// The padded length of a message's metadata, prefix included: a continuation mark, then the length of what follows.
fn metadata_bytes(file: &File, offset: u64) -> io::Result<u32> {
    let mut prefix = [0; 8];
    file.read_exact_at(&mut prefix, offset)?;
    let [_, _, _, _, length @ ..] = prefix;
    Ok(u32::from_le_bytes(length) + 8)
}

/// An error of the IPC writer as one of ours.
pub(crate) fn arrow_io(path: &Path, needed_bytes: u64, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, source) => Error::io_sized(path, "write", needed_bytes, source),
        _ => Error::Internal("the Arrow writer refuses a batch"),
    }
}
