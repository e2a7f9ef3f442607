//! Every way in which an input can be wrong.

mod counts_file;
mod pattern;

use std::path::{Path, PathBuf};

pub use counts_file::CountsFileError;
pub use pattern::PatternError;

use crate::pattern::Pattern;
use crate::progress::Cancelled;

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One variant per way in which an input can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The job was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),

    /// A content error, with the file and the place in it.
    #[error("{}: {place}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// A line (`line 7`) or a JSON place (`model.merges`).
        place: String,
        /// What is wrong there.
        source: Box<Error>,
    },
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no tokenizer at a path.
    #[error("{}: {found}; expected a folder with a tokenizer.json or tokenizer.model, a *.json, *.tiktoken or *.model file", path.display())]
    NoTokenizer {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// A tokenizer file beyond any real one.
    #[error("{}: {size_bytes} bytes; a tokenizer file of at most {limit_bytes} bytes was expected", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The largest size that is read.
        limit_bytes: u64,
    },
    /// The file name tells no known format.
    #[error("{}: expected a folder with a tokenizer.json or tokenizer.model, a *.json, *.tiktoken or *.model file", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A rank file does not say how text is split.
    #[error("{}: a rank file does not name its split pattern; pass pattern=, one of {}", path.display(), Pattern::NAMES.join(", "))]
    PatternNeeded {
        /// The file.
        path: PathBuf,
    },
    /// A pattern was given for a file that states another.
    #[error("{}: the file splits by `{stated}`, not by `{wanted}`; leave the pattern out", path.display())]
    PatternConflict {
        /// The file.
        path: PathBuf,
        /// The file's own pattern.
        stated: &'static str,
        /// The pattern asked for.
        wanted: String,
    },

    /// Not JSON, or not of the expected shape.
    #[error("not a tokenizer.json: {reason}")]
    Json {
        /// What the parser says, with line and column.
        reason: String,
    },
    /// Something that this tokenizer does not do.
    #[error("unsupported: {found}; expected {expected}")]
    Unsupported {
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// A line of a rank file is not "base64 rank".
    #[error("expected `<base64> <rank>`, found `{found}`")]
    RankLine {
        /// The line, shortened.
        found: String,
    },
    /// A token of a rank file is not base64.
    #[error("`{found}` is not base64 with padding")]
    Base64 {
        /// The field, shortened.
        found: String,
    },
    /// A rank file cannot say what this tokenizer does.
    #[error("{}: a rank file cannot hold this tokenizer: {reason}; save a folder or a .json instead", path.display())]
    NotARankFile {
        /// The file that was to be written.
        path: PathBuf,
        /// What would be lost.
        reason: &'static str,
    },

    /// A split pattern that is none, or not one of ours.
    #[error(transparent)]
    Pattern(#[from] PatternError),

    /// A token without bytes.
    #[error("token {id} is empty; every token needs at least one byte")]
    EmptyToken {
        /// Its id.
        id: u32,
    },
    /// A token beyond any real one.
    #[error("token {id} has {size_bytes} bytes; at most {limit_bytes} are allowed")]
    TokenTooLong {
        /// Its id.
        id: u32,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Two ids for the same bytes.
    #[error("tokens {first} and {second} have the same bytes ({bytes}); each token must stand once")]
    DuplicateToken {
        /// The smaller id.
        first: u32,
        /// The other.
        second: u32,
        /// The bytes, escaped.
        bytes: String,
    },
    /// Two tokens for the same id.
    #[error("id {id} is given to two tokens ({first} and {second})")]
    DuplicateId {
        /// The id.
        id: u32,
        /// One token, escaped.
        first: String,
        /// The other.
        second: String,
    },
    /// An id without a token in the vocabulary.
    #[error("no token has id {id}, though ids up to {last} are used; ids must have no gap")]
    IdGap {
        /// The missing id.
        id: u32,
        /// The largest id.
        last: u32,
    },
    /// An id beyond any real vocabulary.
    #[error("id {id} is beyond the largest allowed, {limit}")]
    IdTooLarge {
        /// The id.
        id: u64,
        /// The limit.
        limit: u32,
    },
    /// A byte that text can hold has no token.
    #[error(
        "no token for the single byte 0x{byte:02X}; a byte-level vocabulary needs all bytes that UTF-8 uses"
    )]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge is not two token strings.
    #[error("merge {index}: expected two token strings, found {found}")]
    MergeSyntax {
        /// Its place in the list.
        index: usize,
        /// What stands there.
        found: String,
    },
    /// A merge names a token that does not exist.
    #[error("merge {index}: {part} is not in the vocabulary")]
    DanglingMerge {
        /// Its place in the list.
        index: usize,
        /// The missing part or product, escaped.
        part: String,
    },
    /// A merge stands twice.
    #[error("merge {index} repeats merge {first}")]
    DuplicateMerge {
        /// Its place in the list.
        index: usize,
        /// Where the pair stood before.
        first: usize,
    },
    /// A merge would let plain text become a special token.
    #[error("merge {index} makes the special token `{content}`: text must never become one")]
    MergeMakesSpecial {
        /// Its place in the list.
        index: usize,
        /// The special token.
        content: String,
    },
    /// A special token's id, or its text, belongs to another token.
    #[error("special token `{content}` of id {id} conflicts with {found}")]
    SpecialConflict {
        /// The special token.
        content: String,
        /// Its id.
        id: u32,
        /// The token of that id, escaped.
        found: String,
    },
    /// A special token stands twice.
    #[error("special token `{content}` is given twice")]
    DuplicateSpecial {
        /// The special token.
        content: String,
    },
    /// A special token without characters.
    #[error("special token {index} is empty")]
    EmptySpecial {
        /// Its place in the list.
        index: usize,
    },

    /// An id that the vocabulary does not have.
    #[error(
        "token {index}: id {id} is not in the vocabulary of {vocab_size}; decode ids with the tokenizer that made them"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Its place among those given.
        index: usize,
        /// The largest id and one.
        vocab_size: usize,
    },

    /// Places in a text that a normaliser changes.
    #[error(
        "offsets: {normalizer} changes the text at {place}; normalise it before, or encode without offsets"
    )]
    NormalizedOffsets {
        /// The tokenizer's normaliser.
        normalizer: &'static str,
        /// Where the change begins, as the text shows it.
        place: String,
    },
    /// A model file that is no protocol buffer, or one cut short.
    #[error("byte {byte}: {found}; expected a SentencePiece model")]
    DamagedModel {
        /// Its place in the file.
        byte: usize,
        /// What is there.
        found: String,
    },
    /// No other format says all that a SentencePiece model does.
    #[error(
        "a tokenizer made from a SentencePiece model cannot be written as {format}; save it as a folder or a *.model file"
    )]
    OnlyAsModel {
        /// The format asked for.
        format: &'static str,
    },
    /// A tokenizer as bytes, such as a pickle holds, that cannot be read.
    #[error(
        "these bytes are no tokenizer of this version of penstock; make them anew from the tokenizer's file"
    )]
    Bytes,
    /// A probability that is none.
    #[error("{option} = {value}: expected 0 or a number from 0.000001 to 1")]
    BadChance {
        /// The option.
        option: &'static str,
        /// What was given.
        value: f64,
    },
    /// Nothing to split.
    #[error("boundary_split: no token of this vocabulary joins punctuation and line breaks; leave it at 0")]
    NoJoins,

    /// The vocabulary cannot even hold bytes and specials.
    #[error("vocab_size {vocab_size} is too small: 256 bytes and the special tokens need {minimum}")]
    VocabTooSmall {
        /// The size asked for.
        vocab_size: usize,
        /// The smallest size.
        minimum: usize,
    },
    /// Nothing to learn from.
    #[error("the corpus is empty: no piece of text was counted")]
    EmptyCorpus,
    /// A learned token, or a byte, spells a special token.
    #[error(
        "special token `{content}` is also what the corpus teaches as an ordinary token; choose another spelling"
    )]
    SpecialCollision {
        /// The special token.
        content: String,
    },
    /// Counts of different split patterns.
    #[error("counts were made with pattern `{counted}`, not with `{wanted}`")]
    PatternMismatch {
        /// Pattern of the counts.
        counted: &'static str,
        /// Pattern asked for.
        wanted: &'static str,
    },
    /// A count beyond 64 bits.
    #[error("the count of {piece} does not fit 64 bits")]
    CountOverflow {
        /// The piece, escaped.
        piece: String,
    },
    /// A memory bound that no training can keep.
    #[error(
        "max_memory of {max_bytes} bytes is too little: the program itself needs {minimum_bytes}; everything above holds text"
    )]
    MemoryTooSmall {
        /// The bound asked for.
        max_bytes: u64,
        /// The least.
        minimum_bytes: u64,
    },
    /// Counts that memory has no room for could not be written.
    #[error(
        "{}: cannot write counts that do not fit memory, after {written_bytes} bytes: {source}; choose another spill folder or raise max_memory",
        folder.display()
    )]
    Spill {
        /// The folder for them.
        folder: PathBuf,
        /// What was written there before.
        written_bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of counts that cannot be gone on from.
    #[error(transparent)]
    CountsFile(#[from] CountsFileError),
    /// A tokenizer whose vocabulary cannot grow by merges.
    #[error("this tokenizer can be neither extended nor cut to fewer tokens: {reason}")]
    NotExtendable {
        /// What stands against it.
        reason: &'static str,
    },
    /// A share of the vocabulary that is none.
    #[error("the share of words in a SuperBPE vocabulary lies from 0 to below 1, not at {share}")]
    BadShare {
        /// What was asked for.
        share: String,
    },
    /// A size to which no tokenizer can be cut.
    #[error(
        "a vocabulary of {vocab_size} tokens cannot be cut to {wanted}: bytes and special tokens need {minimum}"
    )]
    BadPrefix {
        /// Its size.
        vocab_size: usize,
        /// The size asked for.
        wanted: usize,
        /// The smallest size.
        minimum: usize,
    },
    /// More distinct text than the trainer can index.
    #[error("distinct pieces of {size_bytes} bytes; at most {limit_bytes} can be trained on")]
    CorpusTooLarge {
        /// Their bytes in all.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

impl Error {
    /// The error, with the file and place where it was found.
    pub(crate) fn at(self, path: &Path, place: impl Into<String>) -> Self {
        Self::InFile { path: path.to_owned(), place: place.into(), source: Box::new(self) }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

/// `bytes` as text for a message: escaped, in quotes, shortened.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 48;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
    let more = if bytes.len() > SHOWN { "..." } else { "" };
    format!("\"{shown}\"{more}")
}
