//! The merge rules: which two neighbours become which token, and which of them first.

use crate::error::{Error, Result};

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
    left: u32,
    right: u32,
    rank: u32,
}

/// Pair -> rank, by open addressing; rank -> product.
#[derive(Debug)]
pub(crate) struct Pairs {
    slots: Vec<Slot>,
    shift: u32,
    products: Vec<u32>,
}

impl Pairs {
    /// Rules whose rank is their place in the list, as in tokenizer.json.
    pub(crate) fn by_place(merges: &[Merge]) -> Result<Self> {
        let ranked = (0..).zip(merges).map(|(rank, merge)| (rank, *merge));
        Self::new(
            merges.len(),
            ranked,
            merges.iter().map(|merge| merge.product).collect(),
        )
    }

    /// Rules whose rank is the id of their product, as in a rank file: ways to the same token rank alike, so the
    /// leftmost goes first.
    pub(crate) fn by_product(merges: &[Merge], vocab_len: usize) -> Result<Self> {
        let ranked = merges.iter().map(|merge| (merge.product, *merge));
        Self::new(merges.len(), ranked, (0..).take(vocab_len).collect())
    }

    fn new(
        len: usize,
        ranked: impl Iterator<Item = (u32, Merge)>,
        products: Vec<u32>,
    ) -> Result<Self> {
        let capacity = (len * 2).next_power_of_two().max(2);
        let empty = Slot {
            left: 0,
            right: 0,
            rank: NONE,
        };
        let mut pairs = Self {
            slots: vec![empty; capacity],
            shift: 64 - capacity.trailing_zeros(),
            products,
        };
        for (index, (rank, merge)) in ranked.enumerate() {
            let slot = pairs.slot_of(merge.left, merge.right);
            if pairs.slots[slot].rank != NONE {
                return Err(Error::DuplicateMerge {
                    index,
                    first: pairs.slots[slot].rank as usize,
                });
            }
            pairs.slots[slot] = Slot {
                left: merge.left,
                right: merge.right,
                rank,
            };
        }
        Ok(pairs)
    }

    #[inline]
    fn slot_of(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        let mixed = (key ^ key >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut slot = (mixed >> self.shift) as usize;
        loop {
            let found = &self.slots[slot];
            if found.rank == NONE || (found.left == left && found.right == right) {
                return slot;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Rank of the rule for this pair, the smallest first; [`NONE`] without one.
    #[inline]
    pub(crate) fn rank(&self, left: u32, right: u32) -> u32 {
        self.slots[self.slot_of(left, right)].rank
    }

    /// The token that the rule of `rank` makes.
    #[inline]
    pub(crate) fn product(&self, rank: u32) -> u32 {
        self.products[rank as usize]
    }
}
