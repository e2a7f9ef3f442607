//! Finding the pairs of the text that stand often enough, and their places.
//!
//! Three readings of the compacted text. The first sums counts by a hash of the pair: what a cell sums up to bounds the
//! counts of its pairs, so that the `least` count whose pairs fit memory is known before any pair is held. The second
//! counts the pairs of cells that reach it; the third lists their places.

use rustc_hash::{FxHashMap, FxHashSet};

use super::arena::{Arena, BORDER, CHECKED_SLOTS};
use super::pairs::{PAIR_BYTES, PLACE_BYTES, PairKey, Pairs, pack};
use crate::error::Result;
use crate::progress::Progress;

/// At most so many cells, as a power of two, and fewer for a short text.
const MAX_CELLS_LOG2: u32 = 21;

/// Spreads keys: the golden ratio of 2^64.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Pairs of one hash.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    count: u64,
    places: u32,
}

/// Sums of counts by a hash of the pair.
#[derive(Debug)]
struct Cells {
    cells: Vec<Cell>,
    shift: u32,
}

impl Cells {
    fn new(symbols: usize) -> Self {
        let cells_log2 = (symbols.max(1).ilog2() + 1).min(MAX_CELLS_LOG2);
        Self { cells: vec![Cell::default(); 1 << cells_log2], shift: u64::BITS - cells_log2 }
    }

    #[inline]
    fn at(&mut self, key: PairKey) -> &mut Cell {
        &mut self.cells[(key.wrapping_mul(MULTIPLIER) >> self.shift) as usize]
    }

    /// Whether the pair may stand `least` times.
    #[inline]
    fn reach(&self, key: PairKey, least: i64) -> bool {
        self.cells[(key.wrapping_mul(MULTIPLIER) >> self.shift) as usize].count >= least as u64
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

/// The pairs of the text that stand `wanted` times or more; so many fewer that they keep to `budget_bytes`, and at least
/// the most frequent.
pub(super) fn index(
    arena: &Arena,
    wanted: i64,
    budget_bytes: u64,
    past: &Past,
    progress: &Progress,
) -> Result<Pairs> {
    progress.start("find pairs", 3 * arena.symbols().len() as u64);
    let mut cells = Cells::new(arena.symbols().len());
    for_each_pair(arena, past, progress, |key, _, weight| {
        let cell = cells.at(key);
        cell.count = cell.count.saturating_add(weight as u64);
        cell.places += 1;
    })?;
    let mut least = least_that_fits(&cells.cells, wanted, budget_bytes);
    let mut counts = counts_of(&cells, least, arena, past, progress)?;
    // A cell may hold several rare pairs and no frequent one.
    while least > wanted && !counts.values().any(|&(count, _)| count >= least) {
        least = (least / 2).max(wanted);
        counts = counts_of(&cells, least, arena, past, progress)?;
    }
    // Pairs that were merged and stand again go first, however rare: they are counted with what they were.
    let mut pairs = Pairs::new(least);
    for (&key, &count) in &past.merged {
        let (more, places) = counts.remove(&key).unwrap_or_default();
        pairs.insert_merged(key, count + more, Vec::with_capacity(places as usize));
    }
    for (key, (count, places)) in counts {
        if count >= least {
            pairs.insert(key, count, Vec::with_capacity(places as usize));
        }
    }
    for_each_pair(arena, past, progress, |key, place, _| {
        if cells.reach(key, least) {
            pairs.place(key, place);
        }
    })?;
    pairs.queue_all();
    Ok(pairs)
}

/// Counts the pairs of cells that reach `least`.
fn counts_of(cells: &Cells, least: i64, arena: &Arena, past: &Past, progress: &Progress) -> Result<Counts> {
    let mut counts = Counts::default();
    for_each_pair(arena, past, progress, |key, _, weight| {
        if cells.reach(key, least) {
            let entry = counts.entry(key).or_default();
            *entry = (entry.0 + weight, entry.1 + 1);
        }
    })?;
    Ok(counts)
}

/// Calls `take` with each pair, the place of its left symbol, and its weight.
fn for_each_pair(
    arena: &Arena,
    past: &Past,
    progress: &Progress,
    mut take: impl FnMut(PairKey, u32, i64),
) -> Result<()> {
    let (symbols, mut weights) = (arena.symbols(), arena.weights());
    for start in (1..symbols.len()).step_by(CHECKED_SLOTS) {
        let end = (start + CHECKED_SLOTS).min(symbols.len());
        let mut left = symbols[start - 1];
        for (place, &right) in (start as u32 - 1..).zip(&symbols[start..end]) {
            if left != BORDER && right != BORDER && !past.is_refused(pack(left, right)) {
                take(pack(left, right), place, weights.at(place));
            }
            left = right;
        }
        progress.add((end - start) as u64);
        progress.check()?;
    }
    Ok(())
}

/// The least count, of those not below `wanted`, whose cells fit `budget_bytes`; else that of the fullest cell.
fn least_that_fits(cells: &[Cell], wanted: i64, budget_bytes: u64) -> i64 {
    let mut by_count: Vec<Cell> = cells.iter().filter(|c| c.count >= wanted as u64).copied().collect();
    by_count.sort_unstable_by_key(|cell| std::cmp::Reverse(cell.count));
    let mut held_bytes = 0;
    for cell in &by_count {
        held_bytes += PAIR_BYTES + PLACE_BYTES * u64::from(cell.places);
        if held_bytes > budget_bytes {
            // Cells of the same count stand or fall together, and the first one stands.
            return cell.count.saturating_add(1).min(by_count[0].count) as i64;
        }
    }
    wanted
}
