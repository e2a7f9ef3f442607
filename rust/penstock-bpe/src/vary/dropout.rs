//! BPE-dropout (Provilkov and others, 2020): merging that leaves out merges at random.
//!
//! Whenever a merge is the next in order it is put aside with some probability; once another has been done, those put
//! aside come back. A place whose pair has changed since may still come up, and ends the turn like a merge, as in HF
//! tokenizers, so that lengths are distributed as theirs are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::chance::{Chance, Draws};
use crate::encode::pairs::{NONE, Pairs};

/// Memory of the merge loop, kept between pieces.
#[derive(Debug, Default)]
pub(crate) struct Dropout {
    /// The tokens; a merged-away place keeps an old one.
    symbols: Vec<u32>,
    /// Rank of the pair that each symbol makes with the next.
    ranks: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
    /// Rank and place, packed, least first.
    heap: BinaryHeap<Reverse<u64>>,
    /// What was dropped since the last merge.
    aside: Vec<Reverse<u64>>,
}

impl Dropout {
    /// Appends the tokens of `piece`, of which each merge is dropped with the probability `chance`, to `out`.
    pub(crate) fn merge(
        &mut self,
        piece: &[u8],
        pairs: &Pairs,
        chance: Chance,
        draws: Draws,
        out: &mut Vec<u32>,
    ) {
        self.start(piece, pairs);
        let mut drawn = 0;
        while let Some(entry) = self.heap.pop() {
            drawn += 1;
            if draws.happens(drawn, chance) {
                self.aside.push(entry);
                continue;
            }
            self.heap.extend(self.aside.drain(..));
            let (rank, place) = ((entry.0 >> 32) as u32, entry.0 as u32);
            if self.ranks[place as usize] == rank {
                self.merge_at(place, pairs.product(rank), pairs);
            }
        }
        let mut place = 0;
        while let Some(&symbol) = self.symbols.get(place) {
            out.push(symbol);
            place = self.after[place] as usize;
        }
    }

    fn start(&mut self, piece: &[u8], pairs: &Pairs) {
        let len = piece.len() as u32;
        self.symbols.clear();
        self.symbols.extend(piece.iter().map(|&byte| pairs.byte_id(byte)));
        self.ranks.clear();
        self.ranks.extend(piece.windows(2).map(|pair| pairs.byte_rank(pair[0], pair[1])));
        self.ranks.push(NONE);
        self.before.clear();
        self.before.extend((0..len).map(|place| place.wrapping_sub(1)));
        self.after.clear();
        self.after.extend(1..=len);
        self.aside.clear();
        self.heap.clear();
        let starts = (0..).zip(&self.ranks).filter(|&(_, &rank)| rank != NONE);
        self.heap.extend(starts.map(|(place, &rank)| pack(rank, place)));
    }

    fn merge_at(&mut self, place: u32, product: u32, pairs: &Pairs) {
        let gone = self.after[place as usize] as usize;
        let next = self.after[gone] as usize;
        self.symbols[place as usize] = product;
        self.ranks[gone] = NONE;
        self.after[place as usize] = next as u32;
        let mut rank_ahead = NONE;
        if let Some(&symbol) = self.symbols.get(next) {
            self.before[next] = place;
            rank_ahead = pairs.rank(product, symbol);
        }
        self.set_rank(place, rank_ahead);
        let previous = self.before[place as usize];
        if let Some(&symbol) = self.symbols.get(previous as usize) {
            self.set_rank(previous, pairs.rank(symbol, product));
        }
    }

    fn set_rank(&mut self, place: u32, rank: u32) {
        self.ranks[place as usize] = rank;
        if rank != NONE {
            self.heap.push(pack(rank, place));
        }
    }
}

fn pack(rank: u32, place: u32) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(place))
}
