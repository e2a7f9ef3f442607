//! Chance without state: what is drawn depends on a seed, the text and a place in it, and on nothing that ran before.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

const MILLION: u32 = 1_000_000;
/// The step of splitmix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A probability in millionths, so that files and hashes have one spelling of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chance {
    ppm: u32,
}

impl Chance {
    /// The probability `value`, to the nearest millionth; `option` is its name in the error.
    ///
    /// # Errors
    ///
    /// [`Error::BadChance`] for what is no number from 0 to 1, or so small that it would become 0.
    pub fn new(option: &'static str, value: f64) -> Result<Self> {
        let ppm = (value * f64::from(MILLION)).round();
        if !(0.0..=1.0).contains(&value) || (ppm == 0.0 && value > 0.0) {
            return Err(Error::BadChance { option, value });
        }
        Ok(Self { ppm: ppm as u32 })
    }

    /// In millionths.
    #[must_use]
    pub fn ppm(self) -> u32 {
        self.ppm
    }

    /// Whether it never happens.
    #[must_use]
    pub fn is_never(self) -> bool {
        self.ppm == 0
    }
}

/// Draws for one text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws {
    key: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64, text: &str) -> Self {
        Self { key: mix(mix(seed.wrapping_add(GOLDEN)) ^ xxh3_64(text.as_bytes())) }
    }

    /// What the place says, with the probability `chance`. Places are independent of each other.
    #[inline]
    pub(crate) fn happens(self, place: u64, chance: Chance) -> bool {
        let drawn = mix(self.key.wrapping_add(GOLDEN.wrapping_mul(place.wrapping_add(1))));
        ((u128::from(drawn) * u128::from(MILLION)) >> 64) < u128::from(chance.ppm)
    }

    /// Draws of their own for a place.
    #[inline]
    pub(crate) fn within(self, place: u64) -> Self {
        Self { key: mix(self.key ^ mix(place.wrapping_add(GOLDEN))) }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_millionths() {
        let ppm = |value| Chance::new("p", value).map(Chance::ppm).ok();
        assert_eq!([0.0, 1.0, 0.1, 1e-6].map(ppm), [Some(0), Some(MILLION), Some(100_000), Some(1)]);
        assert_eq!([-0.1, 1.1, f64::NAN, f64::INFINITY, 1e-7].map(ppm), [None; 5]);
    }

    #[test]
    fn a_share_of_the_places_is_chosen_whatever_the_seed() {
        const PLACES: u64 = 100_000;
        for (value, seed) in [(0.0, 1), (0.01, 2), (0.1, 0), (0.5, u64::MAX), (0.97, 4), (1.0, 5)] {
            let chance = Chance::new("p", value).unwrap();
            for draws in [Draws::new(seed, "a text"), Draws::new(seed, "a text").within(seed)] {
                let chosen = (0..PLACES).filter(|&place| draws.happens(place, chance)).count();
                let deviation = (PLACES as f64 * value * (1.0 - value)).sqrt();
                assert!((chosen as f64 - PLACES as f64 * value).abs() <= 5.0 * deviation, "{value} {chosen}");
            }
        }
    }
}
