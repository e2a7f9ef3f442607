//! Every way in which a split pattern can be wrong.

use crate::pattern::Pattern;

/// One variant per way in which a split pattern can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// No split pattern has this name.
    #[error("unknown split pattern `{name}`; known are {}; a regular expression is taken as well", Pattern::NAMES.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// A custom pattern looks ahead or behind.
    #[error(
        "pattern `{pattern}`: look-around is supported in the known patterns only; rewrite it without (?=, (?!, (?<= or (?<!"
    )]
    LookAround {
        /// The expression.
        pattern: String,
    },
    /// A custom pattern uses a possessive quantifier.
    #[error("pattern `{pattern}`: possessive quantifier at byte {place}; write a plain one")]
    Possessive {
        /// The expression.
        pattern: String,
        /// Byte place of its second sign.
        place: usize,
    },
    /// A custom pattern says what HF tokenizers would read in another way, or not at all.
    #[error(
        "pattern `{pattern}`: {found} does not mean the same to Hugging Face tokenizers; instead: {instead}"
    )]
    Dialect {
        /// The expression.
        pattern: String,
        /// The part in question.
        found: String,
        /// What to write.
        instead: &'static str,
    },
    /// A custom pattern is no regular expression.
    #[error("pattern `{pattern}`: {reason}")]
    Syntax {
        /// The expression.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// A custom pattern compiles to too much.
    #[error(
        "pattern `{pattern}`: needs more than {limit_bytes} bytes once compiled; make its repetitions smaller"
    )]
    TooLarge {
        /// The expression.
        pattern: String,
        /// The limit.
        limit_bytes: usize,
    },
}
