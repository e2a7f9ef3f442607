//! Ids to bytes and text.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The bytes of `ids`, one token behind the other.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] for an id that the vocabulary does not have.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.bytes_of(id)?);
        }
        Ok(bytes)
    }

    /// A decoder for ids that come one by one.
    #[must_use]
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder { tokenizer: self.clone(), pending: Vec::new() }
    }

    fn bytes_of(&self, id: u32) -> Result<&[u8]> {
        self.id_to_bytes(id).ok_or_else(|| Error::UnknownId { id, vocab_size: self.vocab_size() })
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
