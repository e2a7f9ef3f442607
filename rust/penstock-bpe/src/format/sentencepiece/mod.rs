//! SentencePiece models of the kind BPE with byte fallback, such as Llama 2's and Mistral's first ones.
//!
//! SentencePiece merges characters, not bytes, over the whole text with a mark in place of each space: any two
//! neighbours whose text is a piece, the piece of the best score first. Here the tokens hold spaces themselves. Characters are
//! made of their bytes by merges that go before all others, some by way of tokens that are hidden from outside; a hidden
//! token that is left over stands for the bytes that SentencePiece falls back to.

mod wire;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Error, Result};
use crate::model::Parts;
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::tokenizer::{SpecialToken, Tokenizer};
use wire::{Kind, Piece, Proto, shown};

/// What SentencePiece writes for a space.
const MARK: char = '\u{2581}';
/// Spaces and the word behind them, where no piece reaches across a word's end.
const WORDS: &str = " *[^ ]+| +";
/// The whole text.
const WHOLE: &str = r"[\s\S]+";

/// What a model of this origin holds beyond others.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The file, as there is no other format that says as much.
    pub(crate) source: Vec<u8>,
    /// Ids from here on are hidden.
    pub(crate) visible: u32,
    /// Merges before this one only make characters of bytes.
    pub(crate) character_merges: usize,
    /// The ids of single bytes.
    byte_ids: [u32; 256],
    /// Bytes of the hidden tokens, by id behind `visible`.
    hidden: Vec<Vec<u8>>,
}

impl Origin {
    /// Puts bytes in place of the hidden tokens in `ids[start..]`.
    pub(crate) fn expand(&self, ids: &mut Vec<u32>, start: usize) {
        let Some(first) = ids[start..].iter().position(|&id| id >= self.visible) else { return };
        for id in ids.split_off(start + first) {
            match id.checked_sub(self.visible).and_then(|place| self.hidden.get(place as usize)) {
                Some(bytes) => ids.extend(bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)])),
                None => ids.push(id),
            }
        }
    }
}

/// Reads a model.
pub(crate) fn read(bytes: &[u8], path: &Path) -> Result<Tokenizer> {
    let proto = wire::read(bytes).map_err(|error| error.at(path, "the protocol buffer"))?;
    check(&proto).map_err(|error| error.at(path, "the model"))?;
    build(&proto, bytes).map_err(|error| error.at(path, "the pieces"))
}

/// Refuses what would give other ids than SentencePiece.
fn check(proto: &Proto) -> Result<()> {
    let refuse = |found: &str, expected| Err(Error::Unsupported { found: found.to_owned(), expected });
    if proto.model_type != 2 {
        return refuse("a model that is no BPE", "model_type BPE");
    }
    if !proto.byte_fallback {
        return refuse("no byte fallback", "byte_fallback, so that every text has ids");
    }
    if proto.has_rules {
        return refuse("normalisation by rules of its own", "the normaliser `identity`");
    }
    if proto.remove_extra_whitespaces {
        return refuse("remove_extra_whitespaces", "remove_extra_whitespaces = false");
    }
    if !proto.escape_whitespaces {
        return refuse("escape_whitespaces = false", "escape_whitespaces");
    }
    if proto.spaces_behind_words {
        return refuse("treat_whitespace_as_suffix", "treat_whitespace_as_suffix = false");
    }
    let odd = |piece: &&Piece| matches!(piece.kind, Kind::UserDefined | Kind::Unused);
    if let Some(piece) = proto.pieces.iter().find(odd) {
        let found = format!("a user-defined or unused piece, {}", shown(piece));
        return refuse(&found, "normal, control, unknown and byte pieces");
    }
    Ok(())
}

/// Tokens and merges in the making.
#[derive(Default)]
struct Build {
    tokens: Vec<Vec<u8>>,
    /// Pieces and hidden tokens by their bytes.
    ids: FxHashMap<Vec<u8>, u32>,
    merges: Vec<(u32, u32)>,
}

fn build(proto: &Proto, source: &[u8]) -> Result<Tokenizer> {
    let mut build = Build::default();
    let (mut specials, mut unreachable) = (Vec::new(), FxHashSet::default());
    for (id, piece) in (0..).zip(&proto.pieces) {
        let token = token_of(piece)?;
        match piece.kind {
            Kind::Normal => {
                if token.is_empty() {
                    return Err(Error::EmptyToken { id });
                }
                if let Some(first) = build.ids.insert(token.clone(), id) {
                    return Err(Error::DuplicateToken { first, second: id, bytes: shown(piece) });
                }
            }
            Kind::Control | Kind::Unknown => specials.push(SpecialToken::new(piece.text.as_str(), id)),
            _ => {}
        }
        build.tokens.push(token);
    }
    if !build.ids.contains_key(&b" "[..]) {
        let found = "no piece for the space".to_owned();
        return Err(Error::Unsupported { found, expected: "the piece `\u{2581}`" });
    }
    // A byte whose character is a piece is only there for show.
    for (id, piece) in (0..).zip(&proto.pieces).filter(|(_, piece)| piece.kind == Kind::Byte) {
        let token = build.tokens[id as usize].clone();
        let first = *build.ids.entry(token).or_insert(id);
        if first != id && proto.pieces[first as usize].kind == Kind::Byte {
            return Err(Error::DuplicateToken { first, second: id, bytes: shown(piece) });
        }
        if first != id {
            unreachable.insert(id);
        }
    }
    let mut byte_ids = [0; 256];
    for (byte, place) in (0..=255).zip(&mut byte_ids) {
        *place = *build.ids.get(&[byte][..]).ok_or(Error::MissingByte { byte })?;
    }
    let visible = build.tokens.len() as u32;
    build.make_characters(&proto.pieces);
    let character_merges = build.merges.len();
    build.merge_pieces(&proto.pieces)?;
    let hidden = build.tokens[visible as usize..].to_vec();
    let is_across = |piece: &Piece| piece.text.trim_start_matches(MARK).contains(MARK);
    let is_cut = !proto.pieces.iter().any(|piece| piece.kind == Kind::Normal && is_across(piece));
    let parts = Parts {
        normalizer: Normalizer::SentencePiece { dummy_prefix: proto.add_dummy_prefix },
        tokens: build.tokens,
        unreachable,
        merges: build.merges,
        specials,
        sentencepiece: Some(Origin { source: source.to_vec(), visible, character_merges, byte_ids, hidden }),
        ..Parts::default()
    };
    Tokenizer::from_parts(Pattern::custom(if is_cut { WORDS } else { WHOLE })?, parts)
}

/// The bytes that a piece stands for; none for one that text does not become.
fn token_of(piece: &Piece) -> Result<Vec<u8>> {
    let unsupported =
        |expected| Err(Error::Unsupported { found: format!("the piece {}", shown(piece)), expected });
    match piece.kind {
        Kind::Byte => {
            let digits = piece.text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => Ok(vec![byte]),
                None => unsupported("a byte piece such as <0x0A>"),
            }
        }
        Kind::Normal if piece.text.contains(' ') => {
            unsupported("no piece with a space, which texts never have")
        }
        Kind::Normal => Ok(piece.text.replace(MARK, " ").into_bytes()),
        _ => Ok(Vec::new()),
    }
}

impl Build {
    /// The merges that make the characters of `pieces` of their bytes, from the left, all of them before any other.
    fn make_characters(&mut self, pieces: &[Piece]) {
        let normal = pieces.iter().filter(|piece| piece.kind == Kind::Normal);
        let characters: BTreeSet<char> =
            normal.flat_map(|piece| piece.text.chars()).filter(|c| !c.is_ascii() && *c != MARK).collect();
        for len in 2..=4 {
            for character in &characters {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).as_bytes();
                let Some(part) = bytes.get(..len).filter(|part| !self.is_made(part)) else { continue };
                if !self.ids.contains_key(part) {
                    self.ids.insert(part.to_vec(), self.tokens.len() as u32);
                    self.tokens.push(part.to_vec());
                }
                let (left, right) = part.split_at(len - 1);
                self.merges.push((self.ids[left], self.ids[right]));
            }
        }
    }

    /// Whether the part of a character of so many bytes is made by the last merges already: of equal ones, sorted, all but
    /// the first.
    fn is_made(&self, part: &[u8]) -> bool {
        let joined = |&(left, right): &(u32, u32)| {
            let (left, right) = (&self.tokens[left as usize], &self.tokens[right as usize]);
            left.len() + right.len() == part.len() && part.starts_with(left) && part.ends_with(right)
        };
        self.merges.last().is_some_and(joined)
    }

    /// The merges that make pieces of their parts, the best score first. Those to one piece stand together.
    fn merge_pieces(&mut self, pieces: &[Piece]) -> Result<()> {
        let is_merged =
            |(_, piece): &(u32, &Piece)| piece.kind == Kind::Normal && piece.text.chars().nth(1).is_some();
        let mut merged: Vec<(u32, &Piece)> = (0..).zip(pieces).filter(is_merged).collect();
        // Not a number sorts somewhere, and is found beside its neighbours.
        merged.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
        for pair in merged.windows(2) {
            if pair[0].1.score.partial_cmp(&pair[1].1.score) != Some(Ordering::Greater) {
                let found = format!("the scores of {} and {}", shown(pair[0].1), shown(pair[1].1));
                return Err(Error::Unsupported { found, expected: "scores that differ" });
            }
        }
        for (id, _) in merged {
            let token = self.tokens[id as usize].clone();
            let text = std::str::from_utf8(&token).unwrap_or_default();
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(&left), Some(&right)) = (self.ids.get(left), self.ids.get(right)) {
                    self.merges.push((left, right));
                }
            }
        }
        Ok(())
    }
}
