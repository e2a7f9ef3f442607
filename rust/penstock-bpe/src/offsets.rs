//! Where in the text each token lies.

use std::borrow::Cow;

use crate::encode::Allowed;
use crate::error::{Error, Result, show};
use crate::normalize::Normalizer;
use crate::tokenizer::Tokenizer;

/// What offsets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of UTF-8: the tokens lie side by side.
    Bytes,
    /// Characters (code points), as in HF tokenizers: a token that holds a part of one lies over all of it.
    Characters,
}

impl Tokenizer {
    /// The ids of `text`, and where each token starts and ends in it.
    ///
    /// # Errors
    ///
    /// [`Error::NormalizedOffsets`] where the tokenizer's normaliser changes the text.
    pub fn encode_with_offsets(
        &self,
        text: &str,
        allowed: &Allowed,
        unit: Unit,
    ) -> Result<(Vec<u32>, Vec<[i64; 2]>)> {
        let model = self.model();
        let (mut ids, mut offsets) = (Vec::new(), Vec::new());
        let mut encoder = self.encoder();
        let mut checked = Ok(());
        model.with_matchers(allowed, |matchers| {
            let check = |part: &str| check_unchanged(model.normalizer, part);
            checked = matchers.for_each_span(text, check, |span, token| {
                if let Some(id) = token {
                    ids.push(id);
                    offsets.push([span.start as i64, span.end as i64]);
                    return;
                }
                let (first, mut start) = (ids.len(), span.start as i64);
                encoder.encode_part_into(&text[span], &mut ids);
                offsets.extend(ids[first..].iter().map(|&id| {
                    let end = start + model.vocab.get(id).len() as i64;
                    [std::mem::replace(&mut start, end), end]
                }));
            });
        });
        checked?;
        if unit == Unit::Characters && !text.is_ascii() {
            to_characters(text, &mut offsets);
        }
        Ok((ids, offsets))
    }
}

fn check_unchanged(normalizer: Normalizer, part: &str) -> Result<()> {
    let (Cow::Owned(changed), Some(name)) = (normalizer.apply(part), normalizer.name()) else {
        return Ok(());
    };
    let same = part.chars().zip(changed.chars()).take_while(|(before, after)| before == after);
    let start: usize = same.map(|(character, _)| character.len_utf8()).sum();
    if start == part.len() && start == changed.len() {
        return Ok(());
    }
    Err(Error::NormalizedOffsets { normalizer: name, place: show(&part.as_bytes()[start..]) })
}

/// Makes bytes of `text` characters. The offsets rise.
fn to_characters(text: &str, offsets: &mut [[i64; 2]]) {
    let bytes = text.as_bytes();
    let (mut at, mut characters) = (0, 0);
    // Characters that begin before a byte.
    let mut before = |byte: i64| {
        let byte = byte as usize;
        characters += bytes[at..byte].iter().filter(|&&byte| !is_continuation(byte)).count() as i64;
        at = byte;
        characters
    };
    for [start, end] in offsets {
        let is_within = bytes.get(*start as usize).is_some_and(|&byte| is_continuation(byte));
        *start = before(*start) - i64::from(is_within);
        *end = before(*end);
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::tokenizer::SpecialToken;

    fn tokenizer() -> Tokenizer {
        let tokens = (0..=255u8).map(|byte| vec![byte]).chain([b"ab".to_vec()]).collect();
        let strip = SpecialToken { lstrip: true, rstrip: true, ..SpecialToken::new("<s>", 257) };
        let merges = vec![(u32::from(b'a'), u32::from(b'b'))];
        Tokenizer::new(Pattern::Gpt2, tokens, merges, vec![strip]).unwrap()
    }

    #[test]
    fn bytes_lie_side_by_side_and_characters_cover_their_bytes() {
        let offsets = |unit| tokenizer().encode_with_offsets("éab", &Allowed::None, unit).unwrap();
        assert_eq!(offsets(Unit::Bytes), (vec![0xC3, 0xA9, 256], vec![[0, 1], [1, 2], [2, 4]]));
        assert_eq!(offsets(Unit::Characters).1, [[0, 1], [0, 1], [1, 3]]);
    }

    #[test]
    fn added_tokens_have_the_white_space_that_they_take() {
        let found = tokenizer().encode_with_offsets("é <s> <s>ab", &Allowed::All, Unit::Characters).unwrap();
        assert_eq!(found.0, [0xC3, 0xA9, 257, 257, 256]);
        assert_eq!(found.1, [[0, 1], [0, 1], [1, 6], [6, 9], [9, 11]]);
    }
}
