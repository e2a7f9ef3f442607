//! From the crates' errors to the exceptions of `penstock.errors`, in one place.

use pyo3::prelude::*;

/// An exception to be: its class in `penstock.errors` and its message.
#[derive(Debug)]
pub(crate) struct Fault {
    class: &'static str,
    message: String,
}

impl Fault {
    /// A bug of ours.
    pub(crate) fn internal(message: &str) -> Self {
        let message = format!("{message}. This is a bug in penstock; please report it with this message.");
        Self { class: "InternalError", message }
    }

    /// An argument that is wrong in itself.
    pub(crate) fn config(message: String) -> Self {
        Self { class: "ConfigError", message }
    }

    /// Ids that are none, or of another tokenizer.
    pub(crate) fn tokenizer(message: String) -> Self {
        Self { class: "TokenizerError", message }
    }

    /// The Python exception.
    pub(crate) fn into_exception(self, py: Python<'_>) -> PyErr {
        let class = py.import("penstock.errors").and_then(|module| module.getattr(self.class));
        match class.and_then(|class| class.call1((self.message,))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }
}

impl From<penstock_bpe::Error> for Fault {
    fn from(error: penstock_bpe::Error) -> Self {
        Self { class: bpe_class(&error), message: error.to_string() }
    }
}

impl From<penstock_data::Error> for Fault {
    fn from(error: penstock_data::Error) -> Self {
        Self { class: data_class(&error), message: error.to_string() }
    }
}

fn bpe_class(error: &penstock_bpe::Error) -> &'static str {
    match error {
        penstock_bpe::Error::Cancelled(_) => "Cancelled",
        penstock_bpe::Error::BadChance { .. } => "ConfigError",
        _ => "TokenizerError",
    }
}

fn data_class(error: &penstock_data::Error) -> &'static str {
    use penstock_data::Error::{
        BadColumn, BadDocument, BadOption, BadState, Bpe, Cancelled, CorruptInput, Corruption, DiskFull,
        DuplicateInput, EmptyDataset, InputChanged, InputInMotion, Internal, Io, NoInputs, NoManifest,
        NoSuchDocument, NoSuchInput, NoSuchRow, OtherPlan, OtherState, Overflow, TruncatedInput,
        UnknownInput, UnknownVersion, UnsafeName,
    };
    match error {
        BadDocument { .. }
        | TruncatedInput { .. }
        | CorruptInput { .. }
        | UnknownInput { .. }
        | BadColumn { .. }
        | NoInputs
        | NoSuchInput { .. }
        | DuplicateInput { .. }
        | InputInMotion { .. } => "InputError",
        BadOption { .. } => "ConfigError",
        OtherPlan { .. }
        | InputChanged { .. }
        | DiskFull { .. }
        | NoManifest { .. }
        | UnknownVersion { .. }
        | NoSuchRow { .. }
        | NoSuchDocument { .. }
        | EmptyDataset { .. }
        | OtherState { .. }
        | BadState { .. }
        | Overflow { .. } => "DataError",
        Corruption { .. } | UnsafeName { .. } => "CorruptionError",
        Io { action, .. } if ["find", "open", "read"].contains(action) => "InputError",
        Io { .. } => "DataError",
        Cancelled => "Cancelled",
        Internal(_) => "InternalError",
        Bpe(error) => bpe_class(error),
    }
}
