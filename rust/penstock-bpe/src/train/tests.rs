//! Training against a plain trainer that recounts everything before each merge.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::byte_level::alphabet;

fn options(vocab_size: usize) -> TrainOptions {
    TrainOptions { vocab_size, pattern: Pattern::Gpt2, ..TrainOptions::default() }
}

fn trained(counts: WordCounts, options: &TrainOptions) -> Tokenizer {
    train(counts, options, &Progress::new()).unwrap()
}

fn counted(pieces: &[(Vec<u8>, u64)]) -> WordCounts {
    let mut counts = WordCounts::new(Pattern::Gpt2);
    for (piece, count) in pieces {
        counts.add_piece(piece, *count).unwrap();
    }
    counts
}

/// Merges of the plain trainer, as pairs of byte strings, up to the first that makes a token a second time.
fn plain_merges(pieces: &[(Vec<u8>, u64)], merges: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut tokens: Vec<Vec<u8>> = alphabet().iter().map(|&byte| vec![byte]).collect();
    let id_of = |byte: u8| alphabet().iter().position(|&other| other == byte).unwrap();
    let mut words: Vec<(Vec<usize>, u64)> = pieces
        .iter()
        .map(|(piece, count)| (piece.iter().map(|&byte| id_of(byte)).collect(), *count))
        .collect();
    let mut found = Vec::new();
    for _ in 0..merges {
        let mut sums: HashMap<(usize, usize), u64> = HashMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *sums.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let Some((&(left, right), _)) =
            sums.iter().max_by_key(|&(&pair, &sum)| (sum, std::cmp::Reverse(pair)))
        else {
            break;
        };
        let product = [tokens[left].clone(), tokens[right].clone()].concat();
        if tokens.contains(&product) {
            break;
        }
        found.push((tokens[left].clone(), tokens[right].clone()));
        tokens.push(product);
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == (left, right) {
                    word[at] = tokens.len() - 1;
                    word.remove(at + 1);
                }
                at += 1;
            }
        }
    }
    found
}

fn merges_of(tokenizer: &Tokenizer) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = |id| tokenizer.id_to_bytes(id).unwrap().to_vec();
    tokenizer.merges().iter().map(|merge| (bytes(merge.left), bytes(merge.right))).collect()
}

/// Merges with so much memory for pairs.
fn staged(pieces: &[(Vec<u8>, u64)], budget_bytes: u64, options: &TrainOptions) -> Vec<(u32, u32)> {
    let progress = Progress::new();
    let (table, _) = counted(pieces).into_table(&progress).unwrap();
    let base = Base { tokens: (0..=255).map(|byte| vec![byte]).collect(), ..Base::default() };
    let spellers = Speller::several(&base, &Pattern::Gpt2, 1).unwrap();
    let arena = arena::Arena::new(table, spellers, &progress).unwrap();
    let mut merger = merge::Merger::new(arena, &base, budget_bytes, options, &progress);
    merger.run(None).unwrap();
    merger.finish().1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn merges_equal_those_of_recounting(
        pieces in prop::collection::vec(("[ab]{1,12}|[a-e]{1,9}|a{1,20}", 1_u64..9), 1..12)
    ) {
        let pieces: Vec<(Vec<u8>, u64)> = pieces.into_iter().map(|(piece, n)| (piece.into_bytes(), n)).collect();
        let tokenizer = trained(counted(&pieces), &options(257 + 40));
        let plain = plain_merges(&pieces, 40);
        let found = merges_of(&tokenizer);
        prop_assert_eq!(&found[..plain.len()], &plain[..]);
    }

    #[test]
    fn memory_for_few_pairs_at_a_time_changes_nothing(
        pieces in prop::collection::vec(("[ab]{1,12}|[a-e]{1,9}|a{1,20}|[a-z]{1,30}", 1_u64..9), 1..40),
        budget_bytes in 0_u64..20_000, most in 2_usize..12
    ) {
        let pieces: Vec<(Vec<u8>, u64)> = pieces.into_iter().map(|(piece, n)| (piece.into_bytes(), n)).collect();
        let options = TrainOptions { max_token_bytes: Some(most), ..options(257 + 60) };
        prop_assert_eq!(staged(&pieces, budget_bytes, &options), staged(&pieces, u64::MAX, &options));
    }

    #[test]
    fn neither_order_nor_division_of_the_corpus_matters(
        texts in prop::collection::vec("[a-c ]{0,30}", 1..8), cut in 0_usize..8, threads in 0_usize..4
    ) {
        let mut whole = WordCounts::new(Pattern::Gpt2);
        whole.add_text("ab");
        texts.iter().for_each(|text| whole.add_text(text));
        let (mut one, mut other) = (WordCounts::new(Pattern::Gpt2), WordCounts::new(Pattern::Gpt2));
        for (index, text) in texts.iter().enumerate().rev() {
            if index < cut { one.add_text(text) } else { other.add_text(text) }
        }
        one.add_text("ab");
        other.merge(one).unwrap();
        prop_assert_eq!(whole.total(), other.total());
        let split = TrainOptions { threads, ..options(300) };
        let trained = |counts, options| trained(counts, &options).to_json().unwrap();
        prop_assert_eq!(trained(whole, options(300)), trained(other, split));
    }
}

#[test]
fn ids_are_specials_then_bytes_then_merges() {
    let tokenizer = trained(counted(&[(b"abab".to_vec(), 3)]), &options(259));
    assert_eq!(tokenizer.token_to_id(b"<|endoftext|>"), Some(0));
    assert_eq!(tokenizer.token_to_id(b"!"), Some(1));
    assert_eq!(tokenizer.token_to_id(b" "), Some(1 + 188 + 32));
    assert_eq!((tokenizer.token_to_id(b"ab"), tokenizer.token_to_id(b"abab")), (Some(257), Some(258)));
    assert_eq!((tokenizer.vocab_size(), tokenizer.eot_id()), (259, Some(0)));
    assert_eq!(tokenizer.encode_ordinary("<|endoftext|>").len(), 13);
}

#[test]
fn limits_on_frequency_and_length_hold() {
    let pieces = [(b"abcd".to_vec(), 5), (b"xy".to_vec(), 2)];
    let rare = TrainOptions { min_frequency: 3, ..options(400) };
    let tokenizer = trained(counted(&pieces), &rare);
    assert_eq!((tokenizer.token_to_id(b"xy"), tokenizer.merges().len()), (None, 3));
    let short = TrainOptions { max_token_bytes: Some(2), ..options(400) };
    let tokenizer = trained(counted(&pieces), &short);
    assert!(tokenizer.merges().iter().all(|merge| tokenizer.id_to_bytes(merge.product).unwrap().len() == 2));
    assert!(tokenizer.token_to_id(b"xy").is_some());
}

#[test]
fn wrong_requests_are_refused() {
    let pieces = [(b"abcd".to_vec(), 5)];
    let refused =
        |counts: WordCounts, options: &TrainOptions| train(counts, options, &Progress::new()).unwrap_err();
    assert!(matches!(refused(counted(&pieces), &options(256)), Error::VocabTooSmall { minimum: 257, .. }));
    assert!(matches!(refused(counted(&[]), &options(300)), Error::EmptyCorpus));
    assert!(matches!(refused(WordCounts::new(Pattern::O200k), &options(300)), Error::PatternMismatch { .. }));
    let specials = |names: &[&str]| TrainOptions {
        special_tokens: names.iter().map(ToString::to_string).collect(),
        ..options(300)
    };
    assert!(matches!(refused(counted(&pieces), &specials(&["<a>", "<a>"])), Error::DuplicateSpecial { .. }));
    assert!(matches!(refused(counted(&pieces), &specials(&[""])), Error::EmptySpecial { index: 0 }));
    assert!(matches!(refused(counted(&pieces), &specials(&["a"])), Error::SpecialCollision { .. }));
    assert!(matches!(refused(counted(&pieces), &specials(&["abcd"])), Error::SpecialCollision { .. }));
    let mut counts = counted(&[(b"ab".to_vec(), u64::MAX)]);
    assert!(matches!(counts.add_piece(b"ab", 1), Err(Error::CountOverflow { .. })));
    assert!(matches!(refused(counts, &options(300)), Error::CountOverflow { .. }));
}

#[test]
fn a_cancelled_training_stops() {
    let progress = Progress::new();
    progress.cancel();
    let result = train(counted(&[(b"abcd".to_vec(), 5)]), &options(300), &progress);
    assert!(matches!(result, Err(Error::Cancelled(_))));
}

#[test]
fn a_training_under_way_can_be_cancelled() {
    let progress = Progress::new();
    let counts = counted(&[(random_letters(2_000_000), 1)]);
    let result = std::thread::scope(|scope| {
        let job = scope.spawn(|| train(counts, &options(200_000), &progress));
        while progress.snapshot().stage != "merge" || progress.snapshot().done == 0 {
            std::thread::yield_now();
        }
        progress.cancel();
        job.join().unwrap()
    });
    assert!(matches!(result, Err(Error::Cancelled(_))));
}

#[test]
fn pieces_beyond_one_chunk_are_ordered_alike_by_any_number_of_threads() {
    let mut pieces: Vec<(Vec<u8>, u64)> =
        (0..300_000_u64).map(|n| (format!("{:x}", n * 7919).into_bytes(), n % 5 + 1)).collect();
    let trained = |pieces: &[(Vec<u8>, u64)], threads| {
        let options = TrainOptions { threads, ..options(400) };
        trained(counted(pieces), &options).to_json().unwrap()
    };
    let first = trained(&pieces, 1);
    pieces.reverse();
    assert_eq!(first, trained(&pieces, 3));
}

fn random_letters(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + (state >> 33) as u8 % 26
    };
    (0..len).map(|_| letter()).collect()
}

#[test]
fn one_long_piece_costs_what_its_occurrences_cost() {
    // A trainer that rescans the piece for every merge would need a thousand million steps.
    let tokenizer = trained(counted(&[(random_letters(1_000_000), 1)]), &options(257 + 1000));
    assert_eq!(tokenizer.merges().len(), 1000);
}
