//! Laying out pieces whose parts were cut ahead of time, once the tokens are known.
//!
//! Distinct parts are spelled once each. Where a token may reach from one part into the next, both are spelled together.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use hashbrown::HashTable;

use super::arena::Layout;
use super::base::Base;
use super::index::MULTIPLIER;
use super::pairs::{PairKey, pack};
use super::parts::PartedPieces;
use super::spell::byte_ids;
use crate::encode::Distinct;
use crate::error::Result;
use crate::progress::Progress;
use crate::vocab::hash;

/// Pieces or parts between two looks at the cancel flag.
const CHECKED_PIECES: usize = 1 << 14;
/// Shares of the work for each thread, so that none waits long for another.
const SHARES: usize = 8;
/// Runs of parts that a thread remembers, and the parts of the longest.
const MAX_KNOWN_RUNS: usize = 1 << 18;
const MAX_RUN_PARTS: usize = 8;
/// Pairs of tokens that all threads together remember, as a power of two.
const KNOWN_PAIRS_LOG2: u32 = 19;

/// Tokens of parts, each merged by itself.
#[derive(Debug, Default)]
struct SpelledParts {
    /// By number.
    parts: Vec<SpelledPart>,
    symbols: Vec<u32>,
}

/// Where a part's tokens are, and its first and last byte.
#[derive(Debug, Clone, Copy)]
struct SpelledPart {
    start: usize,
    len: u32,
    first: u8,
    last: u8,
}

impl SpelledParts {
    fn push(&mut self, part: &[u8], symbols: impl IntoIterator<Item = u32>) {
        let start = self.symbols.len();
        self.symbols.extend(symbols);
        // What is longer does not fit the places of a text either, which is told later.
        let len = (self.symbols.len() - start) as u32;
        self.parts.push(SpelledPart { start, len, first: part[0], last: part[part.len() - 1] });
    }

    fn append(&mut self, mut later: Self) {
        let start = self.symbols.len();
        self.parts.extend(later.parts.iter().map(|part| SpelledPart { start: start + part.start, ..*part }));
        self.symbols.append(&mut later.symbols);
    }

    #[inline]
    fn symbols(&self, number: u32) -> &[u32] {
        let SpelledPart { start, len, .. } = self.parts[number as usize];
        &self.symbols[start..start + len as usize]
    }
}

/// Spellings of runs of parts that came before.
#[derive(Debug, Default)]
struct KnownRuns {
    /// Where the parts of a run and their spelling end, by number; each begins where the last ended.
    ends: Vec<(usize, usize)>,
    parts: Vec<u32>,
    symbols: Vec<u32>,
    numbers: HashTable<(u64, u32)>,
}

impl KnownRuns {
    fn hash_of(run: &[u32]) -> u64 {
        let mut bytes = [0; 4 * MAX_RUN_PARTS];
        for (place, part) in bytes.chunks_exact_mut(4).zip(run) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        hash(&bytes[..4 * run.len()])
    }

    fn ranges(&self, number: u32) -> (Range<usize>, Range<usize>) {
        let start = number.checked_sub(1).map_or((0, 0), |before| self.ends[before as usize]);
        let end = self.ends[number as usize];
        (start.0..end.0, start.1..end.1)
    }

    /// Appends the spelling of `run` to `symbols`, asking `spell` where it is not known.
    fn append(&mut self, run: &[u32], symbols: &mut Vec<u32>, spell: impl FnOnce(&mut Vec<u32>)) {
        if run.len() > MAX_RUN_PARTS {
            return spell(symbols);
        }
        let hash = Self::hash_of(run);
        let is_same =
            |&(other, number): &(u64, u32)| other == hash && self.parts[self.ranges(number).0] == *run;
        if let Some(&(_, number)) = self.numbers.find(hash, is_same) {
            return symbols.extend_from_slice(&self.symbols[self.ranges(number).1]);
        }
        let start = symbols.len();
        spell(symbols);
        if self.ends.len() < MAX_KNOWN_RUNS {
            let number = self.ends.len() as u32;
            self.parts.extend_from_slice(run);
            self.symbols.extend_from_slice(&symbols[start..]);
            self.ends.push((self.parts.len(), self.symbols.len()));
            self.numbers.insert_unique(hash, (hash, number), |&(hash, _)| hash);
        }
    }
}

/// Whether two tokens that stand side by side stay two: the last answer of each cell.
struct KeptPairs(Vec<AtomicU64>);

impl KeptPairs {
    fn new() -> Self {
        Self((0..1 << KNOWN_PAIRS_LOG2).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    /// The answer for `key`, by `look` where it is not known.
    #[inline]
    fn ask(&self, key: PairKey, look: impl FnOnce() -> bool) -> bool {
        let cell = &self.0[(key.wrapping_mul(MULTIPLIER) >> (u64::BITS - KNOWN_PAIRS_LOG2)) as usize];
        // Ids have 23 bits, so that there is one to spare.
        let known = cell.load(Ordering::Relaxed);
        if known >> 1 == key {
            return known & 1 != 0;
        }
        let is_kept = look();
        cell.store(key << 1 | u64::from(is_kept), Ordering::Relaxed);
        is_kept
    }
}

/// What one thread spells with.
struct PartSpeller<'p> {
    parted: &'p PartedPieces,
    /// `None` if there are no merges.
    merging: Option<Distinct>,
    byte_ids: [u32; 256],
    known: KnownRuns,
    kept: &'p KeptPairs,
    joined: Vec<u8>,
}

/// Appends the pieces, spelled with the tokens of `base` by `threads` threads, to `layout`.
pub(super) fn lay_out(
    parted: &PartedPieces,
    base: &Base,
    threads: usize,
    layout: &mut Layout,
    progress: &Progress,
) -> Result<()> {
    progress.start("order pieces", (parted.distinct_parts() + parted.len()) as u64);
    let unsplit = if base.merges.is_empty() { None } else { Some(base.unsplit()?) };
    let (byte_ids, kept) = (byte_ids(base), KeptPairs::new());
    let speller = |_| {
        let merging = unsplit.clone().map(Distinct::new);
        let known = KnownRuns::default();
        PartSpeller { parted, merging, byte_ids, known, kept: &kept, joined: Vec::new() }
    };
    let mut spellers: Vec<_> = (0..threads).map(speller).collect();
    let mut spelled = SpelledParts::default();
    let share = |share, shares| parted.share_of_distinct(share, shares);
    for part in in_shares(&mut spellers, share, |speller, range| speller.spell_parts(range, progress))? {
        spelled.append(part);
    }
    let share = |share, shares| parted.share_of_pieces(share, shares);
    let parts = in_shares(&mut spellers, share, |speller, range| speller.lay_out(range, &spelled, progress))?;
    parts.into_iter().for_each(|part| layout.append(part));
    Ok(())
}

/// Calls `work` with each share, in as many threads as there are spellers. Returns the results in order.
fn in_shares<S: Send, T: Send>(
    spellers: &mut [S],
    share: impl Fn(usize, usize) -> Range<usize> + Sync,
    work: impl Fn(&mut S, Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (shares, next) = (SHARES * spellers.len(), AtomicUsize::new(0));
    let work = |speller: &mut S| -> Result<Vec<(usize, T)>> {
        let mut results = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= shares {
                return Ok(results);
            }
            results.push((number, work(speller, share(number, shares))?));
        }
    };
    let Some((own, others)) = spellers.split_first_mut() else { return Ok(Vec::new()) };
    let mut results = thread::scope(|scope| -> Result<_> {
        let work = &work;
        // A thread that cannot be started leaves its shares to the others.
        let start = |speller| thread::Builder::new().spawn_scoped(scope, move || work(speller)).ok();
        let others: Vec<_> = others.iter_mut().filter_map(start).collect();
        let mut results = work(own)?;
        for other in others {
            match other.join() {
                Ok(more) => results.append(&mut more?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(results)
    })?;
    results.sort_unstable_by_key(|&(number, _)| number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

impl PartSpeller<'_> {
    fn spell_parts(&mut self, numbers: Range<usize>, progress: &Progress) -> Result<SpelledParts> {
        let mut spelled = SpelledParts::default();
        for start in numbers.clone().step_by(CHECKED_PIECES) {
            let few = start..numbers.end.min(start + CHECKED_PIECES);
            progress.add(few.len() as u64);
            progress.check()?;
            let parts: Vec<&[u8]> = few.map(|number| self.parted.part(number as u32)).collect();
            let is_text = |part: &&[u8]| std::str::from_utf8(part).is_ok();
            for alike in parts.chunk_by(|one, next| is_text(one) == is_text(next)) {
                match &mut self.merging {
                    Some(merging) if is_text(&alike[0]) => {
                        let mut rest = alike.iter();
                        merging.merge_all(alike, |symbols| {
                            if let Some(part) = rest.next() {
                                spelled.push(part, symbols.iter().copied());
                            }
                        });
                    }
                    _ => {
                        let id = |&byte: &u8| self.byte_ids[usize::from(byte)];
                        alike.iter().for_each(|part| spelled.push(part, part.iter().map(id)));
                    }
                }
            }
        }
        Ok(spelled)
    }

    fn lay_out(
        &mut self,
        pieces: Range<usize>,
        spelled: &SpelledParts,
        progress: &Progress,
    ) -> Result<Layout> {
        let mut layout = Layout::default();
        for start in pieces.clone().step_by(CHECKED_PIECES) {
            let few = start..pieces.end.min(start + CHECKED_PIECES);
            progress.add(few.len() as u64);
            progress.check()?;
            for (count, parts) in self.parted.pieces(few) {
                layout.push(count, |symbols| self.spell(parts, spelled, symbols));
            }
        }
        Ok(layout)
    }

    /// Appends the tokens of a piece of these parts: what merging it as one gives.
    #[inline]
    fn spell(&mut self, mut parts: &[u32], spelled: &SpelledParts, symbols: &mut Vec<u32>) {
        while let Some(&first) = parts.first() {
            let (run, rest) = parts.split_at(
                1 + self.count_while(parts, |this, before, behind| {
                    let [before, behind] = [before, behind].map(|number| spelled.parts[number as usize]);
                    this.merging.as_ref().is_some_and(|merging| merging.joins(before.last, behind.first))
                }),
            );
            match (run, spelled.symbols(first)) {
                ([_], [symbol]) => symbols.push(*symbol),
                ([_], several) => symbols.extend_from_slice(several),
                _ => self.spell_run(run, spelled, symbols),
            }
            parts = rest;
        }
    }

    /// How many neighbours, from the first two on, `are_one`.
    #[inline]
    fn count_while(&mut self, parts: &[u32], mut are_one: impl FnMut(&mut Self, u32, u32) -> bool) -> usize {
        parts.windows(2).take_while(|pair| are_one(self, pair[0], pair[1])).count()
    }

    /// Appends the tokens of parts that may merge with each other. Tokens side by side are what merging makes of their
    /// bytes if any two neighbours are (see [`long`](crate::encode)), so most parts stay as they are.
    fn spell_run(&mut self, run: &[u32], spelled: &SpelledParts, symbols: &mut Vec<u32>) {
        let start = symbols.len();
        let mut rest = run;
        while !rest.is_empty() {
            let (merged, behind) = rest.split_at(
                1 + self.count_while(rest, |this, before, behind| {
                    !this.is_kept(spelled.symbols(before).last(), spelled.symbols(behind).first())
                }),
            );
            let border = symbols.len();
            match merged {
                [part] => symbols.extend_from_slice(spelled.symbols(*part)),
                _ => self.merge_run(merged, symbols),
            }
            if border > start && !self.is_kept(symbols[..border].last(), symbols.get(border)) {
                symbols.truncate(start);
                return self.merge_run(run, symbols);
            }
            rest = behind;
        }
    }

    /// Whether two tokens stay two.
    fn is_kept(&mut self, before: Option<&u32>, behind: Option<&u32>) -> bool {
        let (Some(merging), Some(&before), Some(&behind)) = (&mut self.merging, before, behind) else {
            return false;
        };
        self.kept.ask(pack(before, behind), || merging.keeps(before, behind))
    }

    fn merge_run(&mut self, run: &[u32], symbols: &mut Vec<u32>) {
        let Self { parted, merging, known, joined, .. } = self;
        known.append(run, symbols, |symbols| {
            joined.clear();
            run.iter().for_each(|&number| joined.extend_from_slice(parted.part(number)));
            if let Some(merging) = merging {
                merging.merge(joined, symbols);
            }
        });
    }
}
