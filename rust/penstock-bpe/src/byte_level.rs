//! The byte-level alphabet: one printable character for each of the 256 bytes, as GPT-2 introduced it and as token
//! strings in a tokenizer.json are written.

/// The character that stands for `byte`: itself if it prints in Latin-1, else one from U+0100 on.
pub(crate) fn char_of(byte: u8) -> char {
    let code_point = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x100 + 0x21 + u32::from(byte - 0x7F),
        0xAD => 0x100 + 0x21 + 0x22,
    };
    // Every arm is below the surrogates.
    char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `character` stands for, if it is one of the alphabet.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    let code_point = u32::from(character);
    let byte = match code_point {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code_point,
        0x100..=0x120 => code_point - 0x100,
        0x121..=0x142 => code_point - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes that a token string stands for, or `None` if it holds a character outside the alphabet.
pub(crate) fn to_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// The token string that stands for `bytes`.
pub(crate) fn to_string(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char_of).collect()
}

/// All bytes, in the order of the code points of their characters: the order in which HF numbers the alphabet.
pub(crate) fn alphabet() -> [u8; 256] {
    let mut bytes: [u8; 256] = std::array::from_fn(|index| index as u8);
    bytes.sort_by_key(|&byte| char_of(byte));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255 {
            assert!(seen.insert(char_of(byte)));
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(to_bytes("日"), None);
    }
}
