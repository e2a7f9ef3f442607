//! Calls into decoders that were not written for hostile files.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls a decoder; where it panics, the file is to blame. The decoder must not be used again after an error.
///
/// # Errors
/// The decoder's message, or a sentence in place of its panic.
pub(crate) fn contained<T, E: std::fmt::Display>(
    decoder: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(decoder)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its decoder broke off".to_owned()),
    }
}
