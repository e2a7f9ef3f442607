//! What goes in is what is stored: nothing lost, nothing doubled.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_bpe::progress::Progress;
use penstock_data::{
    BodyCompression, CountOptions, Dataset, Error, OnBadLine, PackMode, PackOptions, ReadMode, SourceOptions,
    count_corpus, pack,
};
use support::{EOT, byte_tokenizer, corpus, documents_of, options, pack_quietly, paths, write_jsonl};

fn expected(corpus: &[(PathBuf, Vec<String>)]) -> BTreeMap<u64, Vec<u32>> {
    let mut documents = BTreeMap::new();
    for (task, (_, texts)) in (0u64..).zip(corpus) {
        for (record, text) in (0u64..).zip(texts) {
            let tokens = text.bytes().map(u32::from).chain([EOT]).collect();
            documents.insert(task << 40 | record, tokens);
        }
    }
    documents
}

#[test]
fn every_token_of_every_document_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 300);
    for (mode, compression, read_mode) in [
        (PackMode::BestFit, BodyCompression::None, ReadMode::Mmap),
        (PackMode::BestFit, BodyCompression::Zstd, ReadMode::Mmap),
        (PackMode::BestFit, BodyCompression::Lz4, ReadMode::Read),
        (PackMode::Concatenate, BodyCompression::None, ReadMode::Read),
    ] {
        for mtp_depth in [0, 1, 3] {
            let out = folder.path().join(format!("{}-{}-{mtp_depth}", mode.name(), compression.name()));
            let options = PackOptions { mode, compression, mtp_depth, ..options() };
            let report = pack_quietly(&paths(&corpus), &out, &options).unwrap();
            let dataset = Dataset::open_with(&out, read_mode).unwrap();
            let documents = documents_of(&dataset);
            assert_eq!(documents, expected(&corpus));
            assert_eq!(report.documents, 900);
            assert_eq!(report.tokens, documents.values().map(|tokens| tokens.len() as u64).sum::<u64>());
            assert_eq!(report.text_bytes + 900, report.tokens);
            assert_eq!(report.rows, dataset.rows());
            assert!(report.shards > 6, "the corpus should fill several shards a task");
            if mode == PackMode::BestFit {
                let longer = documents.values().filter(|tokens| tokens.len() > 257).count() as u64;
                assert_eq!(report.cut_documents, longer);
            }
            dataset.verify(&Progress::new()).unwrap();
        }
    }
}

#[test]
fn documents_know_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 50);
    let out = folder.path().join("out");
    let report = pack_quietly(&paths(&corpus), &out, &options()).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let ids: Vec<u64> = documents_of(&dataset).into_keys().collect();
    for record in dataset.documents(&ids).unwrap() {
        let (task, number) = (record.doc_id >> 40, record.doc_id & 0xff_ffff_ffff);
        assert_eq!(record.file, format!("part-{task}.jsonl"));
        assert_eq!((record.ordinal, record.id), (number, Some(format!("doc-{number}"))));
        assert_eq!(record.source, ["web", "code", "books"][number as usize % 3]);
        assert_eq!(record.tokens, corpus[task as usize].1[number as usize].len() as u64 + 1);
    }
    assert_eq!(report.by_source.keys().collect::<Vec<_>>(), ["books", "code", "web"]);
    assert_eq!(report.by_source.values().map(|counts| counts.tokens).sum::<u64>(), report.tokens);
    assert_eq!(report.by_source, dataset.manifest().counts.by_source);
    assert!(matches!(dataset.documents(&[9 << 40]), Err(Error::NoSuchDocument { .. })));
    assert!(matches!(dataset.documents(&[50]), Err(Error::NoSuchDocument { .. })));
}

#[test]
fn a_tokenizer_without_end_of_text_pads_with_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    write_jsonl(&path, &["ab".to_owned(), "c".to_owned()]);
    let tokenizer = support::byte_tokenizer_without_eot();
    let options = PackOptions { seq_len: 4, seed: 3, ..options() };
    pack(&[path], &tokenizer, &folder.path().join("out"), &options, &Progress::new()).unwrap();
    let row = Dataset::open(&folder.path().join("out")).unwrap().row(0).unwrap();
    assert_eq!(row.tokens()[3..], [0, 0, 0]);
    assert_eq!(row.doc_ends().last(), Some(&3));
}

/// The example of docs/format.md, number by number.
#[test]
fn the_worked_example_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("example.jsonl");
    let long: String = ('a'..='s').collect();
    write_jsonl(&path, &["ABCD".to_owned(), long, "XYZ".to_owned()]);
    let out = folder.path().join("out");
    let options = PackOptions { seq_len: 8, ..PackOptions::default() };
    let report = pack_quietly(&[path], &out, &options).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let rows: Vec<_> = (0..dataset.rows())
        .map(|row| dataset.row(row).unwrap())
        .map(|row| (row.tokens().to_vec(), row.doc_ends().to_vec(), row.doc_ids().to_vec()))
        .collect();
    let e = EOT;
    let expected = [
        (vec![97, 98, 99, 100, 101, 102, 103, 104, 105, 106], vec![10], vec![1]),
        (vec![105, 106, 107, 108, 109, 110, 111, 112, 113, 114], vec![10], vec![1]),
        (vec![65, 66, 67, 68, e, 113, 114, 115, e, e], vec![5, 9], vec![0, 1]),
        (vec![88, 89, 90, e, e, e, e, e, e, e], vec![4], vec![2]),
    ];
    assert_eq!(rows, expected);
    assert_eq!((report.tokens, report.pad_tokens, report.cut_documents), (29, 4, 1));
    let hashes: Vec<String> = stored_hashes(&out);
    let document = include_str!("../../../docs/format.md");
    for hash in hashes {
        assert!(document.contains(&hash), "docs/format.md should name the row checksum {hash}");
    }
}

/// The xxh3 column, read without this crate's reader.
fn stored_hashes(out: &Path) -> Vec<String> {
    let file = fs::File::open(out.join("shards/00000-00000.arrow")).unwrap();
    let batches = arrow_ipc::reader::FileReader::try_new(file, None).unwrap();
    batches
        .map(|batch| batch.unwrap())
        .flat_map(|batch| {
            let column = batch.column_by_name("xxh3").unwrap().clone();
            let column =
                arrow_array::cast::AsArray::as_primitive::<arrow_array::types::UInt64Type>(&column).clone();
            column.values().iter().map(|hash| format!("{hash:016x}")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn row_checksums_are_as_specified() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 40);
    let out = folder.path().join("out");
    pack_quietly(&paths(&corpus)[..1], &out, &options()).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    for (number, stored) in (0u64..).zip(stored_hashes(&out)) {
        let row = dataset.row(number).unwrap();
        let mut bytes = Vec::new();
        row.tokens().iter().for_each(|token| bytes.extend(token.to_le_bytes()));
        row.doc_ends().iter().for_each(|end| bytes.extend(end.to_le_bytes()));
        row.doc_ids().iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        assert_eq!(format!("{:016x}", xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, number)), stored);
    }
}

#[test]
fn skipped_documents_are_counted_by_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let lines: [&[u8]; 8] = [
        br#"{"text":"one"}"#,
        br#"{"text":3}"#,
        br#"{"text":"tw"#,
        b"",
        br#"{"txt":"x"}"#,
        b"{\"text\":\"\xff\"}",
        br#"{"text":""}"#,
        br#"{"text":"two"}"#,
    ];
    fs::write(&path, lines.join(&b'\n')).unwrap();
    let out = folder.path().join("out");
    let source = SourceOptions { on_bad_line: OnBadLine::Skip, ..SourceOptions::default() };
    let report = pack_quietly(&[path], &out, &PackOptions { source, ..options() }).unwrap();
    let skipped: Vec<_> = report.skipped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(
        skipped,
        [
            ("bad_json", 1),
            ("empty_text", 1),
            ("invalid_utf8", 1),
            ("missing_text", 1),
            ("text_not_string", 1)
        ]
    );
    assert_eq!(report.documents, 2);
    let records = Dataset::open(&out).unwrap().documents(&[0, 1]).unwrap();
    assert_eq!((records[0].ordinal, records[1].ordinal), (0, 6), "ordinals count what is skipped");
}

#[test]
fn progress_ends_at_its_total() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 100);
    let progress = Progress::new();
    pack(&paths(&corpus), &byte_tokenizer(), &folder.path().join("out"), &options(), &progress).unwrap();
    let snapshot = progress.snapshot();
    let bytes: u64 = paths(&corpus).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!((snapshot.done, snapshot.total), (bytes, bytes));
}

#[test]
fn batches_of_very_long_rows_have_fewer_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 1);
    let long = PackOptions { seq_len: 1 << 20, open_bins: 1, ..PackOptions::default() };
    let out = folder.path().join("out");
    pack_quietly(&paths(&corpus[..1]), &out, &long).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(dataset.manifest().parameters.rows_per_batch, 255);
    assert_eq!(dataset.row(0).unwrap().tokens().len(), (1 << 20) + 2);
}

#[test]
fn options_out_of_range_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 1);
    for (options, expected) in [
        (PackOptions { seq_len: 1, ..options() }, "seq_len"),
        (PackOptions { seq_len: 1 << 23, ..options() }, "seq_len"),
        (PackOptions { mtp_depth: 300, ..options() }, "mtp_depth"),
        (PackOptions { open_bins: 0, ..options() }, "open_bins"),
        (PackOptions { rows_per_batch: 0, ..options() }, "rows_per_batch"),
        (PackOptions { shard_bytes: 0, ..options() }, "shard_bytes"),
        (
            PackOptions {
                source: SourceOptions { window_log_max: 31, ..SourceOptions::default() },
                ..options()
            },
            "window_log_max",
        ),
    ] {
        let error = pack_quietly(&paths(&corpus), &folder.path().join("out"), &options).unwrap_err();
        assert!(matches!(&error, Error::BadOption { option, .. } if *option == expected), "{error}");
    }
    let out = folder.path().join("out");
    assert!(matches!(pack_quietly(&[], &out, &options()), Err(Error::NoInputs)));
    let twice = [corpus[0].0.clone(), corpus[0].0.clone()];
    assert!(matches!(pack_quietly(&twice, &out, &options()), Err(Error::DuplicateInput { .. })));
    let (link, around) = (folder.path().join("link.jsonl"), folder.path().join("sub"));
    std::os::unix::fs::symlink(&corpus[0].0, &link).unwrap();
    fs::create_dir(&around).unwrap();
    for other in [link, around.join("..").join(corpus[0].0.file_name().unwrap())] {
        let found = pack_quietly(&[corpus[0].0.clone(), other], &out, &options());
        assert!(matches!(found, Err(Error::DuplicateInput { .. })), "another way to the same file");
    }
    assert!(matches!(pack_quietly(&["x.csv".into()], &out, &options()), Err(Error::UnknownInput { .. })));
    assert!(matches!(pack_quietly(&["gone.jsonl".into()], &out, &options()), Err(Error::NoSuchInput { .. })));
    assert!(!out.exists(), "a refused call writes nothing");
}

#[test]
fn word_counts_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 200);
    let pattern = penstock_bpe::Pattern::from_name("gpt2").unwrap();
    let count = |threads, max_bytes| {
        let options =
            CountOptions { patterns: vec![pattern.clone()], max_bytes, threads, ..CountOptions::default() };
        let counts =
            count_corpus(&paths(&corpus), &SourceOptions::default(), &options, &Progress::new()).unwrap();
        let counts = &counts[0];
        counts.iter().map(|(word, count)| (word.to_vec(), count)).collect::<BTreeMap<_, _>>()
    };
    let mut plain = penstock_bpe::train::WordCounts::new(pattern.clone());
    corpus.iter().flat_map(|(_, texts)| texts).for_each(|text| plain.add_text(text));
    let plain: BTreeMap<_, _> = plain.iter().map(|(word, count)| (word.to_vec(), count)).collect();
    assert_eq!(count(1, None), plain);
    assert_eq!(count(4, None), plain);
    let part = count(1, Some(20_000));
    assert_eq!(count(3, Some(20_000)), part);
    let bytes =
        |counts: &BTreeMap<Vec<u8>, u64>| counts.iter().map(|(word, n)| word.len() as u64 * n).sum::<u64>();
    assert!((20_000..40_000).contains(&bytes(&part)), "{} bytes", bytes(&part));
}
