//! Added tokens, found in the text before it is split.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::tokenizer::SpecialToken;
use crate::unicode::{LETTER, MARK, NUMBER, SPACE, class_of};

/// Finds added tokens: leftmost, then longest.
#[derive(Debug)]
pub(crate) struct Matcher {
    automaton: AhoCorasick,
    /// Each token, and whether it is active. One that is not stays text, but hides the shorter ones within it, as in HF.
    tokens: Vec<(SpecialToken, bool)>,
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'t> {
    /// Ordinary text.
    Text(&'t str),
    /// An added token.
    Token(u32),
}

impl Matcher {
    /// A matcher of tokens, given as what is looked for, token, and whether it is active; `None` if none is.
    pub(crate) fn new(entries: Vec<(String, SpecialToken, bool)>) -> Option<Self> {
        if !entries.iter().any(|&(.., is_active)| is_active) {
            return None;
        }
        let (spellings, tokens): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|(spelling, token, is_active)| (spelling, (token, is_active))).unzip();
        let builder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(spellings);
        // Building fails only beyond 2^31 states, which the limits on vocabularies exclude.
        builder.ok().map(|automaton| Self { automaton, tokens })
    }

    /// Calls `emit` with each part of `text`, in order.
    pub(crate) fn for_each_part<'t>(&self, text: &'t str, mut emit: impl FnMut(Part<'t>)) {
        let mut done = 0;
        for found in self.automaton.find_iter(text) {
            let (token, is_active) = &self.tokens[found.pattern().as_usize()];
            let (before, behind) = (&text[..found.start()], &text[found.end()..]);
            if !is_active {
                continue;
            }
            if token.single_word && (before.ends_with(is_word) || behind.starts_with(is_word)) {
                continue;
            }
            let mut start = found.start();
            let mut end = found.end();
            if token.lstrip {
                start = before.trim_end_matches(is_space).len();
            }
            if token.rstrip {
                end = text.len() - behind.trim_start_matches(is_space).len();
            }
            // A token before this one may have taken the white space already.
            start = start.max(done);
            if end <= done {
                continue;
            }
            if done < start {
                emit(Part::Text(&text[done..start]));
            }
            emit(Part::Token(token.id));
            done = end;
        }
        if done < text.len() {
            emit(Part::Text(&text[done..]));
        }
    }
}

fn is_word(character: char) -> bool {
    character == '_' || class_of(character) & (LETTER | NUMBER | MARK) != 0
}

fn is_space(character: char) -> bool {
    class_of(character) & SPACE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(tokens: &[SpecialToken], text: &str) -> Vec<String> {
        let spelled = tokens.iter().map(|token| (token.content.clone(), token.clone(), token.special));
        let spelled = spelled.collect();
        let mut found = Vec::new();
        Matcher::new(spelled).unwrap().for_each_part(text, |part| {
            found.push(match part {
                Part::Text(text) => text.to_owned(),
                Part::Token(id) => format!("<{id}>"),
            });
        });
        found
    }

    #[test]
    fn the_longest_of_the_leftmost_wins() {
        let tokens = [SpecialToken::new("ab", 1), SpecialToken::new("abc", 2), SpecialToken::new("bcd", 3)];
        assert_eq!(parts(&tokens, "xabcd"), ["x", "<2>", "d"]);
        let hidden = SpecialToken { special: false, ..SpecialToken::new("abc", 2) };
        let tokens = [SpecialToken::new("ab", 1), hidden];
        assert_eq!(parts(&tokens, "xabcdab"), ["xabcd", "<1>"]);
    }

    #[test]
    fn flags_strip_and_ask_for_a_word_of_its_own() {
        let strip = SpecialToken { lstrip: true, rstrip: true, ..SpecialToken::new("M", 1) };
        assert_eq!(parts(&[strip], "a \u{a0}M  M b"), ["a", "<1>", "<1>", "b"]);
        let word = SpecialToken { single_word: true, ..SpecialToken::new("M", 1) };
        assert_eq!(parts(&[word], "aM M, M_ éM"), ["aM ", "<1>", ", M_ éM"]);
    }
}
