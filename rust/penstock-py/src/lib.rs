//! The boundary between penstock's Rust crates and Python: thin, no logic.
//!
//! In go bytes, strings, paths and numbers; out come numpy buffers, plain values and the typed
//! exceptions of `penstock.errors`. `python/penstock/_core.pyi` is the other side.

mod boundary;
mod buffer;
mod data;
mod decoding;
mod error;
mod files;
mod ids;
mod job;
mod long_text;
mod text;
mod tokenizer;
mod training;
mod unicode;

use pyo3::prelude::*;

/// The extension module.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::boundary::_panic_for_tests;
    #[pymodule_export]
    use super::data::{Dataset, Stream, pack};
    #[pymodule_export]
    use super::files::encode_files;
    #[pymodule_export]
    use super::ids::{to_list, to_lists};
    /// Of the character classes that cut text.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "its name in Python")]
    const unicode_version: &str = penstock_bpe::UNICODE_VERSION;
    #[pymodule_export]
    use super::tokenizer::Tokenizer;
    #[pymodule_export]
    use super::training::{WordCounts, train_on_counts, train_on_files};
}
