//! Ids that vary at random where the text does not: for training data alone.

mod boundary;
mod chance;
mod dropout;

use std::thread;

pub use boundary::BoundarySplit;
pub(crate) use boundary::Joins;
pub use chance::Chance;

pub(crate) use dropout::Dropout;

use crate::encode::{Allowed, Encoder, Matchers};
use crate::error::Result;
use crate::machine::with_huge_pages;
use crate::model::made_once;
use crate::threads::thread_count;
use crate::tokenizer::Tokenizer;

/// How the ids of a text vary. All that is drawn depends on the seed and on the text: not on threads, not on other texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variation {
    /// How often a token that joins punctuation and line breaks is split ([`BoundarySplit`]).
    pub boundary_split: Chance,
    /// How often a merge is dropped (BPE-dropout).
    pub dropout: Chance,
    /// Another seed, other ids.
    pub seed: u64,
}

impl Tokenizer {
    /// [`encode_batch`](Self::encode_batch) with ids that vary. They decode to the same texts.
    ///
    /// # Errors
    ///
    /// [`Error::NoJoins`](crate::Error::NoJoins) where tokens are to be split and the vocabulary has none of that kind.
    pub fn encode_varied(
        &self,
        texts: &[&str],
        allowed: &Allowed,
        variation: &Variation,
        threads: usize,
    ) -> Result<(Vec<u32>, Vec<i64>)> {
        let split = BoundarySplit::new(self, variation.boundary_split, variation.seed)?;
        let (ids, offsets) = if variation.dropout.is_never() {
            self.encode_batch(texts, allowed, threads)
        } else {
            self.encode_dropping(texts, allowed, variation, threads)
        };
        if variation.boundary_split.is_never() {
            return Ok((ids, offsets));
        }
        let mut whole = with_huge_pages(ids.len() + ids.len() / 8);
        let mut ends = vec![0];
        for (text, range) in texts.iter().zip(offsets.windows(2)) {
            split.append(text, &ids[range[0] as usize..range[1] as usize], &mut whole);
            ends.push(whole.len() as i64);
        }
        Ok((whole, ends))
    }

    /// The tokens that join punctuation and line breaks, found at the first call.
    pub(crate) fn joins(&self) -> &Joins {
        made_once(&self.model().joins, || Joins::new(self))
    }

    fn encode_dropping(
        &self,
        texts: &[&str],
        allowed: &Allowed,
        variation: &Variation,
        threads: usize,
    ) -> (Vec<u32>, Vec<i64>) {
        let share = texts.len().div_ceil(thread_count(threads)).max(1);
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        self.model().with_matchers(allowed, |matchers| {
            let encode = |texts: &[&str]| self.encode_share_dropping(texts, matchers, variation);
            thread::scope(|scope| {
                let helpers: Vec<_> = (texts.chunks(share))
                    .map(|texts| {
                        (texts, thread::Builder::new().spawn_scoped(scope, move || encode(texts)).ok())
                    })
                    .collect();
                for (texts, helper) in helpers {
                    // What no thread could be started for is done here.
                    let (part, ends) = match helper.map(thread::ScopedJoinHandle::join) {
                        Some(Ok(share)) => share,
                        Some(Err(panic)) => std::panic::resume_unwind(panic),
                        None => encode(texts),
                    };
                    let start = ids.len();
                    ids.extend(part);
                    offsets.extend(ends.into_iter().map(|end| (start + end) as i64));
                }
            });
        });
        (ids, offsets)
    }

    /// The ids of `texts` end to end, and the end of each.
    fn encode_share_dropping(
        &self,
        texts: &[&str],
        matchers: &Matchers,
        variation: &Variation,
    ) -> (Vec<u32>, Vec<usize>) {
        let mut dropout = Dropout::default();
        let (mut ids, mut ends) = (Vec::new(), Vec::with_capacity(texts.len()));
        for text in texts {
            dropout.encode(self.model(), matchers, text, variation, &mut ids);
            ends.push(ids.len());
        }
        (ids, ends)
    }
}

impl Encoder {
    /// Appends the ids of `text` to `out`, with merges dropped at random as `variation` says; special tokens in the text
    /// are text. Tokens that join punctuation and line breaks are left whole: [`BoundarySplit`] is for them.
    pub fn encode_dropping_into(&mut self, text: &str, variation: &Variation, out: &mut Vec<u32>) {
        if variation.dropout.is_never() {
            return self.encode_into(text, out);
        }
        let model = self.tokenizer.model();
        self.dropout.encode(model, model.matchers_of_text(), text, variation, out);
    }
}

#[cfg(test)]
mod tests;
