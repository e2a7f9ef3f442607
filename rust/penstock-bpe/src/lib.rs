//! Byte-level BPE: train, encode, decode, read and write the common formats.
//!
//! A [`Tokenizer`] comes from a file or from [`train::train`]. Text is cut into pieces by a [`Pattern`], each piece is
//! merged on its own, and the result equals that of the program whose file it is: HF tokenizers for a tokenizer.json,
//! tiktoken for a rank file.

mod byte_level;
mod decode;
mod encode;
mod error;
mod format;
mod machine;
mod model;
mod normalize;
mod offsets;
mod pattern;
mod pretokenize;
pub mod progress;
mod threads;
mod tokenizer;
pub mod train;
mod unicode;
mod vary;
mod vocab;

pub use decode::StreamDecoder;
pub use encode::pairs::Merge;
pub use encode::{Allowed, Encoder, Intake, Read};
pub use error::{CountsFileError, Error, PatternError, Result};
pub use machine::{ask_for_huge_pages, with_huge_pages};
pub use offsets::Unit;
pub use pattern::{CustomPattern, Pattern};
pub use progress::{Cancelled, Progress};
pub use threads::thread_count;
pub use tokenizer::{SpecialToken, Tokenizer};
pub use unicode::UNICODE_VERSION;
pub use vary::{BoundarySplit, Chance, Variation};
