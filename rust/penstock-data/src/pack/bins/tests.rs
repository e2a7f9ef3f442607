use super::*;
use proptest::prelude::*;

type OwnedRow = Vec<(u64, Vec<u32>)>;

#[derive(Default)]
struct Rows(Vec<OwnedRow>);

impl RowSink for Rows {
    fn write_row(&mut self, pieces: &[Piece<'_>]) -> Result<()> {
        self.0.push(pieces.iter().map(|piece| (piece.doc_id, piece.tokens.to_vec())).collect());
        Ok(())
    }
}

/// Documents of the given lengths; no two tokens are equal.
fn documents(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut next = 0..;
    lengths.iter().map(|length| next.by_ref().take(*length).collect()).collect()
}

fn run(mut packer: Packer, documents: &[Vec<u32>]) -> (Vec<OwnedRow>, Tally) {
    let mut rows = Rows::default();
    for (doc_id, tokens) in (0..).zip(documents) {
        packer.add(Piece { doc_id, tokens }, &mut rows).unwrap();
    }
    let tally = packer.finish(&mut rows).unwrap();
    (rows.0, tally)
}

fn best_fit(shape: Shape, open_bins: usize) -> Packer {
    Packer::BestFit(BestFit::new(shape, open_bins, 1, 0))
}

/// The documents again, by the rule of docs/format.md section 2.
fn rebuild(rows: &[OwnedRow], shape: Shape, count: usize) -> Vec<Vec<u32>> {
    let mut rebuilt = vec![Vec::new(); count];
    let mut next_start = vec![0; count];
    for row in rows {
        let mut position = 0;
        for (doc_id, tokens) in row {
            let document: &mut Vec<u32> = &mut rebuilt[usize::try_from(*doc_id).unwrap()];
            let start = &mut next_start[usize::try_from(*doc_id).unwrap()];
            document.truncate(*start);
            document.extend(tokens);
            *start += shape.seq_len.saturating_sub(position);
            position += tokens.len();
        }
    }
    rebuilt
}

/// How often each token is the next-token target of an input position.
fn targets(rows: &[OwnedRow], shape: Shape, tokens: usize) -> Vec<u32> {
    let mut seen = vec![0; tokens];
    for row in rows {
        let mut start = 0;
        for (_, piece) in row {
            for (i, target) in piece.iter().enumerate().skip(1) {
                if start + i <= shape.seq_len {
                    seen[*target as usize] += 1;
                }
            }
            start += piece.len();
        }
    }
    seen
}

fn check(packer: Packer, shape: Shape, lengths: &[usize]) -> std::result::Result<(), TestCaseError> {
    let is_best_fit = matches!(packer, Packer::BestFit(_));
    let documents = documents(lengths);
    let (rows, tally) = run(packer, &documents);
    prop_assert_eq!(rebuild(&rows, shape, documents.len()), documents.clone());
    let mut expected = vec![1; lengths.iter().sum()];
    documents.iter().for_each(|document| expected[document[0] as usize] = 0);
    prop_assert_eq!(targets(&rows, shape, expected.len()), expected);
    prop_assert_eq!(tally.rows, rows.len() as u64);
    let filled = |row: &OwnedRow| row.iter().map(|(_, tokens)| tokens.len()).sum::<usize>();
    prop_assert!(rows.iter().all(|row| (1..=shape.width()).contains(&filled(row))));
    let padding: usize = rows.iter().map(|row| shape.seq_len.saturating_sub(filled(row))).sum();
    prop_assert_eq!(tally.pad_tokens, padding as u64);
    let mut rows_of = vec![0; lengths.len()];
    rows.iter().flatten().for_each(|(doc_id, _)| rows_of[usize::try_from(*doc_id).unwrap()] += 1);
    let cut = rows_of.iter().filter(|rows| **rows > 1).count();
    prop_assert_eq!(tally.cut_documents, cut as u64);
    if is_best_fit {
        let longer = lengths.iter().filter(|length| **length > shape.room()).count();
        prop_assert_eq!(cut, longer, "only documents longer than a row may be cut");
    } else {
        prop_assert!(padding < shape.seq_len, "only the last row may have padding");
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled(
        seq_len in 2usize..40,
        lookahead in 1usize..4,
        open_bins in 1usize..12,
        lengths in prop::collection::vec(1usize..150, 0..120),
    ) {
        let shape = Shape { seq_len, lookahead: lookahead.min(seq_len) };
        check(best_fit(shape, open_bins), shape, &lengths)?;
        check(Packer::Concatenate(Concatenate::new(shape)), shape, &lengths)?;
    }

    #[test]
    fn best_fit_opens_no_row_that_it_could_do_without(lengths in prop::collection::vec(1usize..17, 1..200)) {
        // A row is opened only when no open one has room, so at most one in two can be half empty.
        let shape = Shape { seq_len: 16, lookahead: 2 };
        let (rows, _) = run(best_fit(shape, 64), &documents(&lengths));
        let floor = lengths.iter().sum::<usize>().div_ceil(shape.room());
        prop_assert!(rows.len() <= 2 * floor);
    }
}

/// Lengths as web documents have them: lognormal, median 560, mean about 1800.
fn web_lengths(count: usize) -> Vec<usize> {
    let uniform = |i: u64| (mix(i.wrapping_mul(GOLDEN)) >> 11) as f64 / (1u64 << 53) as f64;
    let normal = |i: u64| (0..12).map(|j| uniform(12 * i + j)).sum::<f64>() - 6.0;
    (0..count as u64).map(|i| (560f64.ln() + 1.5 * normal(i)).exp().clamp(2.0, 400_000.0) as usize).collect()
}

#[test]
fn padding_stays_below_half_a_percent() {
    let shape = Shape { seq_len: 4096, lookahead: 2 };
    for (documents_count, open_bins) in
        [(2000, 64), (20_000, 64), (20_000, 128), (20_000, 16), (20_000, 1024)]
    {
        let lengths = web_lengths(documents_count);
        let (_, tally) = run(best_fit(shape, open_bins), &documents(&lengths));
        let share = tally.pad_tokens as f64 / (tally.rows as f64 * shape.seq_len as f64);
        println!("{documents_count} documents, {open_bins} open rows: padding {:.4} %", 100.0 * share);
        assert!(share < 0.005, "padding {share} with {open_bins} open rows");
    }
}

#[test]
fn pieces_of_a_row_are_not_sorted_by_length() {
    let shape = Shape { seq_len: 64, lookahead: 2 };
    let lengths: Vec<usize> = (0..2000).map(|i| 2 + (i * 7) % 30).collect();
    let (rows, _) = run(best_fit(shape, 64), &documents(&lengths));
    let rising =
        rows.iter().flat_map(|row| row.windows(2)).filter(|pair| pair[0].1.len() < pair[1].1.len()).count();
    let falling =
        rows.iter().flat_map(|row| row.windows(2)).filter(|pair| pair[0].1.len() > pair[1].1.len()).count();
    assert!(rising * 3 > falling && falling * 3 > rising, "{rising} rising, {falling} falling");
}
