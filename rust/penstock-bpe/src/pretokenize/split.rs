//! One `Split` of a tokenizer.json: an expression, and what becomes of its matches.

use regex_automata::meta;

use super::dialect;
use super::linear::Linear;
use crate::error::PatternError;

type Result<T> = std::result::Result<T, PatternError>;

/// Largest compiled size of a custom pattern.
const MAX_PATTERN_BYTES: usize = 16 << 20;

/// What becomes of matches. None of it takes characters away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Each match is a piece, and so is what lies between.
    Isolated,
    /// A match goes with what lies before it, unless that is a match.
    MergedWithPrevious,
    /// A match goes with what lies behind it, unless that is a match.
    MergedWithNext,
    /// Matches side by side are one piece.
    Contiguous,
}

impl Behavior {
    pub(crate) const ALL: [Self; 4] =
        [Self::Isolated, Self::MergedWithPrevious, Self::MergedWithNext, Self::Contiguous];

    /// Its name in a tokenizer.json.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Isolated => "Isolated",
            Self::MergedWithPrevious => "MergedWithPrevious",
            Self::MergedWithNext => "MergedWithNext",
            Self::Contiguous => "Contiguous",
        }
    }
}

/// A regular expression of the user's or of a file's, without look-around, and how it cuts.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    source: String,
    /// The source is a text to be found as it stands.
    pub(crate) is_literal: bool,
    pub(crate) behavior: Behavior,
    /// What lies between matches counts as matches, and the other way round.
    pub(crate) is_inverted: bool,
    compiled: Compiled,
}

#[derive(Debug, Clone)]
enum Compiled {
    Expression(Linear),
    /// Looks no further than a match.
    Literal(meta::Regex),
}

impl Split {
    /// Isolates the matches of the expression `source`, which is compiled under size limits.
    pub(crate) fn new(source: &str) -> Result<Self> {
        let compiled = Linear::new(source, &dialect::parse(source)?, MAX_PATTERN_BYTES)?;
        Ok(Self::isolated(source, false, Compiled::Expression(compiled)))
    }

    /// Isolates `text` wherever it stands.
    pub(crate) fn literal(text: &str) -> Result<Self> {
        let config = meta::Config::new().nfa_size_limit(Some(MAX_PATTERN_BYTES)).utf8_empty(true);
        let compiled = meta::Builder::new().configure(config).build_from_hir(&dialect::literal(text));
        let compiled = compiled.map_err(|error| {
            let pattern = text.to_owned();
            match error.size_limit() {
                Some(limit_bytes) => PatternError::TooLarge { pattern, limit_bytes },
                None => PatternError::Syntax { pattern, reason: error.to_string() },
            }
        })?;
        Ok(Self::isolated(text, true, Compiled::Literal(compiled)))
    }

    fn isolated(source: &str, is_literal: bool, compiled: Compiled) -> Self {
        let (source, behavior) = (source.to_owned(), Behavior::Isolated);
        Self { source, is_literal, behavior, is_inverted: false, compiled }
    }

    /// The expression as it was given.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether it isolates the matches of an expression.
    pub(crate) fn is_plain(&self) -> bool {
        self.behavior == Behavior::Isolated && !self.is_literal
    }

    /// A string that two splits share only if they cut alike.
    pub(crate) fn canonical(&self) -> String {
        let Self { source, is_literal, behavior, is_inverted, .. } = self;
        match self.is_plain() {
            true => format!("split {source}"),
            false => {
                format!("split {} literal {is_literal} inverted {is_inverted} {source}", behavior.name())
            }
        }
    }

    /// Hands out the pieces of `text`.
    pub(crate) fn cut(&self, text: &str, emit: &mut dyn FnMut(&str)) {
        let mut joiner = Joiner { split: self, text, held: None, was_match: false, emit };
        let mut done = 0;
        let mut take = |start, end| {
            if done < start {
                joiner.take(done, start, false);
            }
            // An empty match is a place to cut as well.
            joiner.take(start, end, true);
            done = end;
        };
        match &self.compiled {
            Compiled::Expression(linear) => linear.for_each_match(text, take),
            Compiled::Literal(regex) => {
                regex.find_iter(text).for_each(|found| take(found.start(), found.end()))
            }
        }
        if done < text.len() {
            joiner.take(done, text.len(), false);
        }
        joiner.finish();
    }
}

/// Joins matches and what lies between them into pieces.
struct Joiner<'c> {
    split: &'c Split,
    text: &'c str,
    /// A piece that may go on.
    held: Option<(usize, usize)>,
    was_match: bool,
    emit: &'c mut dyn FnMut(&str),
}

impl Joiner<'_> {
    fn take(&mut self, start: usize, end: usize, is_match: bool) {
        let is_match = is_match != self.split.is_inverted;
        let goes_on = match self.split.behavior {
            Behavior::Isolated => false,
            Behavior::MergedWithPrevious => is_match && !self.was_match,
            Behavior::MergedWithNext => !is_match && self.was_match,
            Behavior::Contiguous => is_match == self.was_match,
        };
        self.was_match = is_match;
        match &mut self.held {
            Some(held) if goes_on => held.1 = end,
            _ => {
                self.finish();
                self.held = Some((start, end));
            }
        }
    }

    fn finish(&mut self) {
        if let Some((start, end)) = self.held.take().filter(|(start, end)| start < end) {
            (self.emit)(&self.text[start..end]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(split: &Split, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        split.cut(text, &mut |piece| found.push(piece.to_owned()));
        found
    }

    #[test]
    fn matches_go_where_the_behavior_says() {
        let cut = |behavior, is_inverted| {
            let split = Split { behavior, is_inverted, ..Split::new("-").unwrap() };
            pieces(&split, "-a--b-")
        };
        assert_eq!(cut(Behavior::Isolated, false), ["-", "a", "-", "-", "b", "-"]);
        assert_eq!(cut(Behavior::MergedWithPrevious, false), ["-", "a-", "-", "b-"]);
        assert_eq!(cut(Behavior::MergedWithNext, false), ["-a", "-", "-b", "-"]);
        assert_eq!(cut(Behavior::Contiguous, false), ["-", "a", "--", "b", "-"]);
        assert_eq!(cut(Behavior::MergedWithPrevious, true), ["-a", "-", "-b", "-"]);
    }

    #[test]
    fn texts_stand_for_themselves_and_empty_matches_cut() {
        assert_eq!(pieces(&Split::literal("a.").unwrap(), "aba.b"), ["ab", "a.", "b"]);
        assert_eq!(pieces(&Split::new("x*").unwrap(), "axxb"), ["a", "xx", "b"]);
        assert_eq!(pieces(&Split::new("").unwrap(), "abc"), ["a", "b", "c"]);
    }

    #[test]
    fn refusals_name_the_pattern() {
        let refused = |source: &str| Split::new(source).unwrap_err();
        assert!(
            matches!(refused(r"\s+(?!\S)"), PatternError::LookAround { pattern } if pattern == r"\s+(?!\S)")
        );
        assert!(matches!(refused(r"\p{L}++"), PatternError::Possessive { place: 6, .. }));
        assert!(matches!(refused("a{1,3}+"), PatternError::Possessive { .. }));
        assert!(matches!(refused("(a"), PatternError::Syntax { .. }));
        assert!(matches!(refused(r"(\p{L}{1000}){1000}"), PatternError::TooLarge { .. }));
        assert!(Split::new(r"\++|[+*]+|\p{L}+|(?:a)?b").is_ok());
    }
}
