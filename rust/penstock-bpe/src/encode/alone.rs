//! Texts encoded by one thread, in turn.

use super::intake::{Intake, Read, read_parts};
use super::{Encoder, Matchers};
use crate::machine::with_huge_pages;
use crate::tokenizer::Tokenizer;

/// A text of this many bytes for each token needs no more room than is reserved.
pub(super) const LEAST_BYTES_A_TOKEN: usize = 3;

/// Keeps texts, which may come while others have to wait, and encodes them when that is over.
pub(super) struct Alone<'a, 't> {
    encoder: Encoder,
    matchers: &'a Matchers,
    texts: Vec<&'t str>,
    expected_bytes: usize,
    ids: Vec<u32>,
    offsets: Vec<i64>,
}

impl<'a, 't> Alone<'a, 't> {
    /// Takes `texts` as the first of about `expected_bytes`.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        matchers: &'a Matchers,
        expected_bytes: usize,
        texts: Vec<&'t str>,
    ) -> Self {
        let (encoder, ids, offsets) = (Encoder::new(tokenizer), Vec::new(), vec![0]);
        Self { encoder, matchers, texts, expected_bytes, ids, offsets }
    }

    /// The ids of all texts, and where those of each begin and end.
    pub(super) fn finish(mut self) -> (Vec<u32>, Vec<i64>) {
        self.encode_texts();
        (self.ids, self.offsets)
    }

    fn encode_texts(&mut self) {
        let texts = std::mem::take(&mut self.texts);
        if self.offsets.len() == 1 {
            let bytes = texts.iter().map(|text| text.len()).sum::<usize>().max(self.expected_bytes);
            self.ids = with_huge_pages(bytes / LEAST_BYTES_A_TOKEN);
            self.offsets.reserve(texts.len());
        }
        for text in texts {
            self.encoder.encode_matched_into(text, self.matchers, &mut self.ids);
            self.offsets.push(self.ids.len() as i64);
        }
    }
}

impl<'t, E> Intake<'t, E> for Alone<'_, 't> {
    fn text(&mut self, text: &'t str) {
        self.texts.push(text);
    }

    fn parts(&mut self, read: Read<'_, E>) -> Result<(), E> {
        self.encode_texts();
        let Self { encoder, matchers, ids, .. } = self;
        let tokenizer = encoder.tokenizer.clone();
        let cut = |text: &str, least| tokenizer.cut(matchers, text, least);
        read_parts(read, cut, |part| encoder.encode_matched_into(part, matchers, ids))?;
        self.offsets.push(self.ids.len() as i64);
        Ok(())
    }
}
