//! Finding the pairs of the text that stand often enough, and their places.
//!
//! Three readings of the compacted text. The first sums counts by a hash of the pair: what a cell sums up to bounds the
//! counts of its pairs, so that the `least` count whose pairs fit memory is known before any pair is held. The second
//! counts the pairs of cells that reach it; the third lists their places.

use std::ops::Range;

use rustc_hash::{FxHashMap, FxHashSet};

use super::arena::{Arena, BORDER, CHECKED_SLOTS};
use super::pairs::{PAIR_BYTES, PLACE_BYTES, PairKey, Pairs, pack};
use super::shards::in_shards;
use crate::error::Result;
use crate::progress::Progress;

/// At most so many cells, as a power of two, and fewer for a short text.
const MAX_CELLS_LOG2: u32 = 20;
/// Each thread has cells of its own, and more threads wait for memory anyway.
const MAX_THREADS: usize = 4;

/// Spreads keys: the golden ratio of 2^64.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Sums of counts by a hash of the pair.
#[derive(Debug)]
struct Cells {
    counts: Vec<u64>,
    /// Places of the pairs; of none if they need not fit anything.
    places: Vec<u32>,
    shift: u32,
}

impl Cells {
    fn new(symbols: usize, is_bounded: bool) -> Self {
        let cells_log2 = (symbols.max(1).ilog2() + 1).min(MAX_CELLS_LOG2);
        let places = vec![0; if is_bounded { 1 << cells_log2 } else { 0 }];
        Self { counts: vec![0; 1 << cells_log2], places, shift: u64::BITS - cells_log2 }
    }

    #[inline]
    fn cell_of(&self, key: PairKey) -> usize {
        (key.wrapping_mul(MULTIPLIER) >> self.shift) as usize
    }

    #[inline]
    fn add(&mut self, key: PairKey, weight: i64) {
        let cell = self.cell_of(key);
        self.counts[cell] = self.counts[cell].saturating_add(weight as u64);
        if let Some(places) = self.places.get_mut(cell) {
            *places += 1;
        }
    }

    fn add_all(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        for (places, more) in self.places.iter_mut().zip(&other.places) {
            *places += more;
        }
    }

    /// Whether the pair may stand `least` times.
    #[inline]
    fn reach(&self, key: PairKey, least: i64) -> bool {
        self.counts[self.cell_of(key)] >= least as u64
    }

    /// The least count, of those not below `wanted`, whose cells fit `budget_bytes`; else that of the fullest cell.
    fn least_that_fits(&self, wanted: i64, budget_bytes: u64) -> i64 {
        let cells = self.counts.iter().zip(&self.places);
        let mut by_count: Vec<_> = cells.filter(|&(&count, _)| count >= wanted as u64).collect();
        by_count.sort_unstable_by_key(|&(&count, _)| std::cmp::Reverse(count));
        let mut held_bytes = 0;
        for &(&count, &places) in &by_count {
            held_bytes += PAIR_BYTES + PLACE_BYTES * u64::from(places);
            if held_bytes > budget_bytes {
                // Cells of the same count stand or fall together, and the first one stands.
                return count.saturating_add(1).min(*by_count[0].0) as i64;
            }
        }
        wanted
    }
}

/// Pairs that were next before.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Pairs that were merged, with the counts that they keep.
    pub(super) merged: FxHashMap<PairKey, i64>,
    /// Pairs that make no token.
    pub(super) refused: FxHashSet<PairKey>,
}

impl Past {
    #[inline]
    fn is_refused(&self, key: PairKey) -> bool {
        !self.refused.is_empty() && self.refused.contains(&key)
    }
}

/// Counts and number of places of pairs, by key.
type Counts = FxHashMap<PairKey, (i64, u32)>;
/// Places of pairs, by key.
type Places = FxHashMap<PairKey, Vec<u32>>;

/// A text to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'r> {
    pub(super) arena: &'r Arena,
    pub(super) past: &'r Past,
    pub(super) threads: usize,
    pub(super) progress: &'r Progress,
}

impl Reading<'_> {
    /// The pairs of the text that stand `wanted` times or more; so many fewer that they keep to `budget_bytes`, and at
    /// least the most frequent.
    pub(super) fn index(&self, wanted: i64, budget_bytes: u64) -> Result<Pairs> {
        self.progress.start("find pairs", 3 * self.arena.symbols().len() as u64);
        // Half of no bound is none either.
        let cells = self.cells(budget_bytes < u64::MAX / 2)?;
        let mut least = cells.least_that_fits(wanted, budget_bytes);
        let mut counts = self.counts(&cells, least)?;
        // A cell may hold several rare pairs and no frequent one.
        while least > wanted && !sum_of(&counts).values().any(|&(count, _)| count >= least) {
            least = (least / 2).max(wanted);
            counts = self.counts(&cells, least)?;
        }
        let sums = sum_of(&counts);
        let is_kept = |key: &PairKey, count: i64| count >= least || self.past.merged.contains_key(key);
        for part in &mut counts {
            part.retain(|key, _| sums.get(key).is_some_and(|&(count, _)| is_kept(key, count)));
        }
        let mut places = self.places(&cells, least, &counts)?;
        drop((cells, counts));
        let mut pairs = Pairs::new(least);
        for (key, (count, places_len)) in sums {
            if !is_kept(&key, count) {
                continue;
            }
            let mut all = Vec::with_capacity(places_len as usize);
            places.iter_mut().filter_map(|part| part.remove(&key)).for_each(|mut part| all.append(&mut part));
            // Pairs that were merged and stand again go first, however rare: they are counted with what they were.
            match self.past.merged.get(&key) {
                Some(merged) => pairs.insert_merged(key, merged + count, all),
                None => pairs.insert(key, count, all),
            }
        }
        for (&key, &count) in &self.past.merged {
            if !pairs.holds(key) {
                pairs.insert_merged(key, count, Vec::new());
            }
        }
        pairs.queue_all();
        Ok(pairs)
    }

    fn shards<T: Send>(&self, work: impl Fn(usize, Range<usize>) -> Result<T> + Sync) -> Result<Vec<T>> {
        in_shards(1..self.arena.symbols().len(), self.threads.min(MAX_THREADS), work)
    }

    fn cells(&self, is_bounded: bool) -> Result<Cells> {
        let mut parts = self.shards(|_, range| {
            let mut cells = Cells::new(self.arena.symbols().len(), is_bounded);
            self.for_each_pair(range, |key, _, weight| cells.add(key, weight))?;
            Ok(cells)
        })?;
        let mut sum = parts.swap_remove(0);
        parts.iter().for_each(|part| sum.add_all(part));
        Ok(sum)
    }

    /// Counts the pairs of cells that reach `least`, by shard.
    fn counts(&self, cells: &Cells, least: i64) -> Result<Vec<Counts>> {
        self.shards(|_, range| {
            let mut counts = Counts::default();
            self.for_each_pair(range, |key, _, weight| {
                if cells.reach(key, least) && !self.past.is_refused(key) {
                    let entry = counts.entry(key).or_default();
                    *entry = (entry.0 + weight, entry.1 + 1);
                }
            })?;
            Ok(counts)
        })
    }

    /// Lists the places of the pairs in `counts`, by shard.
    fn places(&self, cells: &Cells, least: i64, counts: &[Counts]) -> Result<Vec<Places>> {
        self.shards(|shard, range| {
            let room = |(&key, &(_, len)): (&PairKey, &(i64, u32))| (key, Vec::with_capacity(len as usize));
            let mut places: Places = counts.get(shard).into_iter().flatten().map(room).collect();
            self.for_each_pair(range, |key, place, _| {
                if cells.reach(key, least)
                    && let Some(places) = places.get_mut(&key)
                {
                    places.push(place);
                }
            })?;
            Ok(places)
        })
    }

    /// Calls `take` with each pair whose right symbol is in `range`, the place of its left one, and its weight.
    fn for_each_pair(&self, range: Range<usize>, mut take: impl FnMut(PairKey, u32, i64)) -> Result<()> {
        let (symbols, mut weights) = (self.arena.symbols(), self.arena.weights());
        for start in range.clone().step_by(CHECKED_SLOTS) {
            let end = (start + CHECKED_SLOTS).min(range.end);
            let mut left = symbols[start - 1];
            for (place, &right) in (start as u32 - 1..).zip(&symbols[start..end]) {
                if left != BORDER && right != BORDER {
                    take(pack(left, right), place, weights.at(place));
                }
                left = right;
            }
            self.progress.add((end - start) as u64);
            self.progress.check()?;
        }
        Ok(())
    }
}

/// The sums of the counts of all shards.
fn sum_of(parts: &[Counts]) -> Counts {
    let mut sum = Counts::default();
    for part in parts {
        for (&key, &(count, places)) in part {
            let entry = sum.entry(key).or_default();
            *entry = (entry.0 + count, entry.1 + places);
        }
    }
    sum
}
