//! Files in, documents out.
//!
//! | name | what is a document |
//! |---|---|
//! | `.jsonl` `.ndjson` `.json` | one JSON object a line; blank lines and CRLF are allowed, unknown fields ignored |
//! | `.txt` | the whole file, byte for byte |
//! | `.parquet` `.arrow` (IPC file) | one row; the text column is of a string type |
//!
//! The first two may be compressed (`.gz`, `.zst`; several frames after one another are one file). A byte order mark at the
//! beginning of a file is skipped. A file that ends inside a compressed frame is an error, not a shorter file.

mod arrow;
mod columns;
mod decompress;
mod jsonl;
mod lines;
mod parquet;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{BadLine, Error, Place, Result};

/// One text with what its file says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// 0-based number in its file, skipped documents counted.
    pub ordinal: u64,
    /// The value of the source field: where the text comes from. A string or a whole number of at most 1024 bytes.
    pub source: Option<String>,
    /// The value of the id field, likewise.
    pub id: Option<String>,
}

/// What a document that cannot be read does to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadLine {
    /// Stops it with an error.
    #[default]
    Fail,
    /// Is counted by reason and left out.
    Skip,
}

impl OnBadLine {
    /// The name in plans and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// What is longer is a text of its own. As a label it would stand in manifests and once more in the documents table.
const MAX_LABEL_BYTES: usize = 1024;

/// How inputs are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Field or column that holds the text.
    pub text_field: String,
    /// Field or column of the source label; need not be there.
    pub source_field: String,
    /// Field or column of the document's own id; need not be there.
    pub id_field: String,
    /// Longest accepted line, row or text file, in bytes after decompression. Bounds memory.
    pub max_line_bytes: u64,
    /// What an unreadable document does.
    pub on_bad_line: OnBadLine,
    /// Largest zstd window, as a power of two. Bounds memory.
    pub window_log_max: u32,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            text_field: "text".to_owned(),
            source_field: "source".to_owned(),
            id_field: "id".to_owned(),
            max_line_bytes: 64 << 20,
            on_bad_line: OnBadLine::Fail,
            window_log_max: 27,
        }
    }
}

impl SourceOptions {
    /// # Errors
    /// [`Error::BadOption`] naming the option that is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |option, value: u64, expected: &str| {
            Err(Error::BadOption { option, value: value.to_string(), expected: expected.to_owned() })
        };
        if self.text_field.is_empty() {
            return Err(Error::BadOption {
                option: "text_field",
                value: "\"\"".to_owned(),
                expected: "a name".to_owned(),
            });
        }
        if !(1 << 10..=1 << 30).contains(&self.max_line_bytes) {
            return bad("max_line_bytes", self.max_line_bytes, "1 KiB to 1 GiB");
        }
        if !(10..=27).contains(&self.window_log_max) {
            return bad("window_log_max", self.window_log_max.into(), "10 to 27");
        }
        Ok(())
    }
}

/// A document before it is numbered.
struct Record {
    text: String,
    source: Option<String>,
    id: Option<String>,
}

/// One record, or why there is none at this place.
type Outcome = std::result::Result<Record, (Place, BadLine)>;

/// A format's reader. An `Err` ends the file; a bad record does not.
trait RecordReader: Send {
    fn next_record(&mut self) -> Result<Option<Outcome>>;
}

/// The documents of one file, in file order. Ends after the first error.
pub struct Documents {
    reader: Box<dyn RecordReader>,
    on_bad_line: OnBadLine,
    read: u64,
    skipped: BTreeMap<&'static str, u64>,
    position: Arc<AtomicU64>,
    finished: bool,
}

impl Documents {
    /// How many documents were skipped so far, by [`BadLine::reason`].
    #[must_use]
    pub fn skipped(&self) -> &BTreeMap<&'static str, u64> {
        &self.skipped
    }

    /// Bytes of the file, as it lies on the disk, consumed so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    fn read_next(&mut self) -> Result<Option<Document>> {
        while let Some(outcome) = self.reader.next_record()? {
            let ordinal = self.read;
            self.read += 1;
            match outcome {
                Ok(Record { text, source, id }) => {
                    let short = |label: &String| label.len() <= MAX_LABEL_BYTES;
                    let (source, id) = (source.filter(short), id.filter(short));
                    return Ok(Some(Document { text, ordinal, source, id }));
                }
                Err((place, problem)) if self.on_bad_line == OnBadLine::Fail => {
                    return Err(Error::BadDocument { place, problem });
                }
                Err((_, problem)) => *self.skipped.entry(problem.reason()).or_default() += 1,
            }
        }
        Ok(None)
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.read_next().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("read", &self.read).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    JsonLines(Compression),
    Text(Compression),
    Parquet,
    Arrow,
}

fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Compression::Gzip),
        (stem, "zst") => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::Plain),
    };
    match (stem.rsplit_once('.')?.1, compression) {
        ("jsonl" | "ndjson" | "json", _) => Some(Kind::JsonLines(compression)),
        ("txt", _) => Some(Kind::Text(compression)),
        ("parquet", Compression::Plain) => Some(Kind::Parquet),
        ("arrow", Compression::Plain) => Some(Kind::Arrow),
        _ => None,
    }
}

/// Tells whether a reader exists for a file of this name.
///
/// # Errors
/// [`Error::UnknownInput`] if none does.
pub(crate) fn check_name(path: &Path) -> Result<()> {
    kind_of(path).map(|_| ()).ok_or_else(|| Error::UnknownInput { path: path.to_owned() })
}

/// Opens a file as a stream of documents; the kind follows from the name.
///
/// # Errors
/// At once: an unknown kind of name, a file that cannot be opened, a missing column, an option out of range. From the iterator: see
/// [`BadLine`], [`Error::TruncatedInput`], [`Error::CorruptInput`].
pub fn open(path: &Path, options: &SourceOptions) -> Result<Documents> {
    options.check()?;
    let kind = kind_of(path).ok_or_else(|| Error::UnknownInput { path: path.to_owned() })?;
    let position = Arc::new(AtomicU64::new(0));
    let reader: Box<dyn RecordReader> = match kind {
        Kind::JsonLines(compression) => {
            Box::new(jsonl::JsonLines::open(path, compression, options, position.clone())?)
        }
        Kind::Text(compression) => {
            Box::new(text::TextFile::open(path, compression, options, position.clone())?)
        }
        Kind::Parquet => Box::new(parquet::open(path, options, position.clone())?),
        Kind::Arrow => Box::new(arrow::open(path, options, position.clone())?),
    };
    let on_bad_line = options.on_bad_line;
    Ok(Documents { reader, on_bad_line, read: 0, skipped: BTreeMap::new(), position, finished: false })
}

/// A path with what messages about it need.
#[derive(Clone)]
struct Origin {
    path: PathBuf,
    position: Arc<AtomicU64>,
}

impl Origin {
    fn bad(&self, line: u64, byte: u64, problem: BadLine) -> Outcome {
        Err((Place { path: self.path.clone(), line, byte }, problem))
    }

    fn corrupt(&self, detail: impl std::fmt::Display) -> Error {
        Error::CorruptInput {
            path: self.path.clone(),
            offset: self.position.load(Ordering::Relaxed),
            detail: detail.to_string(),
        }
    }
}
