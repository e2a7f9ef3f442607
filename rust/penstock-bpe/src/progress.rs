//! Progress and cancellation of long jobs, shared between the thread that works and the one that watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The error of a job that was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// What a job is doing at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the stage under way, empty before the first.
    pub stage: &'static str,
    /// Units of the stage that are done.
    pub done: u64,
    /// Units of the stage in all; 0 when unknown.
    pub total: u64,
}

/// A counter that a long job moves and its owner reads; also the way to stop the job.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// A progress at nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins `stage`, of `total_units` (0 = unknown), with nothing done.
    pub fn start(&self, stage: &'static str, total_units: u64) {
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *current = stage;
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total_units, Ordering::Relaxed);
    }

    /// Adds `n` units to what is done.
    pub fn add(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    /// Asks the job to stop; it does so at its next [`check`](Self::check).
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the job was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Lets a job stop where it stands.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] after [`cancel`](Self::cancel).
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// The stage and its counts now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            stage: *stage,
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_cancels() {
        let progress = Progress::new();
        progress.start("count", 10);
        progress.add(3);
        assert_eq!(progress.snapshot(), Snapshot { stage: "count", done: 3, total: 10 });
        assert_eq!(progress.check(), Ok(()));
        progress.cancel();
        assert_eq!(progress.check(), Err(Cancelled));
        progress.start("merge", 0);
        assert_eq!(progress.snapshot(), Snapshot { stage: "merge", done: 0, total: 0 });
    }
}
