//! The same global batches for any division among ranks, from any step on.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use penstock_bpe::progress::Progress;
use penstock_data::order::sample_row;
use penstock_data::{Batch, BodyCompression, Dataset, Error, PackOptions, State, Stream, StreamOptions};
use support::{corpus, options, pack_quietly, paths};

const GLOBAL_BATCH: usize = 24;

fn packed(folder: &Path, options: &PackOptions) -> Dataset {
    let corpus = corpus(folder, 60);
    let out = folder.join("out");
    pack_quietly(&paths(&corpus), &out, options).unwrap();
    Dataset::open(&out).unwrap()
}

fn stream(dataset: &Dataset, rank: usize, world_size: usize, start: Option<&State>) -> Stream {
    let options =
        StreamOptions { global_batch_size: GLOBAL_BATCH, rank, world_size, seed: 7, prefetch_batches: 3 };
    Stream::new(dataset.clone(), options, start).unwrap()
}

/// A step's rows of all ranks, in slot order.
fn global_tokens(streams: &mut [Stream]) -> Vec<i64> {
    let mut tokens = Vec::new();
    for stream in streams {
        let batch = stream.next().unwrap();
        tokens.extend(&batch.tokens);
        stream.recycle(batch);
    }
    tokens
}

#[test]
fn ranks_do_not_change_the_global_batches() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let steps = 2 * dataset.rows() / GLOBAL_BATCH as u64 + 3;
    let mut alone = [stream(&dataset, 0, 1, None)];
    let reference: Vec<_> = (0..steps).map(|_| global_tokens(&mut alone)).collect();
    for world_size in [1, 2, 3, 4, 8] {
        let mut streams: Vec<_> =
            (0..world_size).map(|rank| stream(&dataset, rank, world_size, None)).collect();
        for expected in &reference {
            assert!(global_tokens(&mut streams) == *expected, "{world_size} ranks");
        }
    }
    // Every sample is the row that the order function says; each epoch holds each row once.
    let width = dataset.seq_len() + dataset.lookahead();
    let samples: Vec<&[i64]> = reference.iter().flat_map(|tokens| tokens.chunks(width)).collect();
    for (sample, tokens) in (0u64..).zip(&samples) {
        let number = sample_row(dataset.rows(), 7, sample / dataset.rows(), sample % dataset.rows());
        let row = dataset.row(number).unwrap();
        assert!(row.tokens().iter().map(|token| i64::from(*token)).eq(tokens.iter().copied()));
    }
    let epoch = samples.iter().take(dataset.rows() as usize).collect::<BTreeSet<_>>();
    let all: BTreeSet<Vec<u32>> =
        (0..dataset.rows()).map(|row| dataset.row(row).unwrap().tokens().to_vec()).collect();
    assert_eq!(epoch.len(), all.len());
}

#[test]
fn resume_is_exact_at_any_step_and_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let mut alone = [stream(&dataset, 0, 1, None)];
    let mut states = vec![alone[0].state()];
    let mut batches = Vec::new();
    for _ in 0..40 {
        batches.push(global_tokens(&mut alone));
        states.push(alone[0].state());
    }
    for (stopped_at, world_size) in [(0, 2), (1, 1), (7, 4), (13, 8), (25, 3), (39, 2)] {
        let json = states[stopped_at].to_json();
        assert!(json.len() <= 256, "{json}");
        let state = State::from_json(&json).unwrap();
        let mut streams: Vec<_> =
            (0..world_size).map(|rank| stream(&dataset, rank, world_size, Some(&state))).collect();
        for expected in &batches[stopped_at..] {
            assert!(global_tokens(&mut streams) == *expected, "stopped at {stopped_at}, {world_size} ranks");
        }
        // And once more, in place.
        streams.iter_mut().for_each(|stream| stream.load_state(&state).unwrap());
        assert!(global_tokens(&mut streams) == batches[stopped_at]);
    }
    let far = State { step: 1 << 40, ..states[0].clone() };
    assert_eq!(stream(&dataset, 0, 1, Some(&far)).next().unwrap().step, 1 << 40);
    let beyond = State { step: u64::MAX, ..states[0].clone() };
    assert!(matches!(stream(&dataset, 0, 1, Some(&beyond)).next(), Err(Error::Overflow { .. })));
}

#[test]
fn a_state_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let good = stream(&dataset, 0, 1, None).state();
    let mut target = stream(&dataset, 0, 1, None);
    for (state, expected) in [
        (State { seed: 8, ..good.clone() }, "seed"),
        (State { global_batch_size: 16, ..good.clone() }, "global_batch_size"),
        (State { manifest: "0".repeat(16), ..good.clone() }, "manifest"),
    ] {
        let error = target.load_state(&state).unwrap_err();
        assert!(matches!(&error, Error::OtherState { what, .. } if *what == expected), "{error}");
    }
    let future = State { version: 2, ..good.clone() };
    assert!(matches!(target.load_state(&future), Err(Error::BadState { .. })));
    assert!(matches!(State::from_json(&future.to_json()), Err(Error::BadState { .. })));
    assert!(matches!(State::from_json("{}"), Err(Error::BadState { .. })));
    assert_eq!(target.state(), good);
}

#[test]
fn positions_and_ends_describe_the_documents() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let seq_len = dataset.seq_len();
    let mut stream = stream(&dataset, 1, 2, None);
    for _ in 0..20 {
        let Batch { step, rows, positions, doc_ends, doc_ids, offsets, .. } = stream.next().unwrap();
        assert_eq!((rows, positions.len(), offsets.len()), (12, 12 * seq_len, 13));
        assert_eq!(doc_ends.len(), doc_ids.len());
        let numbers = dataset.rows_of_step(step, GLOBAL_BATCH, 7).unwrap();
        for (i, number) in numbers[12..].iter().enumerate() {
            let row = dataset.row(*number).unwrap();
            let span = offsets[i]..offsets[i + 1];
            assert!(row.doc_ends().iter().map(|end| *end as i32).eq(doc_ends[span.clone()].iter().copied()));
            assert_eq!(row.doc_ids(), &doc_ids[span]);
            let mut expected = vec![0; seq_len];
            let mut start = 0;
            for end in row.doc_ends().iter().map(|end| *end as usize) {
                (start..end.min(seq_len)).for_each(|at| expected[at] = (at - start) as i32);
                start = end;
            }
            assert_eq!(positions[i * seq_len..(i + 1) * seq_len], expected);
        }
    }
}

#[test]
fn the_documents_of_a_step_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let mut stream = stream(&dataset, 0, 1, None);
    for step in 0..5 {
        let batch = stream.next().unwrap();
        let records = dataset.documents_of_step(step, GLOBAL_BATCH, 7).unwrap();
        assert_eq!(records.len(), GLOBAL_BATCH);
        let ids: Vec<u64> = records.iter().flatten().map(|record| record.doc_id).collect();
        assert_eq!(ids, batch.doc_ids);
    }
}

#[test]
fn compressed_bodies_give_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let plain = packed(folder.path(), &options());
    let mut reference = stream(&plain, 0, 1, None);
    for compression in [BodyCompression::Zstd, BodyCompression::Lz4] {
        let other = tempfile::tempdir().unwrap();
        let dataset = packed(other.path(), &PackOptions { compression, ..options() });
        let mut stream = stream(&dataset, 0, 1, None);
        reference.load_state(&State { step: 0, ..reference.state() }).unwrap();
        for _ in 0..10 {
            assert_eq!(stream.next().unwrap(), reference.next().unwrap());
        }
    }
}

#[test]
fn buffers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let mut stream = stream(&dataset, 0, 1, None);
    let mut uses: BTreeMap<*const i64, u32> = BTreeMap::new();
    for _ in 0..100 {
        let batch = stream.next().unwrap();
        *uses.entry(batch.tokens.as_ptr()).or_default() += 1;
        stream.recycle(batch);
    }
    assert!(uses.len() <= 8, "{} buffers for 100 batches", uses.len());
}

#[test]
fn waiting_ends_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let mut stream = stream(&dataset, 0, 1, None);
    let mut batches = 0;
    while batches < 10 {
        batches += u32::from(stream.next_timeout(Duration::from_millis(1)).unwrap().is_some());
    }
    assert_eq!(stream.state().step, 10);
}

#[test]
fn options_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = packed(folder.path(), &options());
    let good = StreamOptions::default;
    for (options, expected) in [
        (StreamOptions { global_batch_size: 0, ..good() }, "global_batch_size"),
        (StreamOptions { world_size: 3, ..good() }, "global_batch_size"),
        (StreamOptions { world_size: 0, ..good() }, "world_size"),
        (StreamOptions { rank: 1, ..good() }, "rank"),
        (StreamOptions { prefetch_batches: 0, ..good() }, "prefetch_batches"),
    ] {
        let error = Stream::new(dataset.clone(), options, None).unwrap_err();
        assert!(matches!(&error, Error::BadOption { option, .. } if *option == expected), "{error}");
    }
}

#[test]
fn an_empty_dataset_is_packed_but_not_streamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.jsonl");
    std::fs::write(&path, "\n\n").unwrap();
    let out = folder.path().join("out");
    assert_eq!(pack_quietly(&[path], &out, &options()).unwrap().rows, 0);
    let dataset = Dataset::open(&out).unwrap();
    dataset.verify(&Progress::new()).unwrap();
    assert!(matches!(dataset.row(0), Err(Error::NoSuchRow { .. })));
    assert!(matches!(Stream::new(dataset, StreamOptions::default(), None), Err(Error::EmptyDataset { .. })));
}
