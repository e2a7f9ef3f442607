//! Merging several pieces in step: while the memory that one of them waits for arrives, the others go on.
//!
//! What a merge asks next hangs on what it was answered, and the rules of a large vocabulary do not stay in the caches
//! that matter: alone, a piece of nine letters spends nine tenths of its time waiting.

use super::cuts::Cuts;
use super::merge::{NO_ORDER, order_of, place_of, rank_of};
use super::pairs::{NONE, Pairs};
use crate::machine::{Machine, Work, wide};

/// Pieces merged together.
pub(crate) const LANES: usize = 16;
/// The longest piece taken.
pub(crate) const LANE_BYTES: usize = PLACES - 1;
/// Places of a lane: the last stands for the nothing at both ends.
const PLACES: usize = 32;
/// Places looked at where the piece is short.
const FEW_PLACES: usize = 16;

/// One piece on its way.
#[derive(Debug, Clone)]
struct Lane {
    /// Tokens; a place that is merged away keeps an old one.
    tokens: [u32; PLACES],
    /// Rank and place of the pair that each token makes with the next.
    orders: [u32; PLACES],
    /// The places still in use, and the last.
    live: u32,
    is_short: bool,
    /// The place of the last merge and its neighbours, whose pairs are to be looked up.
    at: u8,
    next: u8,
    previous: u8,
}

const EMPTY: Lane = Lane {
    tokens: [NONE; PLACES],
    orders: [NO_ORDER; PLACES],
    live: 0,
    is_short: true,
    at: 0,
    next: 0,
    previous: 0,
};

/// The lanes, of which the first `len` are in use.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    lanes: Box<[Lane; LANES]>,
    len: usize,
    symbols: Vec<u32>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { lanes: Box::new([const { EMPTY }; LANES]), len: 0, symbols: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes a piece of 1 to [`LANE_BYTES`] bytes. Returns the number of its lane; there are [`LANES`] until they are cleared.
    pub(crate) fn add(&mut self, piece: &[u8], pairs: &Pairs, cuts: Option<&Cuts>) -> usize {
        let number = self.len % LANES;
        self.len = number + 1;
        let lane = &mut self.lanes[number];
        lane.tokens = [NONE; PLACES];
        lane.orders = [NO_ORDER; PLACES];
        let whole = cuts.filter(|_| !piece.is_ascii());
        let len = if whole.is_some_and(|cuts| cuts.start_symbols(piece, pairs, &mut self.symbols)) {
            let len = self.symbols.len().min(LANE_BYTES);
            lane.tokens[..len].copy_from_slice(&self.symbols[..len]);
            lane.tokens[..len].windows(2).for_each(|pair| pairs.prefetch(pair[0], pair[1]));
            len
        } else {
            lane.start_from_bytes(piece, pairs)
        };
        lane.live = ((1 << len) - 1) | (1 << LANE_BYTES);
        lane.is_short = len < FEW_PLACES;
        number
    }

    /// Merges the pieces of all lanes.
    pub(crate) fn merge(&mut self, pairs: &Pairs) {
        wide(Merge { lanes: &mut self.lanes[..self.len], pairs });
    }

    /// Appends the tokens of the lane of this number to `out`.
    pub(crate) fn append(&self, number: usize, out: &mut Vec<u32>) {
        let lane = &self.lanes[number];
        let mut live = lane.live & !(1 << LANE_BYTES);
        while live != 0 {
            out.push(lane.tokens[live.trailing_zeros() as usize]);
            live &= live - 1;
        }
    }
}

struct Merge<'a> {
    lanes: &'a mut [Lane],
    pairs: &'a Pairs,
}

impl Work for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, _: M) {
        let Self { lanes, pairs } = self;
        let mut active = 0_u32;
        for (number, lane) in lanes.iter_mut().enumerate() {
            lane.look_up_all(pairs);
            active |= u32::from(lane.merge_next(pairs)) << number;
        }
        while active != 0 {
            let mut round = active;
            while round != 0 {
                let number = round.trailing_zeros();
                round &= round - 1;
                let lane = &mut lanes[number as usize % LANES];
                lane.look_up(pairs);
                if !lane.merge_next(pairs) {
                    active &= !(1 << number);
                }
            }
        }
    }
}

impl Lane {
    fn start_from_bytes(&mut self, piece: &[u8], pairs: &Pairs) -> usize {
        for (token, &byte) in self.tokens.iter_mut().zip(piece) {
            *token = pairs.byte_id(byte);
        }
        for (place, pair) in (0..).zip(piece.windows(2)) {
            self.orders[place as usize % PLACES] = order_of(pairs.byte_rank(pair[0], pair[1]), place);
        }
        piece.len()
    }

    /// Looks up the pairs that tokens to start from make.
    fn look_up_all(&mut self, pairs: &Pairs) {
        for place in 0..self.live.count_ones() as usize - 2 {
            if self.orders[place] == NO_ORDER {
                let rank = pairs.rank(self.tokens[place], self.tokens[place + 1]);
                self.orders[place] = order_of(rank, place as u32);
            }
        }
    }

    /// Looks up the pairs that the last merge made.
    #[inline(always)]
    fn look_up(&mut self, pairs: &Pairs) {
        let token = |place: u8| self.tokens[usize::from(place) % PLACES];
        let (product, next, previous) = (token(self.at), token(self.next), token(self.previous));
        let order = order_of(pairs.rank(product, next), self.at.into());
        let order_before = order_of(pairs.rank(previous, product), self.previous.into());
        self.orders[usize::from(self.at) % PLACES] = order;
        self.orders[usize::from(self.previous) % PLACES] = order_before;
    }

    /// Merges the pair of least rank; `false` if there is none.
    #[inline(always)]
    fn merge_next(&mut self, pairs: &Pairs) -> bool {
        let least = if self.is_short {
            least_of::<FEW_PLACES>(&self.orders)
        } else {
            least_of::<PLACES>(&self.orders)
        };
        let Some(rank) = rank_of(least) else { return false };
        let at = place_of(least) % PLACES;
        let behind = self.live & (!1 << at);
        let gone = behind.trailing_zeros() as usize % PLACES;
        let next = (behind & behind.wrapping_sub(1)).trailing_zeros() as usize % PLACES;
        // Before the first place, this is the last.
        let before = self.live & ((1 << at) - 1);
        let previous = 31_u32.wrapping_sub(before.leading_zeros()) as usize % PLACES;
        let product = pairs.product(rank);
        self.live &= !(1 << gone);
        self.tokens[at] = product;
        self.orders[gone] = NO_ORDER;
        pairs.prefetch(product, self.tokens[next]);
        pairs.prefetch(self.tokens[previous], product);
        (self.at, self.next, self.previous) = (at as u8, next as u8, previous as u8);
        true
    }
}

#[inline(always)]
fn least_of<const COUNT: usize>(orders: &[u32; PLACES]) -> u32 {
    orders[..COUNT].iter().fold(NO_ORDER, |least, &order| least.min(order))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::merge::merge_plainly;
    use crate::encode::tests::tokenizer;
    use crate::machine::Plain;

    proptest! {
        /// Full and empty groups of pieces of all lengths, by every kind of machine.
        #[test]
        fn lanes_merge_as_each_alone(pieces in prop::collection::vec("[abcé]{1,15}|[abc]{16,31}|a{1,31}", 1..=LANES)) {
            let tokenizer = tokenizer();
            let model = tokenizer.model();
            let mut lanes = Lanes::new();
            // Lanes are used again: what they held must not show.
            for cuts in [model.cuts.as_ref(), None] {
                lanes.clear();
                let numbers: Vec<_> =
                    pieces.iter().map(|piece| lanes.add(piece.as_bytes(), &model.pairs, cuts)).collect();
                if cuts.is_some() {
                    lanes.merge(&model.pairs);
                } else {
                    Merge { lanes: &mut lanes.lanes[..lanes.len], pairs: &model.pairs }.run(Plain);
                }
                for (piece, number) in pieces.iter().zip(numbers) {
                    let (mut found, mut expected) = (Vec::new(), Vec::new());
                    lanes.append(number, &mut found);
                    merge_plainly(piece.as_bytes(), &model.pairs, &mut expected);
                    prop_assert_eq!(found, expected, "{}", piece);
                }
            }
        }
    }
}
