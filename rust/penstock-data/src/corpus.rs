//! Words of a corpus, counted for the training of a tokenizer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use penstock_bpe::progress::Progress;
use penstock_bpe::train::{MemoryBudget, WordCounts};
use penstock_bpe::{Pattern, Tokenizer, thread_count};

use crate::error::{Error, Result};
use crate::source::{self, SourceOptions};

const BATCH_BYTES: usize = 1 << 18;
/// Text that was read and is not counted yet; one larger document may be under way alone.
const WAITING_BYTES: usize = 16 << 20;
/// Between two looks at whether to go on.
const POLL: Duration = Duration::from_millis(20);

/// What to count, and of which text.
#[derive(Debug, Clone, Default)]
pub struct CountOptions {
    /// Counts are made for each of these, in one reading.
    pub patterns: Vec<Pattern>,
    /// A tokenizer to be extended, which normalises texts.
    pub extended: Option<Tokenizer>,
    /// Counts keep to it; what does not fit goes to disk.
    pub budget: Option<MemoryBudget>,
    /// How many times each document of a source counts, by the value of its source field; others count once.
    pub weights: BTreeMap<String, u64>,
    /// Of each file only the beginning is read: a part of this many bytes of text in proportion to the file's size,
    /// ended by a whole document.
    pub max_bytes: Option<u64>,
    /// Threads (0 = as many as there are cores). The counts do not depend on them.
    pub threads: usize,
}

/// A file to read, and how much of its text.
struct Share<'p> {
    path: &'p Path,
    max_bytes: u64,
}

/// Texts with their weights, and their size.
struct Batch {
    texts: Vec<(String, u64)>,
    bytes: usize,
}

/// What the threads of one count share.
struct Work<'w> {
    shares: &'w [Share<'w>],
    source: &'w SourceOptions,
    options: &'w CountOptions,
    progress: &'w Progress,
    next: AtomicUsize,
    has_failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    waiting_bytes: Mutex<usize>,
    less_waits: Condvar,
    seen_sources: Mutex<BTreeSet<String>>,
}

/// Counts the words of files of documents, once for each pattern.
///
/// # Errors
/// [`Error::NoInputs`], an unreadable input, [`Error::BadOption`] for a weight of a source that no document has,
/// [`Error::Cancelled`].
pub fn count_corpus(
    paths: &[PathBuf],
    source: &SourceOptions,
    options: &CountOptions,
    progress: &Progress,
) -> Result<Vec<WordCounts>> {
    let threads = thread_count(options.threads);
    let (shares, total_bytes) = divide(paths, options.max_bytes)?;
    progress.start("count", total_bytes);
    let work = Work {
        shares: &shares,
        source,
        options,
        progress,
        next: AtomicUsize::new(0),
        has_failed: AtomicBool::new(false),
        failure: Mutex::new(None),
        waiting_bytes: Mutex::new(0),
        less_waits: Condvar::new(),
        seen_sources: Mutex::new(BTreeSet::new()),
    };
    let counts = work.run(threads)?;
    if let Some(error) = work.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let seen = work.seen_sources.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(unknown) = options.weights.keys().find(|&name| !seen.contains(name)) {
        let expected = format!("one of the sources of the corpus: {}", Vec::from_iter(seen).join(", "));
        return Err(Error::BadOption { option: "weights", value: unknown.clone(), expected });
    }
    sum(counts, progress)
}

/// The sums of what the threads have counted, each pattern's in a thread.
fn sum(parts: Vec<Vec<WordCounts>>, progress: &Progress) -> Result<Vec<WordCounts>> {
    let mut by_pattern: Vec<Vec<WordCounts>> = Vec::new();
    for part in parts {
        by_pattern.resize_with(part.len(), Vec::new);
        by_pattern.iter_mut().zip(part).for_each(|(all, counts)| all.push(counts));
    }
    let sum = |parts: Vec<WordCounts>| -> Result<Option<WordCounts>> {
        let mut parts = parts.into_iter();
        let Some(mut sum) = parts.next() else { return Ok(None) };
        parts.try_for_each(|counts| sum.merge_watched(counts, progress))?;
        Ok(Some(sum))
    };
    std::thread::scope(|scope| {
        let sums: Vec<_> = by_pattern.into_iter().map(|parts| scope.spawn(move || sum(parts))).collect();
        let sums =
            sums.into_iter().map(|sum| sum.join().map_err(|_| Error::Internal("a counting thread ended"))?);
        sums.filter_map(Result::transpose).collect()
    })
}

impl Work<'_> {
    fn run(&self, threads: usize) -> Result<Vec<Vec<WordCounts>>> {
        let (send, receive) = unbounded();
        std::thread::scope(|scope| {
            let counters: Vec<_> = (0..threads)
                .map(|_| {
                    let receive = receive.clone();
                    scope.spawn(move || self.count(&receive, threads))
                })
                .collect();
            for _ in 0..threads.min(self.shares.len()) {
                let send = send.clone();
                scope.spawn(move || self.read(&send));
            }
            drop((send, receive));
            counters
                .into_iter()
                .map(|counter| counter.join().map_err(|_| Error::Internal("a counting thread ended")))
                .collect()
        })
    }

    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.has_failed.store(true, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    fn read(&self, send: &Sender<Batch>) {
        while !self.has_failed()
            && let Some(share) = self.shares.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = self.read_share(share, send) {
                self.fail(error);
            }
        }
    }

    /// Sends the texts of a file, until something has failed.
    fn read_share(&self, share: &Share<'_>, send: &Sender<Batch>) -> Result<()> {
        let mut documents = source::open(share.path, self.source)?;
        let (mut left, mut reported, mut more) = (share.max_bytes, 0, true);
        let weights = &self.options.weights;
        let mut seen = BTreeSet::new();
        while more && left > 0 && !self.has_failed() {
            self.progress.check()?;
            let mut batch = Batch { texts: Vec::new(), bytes: 0 };
            while batch.bytes < BATCH_BYTES && left > 0 {
                let Some(document) = documents.next().transpose()? else {
                    more = false;
                    break;
                };
                let mut weight = 1;
                if let Some(source) = document.source.filter(|_| !weights.is_empty()) {
                    weight = weights.get(&source).copied().unwrap_or(1);
                    seen.insert(source);
                }
                batch.bytes += document.text.len();
                left = left.saturating_sub(document.text.len() as u64);
                batch.texts.push((document.text, weight));
            }
            self.wait_for_room(batch.bytes)?;
            send.send(batch).map_err(|_| Error::Internal("the counting threads are gone"))?;
            let read = documents.bytes_read();
            self.progress.add(read.saturating_sub(std::mem::replace(&mut reported, read)));
        }
        self.seen_sources.lock().unwrap_or_else(PoisonError::into_inner).append(&mut seen);
        Ok(())
    }

    /// Waits until `bytes` more may wait to be counted.
    fn wait_for_room(&self, bytes: usize) -> Result<()> {
        let mut waiting = self.waiting_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *waiting > 0 && *waiting + bytes > WAITING_BYTES && !self.has_failed() {
            self.progress.check()?;
            let waited = self.less_waits.wait_timeout(waiting, POLL);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *waiting += bytes;
        Ok(())
    }

    fn count(&self, batches: &Receiver<Batch>, threads: usize) -> Vec<WordCounts> {
        let patterns = &self.options.patterns;
        let mut counts: Vec<WordCounts> = patterns
            .iter()
            .map(|pattern| match &self.options.budget {
                Some(budget) => WordCounts::within(budget, threads * patterns.len(), pattern.clone()),
                None => WordCounts::new(pattern.clone()),
            })
            .map(|counts| counts.normalized_as(self.options.extended.as_ref()))
            .collect();
        for batch in batches {
            for (text, weight) in batch.texts {
                let counted =
                    counts.iter_mut().try_for_each(|c| c.add_weighted_text(&text, weight, self.progress));
                if let Err(error) = counted {
                    self.fail(error.into());
                }
                if self.has_failed() {
                    break;
                }
            }
            *self.waiting_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= batch.bytes;
            self.less_waits.notify_all();
        }
        counts
    }
}

/// Each file's part of `max_bytes`, and the bytes of all files.
fn divide(paths: &[PathBuf], max_bytes: Option<u64>) -> Result<(Vec<Share<'_>>, u64)> {
    if paths.is_empty() {
        return Err(Error::NoInputs);
    }
    let size = |path: &PathBuf| {
        source::check_name(path)?;
        std::fs::metadata(path).map(|found| found.len()).map_err(|e| Error::io(path, "find", e))
    };
    let sizes = paths.iter().map(size).collect::<Result<Vec<u64>>>()?;
    let total: u64 = sizes.iter().sum();
    let part = |size: u64| {
        let Some(max_bytes) = max_bytes else {
            return u64::MAX;
        };
        let part = u128::from(max_bytes) * u128::from(size) / u128::from(total.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    let shares = paths.iter().zip(sizes).map(|(path, size)| Share { path, max_bytes: part(size) });
    Ok((shares.collect(), total))
}
