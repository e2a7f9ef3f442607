//! The documents tables: what a `doc_id` stands for (docs/format.md section 3).

use std::fs::File;
use std::io::{BufWriter, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::decoder::contained;
use crate::error::{Error, Result};
use crate::folder::{HashingWriter, PendingFile, hex, open_member, sync_folder};
use crate::manifest::TableEntry;
use crate::shard::arrow_io;

const ROWS_PER_BATCH: usize = 8192;
const ORDINAL_BITS: u32 = 40;

/// The id of a task's document.
///
/// # Errors
/// [`Error::Overflow`] beyond 2^40 documents a task.
pub(crate) fn doc_id(task: u32, record: u64) -> Result<u64> {
    if record >> ORDINAL_BITS != 0 || task >> (u64::BITS - ORDINAL_BITS) != 0 {
        return Err(Error::Overflow { what: "the documents of a task" });
    }
    Ok(u64::from(task) << ORDINAL_BITS | record)
}

/// Task and record number of a document.
pub(crate) fn split_doc_id(doc_id: u64) -> (u64, u64) {
    (doc_id >> ORDINAL_BITS, doc_id & ((1 << ORDINAL_BITS) - 1))
}

/// One packed document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentRecord {
    /// As in the rows.
    pub doc_id: u64,
    /// Name of the input.
    pub file: String,
    /// 0-based number in the input, skipped documents counted.
    pub ordinal: u64,
    /// Its source label, or the input's name.
    pub source: String,
    /// Its own id, if it has one.
    pub id: Option<String>,
    /// Its tokens, end-of-text included.
    pub tokens: u64,
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("doc_id", DataType::UInt64, false),
        Field::new("file", DataType::Utf8, false),
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("source", DataType::Utf8, false),
        Field::new("id", DataType::Utf8, true),
        Field::new("tokens", DataType::UInt64, false),
    ]))
}

#[derive(Default)]
struct Columns {
    doc_id: UInt64Builder,
    file: StringBuilder,
    ordinal: UInt64Builder,
    source: StringBuilder,
    id: StringBuilder,
    tokens: UInt64Builder,
    rows: usize,
}

impl Columns {
    fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(self.doc_id.finish()),
                Arc::new(self.file.finish()),
                Arc::new(self.ordinal.finish()),
                Arc::new(self.source.finish()),
                Arc::new(self.id.finish()),
                Arc::new(self.tokens.finish()),
            ],
        )
        .map_err(|_| Error::Internal("the columns of a documents table do not fit together"))
    }
}

/// Writes a task's table beside its shards.
pub(crate) struct TableWriter {
    // Before `pending`, so that the file is closed when its name goes.
    writer: FileWriter<BufWriter<HashingWriter>>,
    pending: PendingFile,
    name: String,
    columns: Columns,
    rows: u64,
}

impl TableWriter {
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn create(folder: &Path, task: u32) -> Result<Self> {
        let name = format!("{task:05}.arrow");
        let pending = PendingFile::create(&folder.join(&name))?;
        let file: File = pending.file()?.try_clone().map_err(|e| Error::io(pending.path(), "open", e))?;
        let writer = FileWriter::try_new(BufWriter::new(HashingWriter::new(file)), &schema())
            .map_err(|e| arrow_io(pending.path(), 0, e))?;
        Ok(Self { writer, pending, name, columns: Columns::default(), rows: 0 })
    }

    /// Records written so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn push(
        &mut self,
        doc_id: u64,
        file: &str,
        ordinal: u64,
        source: &str,
        id: Option<&str>,
        tokens: u64,
    ) -> Result<()> {
        let columns = &mut self.columns;
        columns.doc_id.append_value(doc_id);
        columns.file.append_value(file);
        columns.ordinal.append_value(ordinal);
        columns.source.append_value(source);
        columns.id.append_option(id);
        columns.tokens.append_value(tokens);
        columns.rows += 1;
        self.rows += 1;
        if columns.rows == ROWS_PER_BATCH { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<()> {
        let batch = self.columns.finish()?;
        let needed = batch.get_array_memory_size() as u64;
        self.writer.write(&batch).map_err(|e| arrow_io(self.pending.path(), needed, e))
    }

    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn commit(mut self) -> Result<TableEntry> {
        if self.columns.rows > 0 {
            self.write_batch()?;
        }
        self.writer.finish().map_err(|e| arrow_io(self.pending.path(), 0, e))?;
        let written = self.writer.get_ref().get_ref();
        let entry = TableEntry {
            file: self.name,
            rows: self.rows,
            size: written.bytes(),
            xxh3: hex(written.digest()),
        };
        let folder = self.pending.path().parent().map(Path::to_owned);
        self.pending.commit()?;
        folder.map_or(Ok(()), |folder| sync_folder(&folder))?;
        Ok(entry)
    }
}

/// A task's table in memory.
#[derive(Debug)]
pub(crate) struct DocumentTable {
    batches: Vec<RecordBatch>,
}

impl DocumentTable {
    /// Reads the table that `holder`'s entry describes, after a look at its checksum.
    ///
    /// # Errors
    /// [`Error::UnsafeName`], [`Error::Io`], [`Error::Corruption`].
    pub(crate) fn open(holder: &Path, folder: &Path, entry: &TableEntry) -> Result<Self> {
        let (path, mut file) = open_member(holder, folder, &entry.file)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::io(&path, "read", e))?;
        if bytes.len() as u64 != entry.size || hex(xxh3_64(&bytes)) != entry.xxh3 {
            return Err(Error::corrupt(&path, "", "its content differs from its checksum"));
        }
        let corrupt = |detail: String| Error::corrupt(&path, "", detail);
        let reader = contained(|| FileReader::try_new(Cursor::new(bytes), None)).map_err(corrupt)?;
        if *reader.schema() != *schema() {
            return Err(corrupt("its columns are not those of the format".to_owned()));
        }
        let batches: Vec<RecordBatch> =
            contained(|| reader.collect::<std::result::Result<_, _>>()).map_err(corrupt)?;
        let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        if rows != entry.rows || batches.iter().rev().skip(1).any(|batch| batch.num_rows() != ROWS_PER_BATCH)
        {
            return Err(corrupt(format!("it has {rows} records, its fragment says {}", entry.rows)));
        }
        Ok(Self { batches })
    }

    /// The record of that number.
    pub(crate) fn record(&self, number: u64) -> Option<DocumentRecord> {
        let number = usize::try_from(number).ok()?;
        let batch = self.batches.get(number / ROWS_PER_BATCH)?;
        let row = number % ROWS_PER_BATCH;
        if row >= batch.num_rows() {
            return None;
        }
        let integer = |column: usize| Some(batch.column(column).as_primitive_opt::<UInt64Type>()?.value(row));
        let string = |column: usize| {
            let column = batch.column(column).as_string_opt::<i32>()?;
            (!column.is_null(row)).then(|| column.value(row).to_owned())
        };
        Some(DocumentRecord {
            doc_id: integer(0)?,
            file: string(1)?,
            ordinal: integer(2)?,
            source: string(3)?,
            id: string(4),
            tokens: integer(5)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_split_as_they_are_joined() {
        for (task, record) in [(0, 0), (0, 5), (7, (1 << 40) - 1), ((1 << 24) - 1, 1)] {
            assert_eq!(split_doc_id(doc_id(task, record).unwrap()), (u64::from(task), record));
        }
        assert!(doc_id(0, 1 << 40).is_err());
        assert!(doc_id(1 << 24, 0).is_err());
    }
}
