//! Ids to bytes and text.

use std::mem::MaybeUninit;

use crate::error::{Error, Result};
use crate::machine::ask_for_huge_pages;
use crate::tokenizer::Tokenizer;
use crate::vocab::WIDE_BYTES;

/// Tokens that are looked up, and their bytes asked for, before the first of them is copied.
const BLOCK_IDS: usize = 256;
/// From the length of so many tokens that of all is guessed.
const FIRST_IDS: usize = 1 << 12;
/// Of the others no more is expected, a token: they need not be like the first.
const MAX_EXPECTED_BYTES: usize = 8;

impl Tokenizer {
    /// The bytes of `ids`, one token behind the other.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id that the vocabulary does not have.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = self.room_for(ids, ids.len())?;
        self.decode_onto(ids, &mut bytes, |_| ())?;
        Ok(bytes)
    }

    /// Room for the bytes of `count` ids, which begin with these: about as much as they will need, or none.
    ///
    /// # Errors
    ///
    /// As [`decode_bytes`](Self::decode_bytes).
    pub fn room_for(&self, first: &[u32], count: usize) -> Result<Vec<u8>> {
        let first = &first[..first.len().min(FIRST_IDS)];
        let known = self.decoded_len(first)?;
        let others = count.saturating_sub(first.len());
        let expected = others.saturating_mul((known / first.len().max(1) + 1).min(MAX_EXPECTED_BYTES));
        let room = known.saturating_add(expected).saturating_add(WIDE_BYTES);
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(room).is_ok() {
            ask_for_huge_pages(bytes.as_ptr(), bytes.capacity());
        }
        Ok(bytes)
    }

    /// Puts the bytes of `ids` behind those that are there, and shows them to `look` little by little, while they are near.
    ///
    /// # Errors
    ///
    /// As [`decode_bytes`](Self::decode_bytes); some of the bytes are there then.
    pub fn decode_onto(&self, ids: &[u32], bytes: &mut Vec<u8>, mut look: impl FnMut(&[u8])) -> Result<()> {
        self.each_block(ids, |spans, len| {
            let start = bytes.len();
            bytes.resize(start + len + WIDE_BYTES, 0);
            self.copy(spans, &mut bytes[start..], |byte| byte);
            bytes.truncate(start + len);
            look(&bytes[start..]);
        })
    }

    /// How many bytes [`decode_bytes`](Self::decode_bytes) gives.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decoded_len(&self, ids: &[u32]) -> Result<usize> {
        let (vocab, vocab_size) = (&self.model().vocab, self.vocab_size());
        let mut total = 0_usize;
        for (index, &id) in ids.iter().enumerate() {
            let (_, len) = vocab.span(id);
            if len == 0 || id as usize >= vocab_size {
                return Err(Error::UnknownId { id, index, vocab_size });
            }
            total += len;
        }
        Ok(total)
    }

    /// [`decode_bytes`](Self::decode_bytes) into memory of [`decoded_len`](Self::decoded_len) bytes; returns their number.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// There are fewer.
    pub fn decode_into(&self, ids: &[u32], bytes: &mut [MaybeUninit<u8>]) -> Result<usize> {
        let mut start = 0;
        self.each_block(ids, |spans, len| {
            self.copy(spans, &mut bytes[start..], MaybeUninit::new);
            start += len;
        })?;
        Ok(start)
    }

    /// Hands over where the bytes of some tokens are, and how many in all, then those of the next.
    #[inline]
    fn each_block(&self, ids: &[u32], mut take: impl FnMut(&[(u32, u32)], usize)) -> Result<()> {
        let (vocab, vocab_size) = (&self.model().vocab, self.vocab_size());
        let mut spans = [(0, 0); BLOCK_IDS];
        let mut done = 0;
        for ids in ids.chunks(BLOCK_IDS) {
            let mut total = 0;
            for (span, &id) in spans.iter_mut().zip(ids) {
                let (start, len) = vocab.span(id);
                if len == 0 || id as usize >= vocab_size {
                    let place = ids.iter().take_while(|&&other| other != id).count();
                    return Err(Error::UnknownId { id, index: done + place, vocab_size });
                }
                vocab.prefetch(start);
                *span = (start as u32, len as u32);
                total += len;
            }
            take(&spans[..ids.len()], total);
            done += ids.len();
        }
        Ok(())
    }

    fn copy<T: Copy>(&self, spans: &[(u32, u32)], bytes: &mut [T], wrap: impl Fn(u8) -> T) {
        let vocab = &self.model().vocab;
        spans
            .iter()
            .fold(0, |at, &(start, len)| vocab.copy((start as usize, len as usize), bytes, at, &wrap));
    }

    /// A decoder for ids that come one by one.
    #[must_use]
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder { tokenizer: self.clone(), pending: Vec::new() }
    }

    fn bytes_of(&self, id: u32) -> Result<&[u8]> {
        let unknown = || Error::UnknownId { id, index: 0, vocab_size: self.vocab_size() };
        self.id_to_bytes(id).ok_or_else(unknown)
    }
}

/// Turns ids into text as they come, never handing out half a character. What can be no character in UTF-8 becomes
/// U+FFFD, so that all that is handed out equals the lossy decoding of the whole.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    /// The start of a character that is not yet complete.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// Takes one id; returns the characters that are complete now, often none.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`]; the decoder is then as it was.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.pending.extend_from_slice(self.tokenizer.bytes_of(id)?);
        let mut text = String::new();
        let mut taken = 0;
        loop {
            let rest = &self.pending[taken..];
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return Ok(text);
                }
                Err(error) => {
                    text.push_str(&String::from_utf8_lossy(&rest[..error.valid_up_to()]));
                    taken += error.valid_up_to();
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..taken);
                        return Ok(text);
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    taken += invalid;
                }
            }
        }
    }

    /// Ends the stream: U+FFFD if it stopped within a character.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::{Error, Pattern, Tokenizer};

    #[test]
    fn long_tokens_first_do_not_ask_for_all_memory() {
        let tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).chain([vec![b'='; 1024]]).collect();
        let tokenizer = Tokenizer::new(Pattern::Gpt2, tokens, vec![], vec![]).unwrap();
        assert!(tokenizer.room_for(&[256; 5000], 1 << 24).unwrap().capacity() < 9 << 24);
        assert!(tokenizer.room_for(&[256; 10], 10).unwrap().capacity() < 11 << 10);
        assert_eq!(tokenizer.room_for(&[256; 5000], usize::MAX).unwrap().capacity(), 0);
    }

    proptest! {
        #[test]
        fn decoding_joins_the_tokens_of_any_length(
            lens in prop::collection::vec(2_usize..40, 1..8),
            ids in prop::collection::vec(0_u32..266, 0..40),
        ) {
            let long = (0..).zip(&lens).map(|(token, &len)| vec![token; len]);
            let tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).chain(long).collect();
            let tokenizer = Tokenizer::new(Pattern::Gpt2, tokens.clone(), vec![], vec![]).unwrap();
            match ids.iter().position(|&id| id as usize >= tokens.len()) {
                Some(place) => {
                    let error = tokenizer.decode_bytes(&ids).unwrap_err();
                    let is_named = matches!(error, Error::UnknownId { index, .. } if index == place);
                    prop_assert!(is_named, "{error}");
                }
                None => {
                    let expected: Vec<u8> = ids.iter().flat_map(|&id| tokens[id as usize].clone()).collect();
                    prop_assert_eq!(tokenizer.decoded_len(&ids).unwrap(), expected.len());
                    prop_assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), expected);
                }
            }
        }
    }
}
