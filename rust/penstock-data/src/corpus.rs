//! Words of a corpus, counted for the training of a tokenizer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};
use penstock_bpe::Pattern;
use penstock_bpe::progress::Progress;
use penstock_bpe::train::WordCounts;

use crate::error::{Error, Result};
use crate::source::{self, SourceOptions};

const BATCH_BYTES: usize = 1 << 18;

/// A file to read, and how much of its text.
struct Share<'p> {
    path: &'p Path,
    max_bytes: u64,
}

/// Counts the words of files of documents, in `threads` threads (0 = as many as there are cores). With `max_bytes`, of each file
/// only its beginning is read: a part of `max_bytes` in proportion to the file's size, ended by a whole document. The counts do not depend on the threads.
///
/// # Errors
/// [`Error::NoInputs`], an unreadable input, [`Error::Cancelled`].
pub fn count_corpus(
    paths: &[PathBuf],
    pattern: Pattern,
    options: &SourceOptions,
    threads: usize,
    max_bytes: Option<u64>,
    progress: &Progress,
) -> Result<WordCounts> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (shares, total_bytes) = divide(paths, max_bytes)?;
    progress.start("count", total_bytes);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    let (send, receive) = bounded::<Vec<String>>(2 * threads);
    let read = |send: Sender<Vec<String>>| {
        while !failed.load(Ordering::Relaxed)
            && let Some(share) = shares.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = read_share(share, options, &send, &failed, progress) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    let counts = std::thread::scope(|scope| {
        let counters: Vec<_> = (0..threads)
            .map(|_| {
                let (receive, pattern) = (receive.clone(), pattern.clone());
                scope.spawn(move || count(&receive, pattern))
            })
            .collect();
        for _ in 0..threads.min(shares.len()) {
            let send = send.clone();
            scope.spawn(|| read(send));
        }
        drop((send, receive));
        counters
            .into_iter()
            .map(|counter| counter.join().map_err(|_| Error::Internal("a counting thread ended")))
            .collect::<Result<Vec<WordCounts>>>()
    })?;
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut sum = WordCounts::new(pattern);
    for part in counts {
        sum.merge(part)?;
    }
    Ok(sum)
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

/// Sends the texts of a file, until another file has failed.
fn read_share(
    share: &Share<'_>,
    options: &SourceOptions,
    send: &Sender<Vec<String>>,
    failed: &AtomicBool,
    progress: &Progress,
) -> Result<()> {
    let mut documents = source::open(share.path, options)?;
    let (mut left, mut reported, mut more) = (share.max_bytes, 0, true);
    while more && left > 0 && !failed.load(Ordering::Relaxed) {
        progress.check()?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && left > 0 {
            let Some(document) = documents.next().transpose()? else {
                more = false;
                break;
            };
            bytes += document.text.len();
            left = left.saturating_sub(document.text.len() as u64);
            batch.push(document.text);
        }
        send.send(batch).map_err(|_| Error::Internal("the counting threads are gone"))?;
        let read = documents.bytes_read();
        progress.add(read.saturating_sub(std::mem::replace(&mut reported, read)));
    }
    Ok(())
}

fn count(batches: &Receiver<Vec<String>>, pattern: Pattern) -> WordCounts {
    let mut counts = WordCounts::new(pattern);
    for text in batches.iter().flatten() {
        counts.add_text(&text);
    }
    counts
}
