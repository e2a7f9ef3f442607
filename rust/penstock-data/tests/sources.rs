//! Inputs of every kind, and every way in which one can be wrong.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::Int16Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Int64Array, LargeStringArray, RecordBatch, StringArray, StringViewArray,
};
use penstock_data::source::open;
use penstock_data::{BadLine, Document, Error, OnBadLine, SourceOptions};
use proptest::prelude::*;
use support::{random, texts};

fn skipping() -> SourceOptions {
    SourceOptions { on_bad_line: OnBadLine::Skip, ..SourceOptions::default() }
}

fn read(path: &Path, options: &SourceOptions) -> Result<Vec<Document>, Error> {
    open(path, options)?.collect()
}

fn texts_of(path: &Path) -> Vec<String> {
    read(path, &SourceOptions::default()).unwrap().into_iter().map(|document| document.text).collect()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn jsonl(texts: &[String]) -> Vec<u8> {
    texts.iter().flat_map(|text| format!("{}\n", serde_json::json!({ "text": text })).into_bytes()).collect()
}

#[test]
fn compressed_lines_are_those_of_the_plain_file() {
    let folder = tempfile::tempdir().unwrap();
    let texts = texts(200, 1);
    let plain = jsonl(&texts);
    let (first, second) = plain.split_at(plain.len() / 3);
    for (name, bytes) in [
        ("a.jsonl", plain.clone()),
        ("a.json", plain.clone()),
        ("a.NDJSON", plain.clone()),
        ("a.jsonl.gz", gzip(&plain)),
        ("a.jsonl.zst", zstd(&plain)),
        ("members.jsonl.gz", [gzip(first), gzip(second)].concat()),
        ("frames.jsonl.zst", [zstd(first), zstd(&[]), zstd(second)].concat()),
    ] {
        let path = write(folder.path(), name, &bytes);
        let mut documents = open(&path, &SourceOptions::default()).unwrap();
        let read: Vec<Document> = documents.by_ref().map(Result::unwrap).collect();
        assert!(read.iter().map(|document| &document.text).eq(&texts), "{name}");
        assert!(read.iter().map(|document| document.ordinal).eq(0..200), "{name}");
        assert_eq!(documents.bytes_read(), bytes.len() as u64, "{name}");
    }
}

#[test]
fn every_cut_of_a_compressed_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let plain = jsonl(&texts(400, 2));
    for (name, bytes) in [("a.jsonl.gz", gzip(&plain)), ("a.jsonl.zst", zstd(&plain))] {
        let mut state = 3;
        let cuts = (0..60).chain((0..140).map(|_| (random(&mut state) % bytes.len() as u64) as usize));
        for cut in cuts {
            let path = write(folder.path(), name, &bytes[..cut]);
            let error = read(&path, &skipping()).unwrap_err();
            assert!(
                matches!(error, Error::TruncatedInput { offset, .. } if offset == cut as u64),
                "{name} {cut}: {error}"
            );
        }
        let damaged: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == 300)).collect();
        let path = write(folder.path(), name, &damaged);
        let result = read(&path, &SourceOptions::default());
        assert!(result.is_err(), "{name}: a damaged file");
    }
}

#[test]
fn bombs_and_long_lines_meet_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { max_line_bytes: 1 << 16, ..SourceOptions::default() };
    let zeros = zstd(&vec![b'0'; 64 << 20]);
    assert!(zeros.len() < 16 << 10);
    let path = write(folder.path(), "bomb.jsonl.zst", &zeros);
    let error = read(&path, &options).unwrap_err();
    assert!(matches!(&error, Error::BadDocument { problem: BadLine::TooLong(_), .. }), "{error}");
    let path = write(folder.path(), "bomb.txt.zst", &zeros);
    assert!(matches!(
        read(&path, &options),
        Err(Error::BadDocument { problem: BadLine::TooLong(65_536), .. })
    ));

    let fits = "x".repeat((1 << 16) - 11);
    let too_long = "x".repeat(1 << 20);
    let lines = jsonl(&["a".to_owned(), too_long, fits.clone(), "b".to_owned()]);
    let path = write(folder.path(), "long.jsonl", &lines);
    let error = read(&path, &options).unwrap_err();
    let Error::BadDocument { place, .. } = &error else { panic!("{error}") };
    assert_eq!((place.line, place.byte), (2, 13));
    let options = SourceOptions { on_bad_line: OnBadLine::Skip, ..options };
    let mut documents = open(&path, &options).unwrap();
    let read: Vec<_> = documents.by_ref().map(|document| document.unwrap().text).collect();
    assert_eq!(read, ["a".to_owned(), fits, "b".to_owned()]);
    assert_eq!(documents.skipped()["line_too_long"], 1);
    // A window beyond the cap is refused, not allocated.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(&lines).unwrap();
    let path = write(folder.path(), "window.jsonl.zst", &encoder.finish().unwrap());
    let options = SourceOptions { window_log_max: 20, ..SourceOptions::default() };
    assert!(matches!(open(&path, &options).unwrap().next(), Some(Err(Error::CorruptInput { .. }))));
}

#[test]
fn byte_order_marks_and_line_ends_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b"\xef\xbb\xbf{\"text\":\"a\"}\r\n\r\n  \n{\"text\":\"b\\r\\n\"}\r\n{\"text\":\"c\"}";
    assert_eq!(texts_of(&write(folder.path(), "a.jsonl", lines)), ["a", "b\r\n", "c"]);
    assert_eq!(texts_of(&write(folder.path(), "a.txt", b"\xef\xbb\xbfa\r\nb\n")), ["a\r\nb\n"]);
    assert_eq!(texts_of(&write(folder.path(), "empty.jsonl", b"")), [""; 0]);
    assert_eq!(texts_of(&write(folder.path(), "empty.txt", b"")), [""]);
    // Anywhere else it is not JSON.
    let path = write(folder.path(), "b.jsonl", b"{\"text\":\"a\"}\n\xef\xbb\xbf{\"text\":\"b\"}\n");
    let error = read(&path, &SourceOptions::default()).unwrap_err();
    assert!(
        matches!(&error, Error::BadDocument { place, problem: BadLine::Json(_) } if place.line == 2),
        "{error}"
    );
}

#[test]
fn errors_name_file_line_and_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (line, byte, problem) in [
        (&b"{\"text\":\"ab\xffcd\"}"[..], 13 + 11, "not valid UTF-8"),
        (br#"{"text":"ab" "x"}"#, 13 + 13, "not a JSON object"),
        (br#"{"text":"\ud800"}"#, 13 + 14, "surrogate"),
        (br#"{"txt":"ab"}"#, 13, "no field \"text\""),
        (br#"{"text":["ab"]}"#, 13, "field \"text\" is an array"),
    ] {
        let bytes = [b"{\"text\":\"x\"}\n", line, b"\n{\"text\":\"y\"}\n"].concat();
        let path = write(folder.path(), "bad.jsonl", &bytes);
        let error = read(&path, &SourceOptions::default()).unwrap_err();
        let Error::BadDocument { place, .. } = &error else { panic!("{error}") };
        assert_eq!((place.line, &place.path), (2, &path), "{error}");
        assert!(place.byte.abs_diff(byte) <= 3, "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        let kept: Vec<_> =
            read(&path, &skipping()).unwrap().into_iter().map(|document| document.text).collect();
        assert_eq!(kept, ["x", "y"]);
    }
    let path = write(folder.path(), "bad.txt", b"a\nb\nc\xff");
    let error = read(&path, &SourceOptions::default()).unwrap_err();
    assert!(error.to_string().contains("bad.txt, line 3, byte 5"), "{error}");
}

#[test]
fn an_error_ends_the_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", b"{\"text\":\"a\"}\nbad\n{\"text\":\"b\"}\n");
    let mut documents = open(&path, &SourceOptions::default()).unwrap();
    assert!(documents.next().unwrap().is_ok());
    assert!(documents.next().unwrap().is_err());
    assert!(documents.next().is_none());
}

fn parquet_bytes(batch: &RecordBatch) -> Vec<u8> {
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn arrow_bytes(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch.slice(0, batch.num_rows() / 2)).unwrap();
    writer.write(&batch.slice(batch.num_rows() / 2, batch.num_rows().div_ceil(2))).unwrap();
    writer.into_inner().unwrap()
}

fn columns(text: ArrayRef) -> RecordBatch {
    let rows = text.len() as i64;
    let source: ArrayRef = Arc::new(StringArray::from_iter((0..rows).map(|i| (i % 2 == 0).then_some("web"))));
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    RecordBatch::try_from_iter([("id", id), ("content", text), ("source", source)]).unwrap()
}

#[test]
fn columnar_files_of_all_string_types() {
    let folder = tempfile::tempdir().unwrap();
    let texts = texts(333, 4);
    let options = SourceOptions { text_field: "content".to_owned(), ..SourceOptions::default() };
    let kinds: [ArrayRef; 3] = [
        Arc::new(StringArray::from(texts.clone())),
        Arc::new(LargeStringArray::from(texts.clone())),
        Arc::new(StringViewArray::from_iter_values(&texts)),
    ];
    for batch in kinds.into_iter().map(columns) {
        for (name, bytes) in [("a.parquet", parquet_bytes(&batch)), ("a.arrow", arrow_bytes(&batch))] {
            let path = write(folder.path(), name, &bytes);
            let mut documents = open(&path, &options).unwrap();
            let read: Vec<Document> = documents.by_ref().map(Result::unwrap).collect();
            assert!(read.iter().map(|document| &document.text).eq(&texts), "{name}");
            assert_eq!(
                (read[6].ordinal, read[6].id.as_deref(), read[6].source.as_deref()),
                (6, Some("6"), Some("web"))
            );
            assert_eq!(read[7].source, None);
            assert_eq!(documents.bytes_read(), bytes.len() as u64);
        }
    }
}

/// As pandas writes a column of categories.
#[test]
fn labels_may_be_dictionary_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let labels = [Some("web"), None, Some("code"), Some("web")];
    let source: ArrayRef = Arc::new(labels.into_iter().collect::<DictionaryArray<Int16Type>>());
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(["a", "b", "c", "d"]));
    let batch = RecordBatch::try_from_iter([("text", text), ("source", source)]).unwrap();
    for (name, bytes) in [("a.parquet", parquet_bytes(&batch)), ("a.arrow", arrow_bytes(&batch))] {
        let documents = read(&write(folder.path(), name, &bytes), &SourceOptions::default()).unwrap();
        let found: Vec<Option<&str>> = documents.iter().map(|document| document.source.as_deref()).collect();
        assert_eq!(found, labels, "{name}");
    }
}

#[test]
fn a_field_too_long_for_a_label_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let line =
        |bytes: usize| format!("{{\"text\":\"t\",\"source\":\"{}\",\"id\":\"7\"}}\n", "s".repeat(bytes));
    let path = write(folder.path(), "a.jsonl", (line(1024) + &line(1025)).as_bytes());
    let documents = read(&path, &SourceOptions::default()).unwrap();
    assert_eq!(documents[0].source.as_ref().map(String::len), Some(1024));
    assert_eq!((documents[1].source.as_deref(), documents[1].id.as_deref()), (None, Some("7")));
}

#[test]
fn columnar_files_can_be_wrong_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { text_field: "content".to_owned(), ..SourceOptions::default() };
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let batch = columns(texts);
    for (name, bytes) in [("a.parquet", parquet_bytes(&batch)), ("a.arrow", arrow_bytes(&batch))] {
        let path = write(folder.path(), name, &bytes);
        let error = read(&path, &options).unwrap_err();
        assert!(
            matches!(&error, Error::BadDocument { place, problem: BadLine::NotText { .. } } if place.line == 2),
            "{error}"
        );
        let skipping = SourceOptions { on_bad_line: OnBadLine::Skip, ..options.clone() };
        let kept: Vec<_> = read(&path, &skipping).unwrap().into_iter().map(|d| (d.ordinal, d.text)).collect();
        assert_eq!(kept, [(0, "a".to_owned()), (2, "c".to_owned())]);
        let error = open(&path, &SourceOptions::default()).unwrap_err();
        assert!(
            error.to_string().contains("\"text\" is missing; its columns are id, content, source"),
            "{error}"
        );
        let other = SourceOptions { text_field: "id".to_owned(), ..options.clone() };
        assert!(matches!(open(&path, &other), Err(Error::BadColumn { .. })));
        for cut in (0..bytes.len()).step_by(7) {
            let path = write(folder.path(), name, &bytes[..cut]);
            assert!(matches!(read(&path, &options), Err(Error::CorruptInput { .. })), "{name} cut at {cut}");
        }
    }
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let path = write(folder.path(), "stream.arrow", &stream.into_inner().unwrap());
    let error = read(&path, &options).unwrap_err();
    assert!(error.to_string().contains("must be rewritten as a file"), "{error}");
}

#[test]
fn damaged_columnar_files_give_errors_or_documents_but_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { text_field: "content".to_owned(), ..SourceOptions::default() };
    let batch = columns(Arc::new(StringArray::from(texts(150, 9))));
    let mut state = 5;
    for (name, bytes) in [("a.parquet", parquet_bytes(&batch)), ("a.arrow", arrow_bytes(&batch))] {
        for trial in 0..600 {
            let mut bad = bytes.clone();
            // Half of the flips hit the metadata, which stands at the end.
            let from = if trial % 2 == 0 { 0 } else { bytes.len().saturating_sub(1500) };
            let at = from + (random(&mut state) % (bytes.len() - from) as u64) as usize;
            bad[at] ^= 1 << (random(&mut state) % 8);
            let path = write(folder.path(), name, &bad);
            let result = std::panic::catch_unwind(|| read(&path, &options).map(|documents| documents.len()));
            assert!(result.is_ok(), "{name}, trial {trial}, byte {at} of {}", bytes.len());
        }
    }
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    for name in ["a.csv", "a", "a.gz", "a.parquet.gz", "a.arrow.zst", ".jsonl.zip", "a.jsonl.bz2", "jsonl"] {
        let error = open(Path::new(name), &SourceOptions::default()).unwrap_err();
        assert!(
            matches!(error, Error::UnknownInput { .. }) && error.to_string().contains(".jsonl"),
            "{name}"
        );
    }
    let error = open(Path::new("/nonexistent/a.jsonl"), &SourceOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// What was written is read, however long the lines are, whatever is in them.
    #[test]
    fn any_text_survives(texts in prop::collection::vec(any::<String>(), 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "a.jsonl", &jsonl(&texts));
        prop_assert_eq!(texts_of(&path), texts);
    }

    /// Any bytes give documents or a typed error; documents and skipped ones together are the lines that are not blank.
    #[test]
    fn any_bytes_are_accounted_for(
        bytes in prop::collection::vec(prop_oneof![3 => Just(b'\n'), 1 => Just(b'{'), 1 => Just(b'"'), 5 => any::<u8>()], 0..400),
        good in prop::collection::vec(any::<bool>(), 0..10),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut all = bytes;
        good.iter().for_each(|_| all.extend(b"\n{\"text\":\"good\"}\n"));
        let path = write(folder.path(), "a.jsonl", &all);
        let mut documents = open(&path, &skipping()).unwrap();
        let read = documents.by_ref().map(Result::unwrap).count() as u64;
        let skipped: u64 = documents.skipped().values().sum();
        let content = all.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&all);
        let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
        prop_assert_eq!(read + skipped, lines.count() as u64);
        prop_assert!(read >= good.len() as u64);
    }
}
