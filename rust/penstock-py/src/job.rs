//! Long work on a thread of its own, watched by polling.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use penstock_bpe::progress::Progress;
use pyo3::prelude::*;

use crate::boundary::caught;
use crate::error::Fault;

/// Work under way or finished; its result is taken once.
pub(crate) struct Job<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    progress: Progress,
    outcome: Mutex<Outcome<T>>,
    finished: Condvar,
}

enum Outcome<T> {
    Running,
    Finished(Result<T, Fault>),
    Taken,
}

impl<T: Send + 'static> Job<T> {
    /// Start `work` on a new thread.
    pub(crate) fn start<E: Into<Fault>>(
        work: impl FnOnce(&Progress) -> Result<T, E> + Send + 'static,
    ) -> PyResult<Self> {
        let shared = Arc::new(Shared {
            progress: Progress::new(),
            outcome: Mutex::new(Outcome::Running),
            finished: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("penstock-job".into()).spawn(move || {
            let result = caught(|| work(&theirs.progress));
            *theirs.lock() = Outcome::Finished(result);
            theirs.finished.notify_all();
        })?;
        Ok(Self { shared })
    }

    /// Stage, units done, units in all (0: not known).
    pub(crate) fn progress(&self) -> (String, u64, u64) {
        let now = self.shared.progress.snapshot();
        (now.stage.to_owned(), now.done, now.total)
    }

    /// Ask the work to stop at its next chance.
    pub(crate) fn cancel(&self) {
        self.shared.progress.cancel();
    }

    /// Whether the work has finished, waiting for it at most `timeout_seconds`.
    pub(crate) fn wait(&self, py: Python<'_>, timeout_seconds: f64) -> bool {
        let timeout = Duration::try_from_secs_f64(timeout_seconds).unwrap_or(Duration::ZERO);
        py.detach(|| {
            let outcome = self.shared.lock();
            let waited = self
                .shared
                .finished
                .wait_timeout_while(outcome, timeout, |o| matches!(o, Outcome::Running))
                .unwrap_or_else(PoisonError::into_inner);
            !matches!(*waited.0, Outcome::Running)
        })
    }

    /// The result, or the exception that stands for what went wrong.
    pub(crate) fn result(&self, py: Python<'_>) -> PyResult<T> {
        self.take().map_err(|fault| fault.into_exception(py))
    }

    fn take(&self) -> Result<T, Fault> {
        // One lock for looking and taking: the work may finish in between.
        let mut outcome = self.shared.lock();
        if matches!(*outcome, Outcome::Running) {
            return Err(Fault::internal("result() of a job that is still running"));
        }
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Finished(result) => result,
            Outcome::Running | Outcome::Taken => Err(Fault::internal("result() of a job was taken before")),
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome<T>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.shared.progress.cancel();
    }
}
