//! Tokens by id and by bytes, in flat memory.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use crate::error::{Error, Result, show};
use crate::machine::prefetch;

/// Ids below this only: far beyond any real vocabulary, small enough for tables by id.
pub(crate) const MAX_ID: u32 = (1 << 23) - 1;
/// The longest token accepted.
pub(crate) const MAX_TOKEN_BYTES: usize = 1 << 12;

const FREE: u32 = u32::MAX;
/// A token of at most so many bytes is copied as so many, which costs one instruction instead of a call.
pub(crate) const WIDE_BYTES: usize = 16;

/// The tokens: bytes of each id, and the id of given bytes.
#[derive(Debug)]
pub(crate) struct Vocab {
    /// Of all ids, end to end, and [`WIDE_BYTES`] of padding.
    bytes: Vec<u8>,
    /// Where each token's bytes begin; one more entry than ids. Ids that are not used have no bytes.
    starts: Vec<u32>,
    /// Open addressing by hash of the bytes. Holds the ids that text may become.
    slots: Vec<u32>,
}

impl Vocab {
    /// Builds from the bytes of every id (empty = unused). Those for which `findable` is false are left out of the index.
    pub(crate) fn new(tokens: &[Vec<u8>], findable: impl Fn(u32) -> bool) -> Result<Self> {
        let mut vocab = Self {
            bytes: Vec::with_capacity(tokens.iter().map(Vec::len).sum::<usize>() + WIDE_BYTES),
            starts: Vec::with_capacity(tokens.len() + 1),
            slots: vec![FREE; (tokens.len() * 2).next_power_of_two()],
        };
        vocab.starts.push(0);
        for (id, token) in (0..).zip(tokens) {
            if token.len() > MAX_TOKEN_BYTES {
                let size_bytes = token.len();
                return Err(Error::TokenTooLong { id, size_bytes, limit_bytes: MAX_TOKEN_BYTES });
            }
            vocab.bytes.extend_from_slice(token);
            let end = u32::try_from(vocab.bytes.len())
                .map_err(|_| Error::IdTooLarge { id: u64::from(id), limit: MAX_ID })?;
            vocab.starts.push(end);
        }
        vocab.bytes.extend_from_slice(&[0; WIDE_BYTES]);
        for (id, token) in (0..).zip(tokens) {
            if !token.is_empty() && findable(id) {
                vocab.index(id, token)?;
            }
        }
        Ok(vocab)
    }

    /// Builds from all tokens end to end and where each begins; `None` if these do not fit together.
    pub(crate) fn from_flat(
        mut bytes: Vec<u8>,
        starts: Vec<u32>,
        findable: impl Fn(u32) -> bool,
    ) -> Option<Self> {
        let ids = starts.len().checked_sub(1).filter(|&ids| ids <= MAX_ID as usize)?;
        let fits =
            |two: &[u32]| two[1].checked_sub(two[0]).is_some_and(|len| len as usize <= MAX_TOKEN_BYTES);
        let is_whole = starts[0] == 0 && starts[ids] as usize == bytes.len();
        if !is_whole || !starts.windows(2).all(fits) {
            return None;
        }
        bytes.extend_from_slice(&[0; WIDE_BYTES]);
        let mut vocab = Self { bytes, starts, slots: vec![FREE; (ids * 2).next_power_of_two()] };
        for id in (0..ids as u32).filter(|&id| findable(id)) {
            let token = vocab.get(id);
            if !token.is_empty() {
                let slot = vocab.slot_of(token);
                if vocab.slots[slot] != FREE {
                    return None;
                }
                vocab.slots[slot] = id;
            }
        }
        Some(vocab)
    }

    /// What [`from_flat`](Self::from_flat) takes.
    pub(crate) fn flat(&self) -> (&[u8], &[u32]) {
        (&self.bytes[..self.bytes.len() - WIDE_BYTES], &self.starts)
    }

    fn index(&mut self, id: u32, token: &[u8]) -> Result<()> {
        let slot = self.slot_of(token);
        let first = self.slots[slot];
        if first != FREE {
            return Err(Error::DuplicateToken { first, second: id, bytes: show(token) });
        }
        self.slots[slot] = id;
        Ok(())
    }

    /// The slot where `token` stands or would stand. At least half of the slots are free, so the walk ends.
    #[inline]
    fn slot_of(&self, token: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(token) as usize & mask;
        while self.slots[slot] != FREE && self.get(self.slots[slot]) != token {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// Number of ids, used or not.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of `id`; empty for an unused id and beyond the end.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let (start, len) = self.span(id);
        &self.bytes[start..start + len]
    }

    /// Where the bytes of `id` begin, and how many they are.
    #[inline]
    pub(crate) fn span(&self, id: u32) -> (usize, usize) {
        match self.starts.get(id as usize..).and_then(<[u32]>::first_chunk) {
            Some(&[start, end]) => (start as usize, (end - start) as usize),
            None => (0, 0),
        }
    }

    /// Asks for the bytes that begin at `start`.
    #[inline]
    pub(crate) fn prefetch(&self, start: usize) {
        prefetch(&self.bytes, start);
    }

    /// Writes the bytes of a [`span`](Self::span), as what `wrap` makes of them, to `out[at..]`, and perhaps some that
    /// mean nothing behind them; returns their end.
    ///
    /// # Panics
    ///
    /// `out` is too short for them.
    #[inline]
    pub(crate) fn copy<T: Copy>(
        &self,
        (start, len): (usize, usize),
        out: &mut [T],
        at: usize,
        wrap: impl Fn(u8) -> T,
    ) -> usize {
        let rest = &mut out[at..];
        if len <= WIDE_BYTES
            && let Some(place) = rest.first_chunk_mut::<WIDE_BYTES>()
            && let Some(wide) = self.bytes[start..].first_chunk::<WIDE_BYTES>()
        {
            *place = wide.map(wrap);
        } else {
            copy_slowly(&self.bytes[start..start + len], &mut rest[..len], wrap);
        }
        at + len
    }

    /// The id that text of exactly these bytes may become.
    #[inline]
    pub(crate) fn find(&self, token: &[u8]) -> Option<u32> {
        let id = self.slots[self.slot_of(token)];
        (id != FREE).then_some(id)
    }
}

/// On its own, so that the common way stays short.
#[cold]
#[inline(never)]
fn copy_slowly<T>(bytes: &[u8], out: &mut [T], wrap: impl Fn(u8) -> T) {
    for (place, &byte) in out.iter_mut().zip(bytes) {
        *place = wrap(byte);
    }
}

/// A hash of `bytes`, other in every process so that no text can be made to collide. Keys are compared in full.
#[inline]
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    let mut hasher = SEED.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}
