//! What rots, is cut, exchanged or forged is refused; wrong data is never handed out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use penstock_bpe::progress::Progress;
use penstock_data::{BodyCompression, Dataset, DocumentRecord, Error, PackOptions, ReadMode};
use support::{corpus, files, options, pack_quietly, paths, random};
use xxhash_rust::xxh3::xxh3_64;

fn packed(folder: &Path, compression: BodyCompression) {
    let corpus = corpus(folder, 30);
    let options = PackOptions { compression, shard_bytes: 20_000, ..options() };
    pack_quietly(&paths(&corpus), &folder.join("out"), &options).unwrap();
}

type Content = (Vec<(Vec<u32>, Vec<u32>, Vec<u64>)>, Vec<DocumentRecord>);

/// All rows and the records of all their documents.
fn content(out: &Path, mode: ReadMode) -> Result<Content, Error> {
    let dataset = Dataset::open_with(out, mode)?;
    let mut rows = Vec::new();
    let mut records = Vec::new();
    for number in 0..dataset.rows() {
        let row = dataset.row(number)?;
        records.extend(dataset.documents(row.doc_ids())?);
        rows.push((row.tokens().to_vec(), row.doc_ends().to_vec(), row.doc_ids().to_vec()));
    }
    Ok((rows, records))
}

fn is_typed(error: &Error) -> bool {
    matches!(error, Error::Corruption { .. } | Error::UnknownVersion { .. })
}

/// One byte of all files of the dataset, each as likely as the others.
fn pick(files: &BTreeMap<String, Vec<u8>>, state: &mut u64) -> (String, usize) {
    let total: usize = files.values().map(Vec::len).sum();
    let mut at = (random(state) % total as u64) as usize;
    for (name, bytes) in files {
        if at < bytes.len() {
            return (name.clone(), at);
        }
        at -= bytes.len();
    }
    unreachable!()
}

/// Restores a file when dropped.
struct Damage<'d>(&'d Path, &'d [u8]);

impl Drop for Damage<'_> {
    fn drop(&mut self) {
        fs::write(self.0, self.1).unwrap();
    }
}

#[test]
fn no_flipped_bit_is_silent() {
    for (compression, mode, flips) in [
        (BodyCompression::None, ReadMode::Mmap, 400),
        (BodyCompression::None, ReadMode::Read, 100),
        (BodyCompression::Lz4, ReadMode::Mmap, 150),
        (BodyCompression::Zstd, ReadMode::Read, 150),
    ] {
        let folder = tempfile::tempdir().unwrap();
        packed(folder.path(), compression);
        let out = folder.path().join("out");
        let good = content(&out, mode).unwrap();
        let files = files(&out);
        let mut state = 1;
        for _ in 0..flips {
            let (name, at) = pick(&files, &mut state);
            let bit = random(&mut state) % 8;
            flip(&out, &name, &files[&name], at, bit, &good, mode);
        }
        // The small files, where a flip is otherwise rare.
        for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".json")) {
            for _ in 0..20 {
                let at = (random(&mut state) % bytes.len() as u64) as usize;
                flip(&out, name, bytes, at, random(&mut state) % 8, &good, mode);
            }
        }
    }
}

fn flip(out: &Path, name: &str, bytes: &[u8], at: usize, bit: u64, good: &Content, mode: ReadMode) {
    let path = out.join(name);
    let _restored = Damage(&path, bytes);
    let mut bad = bytes.to_vec();
    bad[at] ^= 1 << bit;
    fs::write(&path, bad).unwrap();
    match content(out, mode) {
        Err(error) => assert!(is_typed(&error), "{name}, byte {at}: {error}"),
        // The padding between buffers holds no data.
        Ok(read) => assert!(read == *good, "{name}, byte {at}, bit {bit}: wrong data"),
    }
    let verified = Dataset::open_with(out, mode).and_then(|dataset| dataset.verify(&Progress::new()));
    let error = verified.expect_err(&format!("{name}, byte {at}, bit {bit}: verified"));
    assert!(is_typed(&error), "{name}, byte {at}: {error}");
    assert!(error.to_string().contains(name), "the error should name {name}: {error}");
}

#[test]
fn no_truncation_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let files = files(&out);
    let mut state = 2;
    for _ in 0..200 {
        let (name, at) = pick(&files, &mut state);
        let path = out.join(&name);
        let _restored = Damage(&path, &files[&name]);
        fs::write(&path, &files[&name][..at]).unwrap();
        let verified = Dataset::open(&out).and_then(|dataset| dataset.verify(&Progress::new()));
        assert!(is_typed(&verified.unwrap_err()), "{name} cut at {at}");
        if name != "plan.json" {
            assert!(is_typed(&content(&out, ReadMode::Mmap).unwrap_err()), "{name} cut at {at}");
        }
    }
}

#[test]
fn exchanged_and_missing_files_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let files = files(&out);
    let names: Vec<&String> = files.keys().collect();
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            let (path_a, path_b) = (out.join(a), out.join(b));
            let (bytes_a, bytes_b) = (&files[*a], &files[*b]);
            let _restored = (Damage(&path_a, bytes_a), Damage(&path_b, bytes_b));
            fs::write(&path_a, bytes_b).unwrap();
            fs::write(&path_b, bytes_a).unwrap();
            let verified = Dataset::open(&out).and_then(|dataset| dataset.verify(&Progress::new()));
            assert!(verified.is_err(), "{a} and {b} exchanged");
        }
        let path = out.join(a);
        let _restored = Damage(&path, &files[*a]);
        fs::remove_file(&path).unwrap();
        let verified = Dataset::open(&out).and_then(|dataset| dataset.verify(&Progress::new()));
        assert!(matches!(verified, Err(Error::Io { .. } | Error::NoManifest { .. })), "{a} missing");
    }
}

#[test]
fn exchanged_rows_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let path = out.join("shards/00000-00000.arrow");
    let good = fs::read(&path).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let at = |row: u64| {
        let tokens: Vec<u8> =
            dataset.row(row).unwrap().tokens().iter().flat_map(|token| token.to_le_bytes()).collect();
        good.windows(tokens.len()).position(|window| window == tokens).unwrap()
    };
    let (first, second, bytes) = (at(0), at(1), 4 * (dataset.seq_len() + dataset.lookahead()));
    let mut bad = good.clone();
    bad[first..first + bytes].copy_from_slice(&good[second..second + bytes]);
    bad[second..second + bytes].copy_from_slice(&good[first..first + bytes]);
    fs::write(&path, bad).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let error = dataset.row(0).unwrap_err();
    assert!(error.to_string().contains("shards/00000-00000.arrow, batch 0, row 0 of the shard"), "{error}");
    assert!(dataset.row(1).is_err());
    assert!(dataset.row(2).is_ok(), "a row pays for itself alone");
}

/// Seals forged JSON as the format says, so that only its content can be refused.
fn forge(path: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("xxh3");
    change(&mut value);
    let plain = serde_json::to_string_pretty(&value).unwrap();
    let covered = format!("{},\n  \"xxh3\": \"", plain.strip_suffix("\n}").unwrap());
    let bytes = format!("{covered}{:016x}\"\n}}\n", xxh3_64(covered.as_bytes())).into_bytes();
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Changes the first fragment and names it in the manifest.
fn forge_fragment(out: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let bytes = forge(&out.join("fragments/00000.json"), change);
    let hash = format!("{:016x}", xxh3_64(&bytes));
    forge(&out.join("manifest.json"), |manifest| manifest["fragments"][0]["xxh3"] = hash.into());
}

/// Flips a bit of what the decoders parse, a batch's metadata or the footer, and the documents table, and puts the hashes right.
fn forge_parsed_bytes(out: &Path, trial: u64) {
    let mut state = trial;
    let (shard_path, table_path) = (out.join("shards/00000-00000.arrow"), out.join("documents/00000.arrow"));
    let (mut shard, mut table) = (fs::read(&shard_path).unwrap(), fs::read(&table_path).unwrap());
    let mut flip = |bytes: &mut [u8]| {
        let at = usize::try_from(random(&mut state) % bytes.len() as u64).unwrap();
        bytes[at] ^= 1 << (random(&mut state) % 8);
    };
    flip(&mut table);
    fs::write(&table_path, &table).unwrap();
    forge_fragment(out, |fragment| {
        fragment["documents_table"]["xxh3"] = format!("{:016x}", xxh3_64(&table)).into();
        let entry = &mut fragment["shards"][0];
        let (mut frame, mut from) = (Vec::new(), 0);
        for batch in entry["batches"].as_array().unwrap() {
            let number = |index: usize| usize::try_from(batch[index].as_u64().unwrap()).unwrap();
            let metadata_end = number(0) + number(1);
            if from == 0 && trial.is_multiple_of(2) {
                flip(&mut shard[number(0)..metadata_end]);
            }
            frame.extend_from_slice(&shard[if from == 0 { 0 } else { number(0) }..metadata_end]);
            from = metadata_end + number(2);
        }
        if !trial.is_multiple_of(2) {
            flip(&mut shard[from..]);
        }
        frame.extend_from_slice(&shard[from..]);
        entry["frame_xxh3"] = format!("{:016x}", xxh3_64(&frame)).into();
    });
    fs::write(&shard_path, &shard).unwrap();
}

#[test]
fn forged_metadata_gives_errors_or_checked_rows_but_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let files = files(&out);
    for trial in 0..400 {
        forge_parsed_bytes(&out, trial);
        let dataset = Dataset::open_with(&out, ReadMode::Read).unwrap();
        for found in [dataset.row(0).map(drop), dataset.documents(&[0]).map(drop)] {
            assert!(found.as_ref().err().is_none_or(is_typed), "trial {trial}: {found:?}");
        }
        files.iter().for_each(|(name, bytes)| fs::write(out.join(name), bytes).unwrap());
    }
}

#[test]
fn hostile_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let files = files(&out);
    let restore = || files.iter().for_each(|(name, bytes)| fs::write(out.join(name), bytes).unwrap());
    let outside = folder.path().join("outside.arrow");
    fs::copy(out.join("shards/00000-00000.arrow"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, out.join("shards/link.arrow")).unwrap();
    let absolute = outside.to_str().unwrap();
    for name in [
        "../../outside.arrow",
        "..",
        ".",
        "",
        absolute,
        "/etc/passwd",
        "a/b",
        "a\\b",
        "./a",
        "link.arrow",
        "A.arrow",
        "a b",
        "a\u{0}b",
        "a\nb",
        "%2e%2e",
        "~root",
        "c:\\x",
        "é",
        "\u{202e}a",
        ".hidden",
        "a/../b",
    ] {
        for member in 0..3 {
            match member {
                0 => forge_fragment(&out, |fragment| fragment["shards"][0]["file"] = name.into()),
                1 => forge_fragment(&out, |fragment| fragment["documents_table"]["file"] = name.into()),
                _ => drop(forge(&out.join("manifest.json"), |manifest| {
                    manifest["fragments"][0]["file"] = name.into();
                })),
            }
            let dataset = Dataset::open(&out).unwrap();
            let error = dataset.row(0).and_then(|_| dataset.documents(&[0])).expect_err(name);
            let linkless = member != 0 && name == "link.arrow";
            assert!(linkless || matches!(error, Error::UnsafeName { .. }), "{name:?}: {error}");
            restore();
        }
    }
    // A folder that leads out.
    fs::rename(out.join("shards"), folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), out.join("shards")).unwrap();
    assert!(matches!(Dataset::open(&out).unwrap().row(0), Err(Error::UnsafeName { .. })));
}

#[test]
fn forged_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), BodyCompression::None);
    let out = folder.path().join("out");
    let files = files(&out);
    let restore = || files.iter().for_each(|(name, bytes)| fs::write(out.join(name), bytes).unwrap());
    let huge = u64::MAX;
    let fragments: [fn(&mut serde_json::Value); 10] = [
        |fragment| fragment["shards"][0]["rows"] = u64::MAX.into(),
        |fragment| fragment["shards"][0]["size"] = u64::MAX.into(),
        |fragment| fragment["shards"][0]["batches"][0][0] = u64::MAX.into(),
        |fragment| fragment["shards"][0]["batches"][0][1] = 0.into(),
        |fragment| fragment["shards"][0]["batches"][0][2] = u64::MAX.into(),
        |fragment| fragment["shards"][0]["batches"][0][3] = 0.into(),
        |fragment| fragment["shards"][0]["batches"] = serde_json::json!([]),
        |fragment| fragment["counts"]["rows"] = 0.into(),
        |fragment| fragment["task"] = 1.into(),
        |fragment| fragment["shards"] = "x".into(),
    ];
    for (i, change) in fragments.into_iter().enumerate() {
        forge_fragment(&out, change);
        let error = Dataset::open(&out).unwrap().row(0).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{i}: {error}");
        restore();
    }
    for (i, change) in [
        Box::new(|manifest: &mut serde_json::Value| manifest["counts"]["rows"] = huge.into())
            as Box<dyn Fn(&mut serde_json::Value)>,
        Box::new(|manifest| manifest["fragments"][0]["rows"] = huge.into()),
        Box::new(|manifest| manifest["parameters"]["seq_len"] = 0.into()),
        Box::new(|manifest| manifest["parameters"]["seq_len"] = u32::MAX.into()),
        Box::new(|manifest| manifest["parameters"]["seq_len"] = (-1).into()),
        Box::new(|manifest| manifest["parameters"]["seq_len"] = 255.into()),
        Box::new(|manifest| manifest["fragments"] = serde_json::json!([])),
    ]
    .into_iter()
    .enumerate()
    {
        forge(&out.join("manifest.json"), |manifest| change(manifest));
        let error = Dataset::open(&out).and_then(|dataset| dataset.row(0)).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{i}: {error}");
        restore();
    }
    for fragment in ["fragments/00000.json", "fragments/00001.json"] {
        let bytes = forge(&out.join(fragment), |fragment| fragment["counts"]["text_bytes"] = huge.into());
        let number: usize = fragment[10..15].parse().unwrap();
        forge(&out.join("manifest.json"), |manifest| {
            manifest["fragments"][number]["xxh3"] = format!("{:016x}", xxh3_64(&bytes)).into();
        });
    }
    let error = Dataset::open(&out).unwrap().verify(&Progress::new()).unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }), "sums beyond 64 bits: {error}");
    restore();
    forge(&out.join("manifest.json"), |manifest| manifest["format_version"] = 2.into());
    let error = Dataset::open(&out).unwrap_err();
    assert!(
        matches!(error, Error::UnknownVersion { .. }) && error.to_string().contains("reads version 1"),
        "{error}"
    );
    restore();
    forge(&out.join("manifest.json"), |manifest| manifest["a_later_member"] = 2.into());
    assert!(Dataset::open(&out).is_ok(), "an unknown member is ignored");
}
