//! Every way in which a file of counts can be wrong.

use std::path::PathBuf;

/// One variant per way in which a file of counts can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountsFileError {
    /// A file of counts that is not as it was written.
    #[error("{}: damaged counts: {reason}; count the text again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file of counts of a later version.
    #[error("{}: counts of version {version}; this program knows version {known}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that is known.
        known: u32,
    },
    /// A file of counts of another split pattern.
    #[error("{}: counts were made with pattern `{counted}`, not with `{wanted}`; count the text again", path.display())]
    OtherPattern {
        /// The file.
        path: PathBuf,
        /// Name of its pattern.
        counted: String,
        /// Name of the pattern asked for.
        wanted: String,
    },
}
