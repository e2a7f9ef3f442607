//! A packed folder, opened: rows, documents, verification.

mod verify;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::documents::{DocumentRecord, DocumentTable, split_doc_id};
use crate::error::{Error, Result};
use crate::folder::{hex, open_member, seal_digits, unseal};
use crate::manifest::{Fragment, Manifest};
use crate::order::SampleOrder;
use crate::shard::{Block, Decoded, Identity, ReadMode, Row, ShardReader};

/// Decoded batches that are kept when decoding one costs something.
const CACHED_BATCHES: usize = 8;

/// A packed dataset. Cheap to clone; clones share what is open. Fragments, shards and tables are opened when first needed.
#[derive(Debug, Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    manifest_path: PathBuf,
    manifest: Manifest,
    seal: String,
    mode: ReadMode,
    first_rows: Vec<u64>,
    rows: u64,
    parts: Vec<OnceLock<Part>>,
    recent: Mutex<VecDeque<(BatchKey, Arc<Decoded>)>>,
}

/// Task, shard and batch.
type BatchKey = (usize, usize, usize);

/// A task's fragment and what it names.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    fragment: Fragment,
    first_rows: Vec<u64>,
    shards: Vec<OnceLock<OpenShard>>,
    table: OnceLock<DocumentTable>,
}

#[derive(Debug)]
struct OpenShard {
    reader: ShardReader,
    /// Filled where decoding copies nothing.
    decoded: Vec<OnceLock<Arc<Decoded>>>,
}

/// `OnceLock::get_or_init` for what can fail; two threads may both try, one result stays.
fn get_or_try<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if cell.get().is_none() {
        let _ = cell.set(make()?);
    }
    cell.get().ok_or(Error::Internal("a cell lost its value"))
}

/// Starts of consecutive spans, and their sum.
fn starts(lengths: impl Iterator<Item = u64>) -> Option<(Vec<u64>, u64)> {
    let mut sum = 0u64;
    let mut starts = Vec::new();
    for length in lengths {
        starts.push(sum);
        sum = sum.checked_add(length)?;
    }
    Some((starts, sum))
}

/// The span that holds `row`, and the row's number in it. Empty spans hold nothing.
fn locate(starts: &[u64], row: u64) -> (usize, u64) {
    let index = starts.partition_point(|start| *start <= row).saturating_sub(1);
    (index, row - starts.get(index).copied().unwrap_or_default())
}

impl Dataset {
    /// Opens a folder, mapping its shards into memory as they are needed.
    ///
    /// # Errors
    /// [`Error::NoManifest`], [`Error::UnknownVersion`], [`Error::Corruption`], [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(folder, ReadMode::default())
    }

    /// As [`Dataset::open`], with a choice of how shards are read.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn open_with(folder: &Path, mode: ReadMode) -> Result<Self> {
        let path = folder.join("manifest.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::NoManifest { folder: folder.to_owned() }
            }
            _ => Error::io(&path, "read", error),
        })?;
        let manifest: Manifest = unseal(&path, &bytes)?;
        let nonsense = || Error::corrupt(&path, "", "its numbers do not fit together");
        let (first_rows, rows) =
            starts(manifest.fragments.iter().map(|fragment| fragment.rows)).ok_or_else(nonsense)?;
        let parameters = &manifest.parameters;
        let width = u64::from(parameters.seq_len) + u64::from(parameters.lookahead);
        if rows != manifest.counts.rows || parameters.seq_len == 0 || i32::try_from(width).is_err() {
            return Err(nonsense());
        }
        let inner = Inner {
            folder: folder.to_owned(),
            manifest_path: path,
            seal: seal_digits(&bytes),
            mode,
            first_rows,
            rows,
            parts: manifest.fragments.iter().map(|_| OnceLock::new()).collect(),
            recent: Mutex::new(VecDeque::new()),
            manifest,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder it was opened from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Parameters, tokenizer, sums, tokens by source.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The digits of the manifest's seal: they identify the dataset.
    #[must_use]
    pub fn seal(&self) -> &str {
        &self.inner.seal
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.inner.rows
    }

    /// Input positions of a row.
    #[must_use]
    pub fn seq_len(&self) -> usize {
        self.inner.manifest.parameters.seq_len as usize
    }

    /// Tokens stored after the input positions.
    #[must_use]
    pub fn lookahead(&self) -> usize {
        self.inner.manifest.parameters.lookahead as usize
    }

    /// A row, its checksum found right.
    ///
    /// # Errors
    /// [`Error::NoSuchRow`], [`Error::Corruption`], [`Error::UnsafeName`], [`Error::Io`].
    pub fn row(&self, row: u64) -> Result<Row> {
        if row >= self.rows() {
            return Err(Error::NoSuchRow { row, rows: self.rows() });
        }
        let (task, row_in_task) = locate(&self.inner.first_rows, row);
        let part = self.part(task)?;
        let (shard, row_in_shard) = locate(&part.first_rows, row_in_task);
        let open = self.shard(task, shard)?;
        let place = open.reader.locate(row_in_shard);
        let decoded = self.decoded(task, shard, open, place)?;
        open.reader.row(&decoded, place)
    }

    /// The rows of a step's slots, over all ranks.
    ///
    /// # Errors
    /// [`Error::EmptyDataset`], [`Error::Overflow`] for a step beyond the range of sample numbers.
    pub fn rows_of_step(&self, step: u64, global_batch_size: usize, seed: u64) -> Result<Vec<u64>> {
        let batch = global_batch_size as u64;
        let first = step.checked_mul(batch).filter(|first| first.checked_add(batch).is_some());
        let first = first.ok_or(Error::Overflow { what: "the samples up to this step" })?;
        let mut order = SampleOrder::new(self, seed)?;
        Ok((first..first + batch).map(|sample| order.row(sample)).collect())
    }

    /// What documents are: one record an id, in the order of the ids.
    ///
    /// # Errors
    /// [`Error::NoSuchDocument`], [`Error::Corruption`], [`Error::UnsafeName`], [`Error::Io`].
    pub fn documents(&self, doc_ids: &[u64]) -> Result<Vec<DocumentRecord>> {
        let record = |doc_id: &u64| {
            let (task, number) = split_doc_id(*doc_id);
            let absent = || Error::NoSuchDocument { folder: self.folder().to_owned(), doc_id: *doc_id };
            let task = usize::try_from(task)
                .ok()
                .filter(|task| *task < self.inner.parts.len())
                .ok_or_else(absent)?;
            let record = self.table(task)?.record(number).ok_or_else(absent)?;
            let holder = &self.part(task)?.path;
            if record.doc_id == *doc_id {
                Ok(record)
            } else {
                Err(Error::corrupt(holder, "", "its documents table is out of order"))
            }
        };
        doc_ids.iter().map(record).collect()
    }

    /// The documents in each slot of a step, over all ranks.
    ///
    /// # Errors
    /// Those of [`Dataset::rows_of_step`], [`Dataset::row`] and [`Dataset::documents`].
    pub fn documents_of_step(
        &self,
        step: u64,
        global_batch_size: usize,
        seed: u64,
    ) -> Result<Vec<Vec<DocumentRecord>>> {
        let rows = self.rows_of_step(step, global_batch_size, seed)?;
        rows.into_iter().map(|row| self.documents(self.row(row)?.doc_ids())).collect()
    }

    fn part(&self, task: usize) -> Result<&Part> {
        let inner = &*self.inner;
        let cell = inner.parts.get(task).ok_or(Error::Internal("a task past the last one"))?;
        get_or_try(cell, || inner.open_part(task))
    }

    fn table(&self, task: usize) -> Result<&DocumentTable> {
        let part = self.part(task)?;
        let folder = self.inner.folder.join("documents");
        get_or_try(&part.table, || DocumentTable::open(&part.path, &folder, &part.fragment.documents_table))
    }

    fn shard(&self, task: usize, shard: usize) -> Result<&OpenShard> {
        let part = self.part(task)?;
        let cell = part.shards.get(shard).ok_or(Error::Internal("a shard past the last one"))?;
        get_or_try(cell, || self.inner.open_shard(part, shard))
    }

    fn decoded(&self, task: usize, shard: usize, open: &OpenShard, place: Block) -> Result<Arc<Decoded>> {
        let decode = || open.reader.decode(place.batch).map(Arc::new);
        if open.reader.is_zero_copy() {
            let cell = open.decoded.get(place.batch).ok_or(Error::Internal("a batch past the last one"))?;
            return get_or_try(cell, decode).cloned();
        }
        let key = (task, shard, place.batch);
        let recent = || self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = recent().iter().find(|(cached, _)| *cached == key) {
            return Ok(found.clone());
        }
        let decoded = decode()?;
        let mut recent = recent();
        recent.truncate(CACHED_BATCHES - 1);
        recent.push_front((key, decoded.clone()));
        Ok(decoded)
    }
}

impl Inner {
    fn open_part(&self, task: usize) -> Result<Part> {
        let entry = self.manifest.fragments.get(task).ok_or(Error::Internal("a task past the last one"))?;
        let (path, mut file) = open_member(&self.manifest_path, &self.folder.join("fragments"), &entry.file)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| Error::io(&path, "read", e))?;
        if hex(xxh3_64(&bytes)) != entry.xxh3 {
            return Err(Error::corrupt(&path, "", "it is not the fragment that the manifest names"));
        }
        let fragment: Fragment = unseal(&path, &bytes)?;
        let nonsense = || Error::corrupt(&path, "", "its numbers do not fit together");
        let (first_rows, rows) =
            starts(fragment.shards.iter().map(|shard| shard.rows)).ok_or_else(nonsense)?;
        let counts = &fragment.counts;
        let agrees = rows == entry.rows && counts.rows == rows && counts.documents == entry.documents;
        if !agrees || counts.tokens != entry.tokens || fragment.documents_table.rows != counts.documents {
            return Err(nonsense());
        }
        if fragment.task as usize != task || fragment.plan_xxh3 != self.manifest.plan_xxh3 {
            return Err(Error::corrupt(&path, "", "it belongs to another task or plan"));
        }
        let shards = fragment.shards.iter().map(|_| OnceLock::new()).collect();
        Ok(Part { path, fragment, first_rows, shards, table: OnceLock::new() })
    }

    fn open_shard(&self, part: &Part, shard: usize) -> Result<OpenShard> {
        let entry = &part.fragment.shards[shard];
        let number = u32::try_from(shard).map_err(|_| Error::Overflow { what: "the shards of a task" })?;
        let identity = Identity::new(part.fragment.task, number, &self.manifest.parameters);
        let compressed = self.manifest.parameters.compression != "none";
        let folder = self.folder.join("shards");
        let reader = ShardReader::open(&part.path, &folder, entry, identity, compressed, self.mode)?;
        let decoded = (0..reader.batch_count()).map(|_| OnceLock::new()).collect();
        Ok(OpenShard { reader, decoded })
    }
}
