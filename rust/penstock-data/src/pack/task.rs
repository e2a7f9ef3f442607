//! One task: an input file becomes shards, a documents table and a fragment.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use penstock_bpe::progress::Progress;
use xxhash_rust::xxh3::Xxh3Default;

use super::bins::{BestFit, Concatenate, Packer, Piece, Shape};
use super::{PackMode, PackOptions};
use crate::documents::{TableWriter, doc_id};
use crate::encode::{EncodePool, EncodedBatch, Submitter};
use crate::error::{Error, Result};
use crate::folder::{FORMAT_VERSION, commit_bytes, hex, seal, unseal};
use crate::manifest::{Counts, Fragment, InputContent, Plan};
use crate::shard::RowWriter;
use crate::source::{self, Document, Documents};

const BATCH_BYTES: usize = 1 << 18;
const BATCH_DOCUMENTS: usize = 512;
const HASH_BYTES: usize = 1 << 20;

/// Tells a file that somebody still writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, SystemTime);

/// What all tasks of a job share.
pub(super) struct Job<'j> {
    pub(super) folder: &'j Path,
    pub(super) plan: &'j Plan,
    pub(super) plan_seal: &'j str,
    pub(super) inputs: &'j [PathBuf],
    pub(super) options: &'j PackOptions,
    pub(super) progress: &'j Progress,
    /// Batches that a task has in the encoders at a time.
    pub(super) batches_ahead: usize,
    /// Set when another task failed.
    pub(super) stop: AtomicBool,
}

impl Job<'_> {
    pub(super) fn fragment_path(&self, task: u32) -> PathBuf {
        self.folder.join("fragments").join(format!("{task:05}.json"))
    }

    fn check(&self) -> Result<()> {
        self.progress.check()?;
        if self.stop.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The fragment of a finished task, if what it names is there and its input is what it was.
    ///
    /// # Errors
    /// [`Error::InputChanged`], [`Error::Io`].
    pub(super) fn finished(&self, task: u32, input: &InputContent) -> Result<Option<Fragment>> {
        let path = self.fragment_path(task);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "read", error)),
        };
        // A fragment that rotted is written again: the same bytes as it once had.
        let fragment = match unseal::<Fragment>(&path, &bytes) {
            Ok(fragment) if fragment.task == task && fragment.plan_xxh3 == self.plan_seal => fragment,
            Err(error @ Error::UnknownVersion { .. }) => return Err(error),
            Ok(_) | Err(_) => return Ok(None),
        };
        if fragment.input != *input {
            let path = self.inputs[task as usize].clone();
            return Err(Error::InputChanged {
                path,
                folder: self.folder.to_owned(),
                fragment: self.fragment_path(task),
            });
        }
        Ok(self.members_are_there(&fragment).then_some(fragment))
    }

    fn members_are_there(&self, fragment: &Fragment) -> bool {
        let shards = fragment.shards.iter().map(|shard| ("shards", &shard.file, shard.size));
        let table = &fragment.documents_table;
        shards.chain([("documents", &table.file, table.size)]).all(|(folder, file, size)| {
            let found = fs::symlink_metadata(self.folder.join(folder).join(file));
            found.is_ok_and(|found| found.is_file() && found.len() == size)
        })
    }

    /// Names and hashes a task's input.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Cancelled`], and [`Error::OtherPlan`] if its size changed since the plan was made.
    pub(super) fn identify(&self, task: u32) -> Result<InputContent> {
        let planned = &self.plan.inputs[task as usize];
        let path = &self.inputs[task as usize];
        let (size, hash) = self.hash_file(path)?;
        if size != planned.size {
            return Err(Error::OtherPlan {
                folder: self.folder.to_owned(),
                what: format!("the size of {}", planned.name),
                recorded: planned.size.to_string(),
                given: size.to_string(),
            });
        }
        Ok(InputContent { name: planned.name.clone(), size, xxh3: hex(hash) })
    }

    /// Size and time of the last change of a task's input.
    ///
    /// # Errors
    /// [`Error::NoSuchInput`], [`Error::Io`].
    pub(super) fn stamp(&self, task: u32) -> Result<Stamp> {
        let path = &self.inputs[task as usize];
        let found = fs::metadata(path).and_then(|found| Ok(Stamp(found.len(), found.modified()?)));
        found.map_err(|e| Error::io(path, "find", e))
    }

    fn hash_file(&self, path: &Path) -> Result<(u64, u64)> {
        let failed = |e| Error::io(path, "read", e);
        let mut file = File::open(path).map_err(failed)?;
        let mut buffer = vec![0; HASH_BYTES];
        let (mut size, mut hash) = (0, Xxh3Default::new());
        loop {
            self.check()?;
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                return Ok((size, hash.digest()));
            }
            hash.update(&buffer[..read]);
            size += read as u64;
        }
    }

    /// Packs a task's input, which was stamped `before` it was identified, and commits its fragment.
    ///
    /// # Errors
    /// Those of reading and writing; [`Error::InputInMotion`].
    pub(super) fn run(
        &self,
        task: u32,
        input: InputContent,
        before: Stamp,
        pool: &EncodePool,
    ) -> Result<Fragment> {
        let mut run = Run::new(self, task, input)?;
        let mut documents = source::open(&self.inputs[task as usize], &self.options.source)?;
        let mut submitter = pool.handle();
        self.pump(&mut documents, &mut submitter, &mut run)?;
        if self.stamp(task)? != before {
            return Err(Error::InputInMotion { path: self.inputs[task as usize].clone() });
        }
        let fragment = run.finish(self.plan_seal, documents.skipped())?;
        commit_bytes(&self.fragment_path(task), &seal(&fragment)?)?;
        Ok(fragment)
    }

    /// Moves documents through the encoders into the packer, in order, with a bounded number of batches on the way.
    fn pump(&self, documents: &mut Documents, submitter: &mut Submitter, run: &mut Run) -> Result<()> {
        let mut under_way = VecDeque::new();
        let (mut more, mut reported) = (true, 0);
        loop {
            while more && under_way.len() < self.batches_ahead {
                let batch = run.next_batch(documents)?;
                more = !batch.is_empty();
                if more {
                    under_way.push_back(submitter.submit(batch)?);
                }
            }
            self.check()?;
            let read = documents.bytes_read();
            self.progress.add(read.saturating_sub(std::mem::replace(&mut reported, read)));
            match under_way.pop_front() {
                Some(batch) => run.pack(&batch.wait()?)?,
                None => return Ok(()),
            }
        }
    }
}

/// A task's packer and files.
struct Run {
    task: u32,
    input: InputContent,
    packer: Packer,
    rows: RowWriter,
    table: TableWriter,
    counts: Counts,
    empty_documents: u64,
}

impl Run {
    fn new(job: &Job<'_>, task: u32, input: InputContent) -> Result<Self> {
        let parameters = &job.plan.parameters;
        let shape = Shape { seq_len: parameters.seq_len as usize, lookahead: parameters.lookahead as usize };
        let packer = match job.options.mode {
            PackMode::BestFit => {
                Packer::BestFit(BestFit::new(shape, parameters.open_bins as usize, parameters.seed, task))
            }
            PackMode::Concatenate => Packer::Concatenate(Concatenate::new(shape)),
        };
        let pad_id = job.plan.tokenizer.eot_id.unwrap_or(0);
        Ok(Self {
            task,
            input,
            packer,
            rows: RowWriter::new(&job.folder.join("shards"), task, parameters, pad_id),
            table: TableWriter::create(&job.folder.join("documents"), task)?,
            counts: Counts::default(),
            empty_documents: 0,
        })
    }

    /// Some documents that have text; none at the end of the file.
    fn next_batch(&mut self, documents: &mut Documents) -> Result<Vec<Document>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
            match documents.next().transpose()? {
                None => break,
                Some(document) if document.text.is_empty() => self.empty_documents += 1,
                Some(document) => {
                    bytes += document.text.len();
                    batch.push(document);
                }
            }
        }
        Ok(batch)
    }

    fn pack(&mut self, batch: &EncodedBatch) -> Result<()> {
        let mut start = 0;
        for document in &batch.documents {
            let tokens = &batch.tokens[start..document.end];
            start = document.end;
            let count = tokens.len() as u64;
            let label = document.source.as_deref().unwrap_or(&self.input.name);
            let doc_id = doc_id(self.task, self.table.rows())?;
            self.table.push(
                doc_id,
                &self.input.name,
                document.ordinal,
                label,
                document.id.as_deref(),
                count,
            )?;
            self.counts.add_document(label, document.text_bytes, count);
            self.packer.add(Piece { doc_id, tokens }, &mut self.rows)?;
        }
        Ok(())
    }

    fn finish(mut self, plan_seal: &str, skipped: &BTreeMap<&'static str, u64>) -> Result<Fragment> {
        let tally = self.packer.finish(&mut self.rows)?;
        self.counts.rows = tally.rows;
        self.counts.pad_tokens = tally.pad_tokens;
        self.counts.cut_documents = tally.cut_documents;
        self.counts.skipped = skipped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        if self.empty_documents > 0 {
            self.counts.skipped.insert("empty_text".to_owned(), self.empty_documents);
        }
        Ok(Fragment {
            format_version: FORMAT_VERSION,
            task: self.task,
            plan_xxh3: plan_seal.to_owned(),
            input: self.input,
            shards: self.rows.commit()?,
            documents_table: self.table.commit()?,
            counts: self.counts,
        })
    }
}
