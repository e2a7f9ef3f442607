//! Merging one piece: always the rule of least rank, and of its places the leftmost.

use super::chain::Chain;
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
    chain: Chain,
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
        let chain = &mut self.chain;
        let whole = cuts.filter(|_| !piece.is_ascii());
        if whole.is_some_and(|cuts| cuts.start_symbols(piece, pairs, &mut chain.symbols)) {
            chain.ranks.clear();
            chain.ranks.extend(chain.symbols.windows(2).map(|pair| pairs.rank(pair[0], pair[1])));
            chain.ranks.push(NONE);
        } else {
            chain.start_from_bytes(piece, pairs);
        }
        if chain.symbols.len() > SCANNED_SYMBOLS && cuts.is_some_and(Cuts::makes_before_uses) {
            sweep(pairs, &mut chain.symbols, &mut chain.ranks);
        }
        if chain.symbols.len() <= SCANNED_SYMBOLS {
            merge_by_scanning(pairs, &mut chain.symbols, &chain.ranks);
            out.extend_from_slice(&chain.symbols);
            return;
        }
        chain.link();
        while let Some(entry) = chain.next() {
            chain.merge(entry, pairs);
        }
        chain.append(out);
    }
}

/// The tokens of a short `piece`.
pub(crate) fn merge_plainly(piece: &[u8], pairs: &Pairs, symbols: &mut Vec<u32>) {
    let mut chain = Chain::default();
    chain.start_from_bytes(piece, pairs);
    merge_by_scanning(pairs, &mut chain.symbols, &chain.ranks);
    *symbols = chain.symbols;
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
    let mut orders = [NO_ORDER; PLACES];
    for (place, (order, &rank)) in (0..).zip(orders[..len].iter_mut().zip(ranks)) {
        *order = order_of(rank, place);
    }
    let mut live = ((1_u64 << len) - 1) | 1 << (PLACES - 1);
    loop {
        let least = orders.iter().fold(NO_ORDER, |least, &order| least.min(order));
        let Some(rank) = rank_of(least) else { break };
        let at = place_of(least) % PLACES;
        let behind = live & (!1 << at);
        let gone = behind.trailing_zeros() as usize % PLACES;
        let next = (behind & behind.wrapping_sub(1)).trailing_zeros() as usize % PLACES;
        live &= !(1 << gone);
        // Before the first place, this is the last.
        let before = live & ((1 << at) - 1);
        let previous = 63_u32.wrapping_sub(before.leading_zeros()) as usize % PLACES;
        let product = pairs.product(rank);
        tokens[at] = product;
        orders[gone] = NO_ORDER;
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
