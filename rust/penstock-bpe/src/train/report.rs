//! What a training says about itself.

/// What was counted, and what of it was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Pieces of text, with repetitions.
    pub pieces: u64,
    /// Distinct pieces.
    pub distinct_pieces: u64,
    /// Bytes of the distinct pieces.
    pub distinct_bytes: u64,
    /// Bytes that were written to the scratch folder.
    pub spilled_bytes: u64,
    /// The sample that was trained on; none if all fitted memory.
    pub sampling: Option<Sampling>,
}

/// A sample of the distinct pieces: a piece seen `c` times is kept with probability `c / K`, by a hash of its bytes, and
/// then counts K; one seen K times or more is always kept. No count is biased by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// K: pieces seen less often were sampled.
    pub counts_below: u64,
    /// Distinct pieces that were kept.
    pub kept_pieces: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

impl Sampling {
    /// The standard error, at most, of a count of the sample.
    #[must_use]
    pub fn standard_error(&self, count: u64) -> f64 {
        (self.counts_below as f64 * count as f64).sqrt()
    }
}

/// The report of a training.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What was counted.
    pub counted: Counted,
    /// Merges that were learned.
    pub merges: usize,
    /// How often the pair of the last merge stood.
    pub last_count: u64,
}
