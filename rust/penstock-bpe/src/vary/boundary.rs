//! Tokens that join punctuation and line breaks, split now and then.
//!
//! A prompt that ends in a full stop ends in a token that training hardly showed there, as most full stops at the end of a
//! line lie in one token with the line break. DeepSeek-V3 therefore splits a share of such tokens when it encodes
//! training data (section 4.1 of its report).

use rustc_hash::FxHashMap;

use super::chance::{Chance, Draws};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use crate::unicode::{PUNCTUATION, SYMBOL, class_of};

/// What each joining token becomes when it is split.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    halves: FxHashMap<u32, Box<[u32]>>,
    /// A bit an id, as nearly all tokens join nothing.
    bits: Vec<u64>,
}

impl Joins {
    /// Looks at every token of `tokenizer` but the added ones.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let model = tokenizer.model();
        let mut encoder = tokenizer.encoder();
        let mut halves = FxHashMap::default();
        let mut bits = vec![0; model.vocab_size() / 64 + 1];
        for id in 0..model.vocab_size() as u32 {
            let is_added = model.specials.binary_search_by_key(&id, |token| token.id).is_ok();
            if let Some((head, tail)) = halves_of(model.vocab.get(id)).filter(|_| !is_added) {
                let mut ids = Vec::new();
                encoder.encode_part_into(head, &mut ids);
                encoder.encode_part_into(tail, &mut ids);
                halves.insert(id, ids.into_boxed_slice());
                bits[id as usize / 64] |= 1 << (id % 64);
            }
        }
        Self { halves, bits }
    }

    #[inline]
    fn halves_of(&self, id: u32) -> Option<&[u32]> {
        let is_join = self.bits.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 != 0);
        if is_join { self.halves.get(&id).map(|halves| &halves[..]) } else { None }
    }
}

/// The line breaks that `token` ends with and what stands before them, if that ends with a mark.
fn halves_of(token: &[u8]) -> Option<(&str, &str)> {
    let token = std::str::from_utf8(token).ok()?;
    let head = token.trim_end_matches(['\r', '\n']);
    let is_mark = |character| class_of(character) & (PUNCTUATION | SYMBOL) != 0;
    (head.len() < token.len() && head.ends_with(is_mark)).then(|| token.split_at(head.len()))
}

/// Splits a share of the tokens that join punctuation and line breaks. Which ones depends on the seed, on the text and
/// on their places in it, so that neither threads nor interruptions change anything.
#[derive(Debug, Clone)]
pub struct BoundarySplit {
    tokenizer: Tokenizer,
    chance: Chance,
    seed: u64,
}

impl BoundarySplit {
    /// Splits with the probability `chance`.
    ///
    /// # Errors
    ///
    /// [`Error::NoJoins`] where something is to be split and the vocabulary has no such token.
    pub fn new(tokenizer: &Tokenizer, chance: Chance, seed: u64) -> Result<Self> {
        if !chance.is_never() && tokenizer.joins().halves.is_empty() {
            return Err(Error::NoJoins);
        }
        Ok(Self { tokenizer: tokenizer.clone(), chance, seed })
    }

    /// Splits among `ids[start..]`, which are those of `text`.
    pub fn apply(&self, text: &str, ids: &mut Vec<u32>, start: usize) {
        if !self.chance.is_never() {
            let plain = ids.split_off(start.min(ids.len()));
            self.append(text, &plain, ids);
        }
    }

    /// Appends `ids`, which are those of `text`, to `out`, some of them split.
    pub(crate) fn append(&self, text: &str, ids: &[u32], out: &mut Vec<u32>) {
        let joins = self.tokenizer.joins();
        let draws = Draws::new(self.seed, text);
        let mut done = 0;
        for (place, &id) in ids.iter().enumerate() {
            if let Some(halves) = joins.halves_of(id)
                && draws.happens(place as u64, self.chance)
            {
                out.extend_from_slice(&ids[done..place]);
                out.extend_from_slice(halves);
                done = place + 1;
            }
        }
        out.extend_from_slice(&ids[done..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_before_line_breaks_are_halves() {
        let halves = |token: &'static str| halves_of(token.as_bytes());
        assert_eq!(halves(".\n"), Some((".", "\n")));
        assert_eq!(halves(" });\r\n\r\n"), Some((" });", "\r\n\r\n")));
        assert_eq!(halves("the end.\n"), Some(("the end.", "\n")));
        assert_eq!(halves("。\n"), Some(("。", "\n")));
        for token in ["", ".", "\n", "\n\n", " \n", "a\n", "1\n", ".\n ", "\n."] {
            assert_eq!(halves(token), None, "{token:?}");
        }
        assert_eq!(halves_of(b"\x80.\n"), None);
    }
}
