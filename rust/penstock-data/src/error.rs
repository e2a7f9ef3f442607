//! Every way in which an input, a folder or a machine can fail the pipeline, one variant each.

use std::io;
use std::path::{Path, PathBuf};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in an input a document begins to be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The input file.
    pub path: PathBuf,
    /// 1-based line, or row of a columnar file.
    pub line: u64,
    /// 0-based offset in the decompressed file, or the offset within the row's text.
    pub byte: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}, byte {}", self.path.display(), self.line, self.byte)
    }
}

/// A document that cannot be read. [`crate::source::OnBadLine`] decides whether it stops the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Not UTF-8.
    #[error("not valid UTF-8: convert the file, for instance with iconv")]
    InvalidUtf8,
    /// Not JSON at all.
    #[error("not a JSON object on one line: {0}")]
    Json(String),
    /// A `\ud800` escape without its partner, which no UTF-8 text can hold.
    #[error(
        "a lone surrogate escape (\\ud800 to \\udfff): no Unicode text can hold it; repair the producer of the file"
    )]
    LoneSurrogate,
    /// The text field is absent.
    #[error("no field {0:?}: name the field that holds the text (text_field)")]
    MissingText(String),
    /// The text field holds something else.
    #[error("field {field:?} is {found}, expected a string")]
    NotText {
        /// The field's name.
        field: String,
        /// What was found.
        found: &'static str,
    },
    /// A field is given twice, so that two readers would see two documents.
    #[error("field {0:?} is given twice in one object")]
    DuplicateField(String),
    /// Longer than the cap.
    #[error("longer than max_line_bytes = {0}: raise the cap or split the document")]
    TooLong(u64),
}

impl BadLine {
    /// The key under which reports count it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Json(_) => "bad_json",
            Self::LoneSurrogate => "lone_surrogate",
            Self::MissingText(_) => "missing_text",
            Self::NotText { .. } => "text_not_string",
            Self::DuplicateField(_) => "duplicate_field",
            Self::TooLong(_) => "line_too_long",
        }
    }
}

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A document cannot be read.
    #[error("{place}: {problem}")]
    BadDocument {
        /// File, line, byte.
        place: Place,
        /// What is wrong with it.
        problem: BadLine,
    },
    /// A compressed file ends in the middle of a frame.
    #[error("{path}: the compressed file is cut off at byte {offset}: fetch it again")]
    TruncatedInput {
        /// The input file.
        path: PathBuf,
        /// Compressed bytes read until then.
        offset: u64,
    },
    /// A compressed or columnar file contradicts its own format.
    #[error("{path}: unreadable at about byte {offset}: {detail}; fetch or write the file again")]
    CorruptInput {
        /// The input file.
        path: PathBuf,
        /// Bytes of the file read until then.
        offset: u64,
        /// The decoder's message.
        detail: String,
    },
    /// A file name that no reader claims.
    #[error(
        "{path}: unknown kind of input; known are .jsonl .ndjson .json .txt (each plain, .gz or .zst), .parquet and .arrow"
    )]
    UnknownInput {
        /// The input file.
        path: PathBuf,
    },
    /// A columnar input lacks a usable column.
    #[error("{path}: column {column:?} {problem}; its columns are {columns}")]
    BadColumn {
        /// The input file.
        path: PathBuf,
        /// The wanted column.
        column: String,
        /// "is missing" or "has type ..., expected a string".
        problem: String,
        /// The columns of the file.
        columns: String,
    },
    /// No inputs at all.
    #[error("no input files were given")]
    NoInputs,
    /// The same file twice.
    #[error("{path}: given twice as an input; every input is packed once")]
    DuplicateInput {
        /// The input file.
        path: PathBuf,
    },
    /// An option out of its range.
    #[error("option {option} = {value}: expected {expected}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The output folder belongs to a different job.
    #[error(
        "{folder}: was begun with {what} = {recorded}, this run has {given}; give the same, choose another folder, or delete this one to start again"
    )]
    OtherPlan {
        /// The output folder.
        folder: PathBuf,
        /// The member of the plan that differs.
        what: String,
        /// Its value in the folder.
        recorded: String,
        /// Its value now.
        given: String,
    },
    /// An input changed between two runs into one folder.
    #[error(
        "{path}: its content changed since its part of {folder} was packed; choose another folder, or delete {fragment} to pack it again"
    )]
    InputChanged {
        /// The input file.
        path: PathBuf,
        /// The output folder.
        folder: PathBuf,
        /// The fragment that records the old content.
        fragment: PathBuf,
    },
    /// An input changed between its hash and its last document, so that the fragment would not tell what was packed.
    #[error("{path}: changed while it was packed; wait until it is complete and run the same command again")]
    InputInMotion {
        /// The input file.
        path: PathBuf,
    },
    /// There is no such input.
    #[error(
        "{path}: no such file; expected the path of a .jsonl, .txt, .parquet or .arrow file, plain or as .gz or .zst"
    )]
    NoSuchInput {
        /// What was to be read.
        path: PathBuf,
    },
    /// An operating system call failed.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No room, or over quota.
    #[error(
        "{path}: no space left{}; free some and run the same command again: finished parts are kept",
        to_write(*needed_bytes)
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Size of the write that failed; 0 if it is not known.
        needed_bytes: u64,
    },
    /// No manifest: an unfinished packing, or no packing at all.
    #[error(
        "{folder}: holds no manifest.json: not a packed dataset, or packing did not finish (run the same pack command again)"
    )]
    NoManifest {
        /// The folder.
        folder: PathBuf,
    },
    /// A format of the future, or of somebody else.
    #[error(
        "{path}: format version {found} is unknown; this penstock reads version {known}: upgrade it, or pack again"
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The versions this build reads.
        known: &'static str,
    },
    /// A file differs from its checksum or contradicts the manifest.
    #[error("{path}{place}: corrupt: {detail}; restore the file, or delete the folder and pack again")]
    Corruption {
        /// The file.
        path: PathBuf,
        /// "" or ", batch 3" or ", row 17".
        place: String,
        /// What differs.
        detail: String,
    },
    /// A name in a manifest or fragment that could lead out of the folder.
    #[error("{path}: refuses the file name {name:?}: {problem}; restore the folder, or pack again")]
    UnsafeName {
        /// The file that holds the name, or the folder.
        path: PathBuf,
        /// The name.
        name: String,
        /// Why.
        problem: &'static str,
    },
    /// A row number past the end.
    #[error("row {row} of a dataset of {rows} rows")]
    NoSuchRow {
        /// The asked row.
        row: u64,
        /// How many there are.
        rows: u64,
    },
    /// A document id that no table holds.
    #[error("{folder}: no document {doc_id}")]
    NoSuchDocument {
        /// The dataset.
        folder: PathBuf,
        /// The asked id.
        doc_id: u64,
    },
    /// Nothing to stream.
    #[error("{folder}: the dataset has no rows; pack inputs that hold text")]
    EmptyDataset {
        /// The dataset.
        folder: PathBuf,
    },
    /// A resume state of another run.
    #[error(
        "resume state: {what} is {recorded}, this stream has {given}; resume with the same dataset, seed and global_batch_size"
    )]
    OtherState {
        /// The member that differs.
        what: &'static str,
        /// Its value in the state.
        recorded: String,
        /// Its value here.
        given: String,
    },
    /// A resume state that is no state.
    #[error("resume state: {detail}")]
    BadState {
        /// What is wrong.
        detail: String,
    },
    /// A count left the range of its type.
    #[error("{what} exceed the range of the format")]
    Overflow {
        /// What was counted.
        what: &'static str,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A thread of ours ended without an answer: a bug.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The tokenizer.
    #[error(transparent)]
    Bpe(#[from] penstock_bpe::Error),
}

fn to_write(needed_bytes: u64) -> String {
    if needed_bytes == 0 { String::new() } else { format!(" to write {needed_bytes} bytes") }
}

impl Error {
    /// Wraps a failed system call, telling a full disk from the rest.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::io_sized(path, action, 0, source)
    }

    /// As [`Error::io`] for a write of known size.
    pub(crate) fn io_sized(path: &Path, action: &'static str, needed_bytes: u64, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned(), needed_bytes }
            }
            io::ErrorKind::NotFound if action == "find" => Self::NoSuchInput { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), action, source },
        }
    }

    pub(crate) fn corrupt(path: &Path, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corruption { path: path.to_owned(), place: place.into(), detail: detail.into() }
    }
}

impl From<penstock_bpe::Cancelled> for Error {
    fn from(_: penstock_bpe::Cancelled) -> Self {
        Self::Cancelled
    }
}
