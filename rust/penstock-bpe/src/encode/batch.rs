//! Many texts, or one long one, on several threads.

use std::convert::Infallible;
use std::thread::{self, Scope, ScopedJoinHandle};

use super::added::Part;
use super::exchange::{Chunk, Exchange};
use super::{Allowed, Encoder, Matchers};
use crate::machine::with_huge_pages;
use crate::normalize::Normalizer;
use crate::pattern::Family;
use crate::pretokenize::safe_cut;
use crate::threads::thread_count;
use crate::tokenizer::Tokenizer;

/// Threads are handed texts, and parts of long ones, of about this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 18;
/// Longer texts are cut.
const LONG_TEXT_BYTES: usize = 4 * CHUNK_BYTES;
/// A text of this many bytes for each token needs no more room than is reserved.
const LEAST_BYTES_A_TOKEN: usize = 3;

impl Tokenizer {
    /// Encodes `texts` on `threads` threads (0 = one a core) of its own. Returns the ids of all texts in order, and
    /// `texts.len() + 1` offsets: text `i` has `ids[offsets[i]..offsets[i + 1]]`. The number of threads changes nothing.
    #[must_use]
    pub fn encode_batch(&self, texts: &[&str], allowed: &Allowed, threads: usize) -> (Vec<u32>, Vec<i64>) {
        let bytes = texts.iter().map(|text| text.len()).sum();
        let feed = |take: &mut dyn FnMut(_)| {
            texts.iter().for_each(|&text| take(text));
            Ok::<_, Infallible>(())
        };
        match self.encode_fed(bytes, allowed, threads, feed) {
            Ok(encoded) => encoded,
            Err(never) => match never {},
        }
    }

    /// [`encode_batch`](Self::encode_batch) of texts of about `expected_bytes` that `feed` hands over one by one: from the
    /// first megabyte on, other threads encode while more come.
    ///
    /// # Errors
    ///
    /// That of `feed`.
    pub fn encode_fed<'t, E>(
        &self,
        expected_bytes: usize,
        allowed: &Allowed,
        threads: usize,
        feed: impl FnOnce(&mut dyn FnMut(&'t str)) -> Result<(), E>,
    ) -> Result<(Vec<u32>, Vec<i64>), E> {
        let mut result = Ok(Default::default());
        self.model().with_matchers(allowed, |matchers| {
            let room = if thread_count(threads) > 1 { expected_bytes / LEAST_BYTES_A_TOKEN } else { 0 };
            let exchange = Exchange::new(with_huge_pages(room));
            let alone = thread::scope(|scope| {
                let mut team = Team::new(self, matchers, &exchange, thread_count(threads), scope);
                feed(&mut |text| team.take(text))?;
                Ok(team.finish())
            });
            result = alone.map(|alone| match alone {
                Some(texts) => self.encode_in_turn(&texts, matchers),
                None => exchange.into_output(),
            });
        });
        result
    }

    fn encode_in_turn(&self, texts: &[&str], matchers: &Matchers) -> (Vec<u32>, Vec<i64>) {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let mut ids = with_huge_pages(bytes / LEAST_BYTES_A_TOKEN);
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        let mut encoder = Encoder::new(self);
        for text in texts {
            encoder.encode_matched_into(text, matchers, &mut ids);
            offsets.push(ids.len() as i64);
        }
        (ids, offsets)
    }

    fn can_be_cut(&self) -> bool {
        self.model().normalizer == Normalizer::None
            && self.pattern().family().is_some_and(Family::is_cut_behind_words)
    }

    /// Encodes chunks until there are no more.
    fn encode_chunks(&self, exchange: &Exchange<'_>, matchers: &Matchers) {
        let mut encoder = Encoder::new(self);
        while let Some((number, chunk)) = exchange.take() {
            let mut made = exchange.blank();
            match chunk {
                Chunk::Texts(texts) => {
                    for text in texts {
                        let before = made.ids.len();
                        encoder.encode_matched_into(text, matchers, &mut made.ids);
                        made.lens.push(made.ids.len() - before);
                    }
                }
                Chunk::Text(text) => encoder.encode_part_into(text, &mut made.ids),
                Chunk::Token(id) => made.ids.push(id),
                Chunk::End => made.is_end = true,
            }
            exchange.leave(number, made);
        }
    }
}

/// Threads that encode what one of them hands out. Few texts are not worth the others: they are kept for it alone.
struct Team<'scope, 'env, 't> {
    tokenizer: &'scope Tokenizer,
    matchers: &'scope Matchers,
    exchange: &'scope Exchange<'t>,
    threads: usize,
    scope: &'scope Scope<'scope, 'env>,
    helpers: Vec<ScopedJoinHandle<'scope, ()>>,
    /// Texts that are in no chunk yet, and their bytes.
    texts: Vec<&'t str>,
    bytes: usize,
    is_started: bool,
}

impl<'scope, 'env, 't: 'scope> Team<'scope, 'env, 't> {
    fn new(
        tokenizer: &'scope Tokenizer,
        matchers: &'scope Matchers,
        exchange: &'scope Exchange<'t>,
        threads: usize,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Self {
        let (helpers, texts) = (Vec::new(), Vec::new());
        Self { tokenizer, matchers, exchange, threads, scope, helpers, texts, bytes: 0, is_started: false }
    }

    fn take(&mut self, text: &'t str) {
        if self.is_started {
            return self.chunk(text);
        }
        self.texts.push(text);
        self.bytes += text.len();
        if self.threads > 1 && self.bytes >= LONG_TEXT_BYTES {
            self.is_started = true;
            self.bytes = 0;
            let texts = std::mem::take(&mut self.texts);
            texts.into_iter().for_each(|text| self.chunk(text));
        }
    }

    fn chunk(&mut self, text: &'t str) {
        if text.len() >= LONG_TEXT_BYTES && self.tokenizer.can_be_cut() {
            self.hand_out_texts();
            return self.cut(text);
        }
        self.texts.push(text);
        self.bytes += text.len() + 16;
        if self.bytes >= CHUNK_BYTES {
            self.hand_out_texts();
        }
    }

    /// Cuts a long text into its added tokens and parts of what lies between.
    fn cut(&mut self, text: &'t str) {
        self.matchers.for_each_part(text, |part| match part {
            Part::Token(id) => self.hand_out(Chunk::Token(id)),
            Part::Text(mut text) => {
                while let Some(at) = safe_cut(text, CHUNK_BYTES) {
                    let (chunk, rest) = text.split_at(at);
                    self.hand_out(Chunk::Text(chunk));
                    text = rest;
                }
                self.hand_out(Chunk::Text(text));
            }
        });
        self.hand_out(Chunk::End);
    }

    fn hand_out_texts(&mut self) {
        if !self.texts.is_empty() {
            let texts = std::mem::take(&mut self.texts);
            self.hand_out(Chunk::Texts(texts));
        }
        self.bytes = 0;
    }

    /// Each chunk calls another thread, as long as there may be more.
    fn hand_out(&mut self, chunk: Chunk<'t>) {
        self.exchange.add(chunk);
        if self.helpers.len() + 1 < self.threads {
            let Self { tokenizer, matchers, exchange, .. } = *self;
            let work = move || tokenizer.encode_chunks(exchange, matchers);
            match thread::Builder::new().spawn_scoped(self.scope, work) {
                Ok(helper) => self.helpers.push(helper),
                // A thread that cannot be started leaves its share to the others.
                Err(_) => self.threads = self.helpers.len() + 1,
            }
        }
    }

    /// Encodes with the others until all is done, or returns the texts if they are too few for that.
    fn finish(mut self) -> Option<Vec<&'t str>> {
        if !self.is_started {
            return Some(std::mem::take(&mut self.texts));
        }
        self.hand_out_texts();
        self.exchange.close();
        self.tokenizer.encode_chunks(self.exchange, self.matchers);
        for helper in std::mem::take(&mut self.helpers) {
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
        }
        None
    }
}

impl Drop for Team<'_, '_, '_> {
    /// Lets the others go, whatever came of the feeding; when all was done, there is nothing left to take back.
    fn drop(&mut self) {
        self.exchange.clear();
        self.exchange.close();
    }
}
