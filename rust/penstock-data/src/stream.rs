//! Training batches, made ahead by a thread into buffers that come back.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::order::SampleOrder;
use crate::shard::Row;
use crate::state::{STATE_VERSION, State};

/// How a dataset is streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// Samples of a step over all ranks.
    pub global_batch_size: usize,
    /// Which part of them this process takes.
    pub rank: usize,
    /// Into how many parts they are divided.
    pub world_size: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Batches made ahead.
    pub prefetch_batches: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { global_batch_size: 8, rank: 0, world_size: 1, seed: 0, prefetch_batches: 4 }
    }
}

impl StreamOptions {
    fn check(&self) -> Result<()> {
        let bad = |option, value: usize, expected: String| {
            Err(Error::BadOption { option, value: value.to_string(), expected })
        };
        let Self { global_batch_size, rank, world_size, prefetch_batches, .. } = *self;
        if world_size == 0 {
            return bad("world_size", world_size, "at least 1".to_owned());
        }
        if global_batch_size == 0 || global_batch_size % world_size != 0 {
            return bad(
                "global_batch_size",
                global_batch_size,
                format!("a multiple of world_size = {world_size}"),
            );
        }
        if rank >= world_size {
            return bad("rank", rank, format!("less than world_size = {world_size}"));
        }
        if !(1..=1024).contains(&prefetch_batches) {
            return bad("prefetch_batches", prefetch_batches, "1 to 1024".to_owned());
        }
        Ok(())
    }

    /// Samples of a step that this rank takes.
    fn rows(&self) -> usize {
        self.global_batch_size / self.world_size
    }
}

/// One rank's part of a step. Buffers have the same size in every batch of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Its number.
    pub step: u64,
    /// Rows, n below.
    pub rows: usize,
    /// `[n, seq_len + lookahead]`, row after row.
    pub tokens: Vec<i64>,
    /// `[n, seq_len]`: position in the document piece; 0 on padding.
    pub positions: Vec<i32>,
    /// Exclusive ends of the document pieces, all rows after one another.
    pub doc_ends: Vec<i32>,
    /// The document of each piece.
    pub doc_ids: Vec<u64>,
    /// `[n + 1]`: the pieces of row i are `offsets[i]..offsets[i + 1]` of `doc_ends` and `doc_ids`.
    pub offsets: Vec<usize>,
}

impl Batch {
    fn clear(&mut self) {
        self.rows = 0;
        self.tokens.clear();
        self.positions.clear();
        self.doc_ends.clear();
        self.doc_ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
    }

    fn push(&mut self, row: &Row, seq_len: usize) {
        self.rows += 1;
        self.tokens.extend(row.tokens().iter().map(|token| i64::from(*token)));
        let mut start = 0;
        for end in row.doc_ends().iter().map(|end| *end as usize) {
            // Rows are checked: ends rise and are at most the width, which fits an i32.
            self.positions.extend((0..).take(end.min(seq_len).saturating_sub(start)));
            self.doc_ends.push(i32::try_from(end).unwrap_or(i32::MAX));
            start = end;
        }
        self.positions.resize(self.rows * seq_len, 0);
        self.doc_ids.extend_from_slice(row.doc_ids());
        self.offsets.push(self.doc_ends.len());
    }
}

/// An endless sequence of batches.
#[derive(Debug)]
pub struct Stream {
    dataset: Dataset,
    options: StreamOptions,
    step: u64,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    batches: Receiver<Result<Batch>>,
    recycled: Sender<Batch>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Streams a dataset from its beginning, or from where `start` says.
    ///
    /// # Errors
    /// [`Error::BadOption`], [`Error::EmptyDataset`], [`Error::OtherState`] if the state is of another dataset, seed or global
    /// batch size, [`Error::BadState`] for an unknown version.
    pub fn new(dataset: Dataset, options: StreamOptions, start: Option<&State>) -> Result<Self> {
        options.check()?;
        SampleOrder::new(&dataset, options.seed)?;
        let mut stream = Self { dataset, options, step: 0, worker: None };
        if let Some(state) = start {
            stream.restore(state)?;
        }
        stream.start();
        Ok(stream)
    }

    /// The dataset.
    #[must_use]
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// Waits for the next batch. After an error the same step is tried again by the next call.
    ///
    /// # Errors
    /// Those of [`Dataset::row`].
    #[allow(clippy::should_implement_trait, reason = "it never ends, and an error does not end it either")]
    pub fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.next_timeout(Duration::from_secs(3600))? {
                return Ok(batch);
            }
        }
    }

    /// As [`Stream::next`], but gives up with `None` when the time is over, so that a caller can look at its signals.
    ///
    /// # Errors
    /// Those of [`Dataset::row`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Batch>> {
        if self.worker.is_none() {
            self.start();
        }
        let worker = self.worker.as_ref().ok_or(Error::Internal("the reader did not start"))?;
        match worker.batches.recv_timeout(timeout) {
            Ok(Ok(batch)) => {
                self.step = batch.step + 1;
                Ok(Some(batch))
            }
            Ok(Err(error)) => {
                self.worker = None;
                Err(error)
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.worker = None;
                Err(Error::Internal("the reading thread ended"))
            }
        }
    }

    /// Gives a batch's buffers back for reuse.
    pub fn recycle(&self, batch: Batch) {
        if let Some(worker) = &self.worker {
            // A reader that has ended needs no buffers.
            let _ = worker.recycled.send(batch);
        }
    }

    /// Where the stream stands, after the batches handed out.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            version: STATE_VERSION,
            step: self.step,
            seed: self.options.seed,
            global_batch_size: self.options.global_batch_size as u64,
            manifest: self.dataset.seal().to_owned(),
        }
    }

    /// Goes to where a state says.
    ///
    /// # Errors
    /// [`Error::OtherState`], [`Error::BadState`]; then the stream stays where it was.
    pub fn load_state(&mut self, state: &State) -> Result<()> {
        self.restore(state)?;
        self.worker = None;
        self.start();
        Ok(())
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        state.check_version()?;
        let here = self.state();
        let differs = |what, recorded: &dyn ToString, given: &dyn ToString| {
            Err(Error::OtherState { what, recorded: recorded.to_string(), given: given.to_string() })
        };
        if state.manifest != here.manifest {
            return differs("manifest", &state.manifest, &here.manifest);
        }
        if state.seed != here.seed {
            return differs("seed", &state.seed, &here.seed);
        }
        if state.global_batch_size != here.global_batch_size {
            return differs("global_batch_size", &state.global_batch_size, &here.global_batch_size);
        }
        self.step = state.step;
        Ok(())
    }

    fn start(&mut self) {
        let (send, batches) = bounded(self.options.prefetch_batches);
        let (recycled, spare) = unbounded();
        let filler = Filler { dataset: self.dataset.clone(), options: self.options.clone(), spare };
        let step = self.step;
        let thread = std::thread::Builder::new()
            .name("penstock-stream".to_owned())
            .spawn(move || filler.run(step, &send))
            .ok();
        self.worker = Some(Worker { batches, recycled, thread });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread sees that nobody receives when it sends next, which it does after at most one batch.
        self.batches = crossbeam_channel::never();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Filler {
    dataset: Dataset,
    options: StreamOptions,
    spare: Receiver<Batch>,
}

impl Filler {
    fn run(&self, first_step: u64, send: &Sender<Result<Batch>>) {
        let mut step = first_step;
        loop {
            let batch = self.fill(step);
            let failed = batch.is_err();
            if send.send(batch).is_err() || failed {
                return;
            }
            step += 1;
        }
    }

    fn fill(&self, step: u64) -> Result<Batch> {
        let mut order = SampleOrder::new(&self.dataset, self.options.seed)?;
        let mut batch = self.spare.try_recv().unwrap_or_default();
        batch.clear();
        batch.step = step;
        let seq_len = self.dataset.seq_len();
        for sample in self.samples(step)? {
            batch.push(&self.dataset.row(order.row(sample))?, seq_len);
        }
        Ok(batch)
    }

    /// This rank's samples of a step.
    fn samples(&self, step: u64) -> Result<std::ops::Range<u64>> {
        let (rows, rank) = (self.options.rows() as u64, self.options.rank as u64);
        let first =
            step.checked_mul(self.options.global_batch_size as u64).and_then(|n| n.checked_add(rank * rows));
        let first = first.filter(|first| first.checked_add(rows).is_some());
        first.map(|first| first..first + rows).ok_or(Error::Overflow { what: "the samples up to this step" })
    }
}
