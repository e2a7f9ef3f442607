//! Character classes of Unicode 16.0, pinned: HF tokenizers 0.23 classifies by that version, and 4,787 code points
//! changed class in the next one.

mod tables;

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

    #[test]
    fn counts_are_those_of_unicode_16() {
        let count =
            |mask: u8| (0..=0x10FFFF).filter_map(char::from_u32).filter(|&c| class_of(c) & mask != 0).count();
        assert_eq!(count(LETTER), 141_028);
        assert_eq!(count(NUMBER), 1_911);
        assert_eq!(count(PUNCTUATION), 855);
        assert_eq!(count(SYMBOL), 8_514);
        assert_eq!(count(MARK), 2_501);
        assert_eq!(count(SPACE), 25);
    }

    #[test]
    fn reading_from_text_equals_reading_by_character() {
        for character in (0..=0x10FFFF).filter_map(char::from_u32) {
            let text = character.to_string();
            assert_eq!(class_at(&text, 0), (class_of(character), text.len()));
        }
    }
}
