//! The few fields of a SentencePiece model that decide about ids, out of its protocol buffer. Whatever the bytes say, nothing
//! is reserved that they do not hold, and nothing is read twice.

use crate::error::{Error, Result, show};

/// What kind of piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A piece; its place is its id.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// The model, with the defaults of what its file leaves out.
#[derive(Debug)]
pub(super) struct Proto {
    pub(super) pieces: Vec<Piece>,
    /// 1 unigram, 2 BPE, 3 words, 4 characters.
    pub(super) model_type: u64,
    pub(super) byte_fallback: bool,
    pub(super) spaces_behind_words: bool,
    pub(super) has_rules: bool,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

/// Reads a model.
pub(super) fn read(bytes: &[u8]) -> Result<Proto> {
    let mut proto = Proto {
        pieces: Vec::new(),
        model_type: 1,
        byte_fallback: false,
        spaces_behind_words: false,
        has_rules: false,
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
    };
    for field in Fields::new(bytes, 0) {
        match field? {
            (1, Value::Bytes(piece, at)) => proto.pieces.push(read_piece(piece, at)?),
            (2, Value::Bytes(trainer, at)) => read_trainer(&mut proto, trainer, at)?,
            (3, Value::Bytes(normalizer, at)) => read_normalizer(&mut proto, normalizer, at)?,
            _ => {}
        }
    }
    Ok(proto)
}

fn read_piece(bytes: &[u8], at: usize) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in Fields::new(bytes, at) {
        match field? {
            (1, Value::Bytes(text, at)) => {
                let text = std::str::from_utf8(text);
                piece.text = text.map_err(|_| damaged(at, "a piece that is not UTF-8"))?.to_owned();
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    _ => return Err(damaged(at, "a piece of an unknown kind")),
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn read_trainer(proto: &mut Proto, bytes: &[u8], at: usize) -> Result<()> {
    for field in Fields::new(bytes, at) {
        match field? {
            (3, Value::Number(value)) => proto.model_type = value,
            (24, Value::Number(value)) => proto.spaces_behind_words = value != 0,
            (35, Value::Number(value)) => proto.byte_fallback = value != 0,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(proto: &mut Proto, bytes: &[u8], at: usize) -> Result<()> {
    for field in Fields::new(bytes, at) {
        match field? {
            (2, Value::Bytes(rules, _)) => proto.has_rules = !rules.is_empty(),
            (3, Value::Number(value)) => proto.add_dummy_prefix = value != 0,
            (4, Value::Number(value)) => proto.remove_extra_whitespaces = value != 0,
            (5, Value::Number(value)) => proto.escape_whitespaces = value != 0,
            _ => {}
        }
    }
    Ok(())
}

/// A field's value; of 64-bit ones it only matters where they end.
enum Value<'b> {
    Number(u64),
    /// With their place in the file.
    Bytes(&'b [u8], usize),
    Fixed32(u32),
    Fixed64,
}

/// The fields of one message.
struct Fields<'b> {
    rest: &'b [u8],
    /// Where `rest` begins in the file.
    at: usize,
}

impl<'b> Fields<'b> {
    fn new(rest: &'b [u8], at: usize) -> Self {
        Self { rest, at }
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| damaged(self.at, "a field cut short"))?;
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged(start, "a number of more than ten bytes"))
    }

    fn field(&mut self) -> Result<(u64, Value<'b>)> {
        let start = self.at;
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let len = usize::try_from(self.number()?).unwrap_or(usize::MAX);
                let at = self.at;
                Value::Bytes(self.take(len)?, at)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte)))
            }
            _ => return Err(damaged(start, "a field of an unknown type")),
        };
        Ok((tag >> 3, value))
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Value<'b>)>;

    /// Ends behind the first error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn damaged(at: usize, found: &str) -> Error {
    Error::DamagedModel { byte: at, found: found.to_owned() }
}

/// A piece as messages show it.
pub(super) fn shown(piece: &Piece) -> String {
    show(piece.text.as_bytes())
}
