//! Replacing one occurrence of a pair.

use super::arena::{BORDER, INSIDE, Weights};
use super::changes::Changes;

/// A merge of (left, right) into a product, on a stretch of the text.
#[derive(Debug)]
pub(super) struct Replacer<'a> {
    pub(super) symbols: &'a mut [u32],
    /// Place of the first of `symbols`.
    pub(super) offset: u32,
    /// Slots by token id.
    pub(super) spans: &'a [u32],
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) product: u32,
    /// Index behind the last product made.
    pub(super) last_end: usize,
}

impl Replacer<'_> {
    /// Asks for the slots of a few places at once, so that waiting for one is waiting for all.
    #[inline]
    pub(super) fn fetch(&self, places: &[u32]) {
        let sum =
            places.iter().fold(0, |sum: u32, &place| sum ^ self.symbols[(place - self.offset) as usize]);
        std::hint::black_box(sum);
    }

    /// Merges the pair at `place`, if it still stands there, and takes down what that changes.
    #[inline]
    pub(super) fn replace(&mut self, place: u32, weights: &mut Weights<'_>, changes: &mut Changes) {
        let Self { left, right, product, .. } = *self;
        let start = (place - self.offset) as usize;
        let middle = start + self.spans[left as usize] as usize;
        if self.symbols[start] != left || self.symbols[middle] != right {
            return;
        }
        let end = start + self.spans[product as usize] as usize;
        self.symbols[middle - 1] = INSIDE;
        self.symbols[middle] = INSIDE;
        self.symbols[start] = product;
        self.symbols[end - 1] = product;
        let (before, behind) = (self.symbols[start - 1], self.symbols[end]);
        let weight = weights.at(place);
        if start == self.last_end {
            let made = start as u32 - self.spans[product as usize] + self.offset;
            changes.after_product(product, made, left, weight);
        } else if before != BORDER {
            changes.before(before, place - self.spans[before as usize], weight);
        }
        if behind != BORDER {
            changes.behind(behind, place, weight);
        }
        self.last_end = end;
    }
}
