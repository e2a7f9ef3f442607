//! Split patterns by name, by the regular expressions that a tokenizer.json states, and of the user's own.

use std::sync::Arc;

use crate::error::{PatternError, Result};
use crate::pretokenize::sequence::{self, Step};
use crate::pretokenize::split::Split;
use crate::pretokenize::{Spans, cl100k, deepseek_early, deepseek_v3, gpt2, o200k};
use crate::unicode::{LETTER, MARK};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_CODER: [&str; 5] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", SINGLE_NUMBERS];
const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    deepseek_early::LLM_WORDS,
    deepseek_early::LLM_SIGNS,
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    SINGLE_NUMBERS,
];
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// What a `Digits` step with `individual_digits` comes to: see [`is_numeric`](crate::unicode::is_numeric).
pub(crate) const SINGLE_NUMBERS: &str = r"[\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}]";

/// Of them an expression that splits anything holds one, and no name does.
const EXPRESSION_SIGNS: &[char] = &['\\', '[', ']', '(', ')', '{', '}', '|', '+', '*', '?', '^', '$'];

/// Other spellings, found in files, of what a family's scanner does.
const ALIASES: [(Family, &str); 4] = [
    (Family::Gpt2, r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    (Family::Gpt2, r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"),
    (
        Family::Llama3,
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    (
        Family::Cl100k,
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
];

/// A pattern with a hand-written scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Gpt2,
    Cl100k,
    O200k,
    Llama3,
    Qwen2,
    Qwen3_5,
    Tekken,
    DeepseekLlm,
    DeepseekCoder,
    DeepseekV3,
}

impl Family {
    pub(crate) const ALL: [Self; 10] = [
        Self::Gpt2,
        Self::Cl100k,
        Self::O200k,
        Self::Llama3,
        Self::Qwen2,
        Self::Qwen3_5,
        Self::Tekken,
        Self::DeepseekLlm,
        Self::DeepseekCoder,
        Self::DeepseekV3,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
            Self::Llama3 => "llama3",
            Self::Qwen2 => "qwen2",
            Self::Qwen3_5 => "qwen3.5",
            Self::Tekken => "tekken",
            Self::DeepseekLlm => "deepseek-llm",
            Self::DeepseekCoder => "deepseek-coder",
            Self::DeepseekV3 => "deepseek-v3",
        }
    }

    /// The regular expressions, in sequence, that define the family.
    pub(crate) fn expressions(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::Cl100k => &[CL100K],
            Self::O200k => &[O200K],
            Self::Llama3 => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
            Self::Qwen3_5 => &[QWEN3_5],
            Self::Tekken => &[TEKKEN],
            Self::DeepseekLlm => &DEEPSEEK_LLM,
            Self::DeepseekCoder => &DEEPSEEK_CODER,
            Self::DeepseekV3 => &DEEPSEEK_V3,
        }
    }

    /// The family that one expression of a file defines by itself. Line breaks may be written raw or escaped.
    pub(crate) fn recognise(expression: &str) -> Option<Self> {
        let escaped = expression.replace('\r', "\\r").replace('\n', "\\n");
        let by_alias = ALIASES.iter().find(|(_, alias)| *alias == escaped).map(|&(family, _)| family);
        by_alias.or_else(|| Self::ALL.into_iter().find(|family| family.expressions() == [escaped.as_str()]))
    }

    /// The family, of those that need several expressions, whose sequence starts `expressions`; and how many it takes.
    pub(crate) fn recognise_sequence(expressions: &[&str]) -> Option<(Self, usize)> {
        let escaped: Vec<String> =
            expressions.iter().map(|e| e.replace('\r', "\\r").replace('\n', "\\n")).collect();
        Self::ALL.into_iter().find_map(|family| {
            let wanted = family.expressions();
            let found = wanted.len() > 1 && escaped.len() >= wanted.len();
            (found && wanted.iter().zip(&escaped).all(|(a, b)| a == b)).then_some((family, wanted.len()))
        })
    }

    /// Whether some rule matches every character, so that nothing is left between matches.
    pub(crate) fn covers_everything(self) -> bool {
        self.expressions().len() == 1
    }

    /// Whether a text may be cut behind any word. Words of DeepSeek LLM are those of scripts with upper and lower case.
    pub(crate) fn is_cut_behind_words(self) -> bool {
        self != Self::DeepseekLlm
    }

    /// Hands out where each piece starts and ends.
    #[inline]
    pub(crate) fn hand_out(self, text: &str, spans: &mut impl Spans) {
        match self {
            Self::Gpt2 => gpt2::scan(text, spans),
            Self::Cl100k => cl100k::scan::<3, true, LETTER>(text, spans),
            Self::Llama3 => cl100k::scan::<3, false, LETTER>(text, spans),
            Self::Qwen2 => cl100k::scan::<1, false, LETTER>(text, spans),
            Self::Qwen3_5 => cl100k::scan::<1, false, { LETTER | MARK }>(text, spans),
            Self::O200k => o200k::scan::<3, true>(text, spans),
            Self::Tekken => o200k::scan::<1, false>(text, spans),
            Self::DeepseekLlm => deepseek_early::scan(&deepseek_early::LLM, text, spans),
            Self::DeepseekCoder => deepseek_early::scan(&deepseek_early::CODER, text, spans),
            Self::DeepseekV3 => deepseek_v3::scan(text, spans),
        }
    }
}

/// How text is cut into pieces before merging.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// `gpt2`: GPT-2, also r50k and p50k.
    Gpt2,
    /// `cl100k`: as tiktoken's cl100k_base; white space that ends a text is one piece.
    Cl100k,
    /// `o200k`: as tiktoken's o200k_base.
    O200k,
    /// `llama3`: Llama 3, and cl100k as tokenizer.json files state it.
    Llama3,
    /// `qwen2`: Llama 3's with single digits.
    Qwen2,
    /// `qwen3.5`: Qwen 2's, whose words hold marks.
    Qwen3_5,
    /// `tekken`: Mistral's; o200k without contractions, with single digits.
    Tekken,
    /// `deepseek-llm`: lines, words, marks, white space that ends a line, Chinese and its like, single digits.
    DeepseekLlm,
    /// `deepseek-coder`: lines, words, marks, Chinese and its like, single digits.
    DeepseekCoder,
    /// `deepseek-v3`: numbers in threes, Chinese and Japanese runs, then words and marks.
    DeepseekV3,
    /// Splits of the user's or of a file's own.
    Custom(CustomPattern),
}

/// Splits in sequence that no known family covers.
#[derive(Debug, Clone)]
pub struct CustomPattern {
    steps: Arc<[Step]>,
}

impl Pattern {
    /// The names that [`from_name`](Self::from_name) knows.
    pub const NAMES: [&'static str; 10] = {
        let mut names = [""; 10];
        let mut place = 0;
        while place < names.len() {
            names[place] = Family::ALL[place].name();
            place += 1;
        }
        names
    };

    /// The known pattern called `name`; what holds a sign that only expressions have is read as one, by [`custom`](Self::custom).
    ///
    /// # Errors
    ///
    /// [`PatternError::Unknown`], naming those that exist; those of `custom`.
    pub fn from_name(name: &str) -> Result<Self> {
        if name.contains(EXPRESSION_SIGNS) {
            return Self::custom(name);
        }
        let family = Family::ALL.into_iter().find(|family| family.name() == name);
        family.map(Self::from).ok_or_else(|| PatternError::Unknown { name: name.to_owned() }.into())
    }

    /// A pattern whose matches become pieces, as does what lies between them. A known expression gets its scanner; any
    /// other must do without look-around. `^` and `$` match at line ends, as in the tokenizer.json that will hold it.
    ///
    /// # Errors
    ///
    /// [`PatternError::LookAround`], [`PatternError::Possessive`], [`PatternError::Dialect`],
    /// [`PatternError::Syntax`], [`PatternError::TooLarge`].
    pub fn custom(expression: &str) -> Result<Self> {
        if let Some(family) = Family::recognise(expression) {
            return Ok(family.into());
        }
        Ok(Self::from_steps(vec![Step::Split(Split::new(expression)?)]))
    }

    /// The pattern of several steps; a single known family stays itself.
    pub(crate) fn from_steps(steps: Vec<Step>) -> Self {
        if let [Step::Family(family)] = steps[..] {
            return family.into();
        }
        Self::Custom(CustomPattern { steps: steps.into() })
    }

    /// The pattern's name; `custom` if it has none.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.family().map_or("custom", Family::name)
    }

    /// Calls `emit` with each piece of `text`, in order; together they are the text.
    #[inline]
    pub fn for_each_piece(&self, text: &str, mut emit: impl FnMut(&str)) {
        self.hand_out(text, &mut |start, end| emit(&text[start..end]));
    }

    /// Hands out where each piece of `text` starts and ends, in order and without a gap.
    #[inline]
    pub(crate) fn hand_out(&self, text: &str, spans: &mut impl Spans) {
        match self {
            Self::Gpt2 => Family::Gpt2.hand_out(text, spans),
            Self::Cl100k => Family::Cl100k.hand_out(text, spans),
            Self::O200k => Family::O200k.hand_out(text, spans),
            Self::Llama3 => Family::Llama3.hand_out(text, spans),
            Self::Qwen2 => Family::Qwen2.hand_out(text, spans),
            Self::Qwen3_5 => Family::Qwen3_5.hand_out(text, spans),
            Self::Tekken => Family::Tekken.hand_out(text, spans),
            Self::DeepseekLlm => Family::DeepseekLlm.hand_out(text, spans),
            Self::DeepseekCoder => Family::DeepseekCoder.hand_out(text, spans),
            Self::DeepseekV3 => Family::DeepseekV3.hand_out(text, spans),
            // The empty text has no pieces, whatever the steps.
            Self::Custom(_) if text.is_empty() => {}
            Self::Custom(custom) => {
                let mut start = 0;
                sequence::scan(&custom.steps, text, &mut |piece| {
                    let end = start + piece.len();
                    spans.take(start, end);
                    start = end;
                });
            }
        }
    }

    pub(crate) fn family(&self) -> Option<Family> {
        Some(match self {
            Self::Gpt2 => Family::Gpt2,
            Self::Cl100k => Family::Cl100k,
            Self::O200k => Family::O200k,
            Self::Llama3 => Family::Llama3,
            Self::Qwen2 => Family::Qwen2,
            Self::Qwen3_5 => Family::Qwen3_5,
            Self::Tekken => Family::Tekken,
            Self::DeepseekLlm => Family::DeepseekLlm,
            Self::DeepseekCoder => Family::DeepseekCoder,
            Self::DeepseekV3 => Family::DeepseekV3,
            Self::Custom(_) => return None,
        })
    }

    /// The steps of the pattern, known or not.
    pub(crate) fn steps(&self) -> Vec<Step> {
        match self {
            Self::Custom(custom) => custom.steps.to_vec(),
            _ => self.family().map(Step::Family).into_iter().collect(),
        }
    }

    /// One string that two patterns share only if they cut alike.
    pub(crate) fn canonical(&self) -> String {
        let mut lines = Vec::new();
        for step in self.steps() {
            match step {
                Step::Family(family) => {
                    lines.extend(family.expressions().iter().map(|e| format!("split {e}")))
                }
                Step::Split(split) => lines.push(split.canonical()),
                Step::Digits { individual } => lines.push(format!("digits {individual}")),
            }
        }
        lines.join("\n")
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Pattern {}

impl From<Family> for Pattern {
    fn from(family: Family) -> Self {
        match family {
            Family::Gpt2 => Self::Gpt2,
            Family::Cl100k => Self::Cl100k,
            Family::O200k => Self::O200k,
            Family::Llama3 => Self::Llama3,
            Family::Qwen2 => Self::Qwen2,
            Family::Qwen3_5 => Self::Qwen3_5,
            Family::Tekken => Self::Tekken,
            Family::DeepseekLlm => Self::DeepseekLlm,
            Family::DeepseekCoder => Self::DeepseekCoder,
            Family::DeepseekV3 => Self::DeepseekV3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn names_and_expressions_find_their_family() {
        for name in Pattern::NAMES {
            assert_eq!(Pattern::from_name(name).unwrap().name(), name);
        }
        assert!(matches!(Pattern::from_name("gpt-3"), Err(Error::Pattern(PatternError::Unknown { .. }))));
        assert_eq!(Pattern::custom(LLAMA3).unwrap(), Pattern::Llama3);
        assert_eq!(Pattern::from_name(LLAMA3).unwrap(), Pattern::Llama3);
        assert_eq!(Pattern::from_name("[a-z]+").unwrap(), Pattern::custom("[a-z]+").unwrap());
        assert!(Pattern::NAMES.iter().all(|name| !name.contains(EXPRESSION_SIGNS)));
        assert_eq!(Family::recognise_sequence(&DEEPSEEK_V3), Some((Family::DeepseekV3, 3)));
        assert_eq!(Family::recognise_sequence(&DEEPSEEK_LLM), Some((Family::DeepseekLlm, 6)));
        assert_eq!(Pattern::custom("[a-z]+").unwrap().name(), "custom");
        assert_ne!(Pattern::custom("[a-z]+").unwrap(), Pattern::custom("[a-y]+").unwrap());
    }
}
