//! DeepSeek LLM and DeepSeek Coder: five or six splits in sequence, each of which cuts the pieces of the one before.
//!
//! Line breaks stand alone. Words, then signs, are isolated with one white-space character before them; then the white
//! space that ends a piece (DeepSeek LLM alone), then runs of Chinese and its neighbours, then every number. So a border of
//! the first three splits is told by the characters on both sides and the one behind them, and those of the others lie within.

use std::sync::LazyLock;

use super::Spans;
use crate::unicode::{LETTER, PUNCTUATION, SPACE, class_of, is_numeric};

/// The words of DeepSeek LLM: letters of scripts with upper and lower case, as its file lists them.
pub(crate) const LLM_WORDS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
/// Its signs; those of ASCII hold the letters of ASCII, those of full width theirs.
pub(crate) const LLM_SIGNS: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";

/// CR or LF.
const LINE: u8 = 1;
const WHITE: u8 = 2;
const WORD: u8 = 4;
const SIGN: u8 = 8;
/// From U+0800 to U+9FA5, or from U+AC00 to U+D7FF.
const CJK: u8 = 16;
const DIGIT: u8 = 32;

/// What the two patterns do not share.
pub(crate) struct Rules {
    /// Flags of the characters of the basic plane.
    basic: Vec<u8>,
    /// Words and signs, where they are not those of Unicode.
    listed: Option<[Vec<(u32, u32)>; 2]>,
    /// Whether white space that ends a piece is cut off.
    cuts_end: bool,
}

/// DeepSeek Coder.
pub(crate) static CODER: LazyLock<Rules> = LazyLock::new(|| Rules::new(None, false));
/// DeepSeek LLM.
pub(crate) static LLM: LazyLock<Rules> =
    LazyLock::new(|| Rules::new(Some([LLM_WORDS, LLM_SIGNS].map(ranges_of)), true));

impl Rules {
    fn new(listed: Option<[Vec<(u32, u32)>; 2]>, cuts_end: bool) -> Self {
        let mut rules = Self { basic: Vec::new(), listed, cuts_end };
        let flags = |code| char::from_u32(code).map_or(0, |character| rules.compute(character));
        rules.basic = (0..1 << 16).map(flags).collect();
        rules
    }

    fn compute(&self, character: char) -> u8 {
        let class = class_of(character);
        let is_listed = |list: &[(u32, u32)]| {
            list.iter().any(|&(first, last)| (first..=last).contains(&character.into()))
        };
        let (is_word, is_sign) = match &self.listed {
            Some([words, signs]) => (is_listed(words), is_listed(signs)),
            None => (class & LETTER != 0, class & PUNCTUATION != 0),
        };
        let is_cjk = matches!(character, '\u{800}'..='龥' | '가'..='\u{D7FF}');
        let flags = [
            (matches!(character, '\r' | '\n'), LINE),
            (class & SPACE != 0, WHITE),
            (is_word, WORD),
            (is_sign, SIGN),
            (is_cjk, CJK),
            (is_numeric(character), DIGIT),
        ];
        flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum()
    }

    /// The flags of the character at `at` and the place behind it. The end of the text is like a line break.
    #[inline]
    fn read(&self, text: &str, at: usize) -> (u8, usize) {
        let bytes = text.as_bytes();
        match bytes.get(at) {
            None => (LINE, at),
            Some(byte) if byte.is_ascii() => (self.basic[usize::from(*byte)], at + 1),
            Some(_) => self.read_beyond_ascii(text, at),
        }
    }

    fn read_beyond_ascii(&self, text: &str, at: usize) -> (u8, usize) {
        let character = text[at..].chars().next().unwrap_or_default();
        let flags = self.basic.get(character as usize).copied();
        (flags.unwrap_or_else(|| self.compute(character)), at + character.len_utf8())
    }

    /// Whether lines, words and signs part two characters; `behind` is the place behind the second.
    #[inline]
    fn is_border(&self, text: &str, before: u8, here: u8, behind: usize) -> bool {
        // What starts here takes in the white space before it.
        let parts = |kind: u8| (before ^ here) & kind != 0 && (here & kind == 0 || before & WHITE == 0);
        if (before | here) & LINE != 0 || parts(WORD) || parts(SIGN) {
            return true;
        }
        if here & WHITE == 0 {
            return false;
        }
        let (next, beyond) = self.read(text, behind);
        // White space may be a sign itself. It then goes on with the signs before it, unless it leads a word.
        let is_led = |next: u8| next & WHITE == 0 || self.read(text, beyond).0 & WORD == 0;
        next & WORD != 0 || (here & SIGN == 0 && next & SIGN != 0 && is_led(next))
    }

    /// Whether the white space that starts at `at` goes on to the end of its piece.
    #[inline(never)]
    fn white_ends_piece(&self, text: &str, at: usize) -> bool {
        let (mut before, mut at) = self.read(text, at);
        loop {
            let (here, behind) = self.read(text, at);
            if self.is_border(text, before, here, behind) {
                return true;
            }
            if here & WHITE == 0 {
                return false;
            }
            (before, at) = (here, behind);
        }
    }
}

/// The ranges of the class in `expression`, `\s?[...]+`.
fn ranges_of(expression: &str) -> Vec<(u32, u32)> {
    let class = expression.trim_start_matches(r"\s?[").trim_end_matches("]+");
    let mut characters = class.chars().map(u32::from).peekable();
    let mut ranges = Vec::new();
    while let Some(first) = characters.next() {
        let has_last = characters.next_if_eq(&u32::from('-')).is_some();
        ranges.push((first, characters.next_if(|_| has_last).unwrap_or(first)));
    }
    ranges
}

/// Hands out where each piece of `text` starts and ends.
pub(crate) fn scan(rules: &Rules, text: &str, spans: &mut impl Spans) {
    let mut start = 0;
    let (mut before, mut at) = rules.read(text, 0);
    while at < text.len() {
        let (here, behind) = rules.read(text, at);
        let ends_here = rules.is_border(text, before, here, behind)
            || is_border_within(before, here)
            || (rules.cuts_end && !before & here & WHITE != 0 && rules.white_ends_piece(text, at));
        if ends_here {
            spans.take(start, at);
            start = at;
        }
        (before, at) = (here, behind);
    }
    if start < at {
        spans.take(start, at);
    }
}

/// Whether the last splits part two characters of one piece of the others.
#[inline]
fn is_border_within(before: u8, here: u8) -> bool {
    (before | here) & DIGIT != 0 || (before ^ here) & CJK != 0
}
