//! Sixty-four bytes at once: a bit a byte and class, so that a pattern's rules become shifts and sums of words.
//!
//! A window begins where a piece does and carries nothing over from the one before. What it cannot decide (a character
//! outside plain ASCII, white space that goes on beyond it) is left to the next window or to the scanner by characters.

use super::Spans;
use crate::machine::{BLOCK_BYTES, Bits, Machine};

/// Fewer bytes than this are not worth a window.
const LEAST_BYTES: usize = 8;

/// Classes of up to 64 bytes of plain ASCII, the first in the lowest bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// `[A-Za-z]`
    pub(super) letters: u64,
    /// `[0-9]`
    pub(super) digits: u64,
    /// Every other printable character but the space.
    pub(super) signs: u64,
    /// The space.
    pub(super) spaces: u64,
    /// CR and LF.
    pub(super) newlines: u64,
    /// `\s`: space, tab, line breaks.
    pub(super) white: u64,
    /// How many bytes, from the first on, are of these classes.
    len: u32,
}

impl Window {
    /// The window that begins at `at`; `None` near the end of `bytes` and before anything but plain ASCII.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8], at: usize, machine: impl Machine) -> Option<Self> {
        let rest = bytes.get(at..)?;
        if let Some(block) = rest.first_chunk::<BLOCK_BYTES>() {
            return Self::of(block, machine);
        }
        if rest.len() < LEAST_BYTES {
            return None;
        }
        // Zeros are controls, where a window ends.
        let mut block = [0; BLOCK_BYTES];
        block[..rest.len()].copy_from_slice(rest);
        Self::of(&block, machine)
    }

    #[inline(always)]
    fn of(block: &[u8; BLOCK_BYTES], machine: impl Machine) -> Option<Self> {
        let Bits { letters, digits, printable, spaces, newlines, breaks } = machine.bits_of(block);
        let white = spaces | breaks;
        let len = (printable | white).trailing_ones();
        let kept = u64::MAX.checked_shr(64 - len)?;
        Some(Self {
            letters: letters & kept,
            digits: digits & kept,
            signs: printable & !letters & !digits & kept,
            spaces: spaces & kept,
            newlines: newlines & kept,
            white: white & kept,
            len,
        })
    }

    /// Hands out the spans between `starts`, `at` being the place of the first. What starts last is not handed out, as its
    /// end is unknown, nor is anything of white space that the window's end touches. Returns the start of what is left.
    #[inline(always)]
    pub(super) fn hand_out(&self, mut starts: u64, bytes: &[u8], at: usize, spans: &mut impl Spans) -> usize {
        let inside = (!self.white << (64 - self.len)).leading_zeros();
        if inside > 0 {
            // Only the start of that run is certain: the first of `inside` bits, or none of them behind signs.
            starts &= u64::MAX.checked_shr(63 - (self.len - inside.min(self.len))).unwrap_or(u64::MAX);
        }
        // The first start is the window's own.
        starts &= starts.wrapping_sub(1);
        spans.take_all(at, starts, bytes[at..].first_chunk());
        at + starts.checked_ilog2().unwrap_or_default() as usize
    }

    /// The places behind the last line break of each run of white space, where the run goes on. `lines` and `indents` are the
    /// two parts of such runs.
    #[inline(always)]
    pub(super) fn behind_last(&self, lines: u64, indents: u64) -> u64 {
        let mut found = lines << 1 & indents;
        // The sum runs through the indent behind each break; where another break follows, the earlier was not the last.
        let mut not_last = found.wrapping_add(indents) & !indents & lines;
        while not_last != 0 {
            let before = found & (not_last & not_last.wrapping_neg()).wrapping_sub(1);
            found ^= before.checked_ilog2().map_or(0, |place| 1 << place);
            not_last &= not_last - 1;
        }
        found
    }

    /// The first, fourth, seventh and so on of each run of `digits`.
    #[inline(always)]
    pub(super) fn every_third(&self, digits: u64) -> u64 {
        let mut last = digits & !(digits << 1);
        let mut found = last;
        let in_fours = digits & digits << 1 & digits << 2 & digits << 3;
        while last != 0 {
            last = last << 3 & in_fours;
            found |= last;
        }
        found
    }
}
