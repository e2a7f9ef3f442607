//! The merge rules: which two neighbours become which token, and which of them first.

use crate::error::{Error, Result};
use crate::machine::with_huge_pages;

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

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: u64,
    rank: u32,
}

/// log2 of the filter's bits for each slot.
const FILTER_BITS: u32 = 3;

/// Pair -> rank, by open addressing; rank -> product.
#[derive(Debug)]
pub(crate) struct Pairs {
    slots: Vec<Slot>,
    shift: u32,
    /// A bit for every pair with a rule, by hash. Most questions are about pairs without, and end here.
    filter: Vec<u64>,
    products: Vec<u32>,
    byte_ids: [u32; 256],
    /// Ranks of the pairs of two bytes, which every new piece asks for first.
    byte_ranks: Vec<u32>,
}

impl Pairs {
    /// Rules whose rank is their place in the list, as in tokenizer.json.
    pub(crate) fn by_place(merges: &[Merge], byte_ids: [u32; 256]) -> Result<Self> {
        let ranked = (0..).zip(merges).map(|(rank, merge)| (rank, *merge));
        Self::new(byte_ids, merges.len(), ranked, merges.iter().map(|merge| merge.product).collect())
    }

    /// Rules whose rank is the id of their product, as in a rank file: ways to the same token rank alike, so the
    /// leftmost goes first.
    pub(crate) fn by_product(merges: &[Merge], byte_ids: [u32; 256], vocab_len: usize) -> Result<Self> {
        let ranked = merges.iter().map(|merge| (merge.product, *merge));
        Self::new(byte_ids, merges.len(), ranked, (0..).take(vocab_len).collect())
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
        let capacity = (len * 2).next_power_of_two().max(8);
        let mut slots = with_huge_pages(capacity);
        slots.resize(capacity, Slot { key: 0, rank: NONE });
        let mut pairs = Self {
            slots,
            shift: 64 - capacity.trailing_zeros(),
            filter: vec![0; capacity << FILTER_BITS >> 6],
            products,
            byte_ids,
            byte_ranks: Vec::new(),
        };
        for (index, (rank, merge)) in ranked.enumerate() {
            let key = key_of(merge.left, merge.right);
            let slot = pairs.slot_of(key);
            if pairs.slots[slot].rank != NONE {
                return Err(Error::DuplicateMerge { index, first: pairs.slots[slot].rank as usize });
            }
            pairs.slots[slot] = Slot { key, rank };
            let bit = pairs.filter_bit(key);
            pairs.filter[bit >> 6] |= 1 << (bit & 63);
        }
        let ranks = |left: &u32| byte_ids.map(|right| pairs.rank(*left, right));
        pairs.byte_ranks = byte_ids.iter().flat_map(ranks).collect();
        Ok(pairs)
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

    #[inline]
    fn slot_of(&self, key: u64) -> usize {
        let mut slot = (mixed(key) >> self.shift) as usize;
        loop {
            let found = &self.slots[slot];
            if found.rank == NONE || found.key == key {
                return slot;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn filter_bit(&self, key: u64) -> usize {
        (mixed(key) >> (self.shift - FILTER_BITS)) as usize
    }

    /// Rank of the rule for this pair, the smallest first; [`NONE`] without one.
    #[inline]
    pub(crate) fn rank(&self, left: u32, right: u32) -> u32 {
        let key = key_of(left, right);
        let bit = self.filter_bit(key);
        if self.filter[bit >> 6] >> (bit & 63) & 1 == 0 {
            return NONE;
        }
        self.slots[self.slot_of(key)].rank
    }

    /// The token that the rule of `rank` makes.
    #[inline]
    pub(crate) fn product(&self, rank: u32) -> u32 {
        self.products[rank as usize]
    }
}

#[inline]
fn key_of(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[inline]
fn mixed(key: u64) -> u64 {
    (key ^ key >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
