//! Merging one piece: always the rule of least rank, and of its places the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cuts::Cuts;
use super::pairs::{NONE, Pairs};

/// Up to this many symbols, looking for the least rank anew beats a heap.
const SCANNED_SYMBOLS: usize = 40;

/// Pieces of up to this many bytes are not worth a look for places to cut.
const UNCUT_BYTES: usize = 15;

/// Memory of the merge loop, kept between pieces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workspace {
    /// The tokens; in the long form a merged-away place keeps an old one.
    symbols: Vec<u32>,
    /// Rank of the pair that each symbol makes with the next.
    ranks: Vec<u32>,
    /// Neighbours, in the long form.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Rank and place, packed, least first.
    heap: BinaryHeap<Reverse<u64>>,
}

impl Workspace {
    /// Merges `piece` and appends its tokens to `out`. A piece is at most `u32::MAX - 1` bytes long.
    pub(crate) fn merge(&mut self, piece: &[u8], pairs: &Pairs, cuts: Option<&Cuts>, out: &mut Vec<u32>) {
        let mut rest = piece;
        while let Some(cuts) = cuts.filter(|_| rest.len() > UNCUT_BYTES) {
            let (part, behind) = rest.split_at(cuts.first_part(rest));
            self.merge_part(part, pairs, Some(cuts), out);
            rest = behind;
        }
        self.merge_part(rest, pairs, cuts, out);
    }

    fn merge_part(&mut self, piece: &[u8], pairs: &Pairs, cuts: Option<&Cuts>, out: &mut Vec<u32>) {
        let whole = cuts.filter(|_| !piece.is_ascii());
        if whole.is_some_and(|cuts| cuts.start_symbols(piece, pairs, &mut self.symbols)) {
            self.ranks.clear();
            self.ranks.extend(self.symbols.windows(2).map(|pair| pairs.rank(pair[0], pair[1])));
            self.ranks.push(NONE);
        } else {
            start_from_bytes(piece, pairs, &mut self.symbols, &mut self.ranks);
        }
        if self.symbols.len() <= SCANNED_SYMBOLS {
            merge_by_scanning(pairs, &mut self.symbols, &mut self.ranks);
            out.extend_from_slice(&self.symbols);
        } else {
            self.merge_by_heap(pairs, out);
        }
    }

    fn merge_by_heap(&mut self, pairs: &Pairs, out: &mut Vec<u32>) {
        let len = self.symbols.len() as u32;
        self.before.clear();
        self.before.extend((0..len).map(|place| place.wrapping_sub(1)));
        self.after.clear();
        self.after.extend(1..=len);
        self.heap.clear();
        let starts = (0..).zip(&self.ranks).filter(|&(_, &rank)| rank != NONE);
        self.heap.extend(starts.map(|(place, &rank)| Reverse(pack(rank, place))));

        while let Some(Reverse(entry)) = self.heap.pop() {
            let (rank, place) = ((entry >> 32) as u32, entry as u32);
            // A place that changed since has another rank, or none.
            if self.ranks[place as usize] == rank {
                self.merge_at(place, pairs.product(rank), pairs, len);
            }
        }
        let mut place = 0;
        while place < len {
            out.push(self.symbols[place as usize]);
            place = self.after[place as usize];
        }
    }

    fn merge_at(&mut self, place: u32, product: u32, pairs: &Pairs, len: u32) {
        let gone = self.after[place as usize] as usize;
        let next = self.after[gone];
        self.symbols[place as usize] = product;
        self.ranks[gone] = NONE;
        self.after[place as usize] = next;
        let mut rank_ahead = NONE;
        if next < len {
            self.before[next as usize] = place;
            rank_ahead = pairs.rank(product, self.symbols[next as usize]);
        }
        self.set_rank(place, rank_ahead);
        let previous = self.before[place as usize];
        if previous != u32::MAX {
            self.set_rank(previous, pairs.rank(self.symbols[previous as usize], product));
        }
    }

    fn set_rank(&mut self, place: u32, rank: u32) {
        self.ranks[place as usize] = rank;
        if rank != NONE {
            self.heap.push(Reverse(pack(rank, place)));
        }
    }
}

/// The tokens of a short `piece`.
pub(crate) fn merge_plainly(piece: &[u8], pairs: &Pairs, symbols: &mut Vec<u32>) {
    let mut ranks = Vec::with_capacity(piece.len());
    start_from_bytes(piece, pairs, symbols, &mut ranks);
    merge_by_scanning(pairs, symbols, &mut ranks);
}

fn start_from_bytes(piece: &[u8], pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &mut Vec<u32>) {
    symbols.clear();
    symbols.extend(piece.iter().map(|&byte| pairs.byte_id(byte)));
    ranks.clear();
    ranks.extend(piece.windows(2).map(|pair| pairs.byte_rank(pair[0], pair[1])));
    ranks.push(NONE);
}

/// Merges at most [`SCANNED_SYMBOLS`], looking at all of them for the next merge. A symbol that is merged away keeps its
/// place, without a rank, until the end.
fn merge_by_scanning(pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &mut [u32]) {
    let len = ranks.len().min(symbols.len());
    let mut after = const { neighbours(1) };
    let mut before = const { neighbours(u8::MAX) };
    loop {
        let (least, at) = least_of(&ranks[..len]);
        if least == NONE {
            break;
        }
        let product = pairs.product(least);
        let gone = usize::from(after[at]);
        let next = usize::from(after[gone]);
        symbols[at] = product;
        ranks[gone] = NONE;
        after[at] = next as u8;
        ranks[at] = if next < len {
            before[next] = at as u8;
            pairs.rank(product, symbols[next])
        } else {
            NONE
        };
        let previous = usize::from(before[at]);
        if previous < len {
            ranks[previous] = pairs.rank(symbols[previous], product);
        }
    }
    let (mut place, mut kept) = (0, 0);
    while place < len {
        symbols[kept] = symbols[place];
        kept += 1;
        place = usize::from(after[place]);
    }
    symbols.truncate(kept);
}

/// Each place plus `step`, round the end of numbers.
const fn neighbours(step: u8) -> [u8; SCANNED_SYMBOLS] {
    let mut places = [0; SCANNED_SYMBOLS];
    let mut place = 0;
    while place < SCANNED_SYMBOLS {
        places[place] = (place as u8).wrapping_add(step);
        place += 1;
    }
    places
}

/// The least rank and the first place that has it.
#[inline]
fn least_of(ranks: &[u32]) -> (u32, usize) {
    let mut least = u64::from(NONE) << 32;
    for (place, &rank) in (0..).zip(ranks) {
        least = least.min(u64::from(rank) << 32 | place);
    }
    ((least >> 32) as u32, least as u32 as usize)
}

fn pack(rank: u32, place: u32) -> u64 {
    u64::from(rank) << 32 | u64::from(place)
}
