//! The merge rules: which two neighbours become which token, and which of them first.

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::machine::{prefetch, with_huge_pages};
use crate::vocab::MAX_ID;

/// No rule for a pair.
pub(crate) const NONE: u32 = u32::MAX;

/// One merge rule of a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Id of the left part.
    pub left: u32,
    /// Id of the right part.
    pub right: u32,
    /// Id of the token they become.
    pub product: u32,
}

/// Tokens below `1 << GRID_BITS`, which early rules make, have the ranks of their pairs in a square.
const GRID_BITS: u32 = 9;
/// Rules of one line of memory.
const LINE_RULES: usize = 8;
/// Bits of a token.
const ID_BITS: u32 = MAX_ID.ilog2() + 1;
/// Bits of a pair of tokens.
const KEY_BITS: u32 = 2 * ID_BITS;
/// Bits of a rank beside a rest of a key.
const RANK_BITS: u32 = 26;
/// Ranks below this one fit, with room for none in the orders of scanning.
const MAX_RULES: u64 = (1 << RANK_BITS) - 2;
/// Lines at least, so that the rest of a key fits beside a rank and is never all ones.
const LEAST_LINE_BITS: u32 = KEY_BITS + RANK_BITS - u64::BITS + 1;
const FREE: u64 = u64::MAX;

/// The rests of keys that hash alike, each above its rank. What a key hashes to and its rest are together another name of
/// the key, so nothing else is compared, and a rule takes eight bytes: memory near is what merging is short of.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([u64; LINE_RULES]);

/// Pair -> rank; rank -> product.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// Ranks by left and right token, for those below `1 << grid_bits`.
    grid: Vec<u32>,
    grid_bits: u32,
    /// The other rules.
    lines: Vec<Line>,
    rest_bits: u32,
    /// Rules that found their line full.
    others: FxHashMap<u64, u32>,
    /// By rank; empty where a rank is the product itself.
    products: Vec<u32>,
    byte_ids: [u32; 256],
    /// Ranks of the pairs of two bytes, which every new piece asks for first.
    byte_ranks: Vec<u32>,
}

impl Pairs {
    /// Rules whose rank is their place in the list, as in tokenizer.json.
    pub(crate) fn by_place(merges: &[Merge], byte_ids: [u32; 256]) -> Result<Self> {
        if merges.is_sorted_by(|a, b| a.product < b.product) {
            // The same order, by numbers that are known without a look.
            return Self::new(
                byte_ids,
                merges.len(),
                merges.iter().map(|merge| (merge.product, *merge)),
                Vec::new(),
            );
        }
        let ranked = (0..).zip(merges).map(|(rank, merge)| (rank, *merge));
        Self::new(byte_ids, merges.len(), ranked, merges.iter().map(|merge| merge.product).collect())
    }

    /// Rules whose rank is the id of their product, as in a rank file: ways to the same token rank alike, so the
    /// leftmost goes first.
    pub(crate) fn by_product(merges: &[Merge], byte_ids: [u32; 256]) -> Result<Self> {
        let ranked = merges.iter().map(|merge| (merge.product, *merge));
        Self::new(byte_ids, merges.len(), ranked, Vec::new())
    }

    /// Rules of which those that stand together and make the same token rank alike, as in a SentencePiece model.
    pub(crate) fn by_run(merges: &[Merge], byte_ids: [u32; 256]) -> Result<Self> {
        let runs = || merges.chunk_by(|a, b| a.product == b.product);
        let ranked = (0..).zip(runs()).flat_map(|(rank, run)| run.iter().map(move |merge| (rank, *merge)));
        Self::new(byte_ids, merges.len(), ranked, runs().map(|run| run[0].product).collect())
    }

    fn new(
        byte_ids: [u32; 256],
        len: usize,
        ranked: impl Iterator<Item = (u32, Merge)>,
        products: Vec<u32>,
    ) -> Result<Self> {
        if len as u64 > MAX_RULES {
            return Err(Error::IdTooLarge { id: len as u64, limit: MAX_RULES as u32 });
        }
        let grid_bits = (len + 256).next_power_of_two().trailing_zeros().min(GRID_BITS);
        let mut grid = with_huge_pages(1 << (2 * grid_bits));
        grid.resize(1 << (2 * grid_bits), NONE);
        let line_bits = (len * 2 / LINE_RULES).next_power_of_two().trailing_zeros().max(LEAST_LINE_BITS);
        let mut lines = with_huge_pages(1 << line_bits);
        lines.resize(1 << line_bits, Line([FREE; LINE_RULES]));
        let mut pairs = Self {
            grid,
            grid_bits,
            lines,
            rest_bits: KEY_BITS - line_bits,
            others: FxHashMap::default(),
            products,
            byte_ids,
            byte_ranks: Vec::new(),
        };
        for (index, (rank, merge)) in ranked.enumerate() {
            let first = pairs.rank(merge.left, merge.right);
            if first != NONE {
                return Err(Error::DuplicateMerge { index, first: first as usize });
            }
            pairs.put(merge.left, merge.right, rank);
        }
        let ranks = |left: &u32| byte_ids.map(|right| pairs.rank(*left, right));
        pairs.byte_ranks = byte_ids.iter().flat_map(ranks).collect();
        Ok(pairs)
    }

    fn put(&mut self, left: u32, right: u32, rank: u32) {
        if let Some(place) = self.grid_place(left, right) {
            self.grid[place] = rank;
            return;
        }
        let key = mixed(left, right);
        let (line, rest) = self.place_of(key);
        match self.lines[line].0.iter_mut().find(|rule| **rule == FREE) {
            Some(rule) => *rule = rest << RANK_BITS | u64::from(rank),
            None => _ = self.others.insert(key, rank),
        }
    }

    /// The token of a single byte.
    #[inline]
    pub(crate) fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }

    /// [`rank`](Self::rank) of the tokens of two bytes.
    #[inline]
    pub(crate) fn byte_rank(&self, left: u8, right: u8) -> u32 {
        self.byte_ranks[usize::from(left) << 8 | usize::from(right)]
    }

    /// Rank of the rule for this pair, the smallest first; [`NONE`] without one, as for a pair with [`NONE`].
    #[inline(always)]
    pub(crate) fn rank(&self, left: u32, right: u32) -> u32 {
        match self.grid_place(left, right) {
            Some(place) => self.grid[place],
            None => self.rank_beyond_grid(left, right),
        }
    }

    /// Brings near what [`rank`](Self::rank) will look at.
    #[inline]
    pub(crate) fn prefetch(&self, left: u32, right: u32) {
        match self.grid_place(left, right) {
            Some(place) => prefetch(&self.grid, place),
            None => prefetch(&self.lines, self.place_of(mixed(left, right)).0),
        }
    }

    #[inline]
    fn grid_place(&self, left: u32, right: u32) -> Option<usize> {
        let is_inside = (left | right) >> self.grid_bits == 0;
        is_inside.then_some((left as usize) << self.grid_bits | right as usize)
    }

    #[inline(always)]
    fn rank_beyond_grid(&self, left: u32, right: u32) -> u32 {
        if left | right == NONE {
            return NONE;
        }
        let key = mixed(left, right);
        let (line, rest) = self.place_of(key);
        let wanted = rest << RANK_BITS;
        let Line(rules) = &self.lines[line];
        // Which place it is cannot be foreseen, so there is no branch for it.
        let found = rules.iter().fold(u64::MAX, |found, &rule| found.min(rule ^ wanted));
        if found >> RANK_BITS == 0 {
            return found as u32;
        }
        if rules[LINE_RULES - 1] != FREE { self.others.get(&key).copied().unwrap_or(NONE) } else { NONE }
    }

    /// The line of a key, and the rest of it.
    #[inline]
    fn place_of(&self, key: u64) -> (usize, u64) {
        ((key >> self.rest_bits) as usize, key & ((1 << self.rest_bits) - 1))
    }

    /// The token that the rule of `rank` makes.
    #[inline]
    pub(crate) fn product(&self, rank: u32) -> u32 {
        if self.products.is_empty() { rank } else { self.products[rank as usize] }
    }
}

/// The key of a pair, each bit of which has a say in the upper ones, and no two of which are equal.
#[inline]
fn mixed(left: u32, right: u32) -> u64 {
    let key = u64::from(left) << ID_BITS | u64::from(right);
    (key ^ key >> ID_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15) & ((1 << KEY_BITS) - 1)
}
