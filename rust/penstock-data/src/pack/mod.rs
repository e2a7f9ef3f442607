//! Files of documents become a packed dataset folder. Crash-safe, resumable, the same bytes for any number of threads
//! (docs/format.md section 5).

mod bins;
mod inputs;
mod options;
mod task;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_bpe::progress::Progress;
use penstock_bpe::{BoundarySplit, Tokenizer, Variation, thread_count};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use bins::{Piece, RowSink};
pub use options::{BodyCompression, PackMode, PackOptions};
use task::Job;

use crate::encode::{EncodePool, Encoding};
use crate::error::{Error, Result};
use crate::folder::{FORMAT_VERSION, commit_bytes, create_folder, hex, lock, seal, try_lock};
use crate::manifest::{Counts, Fragment, FragmentEntry, Manifest, Plan, SourceCounts, TokenizerInfo};

const BUSY_WAIT: Duration = Duration::from_millis(50);

/// What [`pack`] did. Counts are those of the whole dataset, also where earlier runs did the work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackReport {
    /// Documents packed.
    pub documents: u64,
    /// Documents left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Tokens of the packed documents, end-of-text included.
    pub tokens: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Rows written.
    pub rows: u64,
    /// Input positions that belong to no document.
    pub pad_tokens: u64,
    /// Documents in more than one row.
    pub cut_documents: u64,
    /// Shard files.
    pub shards: u64,
    /// Tasks done by this call.
    pub tasks_done: u64,
    /// Tasks that were there already, or that another process did meanwhile.
    pub tasks_reused: u64,
    /// Duration of this call.
    pub seconds: f64,
    /// Sums by source label.
    pub by_source: BTreeMap<String, SourceCounts>,
}

/// Packs files into the folder `out`. Running it again, after whatever interruption, does what is missing; several processes may
/// do so at the same time.
///
/// # Errors
/// An unreadable input ([`Error::BadDocument`], [`Error::TruncatedInput`], ...), an option out of range, a folder begun with other parameters, tokenizer or inputs
/// ([`Error::OtherPlan`], [`Error::InputChanged`]), the disk, or [`Error::Cancelled`]. Finished tasks are kept; no manifest is written.
pub fn pack(
    paths: &[PathBuf],
    tokenizer: &Tokenizer,
    out: &Path,
    options: &PackOptions,
    progress: &Progress,
) -> Result<PackReport> {
    let started = Instant::now();
    let parameters = options.parameters()?;
    let encoding = Encoding {
        tokenizer: tokenizer.clone(),
        split: BoundarySplit::new(tokenizer, options.boundary_split, options.seed)?,
        variation: Variation::default(),
        end_id: tokenizer.eot_id(),
    };
    let (inputs, names) = inputs::name_inputs(paths)?;
    let tokenizer_info = TokenizerInfo {
        sha256: tokenizer.sha256().to_owned(),
        pattern: tokenizer.pattern_name().to_owned(),
        vocab_size: tokenizer.vocab_size() as u64,
        eot_id: tokenizer.eot_id(),
    };
    let plan = Plan { format_version: FORMAT_VERSION, parameters, tokenizer: tokenizer_info, inputs: names };
    for folder in ["shards", "documents", "fragments", "locks"] {
        create_folder(&out.join(folder))?;
    }
    let plan_seal = inputs::agree_on_plan(out, &plan, progress)?;
    progress.start("pack", plan.inputs.iter().map(|input| input.size).sum());
    let threads = thread_count(options.threads);
    let workers = threads.min(inputs.len());
    let job = Job {
        folder: out,
        plan: &plan,
        plan_seal: &plan_seal,
        inputs: &inputs,
        options,
        progress,
        batches_ahead: if threads == 1 { 1 } else { 1 + (2 * threads).div_ceil(workers) },
        stop: AtomicBool::new(false),
    };
    let done = run_tasks(&job, encoding, threads, workers)?;
    let reused = done.iter().filter(|(_, reused)| *reused).count() as u64;
    let fragments: Vec<Fragment> = done.into_iter().map(|(fragment, _)| fragment).collect();
    let manifest = commit_manifest(&job, &fragments)?;
    Ok(report(manifest.counts, &fragments, reused, started.elapsed()))
}

fn report(counts: Counts, fragments: &[Fragment], tasks_reused: u64, duration: Duration) -> PackReport {
    PackReport {
        documents: counts.documents,
        skipped: counts.skipped,
        tokens: counts.tokens,
        text_bytes: counts.text_bytes,
        rows: counts.rows,
        pad_tokens: counts.pad_tokens,
        cut_documents: counts.cut_documents,
        shards: fragments.iter().map(|fragment| fragment.shards.len() as u64).sum(),
        tasks_done: fragments.len() as u64 - tasks_reused,
        tasks_reused,
        seconds: duration.as_secs_f64(),
        by_source: counts.by_source,
    }
}

/// All fragments in task order, each with whether it was there already.
fn run_tasks(
    job: &Job<'_>,
    encoding: Encoding,
    threads: usize,
    workers: usize,
) -> Result<Vec<(Fragment, bool)>> {
    let tasks = u32::try_from(job.inputs.len()).map_err(|_| Error::Overflow { what: "the inputs" })?;
    let queue = Mutex::new((0..tasks).collect::<VecDeque<u32>>());
    let results = Mutex::new((0..tasks).map(|_| None).collect::<Vec<_>>());
    let first_error = Mutex::new(None);
    std::thread::scope(|scope| {
        let pool = EncodePool::start(scope, encoding, threads);
        let pool = &pool;
        let work = || {
            // Not in the loop's head: the guard would live as long as its body.
            let next = || locked(&queue).pop_front();
            while let Some(task) = next() {
                match run_one(job, task, pool) {
                    Ok(Some(result)) => locked(&results)[task as usize] = Some(result),
                    Ok(None) => {
                        // Another process is at it: do the others first, then look again.
                        locked(&queue).push_back(task);
                        std::thread::sleep(BUSY_WAIT);
                    }
                    Err(error) => {
                        // The others stop with `Cancelled`, which is not the reason.
                        locked(&first_error).get_or_insert(error);
                        job.stop.store(true, Ordering::Relaxed);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|workers_scope| {
            for _ in 1..workers {
                workers_scope.spawn(work);
            }
            work();
        });
    });
    if let Some(error) = locked(&first_error).take() {
        return Err(error);
    }
    let results = std::mem::take(&mut *locked(&results));
    results.into_iter().collect::<Option<_>>().ok_or(Error::Internal("a task has no result"))
}

/// A task's fragment and whether it was there already; `None` while another process works at it.
fn run_one(job: &Job<'_>, task: u32, pool: &EncodePool) -> Result<Option<(Fragment, bool)>> {
    if job.stop.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    job.progress.check()?;
    let Some(_lock) = try_lock(&job.folder.join("locks").join(format!("{task:05}.lock")))? else {
        return Ok(None);
    };
    let before = job.stamp(task)?;
    let input = job.identify(task)?;
    if let Some(fragment) = job.finished(task, &input)? {
        job.progress.add(input.size);
        return Ok(Some((fragment, true)));
    }
    job.run(task, input, before, pool).map(|fragment| Some((fragment, false)))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Writes the manifest, and removes what only packing needed.
fn commit_manifest(job: &Job<'_>, fragments: &[Fragment]) -> Result<Manifest> {
    let mut counts = Counts::default();
    let mut entries = Vec::with_capacity(fragments.len());
    for fragment in fragments {
        counts.add(&fragment.counts);
        entries.push(FragmentEntry {
            file: format!("{:05}.json", fragment.task),
            xxh3: hex(xxh3_64(&seal(fragment)?)),
            rows: fragment.counts.rows,
            documents: fragment.counts.documents,
            tokens: fragment.counts.tokens,
        });
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        parameters: job.plan.parameters.clone(),
        tokenizer: job.plan.tokenizer.clone(),
        plan_xxh3: job.plan_seal.to_owned(),
        fragments: entries,
        counts,
    };
    let bytes = seal(&manifest)?;
    let path = job.folder.join("manifest.json");
    let _lock = lock(&inputs::plan_lock(job.folder), job.progress)?;
    if fs::read(&path).ok().as_deref() != Some(&bytes) {
        commit_bytes(&path, &bytes)?;
    }
    remove_leftovers(job.folder);
    Ok(manifest)
}

/// Temporary files of dead processes and the locks. The dataset is complete without their removal, so a failure is none.
fn remove_leftovers(folder: &Path) {
    for name in ["", "shards", "documents", "fragments"] {
        for entry in fs::read_dir(folder.join(name)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    let _ = fs::remove_dir_all(folder.join("locks"));
}
