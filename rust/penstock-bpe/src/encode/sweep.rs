//! Merging long pieces that repeat themselves, as rules and tables drawn in text do: all places of the next rule at once.
//!
//! Where every rule that uses a token ranks behind every rule that makes it, no merge makes a pair that goes before what is
//! left of the same rank, so all places of that rank may be merged in one pass from the left.

use super::pairs::{NONE, Pairs};

/// A pass pays if it merges one symbol in so many.
const SYMBOLS_A_MERGE: usize = 24;
/// Passes that do not pay before the rest is left to another way.
const POOR_PASSES: usize = 3;
/// Fewer symbols than this are left to another way.
const LEAST_SYMBOLS: usize = 16;

/// Merges `symbols`, each of which makes a pair of the rank beside it with the next, while many go at once.
pub(super) fn sweep(pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &mut Vec<u32>) {
    let mut poor_passes = 0;
    while poor_passes < POOR_PASSES && symbols.len() >= LEAST_SYMBOLS {
        let least = ranks.iter().fold(NONE, |least, &rank| least.min(rank));
        if least == NONE {
            return;
        }
        let before = symbols.len();
        merge_all(pairs, symbols, ranks, least);
        poor_passes += usize::from((before - symbols.len()) * SYMBOLS_A_MERGE < before);
    }
}

/// Merges all places of `rank`, from the left.
fn merge_all(pairs: &Pairs, symbols: &mut Vec<u32>, ranks: &mut Vec<u32>, rank: u32) {
    let product = pairs.product(rank);
    let (mut at, mut kept) = (0, 0);
    let mut was_merged = false;
    while at < symbols.len() {
        let is_merged = ranks[at] == rank;
        symbols[kept] = if is_merged { product } else { symbols[at] };
        if kept > 0 && (is_merged || was_merged) {
            ranks[kept - 1] = pairs.rank(symbols[kept - 1], symbols[kept]);
        }
        at += usize::from(is_merged);
        ranks[kept] = ranks[at];
        was_merged = is_merged;
        at += 1;
        kept += 1;
    }
    symbols.truncate(kept);
    ranks.truncate(kept);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::merge::{merge_by_scanning, merge_plainly};
    use crate::encode::tests::tokenizer;

    proptest! {
        /// What is swept and then merged plainly is what is merged plainly from the start.
        #[test]
        fn passes_change_nothing(unit in "a|[abc]{1,9}|[abcé]{10,20}", other in "[abcé]{0,9}", len in 2_usize..60) {
            let tokenizer = tokenizer();
            let pairs = &tokenizer.model().pairs;
            let piece: String = unit.chars().cycle().take(len).chain(other.chars()).collect();
            let piece = &piece.as_bytes()[..piece.len().min(63)];
            let mut expected = Vec::new();
            merge_plainly(piece, pairs, &mut expected);
            let mut symbols: Vec<u32> = piece.iter().map(|&byte| pairs.byte_id(byte)).collect();
            let mut ranks: Vec<u32> = symbols.windows(2).map(|pair| pairs.rank(pair[0], pair[1])).collect();
            ranks.push(NONE);
            sweep(pairs, &mut symbols, &mut ranks);
            merge_by_scanning(pairs, &mut symbols, &ranks);
            prop_assert_eq!(symbols, expected);
        }
    }
}
