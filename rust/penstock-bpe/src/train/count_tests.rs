//! Counts on disk equal counts in memory, and a sample is a function of the content.

use std::collections::BTreeMap;

use super::*;

/// Pieces enough for a look at the cancel flag.
const CHECKED: usize = 1 << 14;

fn budget(max_bytes: u64) -> MemoryBudget {
    MemoryBudget::new(max_bytes, None).unwrap()
}

/// Counts of which at most a few pieces fit the table.
fn tiny(share_bytes: usize) -> WordCounts {
    let budget = budget(256 << 20);
    let shares = budget.working_bytes() as usize / share_bytes;
    WordCounts::within(&budget, shares, Pattern::Gpt2)
}

fn as_map(counts: WordCounts) -> (BTreeMap<Vec<u8>, u64>, Counted) {
    let (table, counted) = counts.into_table(&Progress::new()).unwrap();
    (table.iter().map(|(piece, count)| (piece.to_vec(), count)).collect(), counted)
}

fn piece(n: u64) -> Vec<u8> {
    format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()
}

#[test]
fn spilled_counts_sum_to_the_same() {
    let (mut plain, mut spilled, mut other) = (WordCounts::new(Pattern::Gpt2), tiny(20_000), tiny(3_000));
    for n in 0..50_000_u64 {
        plain.add_piece(&piece(n % 7000), n % 3 + 1).unwrap();
        let part = if n % 5 == 0 { &mut other } else { &mut spilled };
        part.add_piece(&piece(n % 7000), n % 3 + 1).unwrap();
    }
    other.merge(spilled).unwrap();
    assert_eq!(other.total(), plain.total());
    let (found, counted) = as_map(other);
    assert!(counted.spilled_bytes > 50_000, "{counted:?}");
    assert_eq!((counted.distinct_pieces, counted.sampling), (7000, None));
    assert_eq!(found, as_map(plain).0);
}

#[test]
fn a_piece_counted_in_parts_can_be_merged_from_any_side() {
    let huge = vec![b'x'; 3 << 20];
    let counts = || {
        let mut counts = WordCounts::within(&budget(256 << 20), 2, Pattern::Gpt2);
        counts.add_piece(&huge, 2).unwrap();
        counts
    };
    let parts = counts().total();
    let mut sum = WordCounts::within(&budget(256 << 20), 2, Pattern::Gpt2);
    sum.merge(counts()).unwrap();
    sum.merge(counts()).unwrap();
    assert_eq!(sum.total(), 2 * parts);
    assert_eq!(sum.iter().map(|(_, count)| count).sum::<u64>(), 2 * parts);
}

#[test]
fn a_sample_depends_on_the_content_alone() {
    // 1.5 million distinct pieces need more than the 96 MiB that a budget of 256 MiB leaves.
    let sampled = |shares: usize, is_reversed: bool| {
        let budget = budget(256 << 20);
        let mut parts: Vec<_> =
            (0..shares).map(|_| WordCounts::within(&budget, shares + 1, Pattern::Gpt2)).collect();
        for step in 0..1_500_000_u64 {
            let n = if is_reversed { 1_499_999 - step } else { step };
            parts[n as usize % shares].add_piece(&piece(n), n % 4 + 1).unwrap();
        }
        let mut sum = WordCounts::within(&budget, shares + 1, Pattern::Gpt2);
        parts.into_iter().for_each(|part| sum.merge(part).unwrap());
        as_map(sum)
    };
    let (first, counted) = sampled(1, false);
    let (second, others) = sampled(3, true);
    let sampling = counted.sampling.unwrap();
    assert_eq!(first, second);
    assert_eq!(Some(sampling), others.sampling);
    assert!(sampling.kept_pieces * 48 + sampling.kept_bytes * 7 <= 96 << 20);
    assert!(first.values().all(|&count| count >= sampling.counts_below));
    assert_eq!((counted.distinct_pieces, counted.pieces), (1_500_000, 3_750_000));
}

#[test]
fn a_budget_that_cannot_be_kept_is_refused() {
    assert!(matches!(MemoryBudget::new(1 << 20, None), Err(Error::MemoryTooSmall { .. })));
    let nowhere = MemoryBudget::new(1 << 30, Some("/nonexistent/folder".into()));
    assert!(matches!(nowhere, Err(Error::Spill { written_bytes: 0, .. })));
}

#[test]
fn counting_can_be_cancelled() {
    let progress = Progress::new();
    progress.cancel();
    let text = "one two ".repeat(CHECKED);
    let mut counts = WordCounts::new(Pattern::Gpt2);
    assert!(matches!(counts.add_weighted_text(&text, 1, &progress), Err(Error::Cancelled(_))));
    let budget = budget(256 << 20);
    let mut counts = WordCounts::within(&budget, 1 << 20, Pattern::Gpt2);
    let distinct: String = (0..CHECKED).map(|n| format!("{n} ")).collect();
    assert!(matches!(counts.add_weighted_text(&distinct, 1, &progress), Err(Error::Cancelled(_))));
}

#[test]
fn a_huge_piece_counts_in_parts_of_whole_characters() {
    let piece = "\u{4f60}a".repeat(200_000).into_bytes();
    let mut counts = WordCounts::within(&budget(256 << 20), 1, Pattern::Gpt2);
    counts.add_piece(&piece, 3).unwrap();
    let (parts, _) = as_map(counts);
    assert!(parts.keys().all(|part| part.len() <= 1 << 18 && std::str::from_utf8(part).is_ok()));
    assert_eq!(
        parts.iter().map(|(part, count)| part.len() as u64 * count).sum::<u64>(),
        3 * piece.len() as u64
    );
}
