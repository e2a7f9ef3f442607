//! Documents in, packed rows out, rows streamed.
//!
//! ```text
//! files -> source -> tokens -> pack -> shards, fragments, manifest -> Dataset -> order -> Stream -> batches
//! ```
//!
//! [`pack`](fn@pack) writes a dataset folder, [`Dataset`] reads it and answers questions about it, [`Stream`] hands out training batches in an order that
//! depends on the seed alone. docs/format.md specifies the folder.

mod corpus;
mod dataset;
mod decoder;
mod documents;
mod encode;
mod error;
mod folder;
pub mod manifest;
mod mmap;
pub mod order;
mod pack;
mod shard;
pub mod source;
mod state;
mod stream;

pub use corpus::{CountOptions, count_corpus};
pub use dataset::Dataset;
pub use documents::DocumentRecord;
pub use encode::{EncodeOptions, EncodedFiles, encode_files};
pub use error::{BadLine, Error, Place, Result};
pub use pack::{BodyCompression, PackMode, PackOptions, PackReport, pack};
pub use shard::{ReadMode, Row};
pub use source::{Document, OnBadLine, SourceOptions};
pub use state::State;
pub use stream::{Batch, Stream, StreamOptions};
