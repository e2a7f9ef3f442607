//! Merging one piece: always the rule of least rank, and of its places the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cuts::Cuts;
use super::pairs::{NONE, Pairs};
use super::sweep::sweep;

/// Up to this many symbols, looking for the least rank anew beats a heap.
const SCANNED_SYMBOLS: usize = 63;

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
        if self.symbols.len() > SCANNED_SYMBOLS && cuts.is_some_and(Cuts::makes_before_uses) {
            sweep(pairs, &mut self.symbols, &mut self.ranks);
        }
        if self.symbols.len() <= SCANNED_SYMBOLS {
            merge_by_scanning(pairs, &mut self.symbols, &self.ranks);
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
    merge_by_scanning(pairs, symbols, &ranks);
}

fn start_from_bytes(piece: &[u8], pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &mut Vec<u32>) {
    symbols.clear();
    symbols.extend(piece.iter().map(|&byte| pairs.byte_id(byte)));
    ranks.clear();
    ranks.extend(piece.windows(2).map(|pair| pairs.byte_rank(pair[0], pair[1])));
    ranks.push(NONE);
}

/// Merges at most [`SCANNED_SYMBOLS`], looking at all of them for the next merge.
pub(super) fn merge_by_scanning(pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &[u32]) {
    match symbols.len() {
        0..2 => {}
        2..16 => scan_places::<16>(pairs, symbols, ranks),
        16..32 => scan_places::<32>(pairs, symbols, ranks),
        _ => scan_places::<64>(pairs, symbols, ranks),
    }
}

/// The same in `PLACES`, one more than symbols. The last place stands for the nothing at both ends; a symbol that is merged
/// away leaves its place.
#[inline]
fn scan_places<const PLACES: usize>(pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &[u32]) {
    let len = symbols.len().min(PLACES - 1);
    let mut tokens = [NONE; PLACES];
    tokens[..len].copy_from_slice(&symbols[..len]);
    let mut orders = [u32::MAX; PLACES];
    for (place, (order, &rank)) in (0..).zip(orders[..len].iter_mut().zip(ranks)) {
        *order = order_of(rank, place);
    }
    let mut live = ((1_u64 << len) - 1) | 1 << (PLACES - 1);
    loop {
        let least = orders.iter().fold(u32::MAX, |least, &order| least.min(order));
        let (rank, at) = (least >> PLACE_BITS, least as usize % PLACES);
        if rank == NO_RANK {
            break;
        }
        let behind = live & (!1 << at);
        let gone = behind.trailing_zeros() as usize % PLACES;
        let next = (behind & behind.wrapping_sub(1)).trailing_zeros() as usize % PLACES;
        live &= !(1 << gone);
        // Before the first place, this is the last.
        let before = live & ((1 << at) - 1);
        let previous = 63_u32.wrapping_sub(before.leading_zeros()) as usize % PLACES;
        let product = pairs.product(rank);
        tokens[at] = product;
        orders[gone] = u32::MAX;
        orders[at] = order_of(pairs.rank(product, tokens[next]), at as u32);
        orders[previous] = order_of(pairs.rank(tokens[previous], product), previous as u32);
    }
    symbols.clear();
    live &= !(1 << (PLACES - 1));
    while live != 0 {
        symbols.push(tokens[live.trailing_zeros() as usize % PLACES]);
        live &= live - 1;
    }
}

/// Bits of a place among those scanned; the rest of 32 bits is left for ranks.
const PLACE_BITS: u32 = 6;
/// Above every rank that scanning can tell apart.
const NO_RANK: u32 = u32::MAX >> PLACE_BITS;
/// No merge.
pub(super) const NO_ORDER: u32 = u32::MAX;

/// Rank and place in one number, so that the least of them is the next merge.
#[inline]
pub(super) fn order_of(rank: u32, place: u32) -> u32 {
    rank.min(NO_RANK) << PLACE_BITS | place
}

#[inline]
pub(super) fn rank_of(order: u32) -> Option<u32> {
    Some(order >> PLACE_BITS).filter(|&rank| rank != NO_RANK)
}

#[inline]
pub(super) fn place_of(order: u32) -> usize {
    (order & ((1 << PLACE_BITS) - 1)) as usize
}

fn pack(rank: u32, place: u32) -> u64 {
    u64::from(rank) << 32 | u64::from(place)
}
