//! Long work on a thread of its own, watched by polling.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use penstock_bpe::progress::Progress;
use pyo3::prelude::*;

use crate::boundary::caught;
use crate::error::Fault;

/// Work under way or finished; its result is taken once.
#[pyclass(frozen, module = "penstock._core")]
pub(crate) struct Job {
    shared: Arc<Shared>,
}

/// Makes Python's form of what the work gave.
type Hand = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

struct Shared {
    progress: Progress,
    outcome: Mutex<Outcome>,
    finished: Condvar,
}

enum Outcome {
    Running,
    Finished(Result<Hand, Fault>),
    Taken,
}

impl Job {
    /// Start `work` on a new thread; `hand` makes Python's form of what it gives.
    pub(crate) fn start<T: Send + 'static, E: Into<Fault>>(
        work: impl FnOnce(&Progress) -> Result<T, E> + Send + 'static,
        hand: impl for<'py> FnOnce(Python<'py>, T) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    ) -> PyResult<Self> {
        let shared = Arc::new(Shared {
            progress: Progress::new(),
            outcome: Mutex::new(Outcome::Running),
            finished: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("penstock-job".into()).spawn(move || {
            let result = caught(|| work(&theirs.progress));
            let hand = result.map(|value| -> Hand { Box::new(move |py| hand(py, value)) });
            *theirs.lock() = Outcome::Finished(hand);
            theirs.finished.notify_all();
        })?;
        Ok(Self { shared })
    }

    fn take(&self) -> Result<Hand, Fault> {
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

#[pymethods]
impl Job {
    /// Stage, units done, units in all (0: not known).
    fn progress(&self) -> (String, u64, u64) {
        let now = self.shared.progress.snapshot();
        (now.stage.to_owned(), now.done, now.total)
    }

    /// Ask the work to stop at its next chance.
    fn cancel(&self) {
        self.shared.progress.cancel();
    }

    /// Whether the work has finished, waiting for it at most `timeout_seconds`.
    fn wait(&self, py: Python<'_>, timeout_seconds: f64) -> bool {
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
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.take().map_err(|fault| fault.into_exception(py))?(py)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.progress.cancel();
    }
}
