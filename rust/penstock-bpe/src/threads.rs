//! How many threads an option means.

use std::num::NonZero;
use std::thread;

/// The threads that an option asks for: 0 means as many as there are cores.
#[must_use]
pub fn thread_count(threads: usize) -> usize {
    match threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    }
}
