//! Where a piece can be cut before merging because no token spans the place, and characters that start out whole.
//!
//! A merge across a place makes a token that spans it. Between two characters such a token holds both of them whole, so
//! that they stand side by side in it, or a part of one of them, so that the two bytes at the border do. Where no
//! token does either, the parts merge on their own, and, unlike long runs of Chinese, they repeat.

use crate::encode::pairs::{Merge, NONE, Pairs};
use crate::pretokenize::Spans;
use crate::vocab::Vocab;

/// log2 of the bits that stand for pairs of characters: 128 KiB. Pairs that share a bit are only cut less often.
const PAIR_BITS: u32 = 20;
/// Code points with a place in the table of whole characters.
const ATOM_COUNT: usize = 1 << 16;

/// The places where no token of a vocabulary reaches across.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// A bit for each pair of characters (by hash) that stand side by side, whole, in some token.
    pairs: Vec<u64>,
    /// A bit for each two bytes at a border of characters in some token that holds one of these in part.
    borders: Vec<u64>,
    /// A bit for each two bytes that stand side by side in some token.
    neighbours: Vec<u64>,
    /// The token of each character of the basic plane that is one, whose own merges go before all others of it.
    atoms: Vec<u32>,
}

impl Cuts {
    /// Looks at all tokens of `vocab`, which `pairs` merges in the order of `merges`.
    pub(crate) fn new(vocab: &Vocab, merges: &[Merge], pairs: &Pairs, rank_by_product: bool) -> Self {
        let mut cuts = Self {
            pairs: vec![0; 1 << (PAIR_BITS - 6)],
            borders: vec![0; 1 << (16 - 6)],
            neighbours: vec![0; 1 << (16 - 6)],
            atoms: Vec::new(),
        };
        for id in 0..vocab.len() as u32 {
            cuts.keep_token(vocab.get(id));
        }
        if makes_before_uses(vocab.len(), merges, rank_by_product) {
            cuts.atoms = atoms(vocab, pairs);
        }
        cuts
    }

    fn keep_token(&mut self, token: &[u8]) {
        for pair in token.windows(2) {
            set(&mut self.neighbours, border_place(pair[0], pair[1]));
        }
        let mut before = None;
        let mut at = 0;
        while at < token.len() {
            let length = length_of(token[at]).min(token.len() - at);
            let character = std::str::from_utf8(&token[at..at + length]).is_ok().then(|| value(token, at));
            if at > 0 {
                match before.zip(character) {
                    Some((before, character)) => set(&mut self.pairs, pair_place(before, character)),
                    None => set(&mut self.borders, border_place(token[at - 1], token[at])),
                }
            }
            // A character cut off by the end of the token stays unread: it holds no border.
            before = character;
            at += if character.is_some() { length } else { 1 };
        }
    }

    /// Whether the text `bytes[start..end]`, whole characters, holds any beyond ASCII near its start: such pieces are
    /// worth a look for cuts.
    #[inline]
    pub(crate) fn are_likely(bytes: &[u8], start: usize, end: usize) -> bool {
        end - start > 3 && (bytes[start] | bytes[start + 1]) & 0x80 != 0
    }

    /// Hands out the parts of `bytes[start..end]`.
    #[inline(always)]
    pub(crate) fn hand_out_parts(&self, bytes: &[u8], start: usize, end: usize, parts: &mut impl Spans) {
        let mut from = start;
        let mut before = value(bytes, start);
        let mut at = start + length_of(bytes[start]);
        while at < end {
            // Whether there is a cut cannot be foreseen: cuts are gathered first, then handed out.
            let mut cuts = 0_u64;
            let base = from;
            while at < end && at - base < 64 {
                let character = value(bytes, at);
                cuts |= u64::from(self.is_cut(before, character, bytes, at)) << (at - base);
                before = character;
                at += length_of(bytes[at]);
            }
            if let Some(last) = cuts.checked_ilog2() {
                parts.take_all(base, cuts, bytes[base..].first_chunk());
                from = base + last as usize;
            } else if at < end {
                (before, at) = self.next_cut(before, bytes, at, end);
                parts.take(from, at);
                (from, at) = (at, at + bytes.get(at).map_or(0, |&first| length_of(first)));
            }
        }
        if from < end {
            parts.take(from, end);
        }
    }

    /// Whether no token reaches across `at`, between these two characters.
    #[inline(always)]
    fn is_cut(&self, before: u32, character: u32, bytes: &[u8], at: usize) -> bool {
        let is_in_token = get(&self.pairs, pair_place(before, character));
        !(is_in_token | get(&self.borders, border_place(bytes[at - 1], bytes[at])))
    }

    /// The first cut from `at` on, before which `before` stands, or the `end`; and the character there, if any.
    fn next_cut(&self, mut before: u32, bytes: &[u8], mut at: usize, end: usize) -> (u32, usize) {
        while at < end {
            let character = value(bytes, at);
            let is_cut = self.is_cut(before, character, bytes, at);
            before = character;
            if is_cut {
                break;
            }
            at += length_of(bytes[at]);
        }
        (before, at.min(end))
    }

    /// Whether every rule that uses a token ranks behind every rule that makes it.
    pub(crate) fn makes_before_uses(&self) -> bool {
        !self.atoms.is_empty()
    }

    /// Whether some token may reach across `at`.
    #[inline]
    pub(crate) fn has_token_across(&self, bytes: &[u8], at: usize) -> bool {
        get(&self.neighbours, border_place(bytes[at - 1], bytes[at]))
    }

    /// Length of the first part of `piece`: up to two bytes that stand side by side in no token, or all of it.
    #[inline]
    pub(crate) fn first_part(&self, piece: &[u8]) -> usize {
        let is_cut = |pair: &[u8]| !get(&self.neighbours, border_place(pair[0], pair[1]));
        piece.windows(2).position(is_cut).map_or(piece.len(), |before| before + 1)
    }

    /// Fills `symbols` with the tokens that merging `piece` may start from: whole characters where that comes to the same
    /// as bytes, which it does unless some token holds a part of a character next to another one.
    #[inline]
    pub(crate) fn start_symbols(&self, piece: &[u8], pairs: &Pairs, symbols: &mut Vec<u32>) -> bool {
        symbols.clear();
        if self.atoms.is_empty() {
            return false;
        }
        let mut at = 0;
        while at < piece.len() {
            if at > 0 && get(&self.borders, border_place(piece[at - 1], piece[at])) {
                return false;
            }
            let length = length_of(piece[at]);
            let Some(character) = piece.get(at..at + length) else { return false };
            match self.atoms.get(code_point(character)) {
                Some(&atom) if atom != NONE => symbols.push(atom),
                _ => symbols.extend(character.iter().map(|&byte| pairs.byte_id(byte))),
            }
            at += length;
        }
        true
    }
}

/// Whether every rule that uses a token ranks behind every rule that makes it, as training has it.
fn makes_before_uses(ids: usize, merges: &[Merge], rank_by_product: bool) -> bool {
    let rank = |place: usize, merge: &Merge| if rank_by_product { merge.product as usize } else { place };
    let mut last_made = vec![None; ids];
    for (place, merge) in merges.iter().enumerate() {
        let made = &mut last_made[merge.product as usize];
        *made = (*made).max(Some(rank(place, merge)));
    }
    let is_later = |part: u32, rank: usize| last_made[part as usize].is_none_or(|made| made < rank);
    let mut ranked = merges.iter().enumerate().map(|(place, merge)| (rank(place, merge), merge));
    ranked.all(|(rank, merge)| is_later(merge.left, rank) && is_later(merge.right, rank))
}

/// The tokens of characters whose bytes, merged alone, become one.
fn atoms(vocab: &Vocab, pairs: &Pairs) -> Vec<u32> {
    let mut atoms = vec![NONE; ATOM_COUNT];
    let mut symbols = Vec::new();
    let mut bytes = [0; 4];
    for (code, atom) in (0..).zip(&mut atoms) {
        let Some(character) = char::from_u32(code) else { continue };
        let encoded = character.encode_utf8(&mut bytes).as_bytes();
        if vocab.find(encoded).is_some() {
            super::merge::merge_plainly(encoded, pairs, &mut symbols);
            if let [token] = symbols[..] {
                *atom = token;
            }
        }
    }
    atoms
}

fn code_point(character: &[u8]) -> usize {
    let low = |byte: u8| usize::from(byte & 0x3F);
    match *character {
        [a] if a.is_ascii() => usize::from(a),
        [a, b] => usize::from(a & 0x1F) << 6 | low(b),
        [a, b, c] => usize::from(a & 0x0F) << 12 | low(b) << 6 | low(c),
        _ => usize::MAX,
    }
}

/// Length in bytes of the character that starts with `first`; 1 for a byte that starts none.
#[inline]
fn length_of(first: u8) -> usize {
    first.leading_ones().clamp(1, 4) as usize
}

/// The character at `at` as a number, other for each character.
#[inline]
fn value(bytes: &[u8], at: usize) -> u32 {
    let length = length_of(bytes[at]);
    if let Some(four) = bytes[at..].first_chunk::<4>() {
        return u32::from_le_bytes(*four) & (u32::MAX >> (32 - 8 * length));
    }
    bytes[at..].iter().take(length).rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

#[inline]
fn pair_place(before: u32, character: u32) -> usize {
    let both = u64::from(before) << 32 | u64::from(character);
    ((both ^ both >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - PAIR_BITS)) as usize
}

#[inline]
fn border_place(before: u8, behind: u8) -> usize {
    usize::from(before) << 8 | usize::from(behind)
}

#[inline]
fn get(bits: &[u64], place: usize) -> bool {
    bits[place >> 6] >> (place & 63) & 1 != 0
}

fn set(bits: &mut [u64], place: usize) {
    bits[place >> 6] |= 1 << (place & 63);
}
