//! A long piece on its way: its tokens linked to their neighbours, and a heap of the merges that may come next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pairs::{NONE, Pairs};

/// Rank and place of a merge, packed, so that the heap gives the least rank first, and of its places the leftmost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(Reverse<u64>);

impl Entry {
    fn new(rank: u32, place: u32) -> Self {
        Self(Reverse(u64::from(rank) << 32 | u64::from(place)))
    }
}

/// Kept between pieces for its memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// The tokens; once linked, a merged-away place keeps an old one.
    pub(crate) symbols: Vec<u32>,
    /// Rank of the pair that each symbol makes with the next.
    pub(crate) ranks: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
    heap: BinaryHeap<Entry>,
}

impl Chain {
    /// Makes `symbols` the bytes of `piece`, and `ranks` what they say.
    pub(crate) fn start_from_bytes(&mut self, piece: &[u8], pairs: &Pairs) {
        self.symbols.clear();
        self.symbols.extend(piece.iter().map(|&byte| pairs.byte_id(byte)));
        self.ranks.clear();
        self.ranks.extend(piece.windows(2).map(|pair| pairs.byte_rank(pair[0], pair[1])));
        self.ranks.push(NONE);
    }

    /// Links the symbols and gathers their merges. A piece is at most `u32::MAX - 1` symbols long.
    pub(crate) fn link(&mut self) {
        let len = self.symbols.len() as u32;
        self.before.clear();
        self.before.extend((0..len).map(|place| place.wrapping_sub(1)));
        self.after.clear();
        self.after.extend(1..=len);
        self.heap.clear();
        let starts = (0..).zip(&self.ranks).filter(|&(_, &rank)| rank != NONE);
        self.heap.extend(starts.map(|(place, &rank)| Entry::new(rank, place)));
    }

    /// Takes the merge that is next in order out of the heap.
    pub(crate) fn next(&mut self) -> Option<Entry> {
        self.heap.pop()
    }

    /// Puts merges that were taken out back.
    pub(crate) fn put_back(&mut self, entries: impl Iterator<Item = Entry>) {
        self.heap.extend(entries);
    }

    /// Does a merge, unless its place has changed since: then it has another rank, or none.
    pub(crate) fn merge(&mut self, Entry(Reverse(entry)): Entry, pairs: &Pairs) {
        let (rank, place) = ((entry >> 32) as u32, entry as u32);
        if self.ranks[place as usize] != rank {
            return;
        }
        let product = pairs.product(rank);
        let gone = self.after[place as usize] as usize;
        let next = self.after[gone];
        self.symbols[place as usize] = product;
        self.ranks[gone] = NONE;
        self.after[place as usize] = next;
        let mut rank_ahead = NONE;
        if let Some(&symbol) = self.symbols.get(next as usize) {
            self.before[next as usize] = place;
            rank_ahead = pairs.rank(product, symbol);
        }
        self.set_rank(place, rank_ahead);
        // Before the first place there is none.
        let previous = self.before[place as usize];
        if let Some(&symbol) = self.symbols.get(previous as usize) {
            self.set_rank(previous, pairs.rank(symbol, product));
        }
    }

    fn set_rank(&mut self, place: u32, rank: u32) {
        self.ranks[place as usize] = rank;
        if rank != NONE {
            self.heap.push(Entry::new(rank, place));
        }
    }

    /// Appends the tokens that are left to `out`.
    pub(crate) fn append(&self, out: &mut Vec<u32>) {
        let mut place = 0;
        while let Some(&symbol) = self.symbols.get(place) {
            out.push(symbol);
            place = self.after[place] as usize;
        }
    }
}
