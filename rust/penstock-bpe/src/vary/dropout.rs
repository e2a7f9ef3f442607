//! BPE-dropout (Provilkov and others, 2020): merging that leaves out merges at random.
//!
//! Whenever a merge is the next in order it is put aside with some probability; once another has been done, those put
//! aside come back. A place whose pair has changed since may still come up, and ends the turn like a merge, as in HF
//! tokenizers, so that lengths are distributed as theirs are.

use super::Variation;
use super::chance::{Chance, Draws};
use crate::encode::Matchers;
use crate::encode::added::Part;
use crate::encode::chain::{Chain, Entry};
use crate::encode::pairs::Pairs;
use crate::model::Model;

/// Memory of the merge loop, kept between pieces.
#[derive(Debug, Default)]
pub(crate) struct Dropout {
    chain: Chain,
    /// What was dropped since the last merge.
    aside: Vec<Entry>,
}

impl Dropout {
    /// Appends the ids of `text`, of whose merges `variation` drops a share, to `out`.
    pub(super) fn encode(
        &mut self,
        model: &Model,
        matchers: &Matchers,
        text: &str,
        variation: &Variation,
        out: &mut Vec<u32>,
    ) {
        let draws = Draws::new(variation.seed, text);
        let (start, mut pieces) = (out.len(), 0);
        matchers.for_each_normalized_part(model.normalizer, text, |part| match part {
            Part::Token(id) => out.push(id),
            Part::Text(part) => model.pattern.for_each_piece(part, |piece| {
                let draws = draws.within(pieces);
                pieces += 1;
                self.merge(piece.as_bytes(), &model.pairs, variation.dropout, draws, out);
            }),
        });
        if let Some(origin) = &model.sentencepiece {
            origin.expand(out, start);
        }
    }

    /// Appends the tokens of `piece`, of which each merge is dropped with the probability `chance`, to `out`.
    pub(crate) fn merge(
        &mut self,
        piece: &[u8],
        pairs: &Pairs,
        chance: Chance,
        draws: Draws,
        out: &mut Vec<u32>,
    ) {
        let Self { chain, aside } = self;
        chain.start_from_bytes(piece, pairs);
        chain.link();
        aside.clear();
        let mut drawn = 0;
        while let Some(entry) = chain.next() {
            drawn += 1;
            if draws.happens(drawn, chance) {
                aside.push(entry);
            } else {
                chain.put_back(aside.drain(..));
                chain.merge(entry, pairs);
            }
        }
        chain.append(out);
    }
}
