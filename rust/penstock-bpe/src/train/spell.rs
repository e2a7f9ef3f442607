//! Spelling pieces with the tokens that a training starts from.

use super::base::Base;
use crate::encode::Encoder;
use crate::error::Result;
use crate::pattern::Pattern;

/// Pieces are encoded together: enough to hide memory, few enough to stay near.
const TEXT_BYTES: usize = 1 << 16;

/// Spells pieces with the tokens of a base.
#[derive(Debug)]
pub(super) struct Speller {
    /// Of text; `None` if there are no merges and every byte is spelled by itself.
    merging: Option<Merging>,
    byte_ids: [u32; 256],
    symbols: Vec<u32>,
}

impl Speller {
    /// Spellers for `threads` threads with the tokens of `base`, which were made of text cut by `pattern`.
    pub(super) fn several(base: &Base, pattern: &Pattern, threads: usize) -> Result<Vec<Self>> {
        let mut byte_ids = [0; 256];
        for (id, token) in (0..).zip(&base.tokens) {
            if let [byte] = token[..]
                && !base.unreachable.contains(&id)
            {
                byte_ids[usize::from(byte)] = id;
            }
        }
        let speller = |merging| Self { merging, byte_ids, symbols: Vec::new() };
        if base.merges.is_empty() {
            return Ok((0..threads).map(|_| speller(None)).collect());
        }
        let unsplit = base.unsplit()?;
        let merging = |_| Merging {
            encoder: unsplit.encoder(),
            pattern: pattern.clone(),
            text: String::new(),
            ends: Vec::new(),
        };
        Ok((0..threads).map(merging).map(Some).map(speller).collect())
    }

    /// Calls `take` with each of `pieces` and its tokens: what merging it as one gives.
    pub(super) fn spell<'t, P: Copy>(
        &mut self,
        pieces: impl IntoIterator<Item = P>,
        bytes_of: impl Fn(P) -> &'t [u8],
        mut take: impl FnMut(P, &[u32]),
    ) {
        let Self { merging, byte_ids, symbols } = self;
        let mut waiting = Vec::new();
        for piece in pieces {
            let bytes = bytes_of(piece);
            if let Some(merging) = merging
                && let Ok(text) = std::str::from_utf8(bytes)
            {
                waiting.push(piece);
                if merging.gather(text) >= TEXT_BYTES {
                    merging.spell(symbols, waiting.drain(..), &mut take);
                }
                continue;
            }
            // Pieces are text but for those that a caller has made up.
            if let Some(merging) = merging {
                merging.spell(symbols, waiting.drain(..), &mut take);
            }
            symbols.clear();
            symbols.extend(bytes.iter().map(|&byte| byte_ids[usize::from(byte)]));
            take(piece, symbols);
        }
        if let Some(merging) = merging {
            merging.spell(symbols, waiting.drain(..), &mut take);
        }
    }
}

#[derive(Debug)]
struct Merging {
    encoder: Encoder,
    /// Cuts pieces further, so that what is encoded repeats.
    pattern: Pattern,
    /// Pieces that wait, and their ends.
    text: String,
    ends: Vec<usize>,
}

impl Merging {
    /// Makes a piece wait. Returns the bytes that do.
    fn gather(&mut self, piece: &str) -> usize {
        self.text.push_str(piece);
        self.ends.push(self.text.len());
        self.text.len()
    }

    /// Spells the `pieces` that wait.
    fn spell<P>(
        &mut self,
        symbols: &mut Vec<u32>,
        pieces: impl Iterator<Item = P>,
        take: &mut impl FnMut(P, &[u32]),
    ) {
        let Self { encoder, pattern, text, ends } = self;
        symbols.clear();
        encoder.encode_joined_into(text, ends, pattern, symbols);
        let (mut rest, mut at) = (symbols.as_slice(), 0);
        for (piece, &end) in pieces.zip(&*ends) {
            let mut len = 0;
            while at < end {
                at += encoder.token_bytes(rest[len]);
                len += 1;
            }
            let (spelled, behind) = rest.split_at(len);
            take(piece, spelled);
            rest = behind;
        }
        text.clear();
        ends.clear();
    }
}
