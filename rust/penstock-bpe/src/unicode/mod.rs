//! Character classes of Unicode 16.0, pinned: HF tokenizers 0.23 classifies by that version, and 4,803 code points were
//! assigned in the next. The feature `unicode-17` builds with those of 17.0 instead.

// Tests check both, whichever is built.
#[cfg(any(test, not(feature = "unicode-17")))]
mod tables_16;
#[cfg(any(test, feature = "unicode-17"))]
mod tables_17;
#[cfg(not(feature = "unicode-17"))]
use tables_16 as tables;
#[cfg(feature = "unicode-17")]
use tables_17 as tables;

/// The version of Unicode whose classes cut text.
pub const UNICODE_VERSION: &str = if cfg!(feature = "unicode-17") { "17.0" } else { "16.0" };

/// Upper-case and title-case letters (`\p{Lu}`, `\p{Lt}`).
pub(crate) const UPPER: u8 = 0x01;
/// Lower-case letters (`\p{Ll}`).
pub(crate) const LOWER: u8 = 0x02;
/// Modifier letters and letters without case (`\p{Lm}`, `\p{Lo}`).
pub(crate) const OTHER_LETTER: u8 = 0x04;
/// Marks (`\p{M}`).
pub(crate) const MARK: u8 = 0x08;
/// Numbers (`\p{N}`).
pub(crate) const NUMBER: u8 = 0x10;
/// Punctuation (`\p{P}`).
pub(crate) const PUNCTUATION: u8 = 0x20;
/// Symbols (`\p{S}`).
pub(crate) const SYMBOL: u8 = 0x40;
/// White space (`\s`).
pub(crate) const SPACE: u8 = 0x80;
/// Letters of every kind (`\p{L}`).
pub(crate) const LETTER: u8 = UPPER | LOWER | OTHER_LETTER;

/// Class bits of ASCII, so that the common case is one load.
static ASCII: [u8; 128] = {
    let mut classes = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = tables::BLOCKS[0][byte];
        byte += 1;
    }
    classes
};

/// The class bits of `character`; 0 for controls, format characters and unassigned code points.
pub(crate) fn class_of(character: char) -> u8 {
    let code_point = character as usize;
    tables::BLOCKS[usize::from(tables::PAGES[code_point >> 8])][code_point & 0xFF]
}

/// Whether `Digits` of a tokenizer.json takes `character` for a number. HF tokenizers ask Rust's library there, and that of
/// their build knows the numbers of Unicode 17.
pub(crate) fn is_numeric(character: char) -> bool {
    class_of(character) & NUMBER != 0
        || matches!(character, '\u{11DE0}'..='\u{11DE9}' | '\u{16FF4}'..='\u{16FF6}')
}

/// The class bits and the length in bytes of the character at byte `at` of `text`, which must be a border and not the
/// end.
#[inline]
pub(crate) fn class_at(text: &str, at: usize) -> (u8, usize) {
    let byte = text.as_bytes()[at];
    if byte < 128 {
        return (ASCII[usize::from(byte)], 1);
    }
    class_at_multibyte(text, at)
}

fn class_at_multibyte(text: &str, at: usize) -> (u8, usize) {
    let bytes = &text.as_bytes()[at..];
    let low = |index: usize| u32::from(bytes[index] & 0x3F);
    let first = u32::from(bytes[0]);
    let (code_point, length) = if first < 0xE0 {
        ((first & 0x1F) << 6 | low(1), 2)
    } else if first < 0xF0 {
        ((first & 0x0F) << 12 | low(1) << 6 | low(2), 3)
    } else {
        ((first & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4)
    };
    let page = tables::PAGES[(code_point >> 8) as usize];
    (tables::BLOCKS[usize::from(page)][(code_point & 0xFF) as usize], length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_in(pages: &[u8], blocks: &[[u8; 256]], code_point: usize) -> u8 {
        blocks[usize::from(pages[code_point >> 8])][code_point & 0xFF]
    }

    fn in_sixteen(code_point: usize) -> u8 {
        class_in(&tables_16::PAGES, &tables_16::BLOCKS, code_point)
    }

    fn in_seventeen(code_point: usize) -> u8 {
        class_in(&tables_17::PAGES, &tables_17::BLOCKS, code_point)
    }

    #[test]
    fn counts_are_those_of_the_versions() {
        let classes = [LETTER, NUMBER, PUNCTUATION, SYMBOL, MARK, SPACE];
        let counts = |class_of: fn(usize) -> u8| {
            classes.map(|mask| (0..=0x10FFFF).filter(|&c| class_of(c) & mask != 0).count())
        };
        assert_eq!(counts(in_sixteen), [141_028, 1_911, 855, 8_514, 2_501, 25]);
        assert_eq!(counts(in_seventeen), [145_672, 1_924, 856, 8_617, 2_543, 25]);
    }

    #[test]
    fn seventeen_moves_one_letter_and_adds_characters() {
        let changed = (0..=0x10FFFF).filter(|&c| in_sixteen(c) != in_seventeen(c));
        let (moved, new): (Vec<usize>, Vec<usize>) = changed.partition(|&c| in_sixteen(c) != 0);
        assert_eq!((in_sixteen(0x295), in_seventeen(0x295)), (LOWER, OTHER_LETTER));
        assert_eq!((moved, new.len()), (vec![0x295], 4_803));
    }

    #[test]
    fn numbers_of_seventeen_are_those_of_the_standard_library() {
        if char::UNICODE_VERSION.0 != 17 {
            return; // of another toolchain
        }
        for c in (0..=0x10FFFF).filter_map(char::from_u32) {
            assert_eq!(in_seventeen(c as usize) & NUMBER != 0, c.is_numeric(), "{c:?}");
            assert_eq!(in_seventeen(c as usize) & SPACE != 0, c.is_whitespace(), "{c:?}");
        }
    }

    #[test]
    fn reading_from_text_equals_reading_by_character() {
        for character in (0..=0x10FFFF).filter_map(char::from_u32) {
            let text = character.to_string();
            assert_eq!(class_at(&text, 0), (class_of(character), text.len()));
        }
    }
}
