//! Texts, or parts of long ones, encoded by several threads.

use std::borrow::Cow;
use std::thread::{self, Scope, ScopedJoinHandle};

use super::exchange::{Chunk, Exchange};
use super::intake::{Intake, Read, read_parts};
use super::{Encoder, Matchers};
use crate::tokenizer::Tokenizer;

/// Threads are handed texts, and parts of long ones, of about this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 18;
/// Longer texts are cut, and fewer bytes of texts are not worth several threads.
pub(super) const LONG_TEXT_BYTES: usize = 4 * CHUNK_BYTES;
/// Chunks a thread that may wait before more of a text is read.
const MOST_WAITING: usize = 4;

/// Threads that encode what one of them hands out. Few texts are not worth the others: they are kept for it alone.
pub(super) struct Team<'scope, 'env, 't> {
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
    pub(super) fn new(
        tokenizer: &'scope Tokenizer,
        matchers: &'scope Matchers,
        exchange: &'scope Exchange<'t>,
        threads: usize,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Self {
        let (helpers, texts) = (Vec::new(), Vec::new());
        Self { tokenizer, matchers, exchange, threads, scope, helpers, texts, bytes: 0, is_started: false }
    }

    fn start(&mut self) {
        self.is_started = true;
        self.bytes = 0;
        let texts = std::mem::take(&mut self.texts);
        texts.into_iter().for_each(|text| self.chunk(text));
    }

    fn chunk(&mut self, text: &'t str) {
        if text.len() >= LONG_TEXT_BYTES {
            self.hand_out_texts();
            self.cut(text, Cow::Borrowed);
            return self.hand_out(Chunk::End);
        }
        self.texts.push(text);
        self.bytes += text.len() + 16;
        if self.bytes >= CHUNK_BYTES {
            self.hand_out_texts();
        }
    }

    /// Hands out a long text, or a part of one, in chunks that `give` makes.
    fn cut<'p>(&mut self, mut text: &'p str, give: impl Fn(&'p str) -> Cow<'t, str>) {
        while let Some(at) = self.tokenizer.cut(self.matchers, text, CHUNK_BYTES) {
            let (chunk, rest) = text.split_at(at);
            self.hand_out(Chunk::Part(give(chunk)));
            text = rest;
        }
        self.hand_out(Chunk::Part(give(text)));
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
            let work = move || encode_chunks(tokenizer, exchange, matchers);
            match thread::Builder::new().spawn_scoped(self.scope, work) {
                Ok(helper) => self.helpers.push(helper),
                // A thread that cannot be started leaves its share to the others.
                Err(_) => self.threads = self.helpers.len() + 1,
            }
        }
    }

    /// Encodes what others are too slow for, so that not all of a text that is being read waits in memory.
    fn help(&self) {
        let mut encoder = Encoder::new(self.tokenizer);
        while let Some((number, chunk)) = self.exchange.take_beyond(MOST_WAITING * self.threads) {
            encode_chunk(&mut encoder, self.exchange, self.matchers, number, chunk);
        }
    }

    /// Encodes with the others until all is done, or returns the texts if they are too few for that.
    pub(super) fn finish(mut self) -> Option<Vec<&'t str>> {
        if !self.is_started {
            return Some(std::mem::take(&mut self.texts));
        }
        self.hand_out_texts();
        self.exchange.close();
        encode_chunks(self.tokenizer, self.exchange, self.matchers);
        for helper in std::mem::take(&mut self.helpers) {
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
        }
        None
    }
}

impl<'scope, 't: 'scope, E> Intake<'t, E> for Team<'scope, '_, 't> {
    fn text(&mut self, text: &'t str) {
        if self.is_started {
            return self.chunk(text);
        }
        self.texts.push(text);
        self.bytes += text.len();
        if self.bytes >= LONG_TEXT_BYTES {
            self.start();
        }
    }

    fn parts(&mut self, read: Read<'_, E>) -> Result<(), E> {
        self.start();
        self.hand_out_texts();
        let (tokenizer, matchers) = (self.tokenizer, self.matchers);
        let cut = |text: &str, least| tokenizer.cut(matchers, text, least);
        read_parts(read, cut, |part| {
            self.cut(part, |chunk| Cow::Owned(chunk.to_owned()));
            self.help();
        })?;
        self.hand_out(Chunk::End);
        Ok(())
    }
}

impl Drop for Team<'_, '_, '_> {
    /// Lets the others go, whatever came of the feeding; when all was done, there is nothing left to take back.
    fn drop(&mut self) {
        self.exchange.clear();
        self.exchange.close();
    }
}

/// Encodes chunks until there are no more.
fn encode_chunks(tokenizer: &Tokenizer, exchange: &Exchange<'_>, matchers: &Matchers) {
    let mut encoder = Encoder::new(tokenizer);
    while let Some((number, chunk)) = exchange.take() {
        encode_chunk(&mut encoder, exchange, matchers, number, chunk);
    }
}

fn encode_chunk(
    encoder: &mut Encoder,
    exchange: &Exchange<'_>,
    matchers: &Matchers,
    number: usize,
    chunk: Chunk<'_>,
) {
    let mut made = exchange.blank();
    match chunk {
        Chunk::Texts(texts) => {
            for text in texts {
                let before = made.ids.len();
                encoder.encode_matched_into(text, matchers, &mut made.ids);
                made.lens.push(made.ids.len() - before);
            }
        }
        Chunk::Part(text) => encoder.encode_matched_into(&text, matchers, &mut made.ids),
        Chunk::End => made.is_end = true,
    }
    exchange.leave(number, made);
}
