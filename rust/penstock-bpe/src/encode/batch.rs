//! Many texts, or one long one, on several threads.

use std::convert::Infallible;
use std::thread;

use super::alone::{Alone, LEAST_BYTES_A_TOKEN};
use super::exchange::Exchange;
use super::intake::Intake;
use super::team::{LONG_TEXT_BYTES, Team};
use super::{Allowed, Matchers};
use crate::machine::with_huge_pages;
use crate::normalize::Normalizer;
use crate::pattern::Family;
use crate::threads::thread_count;
use crate::tokenizer::Tokenizer;

/// Texts of which no more are expected are not worth several threads, even if each byte turns out to be four.
const FEW_BYTES: usize = LONG_TEXT_BYTES / 4;

impl Tokenizer {
    /// Encodes `texts` on `threads` threads (0 = one a core) of its own. Returns the ids of all texts in order, and
    /// `texts.len() + 1` offsets: text `i` has `ids[offsets[i]..offsets[i + 1]]`. The number of threads changes nothing.
    #[must_use]
    pub fn encode_batch<'t>(
        &self,
        texts: &[&'t str],
        allowed: &Allowed,
        threads: usize,
    ) -> (Vec<u32>, Vec<i64>) {
        let bytes = texts.iter().map(|text| text.len()).sum();
        let feed = |intake: &mut (dyn Intake<'t, Infallible> + Send)| {
            texts.iter().for_each(|&text| intake.text(text));
            Ok(())
        };
        match self.encode_fed(bytes, allowed, threads, feed) {
            Ok(encoded) => encoded,
            Err(never) => match never {},
        }
    }

    /// [`encode_batch`](Self::encode_batch) of texts of about `expected_bytes`, or up to four times as many, that `feed` hands
    /// over one by one: from the first megabyte on, other threads encode while more come.
    ///
    /// # Errors
    ///
    /// That of `feed`.
    pub fn encode_fed<'t, E>(
        &self,
        expected_bytes: usize,
        allowed: &Allowed,
        threads: usize,
        feed: impl FnOnce(&mut (dyn Intake<'t, E> + Send)) -> Result<(), E>,
    ) -> Result<(Vec<u32>, Vec<i64>), E> {
        // Asking how many cores there are takes 25 microseconds.
        let threads = if expected_bytes < FEW_BYTES { 1 } else { thread_count(threads) };
        let mut result = Ok(Default::default());
        self.model().with_matchers(allowed, |matchers| {
            let alone = |texts| Alone::new(self, matchers, expected_bytes, texts);
            if threads == 1 {
                let mut alone = alone(Vec::new());
                result = feed(&mut alone).map(|()| alone.finish());
                return;
            }
            let exchange = Exchange::new(with_huge_pages(expected_bytes / LEAST_BYTES_A_TOKEN));
            let few = thread::scope(|scope| {
                let mut team = Team::new(self, matchers, &exchange, threads, scope);
                feed(&mut team)?;
                Ok(team.finish())
            });
            result = few.map(|few| match few {
                Some(texts) => alone(texts).finish(),
                None => exchange.into_output(),
            });
        });
        result
    }

    /// A place in the third quarter of `start`, the start of a longer text, up to which the ids are those of that text, if its
    /// last quarter is longer than any added token. `None` if there is none such, or texts may not be cut.
    #[must_use]
    pub fn cut_of_start(&self, start: &str, allowed: &Allowed) -> Option<usize> {
        let mut at = None;
        self.model().with_matchers(allowed, |matchers| at = self.cut(matchers, start, start.len() / 2));
        at.filter(|at| at / 3 <= start.len() / 4)
    }

    /// The first place behind `least` bytes of `text` where cutting it changes no id, if texts may be cut at all.
    pub(super) fn cut(&self, matchers: &Matchers, text: &str, least: usize) -> Option<usize> {
        let can_be_cut = self.model().normalizer == Normalizer::None
            && self.pattern().family().is_some_and(Family::is_cut_behind_words);
        can_be_cut.then(|| matchers.cut(text, least))?
    }
}
