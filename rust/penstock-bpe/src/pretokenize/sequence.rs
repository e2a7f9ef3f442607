//! Splits in sequence, as a tokenizer.json may list them: the general path for patterns without a scanner.

use regex_automata::{Input, meta, util::syntax};

use crate::error::{Error, Result};
use crate::pattern::Family;
use crate::unicode::{NUMBER, class_of};

/// Largest compiled size of a custom pattern.
const MAX_PATTERN_BYTES: usize = 16 << 20;

/// One step: every piece of the step before is cut further.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A known pattern, by its scanner.
    Family(Family),
    /// A regular expression whose matches are isolated.
    Regex(CustomRegex),
    /// Digits apart from the rest, each alone if `individual`.
    Digits {
        /// Whether each digit is its own piece.
        individual: bool,
    },
}

/// A regular expression of the user's or of a file's, without look-around.
#[derive(Debug, Clone)]
pub(crate) struct CustomRegex {
    source: String,
    compiled: meta::Regex,
}

impl CustomRegex {
    /// Compiles `source` under size limits.
    pub(crate) fn new(source: &str) -> Result<Self> {
        if let Some(place) = possessive_quantifier(source) {
            return Err(Error::PatternPossessive { pattern: source.to_owned(), place });
        }
        let config = meta::Config::new()
            .nfa_size_limit(Some(MAX_PATTERN_BYTES))
            .onepass_size_limit(Some(MAX_PATTERN_BYTES))
            .hybrid_cache_capacity(4 << 20)
            .utf8_empty(true);
        let compiled = meta::Builder::new()
            .configure(config)
            // The Oniguruma syntax of tokenizer.json: ^ and $ stand at line ends.
            .syntax(syntax::Config::new().multi_line(true).nest_limit(100))
            .build(source)
            .map_err(|error| Self::explain(source, &error))?;
        Ok(Self { source: source.to_owned(), compiled })
    }

    fn explain(source: &str, error: &meta::BuildError) -> Error {
        let pattern = source.to_owned();
        let Some(syntax_error) = error.syntax_error() else {
            return match error.size_limit() {
                Some(limit_bytes) => Error::PatternTooLarge { pattern, limit_bytes },
                None => Error::PatternSyntax { pattern, reason: error.to_string() },
            };
        };
        let reason = syntax_error.to_string();
        if reason.contains("look-around") {
            return Error::PatternLookAround { pattern };
        }
        Error::PatternSyntax { pattern, reason }
    }

    /// The expression as it was given.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }
}

/// Byte place of a possessive quantifier (`a++`), which the engine would silently read as a repeated repetition.
fn possessive_quantifier(source: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut class_depth = 0_usize;
    let mut after_quantifier = false;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'\\' {
            after_quantifier = false;
            at += 2;
            // The braces of \p{..} and \x{..} are no quantifier.
            if bytes.get(at) == Some(&b'{') {
                at += bytes[at..].iter().position(|&b| b == b'}').unwrap_or(0) + 1;
            }
            continue;
        }
        match byte {
            b'[' => class_depth += 1,
            b']' => class_depth = class_depth.saturating_sub(1),
            b'+' if class_depth == 0 && after_quantifier => return Some(at),
            _ => {}
        }
        after_quantifier = class_depth == 0 && matches!(byte, b'+' | b'*' | b'?' | b'}');
        // "(?" opens a group.
        if byte == b'?' && at > 0 && bytes[at - 1] == b'(' {
            after_quantifier = false;
        }
        at += 1;
    }
    None
}

/// Cuts `text` by all of `steps`.
pub(crate) fn scan(steps: &[Step], text: &str, emit: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else {
        emit(text);
        return;
    };
    let mut next = |piece: &str| scan(rest, piece, emit);
    match step {
        Step::Family(family) => family.hand_out(text, &mut |start, end| next(&text[start..end])),
        Step::Regex(regex) => isolate(regex, text, &mut next),
        Step::Digits { individual } => isolate_digits(*individual, text, &mut next),
    }
}

fn isolate(regex: &CustomRegex, text: &str, emit: &mut dyn FnMut(&str)) {
    let mut done = 0;
    for found in regex.compiled.find_iter(Input::new(text)) {
        // An empty match cuts nothing off.
        if found.is_empty() {
            continue;
        }
        if done < found.start() {
            emit(&text[done..found.start()]);
        }
        emit(&text[found.range()]);
        done = found.end();
    }
    if done < text.len() {
        emit(&text[done..]);
    }
}

fn isolate_digits(individual: bool, text: &str, emit: &mut dyn FnMut(&str)) {
    let is_number = |character: char| class_of(character) & NUMBER != 0;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_numbers = is_number(first);
        let end = if in_numbers && individual {
            first.len_utf8()
        } else {
            rest.find(|character| is_number(character) != in_numbers).unwrap_or(rest.len())
        };
        emit(&rest[..end]);
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(steps: &[Step], text: &str) -> Vec<String> {
        let mut found = Vec::new();
        scan(steps, text, &mut |piece| found.push(piece.to_owned()));
        found
    }

    #[test]
    fn steps_cut_what_the_step_before_left() {
        let steps =
            [Step::Regex(CustomRegex::new(r"\s+|[a-z]+").unwrap()), Step::Digits { individual: true }];
        assert_eq!(pieces(&steps, "ab 12c"), ["ab", " ", "1", "2", "c"]);
        let steps = [Step::Digits { individual: false }];
        assert_eq!(pieces(&steps, "ab12c"), ["ab", "12", "c"]);
    }

    #[test]
    fn refusals_name_the_pattern() {
        let refused = |source: &str| CustomRegex::new(source).unwrap_err();
        assert!(
            matches!(refused(r"\s+(?!\S)"), Error::PatternLookAround { pattern } if pattern == r"\s+(?!\S)")
        );
        assert!(matches!(refused(r"\p{L}++"), Error::PatternPossessive { place: 6, .. }));
        assert!(matches!(refused("a{1,3}+"), Error::PatternPossessive { .. }));
        assert!(matches!(refused("(a"), Error::PatternSyntax { .. }));
        assert!(matches!(refused(r"(\p{L}{1000}){1000}"), Error::PatternTooLarge { .. }));
        assert!(CustomRegex::new(r"\++|[+*]+|\p{L}+|(?:a)?b").is_ok());
    }
}
