//! Added tokens, found in the text before it is split.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, Anchored, Input, Match, MatchKind, StartKind};

use crate::tokenizer::SpecialToken;
use crate::unicode::{SPACE, class_of};

/// Finds added tokens: leftmost, then longest.
#[derive(Debug)]
pub(crate) struct Matcher {
    automaton: AhoCorasick,
    starts: Starts,
    /// The bytes of the longest token as it is looked for.
    longest: usize,
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
        let starts = Starts::new(&spellings);
        let longest = spellings.iter().map(String::len).max().unwrap_or_default();
        let mut builder = AhoCorasick::builder();
        let builder = builder.match_kind(MatchKind::LeftmostLongest).start_kind(StartKind::Both);
        // Building fails only beyond 2^31 states, which the limits on vocabularies exclude.
        builder.build(spellings).ok().map(|automaton| Self { automaton, starts, longest, tokens })
    }

    /// Calls `emit` with each part of `text`, in order.
    pub(crate) fn for_each_part<'t>(&self, text: &'t str, mut emit: impl FnMut(Part<'t>)) {
        self.for_each_span(text, |span, token| emit(token.map_or(Part::Text(&text[span]), Part::Token)));
    }

    /// Calls `emit` with where each part of `text` lies, and the token that it is.
    pub(crate) fn for_each_span(&self, text: &str, mut emit: impl FnMut(Range<usize>, Option<u32>)) {
        let mut done = 0;
        let mut from = 0;
        while let Some(found) = self.find(text, from) {
            from = found.end();
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
                emit(done..start, None);
            }
            emit(start..end, Some(token.id));
            done = end;
        }
        if done < text.len() {
            emit(done..text.len(), None);
        }
    }
}

impl Matcher {
    /// Whether no token ends, starts or lies at `at`, whatever follows `text`.
    pub(crate) fn is_clear(&self, text: &str, at: usize) -> bool {
        let around = at.saturating_sub(self.longest)..at + self.longest;
        around.end <= text.len() && self.automaton.find(Input::new(text).range(around)).is_none()
    }

    /// The first token in `text` from `from` on, the longest of those that start there.
    fn find(&self, text: &str, mut from: usize) -> Option<Match> {
        let Starts::Few { first, pairs } = &self.starts else {
            return self.automaton.find(Input::new(text).range(from..));
        };
        let bytes = text.as_bytes();
        loop {
            let rest = &bytes[from..];
            from += match first[..] {
                [a] => memchr::memchr(a, rest),
                [a, b] => memchr::memchr2(a, b, rest),
                [a, b, c] => memchr::memchr3(a, b, c, rest),
                _ => None,
            }?;
            let behind = bytes.get(from + 1).copied().unwrap_or_default();
            if pairs.contains(&[bytes[from], behind]) {
                let here = Input::new(text).range(from..).anchored(Anchored::Yes);
                if let Some(found) = self.automaton.find(here) {
                    return Some(found);
                }
            }
            from += 1;
        }
    }
}

/// More beginnings than this are left to the automaton.
const MOST_PAIRS: usize = 16;

/// How the tokens that are looked for begin. Nearly all text is passed over by that alone: the automaton is for the rest.
#[derive(Debug)]
enum Starts {
    /// At most three first bytes, and the two bytes that each token begins with.
    Few { first: Vec<u8>, pairs: Vec<[u8; 2]> },
    /// The automaton looks itself.
    Many,
}

impl Starts {
    fn new(spellings: &[String]) -> Self {
        // A token of one byte has no second.
        let pair = |spelling: &String| spelling.as_bytes().first_chunk::<2>().copied();
        let Some(pairs) = spellings.iter().map(pair).collect::<Option<BTreeSet<_>>>() else {
            return Self::Many;
        };
        let first: BTreeSet<u8> = pairs.iter().map(|pair| pair[0]).collect();
        if first.len() > 3 || pairs.len() > MOST_PAIRS {
            return Self::Many;
        }
        Self::Few { first: first.into_iter().collect(), pairs: pairs.into_iter().collect() }
    }
}

/// `\w` as the engine of HF's added tokens has it: without fractions and the like, with joiners.
fn is_word(character: char) -> bool {
    regex_syntax::is_word_character(character)
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
        let word = SpecialToken { single_word: true, ..SpecialToken::new("M", 1) };
        assert_eq!(parts(&[word], "½M Ⓐ M‿ \u{200d}M"), ["½", "<1>", " Ⓐ M‿ \u{200d}M"]);
    }
}
