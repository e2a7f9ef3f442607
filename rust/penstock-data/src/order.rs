//! The order of the samples: a pure function, so that a resume state is a few numbers.
//!
//! A Feistel network permutes the numbers below a power of four; walking its cycle until the result is below
//! `rows` makes it a permutation of the rows (Black and Rogaway 2002). docs/format.md section 6 states it in full.

use crate::dataset::Dataset;
use crate::error::{Error, Result};

pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROUNDS: usize = 8;

/// The finaliser of splitmix64.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One epoch's permutation, its keys computed once.
#[derive(Debug, Clone)]
pub struct Permutation {
    rows: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `rows` rows in `epoch` under `seed`.
    #[must_use]
    pub fn new(rows: u64, seed: u64, epoch: u64) -> Self {
        let seeded = mix(seed.wrapping_add(GOLDEN));
        let base = mix(seeded.wrapping_add(GOLDEN.wrapping_mul(epoch.wrapping_add(1))));
        let keys = std::array::from_fn(|round| mix(base.wrapping_add(GOLDEN.wrapping_mul(round as u64 + 1))));
        let bits = u64::BITS - rows.saturating_sub(1).leading_zeros();
        Self { rows, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// The row at position `k`; `k` is taken modulo the number of rows, and without rows the answer is 0.
    #[must_use]
    pub fn row(&self, k: u64) -> u64 {
        if self.rows == 0 {
            return 0;
        }
        let mut x = k % self.rows;
        loop {
            x = self.encipher(x);
            if x < self.rows {
                return x;
            }
        }
    }

    fn encipher(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right.wrapping_add(key)) & mask));
        }
        left << self.half_bits | right
    }
}

/// The row that is sample `k` of `epoch`: for fixed other arguments a permutation of `0..rows`, in O(1) time and memory.
///
/// `k` is taken modulo `rows`; without rows the answer is 0.
#[must_use]
pub fn sample_row(rows: u64, seed: u64, epoch: u64, k: u64) -> u64 {
    Permutation::new(rows, seed, epoch).row(k)
}

/// Global sample numbers to rows; keeps the permutation of the current epoch.
#[derive(Debug)]
pub(crate) struct SampleOrder {
    rows: u64,
    seed: u64,
    epoch: u64,
    permutation: Permutation,
}

impl SampleOrder {
    /// # Errors
    /// [`Error::EmptyDataset`].
    pub(crate) fn new(dataset: &Dataset, seed: u64) -> Result<Self> {
        let rows = dataset.rows();
        if rows == 0 {
            return Err(Error::EmptyDataset { folder: dataset.folder().to_owned() });
        }
        Ok(Self { rows, seed, epoch: 0, permutation: Permutation::new(rows, seed, 0) })
    }

    pub(crate) fn row(&mut self, sample: u64) -> u64 {
        let epoch = sample / self.rows;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.permutation = Permutation::new(self.rows, self.seed, epoch);
        }
        self.permutation.row(sample % self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_permutation(rows: u64, seed: u64, epoch: u64) -> bool {
        let mut seen = vec![false; usize::try_from(rows).unwrap()];
        (0..rows).all(|k| {
            let row = usize::try_from(sample_row(rows, seed, epoch, k)).unwrap();
            !std::mem::replace(&mut seen[row], true)
        })
    }

    #[test]
    fn permutes_every_small_size() {
        assert!((1..300).all(|rows| is_permutation(rows, 7, 0)));
        assert!([1023, 1024, 1025, 4096, 4097, 65_537].into_iter().all(|rows| is_permutation(rows, 1, 3)));
    }

    #[test]
    fn is_frozen() {
        let first: Vec<u64> = (0..8).map(|k| sample_row(1000, 42, 1, k)).collect();
        assert_eq!(first, reference(1000, 42, 1, 8));
    }

    /// docs/format.md section 6, transcribed literally with 128-bit arithmetic in place of wrapping operators.
    fn reference(rows: u64, seed: u64, epoch: u64, count: u64) -> Vec<u64> {
        let low = |z: u128| z % (1 << 64);
        let mix = |z: u128| {
            let z = low((z ^ (z >> 30)) * 0xbf58_476d_1ce4_e5b9);
            let z = low((z ^ (z >> 27)) * 0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let g = u128::from(GOLDEN);
        let base = mix(low(mix(low(u128::from(seed) + g)) + low(g * (u128::from(epoch) + 1))));
        let h = (1..=32).find(|h| 4u128.pow(*h) >= u128::from(rows)).unwrap();
        (0..count)
            .map(|k| {
                let mut x = u128::from(k);
                loop {
                    let (mut left, mut right) = (x >> h, x % 2u128.pow(h));
                    for r in 0..8 {
                        let key = mix(low(base + low(g * (r + 1))));
                        (left, right) = (right, left ^ (mix(low(right + key)) % 2u128.pow(h)));
                    }
                    x = left * 2u128.pow(h) + right;
                    if x < u128::from(rows) {
                        return u64::try_from(x).unwrap();
                    }
                }
            })
            .collect()
    }

    #[test]
    fn spreads_neighbours() {
        // A uniform permutation moves a row by a third of the data set on average.
        let rows = 100_000u64;
        let moved: f64 =
            (0..rows).map(|k| sample_row(rows, 0, 0, k).abs_diff(k) as f64).sum::<f64>() / rows as f64;
        assert!((moved / rows as f64 - 1.0 / 3.0).abs() < 0.01, "mean displacement {moved}");
    }

    proptest! {
        #[test]
        fn permutes(rows in 1u64..5000, seed: u64, epoch: u64) {
            prop_assert!(is_permutation(rows, seed, epoch));
        }

        #[test]
        fn stays_in_range_for_huge_sizes(rows in 1u64.., seed: u64, epoch: u64, k: u64) {
            prop_assert!(sample_row(rows, seed, epoch, k) < rows);
        }

        #[test]
        fn epochs_and_seeds_differ(seed: u64, epoch in 0u64..1000) {
            let order = |seed, epoch| (0..64).map(|k| sample_row(1 << 20, seed, epoch, k)).collect::<Vec<_>>();
            prop_assert_ne!(order(seed, epoch), order(seed, epoch + 1));
            prop_assert_ne!(order(seed, epoch), order(seed.wrapping_add(1), epoch));
        }
    }
}
