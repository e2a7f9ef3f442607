//! What is kept of more distinct pieces than fit memory: a sample, weighted so that no count is biased.
//!
//! A piece seen `c` times is kept with probability `min(1, c / K)` and then counts `max(c, K)`, so that the expected
//! count of anything is its true count; of all ways to keep so many pieces this one errs least. What decides is a hash
//! of the bytes, so the sample is a function of the content alone. K is the least that fits. A count X of the sample
//! has a standard error of at most the square root of K X.

use super::run::content_hash;

/// Bins an octave of the histogram: K is found to within 2 %.
const BINS_LOG2: u32 = 6;
const BINS: usize = 1 << BINS_LOG2;

/// The largest K at which a piece is kept.
#[inline]
fn priority(piece: &[u8], count: u64) -> u64 {
    let chance = u128::from(content_hash(piece)) + 1;
    u64::try_from((u128::from(count) << 64) / chance).unwrap_or(u64::MAX)
}

fn bin_of(priority: u64) -> usize {
    if priority < BINS as u64 {
        return priority as usize;
    }
    let octave = priority.ilog2() - BINS_LOG2;
    (octave as usize + 1) * BINS + ((priority >> octave) as usize & (BINS - 1))
}

/// The least priority of a bin.
fn least_of(bin: usize) -> u64 {
    let (octave, step) = (bin / BINS, bin % BINS);
    if octave == 0 { step as u64 } else { ((BINS + step) as u64) << (octave - 1) }
}

/// The memory that pieces need, by the K up to which they are kept.
#[derive(Debug)]
pub(super) struct Histogram {
    costs: Vec<u64>,
    pub(super) pieces: u64,
    pub(super) bytes: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { costs: vec![0; bin_of(u64::MAX) + 1], pieces: 0, bytes: 0 }
    }

    /// Of pieces that all fit.
    pub(super) fn of_all(pieces: usize, bytes: u64) -> Self {
        Self { costs: Vec::new(), pieces: pieces as u64, bytes }
    }

    /// Takes up a distinct piece that needs `cost_bytes` of memory.
    pub(super) fn add(&mut self, piece: &[u8], count: u64, cost_bytes: u64) {
        self.costs[bin_of(priority(piece, count))] += cost_bytes;
        self.pieces += 1;
        self.bytes += piece.len() as u64;
    }

    /// The least K at which everything kept fits `budget_bytes`; 1 keeps all.
    pub(super) fn fit(&self, budget_bytes: u64) -> u64 {
        let mut kept = 0_u64;
        for (bin, &cost) in self.costs.iter().enumerate().rev() {
            kept = kept.saturating_add(cost);
            if kept > budget_bytes {
                return if bin + 1 < self.costs.len() { least_of(bin + 1) } else { u64::MAX };
            }
        }
        1
    }
}

/// What `piece`, seen `count` times, counts in the sample of `k`; 0 if it is left out.
#[inline]
pub(super) fn sampled_count(piece: &[u8], count: u64, k: u64) -> u64 {
    if priority(piece, count) >= k { count.max(k) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_ordered_and_know_their_least() {
        for priority in (0..2000).chain([u64::MAX / 3, u64::MAX - 1, u64::MAX]) {
            let bin = bin_of(priority);
            assert!(least_of(bin) <= priority);
            assert!(bin == bin_of(u64::MAX) || least_of(bin + 1) > priority);
        }
    }

    #[test]
    fn a_sample_fits_and_is_not_biased() {
        let pieces: Vec<(Vec<u8>, u64)> =
            (0..200_000_u64).map(|n| (n.to_le_bytes().to_vec(), n % 50 + 1)).collect();
        let mut histogram = Histogram::new();
        pieces.iter().for_each(|(piece, count)| histogram.add(piece, *count, 8));
        assert_eq!(histogram.fit(8 * 200_000), 1);
        let k = histogram.fit(400_000);
        let kept: Vec<u64> = pieces.iter().map(|(p, c)| sampled_count(p, *c, k)).filter(|&c| c > 0).collect();
        assert!(kept.len() <= 50_000 && kept.len() > 45_000, "{} kept", kept.len());
        let sum: u64 = kept.iter().sum();
        let total: u64 = pieces.iter().map(|(_, count)| count).sum();
        let bound = 4.0 * ((k * total) as f64).sqrt();
        assert!((sum as f64 - total as f64).abs() < bound, "{sum} for {total}, {bound} allowed");
    }
}
