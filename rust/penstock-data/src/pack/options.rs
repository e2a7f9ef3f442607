//! What a packing is asked for.

use penstock_bpe::Chance;

use crate::error::{Error, Result};
use crate::manifest::Parameters;
use crate::source::SourceOptions;

const MAX_BATCH_TOKENS: u32 = 1 << 28;

/// How documents are laid into rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PackMode {
    /// Only documents longer than a row are cut.
    #[default]
    BestFit,
    /// Rows are filled in input order and cut where they end.
    Concatenate,
}

impl PackMode {
    /// The name in plans and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BestFit => "best_fit",
            Self::Concatenate => "concatenate",
        }
    }
}

/// Compression of the batches' bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyCompression {
    /// Rows are read where they lie.
    #[default]
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl BodyCompression {
    /// The name in plans and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What [`pack`](fn@crate::pack) is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    /// Input positions of a row.
    pub seq_len: usize,
    /// Depth of multi-token prediction; a row stores 1 + this many tokens after its input positions.
    pub mtp_depth: usize,
    /// Seed of the order of the pieces inside a row, and of what is split.
    pub seed: u64,
    /// How documents are laid into rows.
    pub mode: PackMode,
    /// Most rows open at a time (best fit).
    pub open_bins: usize,
    /// Rows of a record batch; fewer where their tokens would exceed 1 GiB.
    pub rows_per_batch: usize,
    /// A shard closes before it exceeds this many bytes of tokens, but not before its first batch.
    pub shard_bytes: u64,
    /// How often a token that joins punctuation and line breaks is split, with the same seed.
    pub boundary_split: Chance,
    /// Compression of the shards.
    pub compression: BodyCompression,
    /// Threads that encode; 0 = as many as there are cores. They do not change a byte.
    pub threads: usize,
    /// How inputs are read.
    pub source: SourceOptions,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            seq_len: 4096,
            mtp_depth: 1,
            seed: 0,
            mode: PackMode::BestFit,
            open_bins: 128,
            rows_per_batch: 512,
            shard_bytes: 128 << 20,
            boundary_split: Chance::default(),
            compression: BodyCompression::None,
            threads: 0,
            source: SourceOptions::default(),
        }
    }
}

impl PackOptions {
    /// The parameters that the bytes depend on.
    ///
    /// # Errors
    /// [`Error::BadOption`] naming the first option that is out of range.
    pub(super) fn parameters(&self) -> Result<Parameters> {
        self.source.check()?;
        let in_range = |option, value: usize, least: usize, most: usize| {
            let expected = format!("{least} to {most}");
            let bad = || Error::BadOption { option, value: value.to_string(), expected: expected.clone() };
            if !(least..=most).contains(&value) {
                return Err(bad());
            }
            u32::try_from(value).map_err(|_| bad())
        };
        let seq_len = in_range("seq_len", self.seq_len, 2, 1 << 22)?;
        let lookahead = 1 + in_range("mtp_depth", self.mtp_depth, 0, (self.seq_len - 1).min(16))?;
        let rows_per_batch = in_range("rows_per_batch", self.rows_per_batch, 1, 1 << 16)?;
        // A batch is built in memory.
        let rows_per_batch = rows_per_batch.min(MAX_BATCH_TOKENS / (seq_len + lookahead));
        if self.shard_bytes == 0 {
            return Err(Error::BadOption {
                option: "shard_bytes",
                value: "0".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
        Ok(Parameters {
            seq_len,
            lookahead,
            mode: self.mode.name().to_owned(),
            seed: self.seed,
            open_bins: in_range("open_bins", self.open_bins, 1, 1 << 16)?,
            rows_per_batch,
            shard_bytes: self.shard_bytes,
            compression: self.compression.name().to_owned(),
            text_field: self.source.text_field.clone(),
            source_field: self.source.source_field.clone(),
            id_field: self.source.id_field.clone(),
            max_line_bytes: self.source.max_line_bytes,
            on_bad_line: self.source.on_bad_line.name().to_owned(),
            boundary_split_ppm: self.boundary_split.ppm(),
        })
    }
}
