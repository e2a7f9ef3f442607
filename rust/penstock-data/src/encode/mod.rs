//! Files of documents to tokens in memory.

mod pool;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use penstock_bpe::progress::Progress;
use penstock_bpe::{BoundarySplit, Tokenizer, Variation, thread_count};

pub(crate) use pool::{EncodePool, EncodedBatch, Encoding, Submitter};

use crate::error::{Error, Result};
use crate::source::{self, Document, Documents, SourceOptions};

const BATCH_BYTES: usize = 1 << 18;
const BATCH_DOCUMENTS: usize = 512;

/// How [`encode_files`] reads and encodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// How files are read.
    pub source: SourceOptions,
    /// How ids vary.
    pub variation: Variation,
    /// Whether each document ends with the end-of-text token, if there is one.
    pub end_of_text: bool,
    /// Threads that encode; 0 = as many as there are cores. They do not change a token.
    pub threads: usize,
}

/// The tokens of all documents, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedFiles {
    /// End to end.
    pub ids: Vec<u32>,
    /// Document `i` is `ids[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<i64>,
}

/// Encodes every document of files, empty ones included. Special tokens in a text are text.
///
/// # Errors
/// [`Error::NoInputs`], an unreadable input ([`Error::BadDocument`], [`Error::TruncatedInput`], ...), an option out of
/// range, [`Error::Cancelled`].
pub fn encode_files(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &EncodeOptions,
    progress: &Progress,
) -> Result<EncodedFiles> {
    if paths.is_empty() {
        return Err(Error::NoInputs);
    }
    let encoding = Encoding {
        tokenizer: tokenizer.clone(),
        split: BoundarySplit::new(tokenizer, options.variation.boundary_split, options.variation.seed)?,
        variation: options.variation,
        end_id: tokenizer.eot_id().filter(|_| options.end_of_text),
    };
    let mut size = 0;
    for path in paths {
        source::check_name(path)?;
        size += std::fs::metadata(path).map_err(|e| Error::io(path, "find", e))?.len();
    }
    progress.start("encode", size);
    let threads = thread_count(options.threads);
    let readers = threads.min(paths.len());
    let work = Work {
        paths,
        source: &options.source,
        progress,
        batches_ahead: if threads == 1 { 1 } else { 1 + (2 * threads).div_ceil(readers) },
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        done: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        let pool = EncodePool::start(scope, encoding, threads);
        std::thread::scope(|scope| {
            for _ in 1..readers {
                scope.spawn(|| work.read(&mut pool.handle()));
            }
            work.read(&mut pool.handle());
        });
    });
    join(work.done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What the readers share.
struct Work<'w> {
    paths: &'w [PathBuf],
    source: &'w SourceOptions,
    progress: &'w Progress,
    /// Batches that a reader has on the way.
    batches_ahead: usize,
    next: AtomicUsize,
    stop: AtomicBool,
    /// Each file's number and what became of it.
    done: Mutex<Vec<(usize, Result<Vec<EncodedBatch>>)>>,
}

impl Work<'_> {
    /// Reads files that no other reader has taken.
    fn read(&self, submitter: &mut Submitter) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = self.paths.get(number) else { return };
            let batches = self.read_file(path, submitter);
            if batches.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            self.done.lock().unwrap_or_else(PoisonError::into_inner).push((number, batches));
        }
    }

    fn read_file(&self, path: &Path, submitter: &mut Submitter) -> Result<Vec<EncodedBatch>> {
        let mut documents = source::open(path, self.source)?;
        let (mut under_way, mut encoded) = (VecDeque::new(), Vec::new());
        let (mut more, mut reported) = (true, 0);
        loop {
            while more && under_way.len() < self.batches_ahead {
                let batch = next_batch(&mut documents)?;
                more = !batch.is_empty();
                if more {
                    under_way.push_back(submitter.submit(batch)?);
                }
            }
            self.progress.check()?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let read = documents.bytes_read();
            self.progress.add(read.saturating_sub(std::mem::replace(&mut reported, read)));
            match under_way.pop_front() {
                Some(batch) => encoded.push(batch.wait()?),
                None => return Ok(encoded),
            }
        }
    }
}

fn next_batch(documents: &mut Documents) -> Result<Vec<Document>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES && batch.len() < BATCH_DOCUMENTS {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

/// The batches of all files end to end, or the first error that is not a consequence of another.
fn join(mut files: Vec<(usize, Result<Vec<EncodedBatch>>)>) -> Result<EncodedFiles> {
    files.sort_unstable_by_key(|(number, _)| *number);
    let is_cause = |file: &(usize, Result<_>)| file.1.as_ref().is_err_and(|e| !matches!(e, Error::Cancelled));
    if let Some(at) = files.iter().position(is_cause) {
        files.swap(0, at);
    }
    let mut batches = Vec::new();
    for (_, file) in files {
        batches.extend(file?);
    }
    let mut ids = Vec::with_capacity(batches.iter().map(|batch| batch.tokens.len()).sum());
    let mut offsets = vec![0];
    for batch in batches {
        offsets.extend(batch.documents.iter().map(|document| (ids.len() + document.end) as i64));
        ids.extend(batch.tokens);
    }
    Ok(EncodedFiles { ids, offsets })
}
