//! What is fuzzed: hostile tokenizer files, patterns, texts and datasets. Nothing may panic, and what is accepted must hold.
//!
//! `cargo +nightly fuzz run <target> seeds/<target>`, in this folder, looks for new inputs; an ordinary test of
//! penstock-data replays the seeds. An input that once failed belongs among them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use penstock_bpe::progress::Progress;
use penstock_bpe::train::{TrainOptions, WordCounts, train};
use penstock_bpe::{Allowed, Chance, Pattern, Tokenizer, Unit, Variation};
use penstock_data::{Dataset, PackOptions, pack};
use xxhash_rust::xxh3::xxh3_64;

/// Words, marks, scripts, line breaks, a special token, halves of nothing.
const TEXT: &str = "It's 12345 naïve tests.\r\n\r\n\tif (a != b) { return; }\n最后一行。 한국어 <|endoftext|>  🙂 \u{301}\u{0}  \n";

/// A `tokenizer.json`.
pub fn tokenizer_json(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_json(data, Path::new("fuzzed")) {
        check_tokenizer(&tokenizer);
        let written = tokenizer.to_json().unwrap_or_default();
        let again = Tokenizer::from_json(written.as_bytes(), Path::new("written"));
        assert_eq!(again.map(|again| again.sha256().to_owned()).ok().as_deref(), Some(tokenizer.sha256()));
    }
}

/// A rank file.
pub fn tiktoken(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_tiktoken(data, Pattern::Cl100k, Path::new("fuzzed")) {
        check_tokenizer(&tokenizer);
    }
}

/// A SentencePiece model.
pub fn sentencepiece(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_sentencepiece(data, Path::new("fuzzed")) {
        check_tokenizer(&tokenizer);
        assert!(
            tokenizer
                .decode_bytes(&tokenizer.encode_ordinary(TEXT))
                .is_ok_and(|b| b.ends_with(TEXT.as_bytes()))
        );
    }
}

fn check_tokenizer(tokenizer: &Tokenizer) {
    for allowed in [Allowed::None, Allowed::All] {
        for id in tokenizer.encode(TEXT, &allowed) {
            assert!((id as usize) < tokenizer.vocab_size());
            assert!(tokenizer.id_to_bytes(id).is_some());
        }
    }
    let _ = tokenizer.encode_with_offsets(TEXT, &Allowed::All, Unit::Characters);
}

/// An expression and, behind a zero, a text.
pub fn pattern(data: &[u8]) {
    let Ok(both) = std::str::from_utf8(data) else { return };
    let (expression, text) = both.split_once('\0').unwrap_or((both, TEXT));
    let Ok(pattern) = Pattern::custom(expression) else { return };
    for text in [text, TEXT] {
        let mut joined = String::new();
        pattern.for_each_piece(text, |piece| joined.push_str(piece));
        assert_eq!(joined, text);
    }
}

/// A text, encoded in every way by tokenizers of every known pattern.
pub fn encode_decode(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let chance = |value| Chance::new("chance", value).unwrap_or_default();
    for tokenizer in tokenizers() {
        let ids = tokenizer.encode_ordinary(&text);
        let decoded = |ids: &[u32]| tokenizer.decode_bytes(ids).unwrap_or_default();
        assert_eq!(decoded(&ids), text.as_bytes());
        assert_eq!(tokenizer.encode_batch(&[&text, &text], &Allowed::None, 2).0, [&ids[..], &ids].concat());
        let places = tokenizer.encode_with_offsets(&text, &Allowed::None, Unit::Bytes);
        let (found, places) = places.unwrap_or_default();
        assert_eq!(found, ids);
        let mut at = 0;
        for ([start, end], id) in places.into_iter().zip(ids) {
            assert_eq!(start, at);
            assert_eq!(Some((end - start) as usize), tokenizer.id_to_bytes(id).map(<[u8]>::len));
            at = end;
        }
        assert_eq!(at, text.len() as i64);
        let variation = Variation { boundary_split: chance(0.5), dropout: chance(0.3), seed: 7 };
        if let Ok((ids, _)) = tokenizer.encode_varied(&[&text], &Allowed::None, &variation, 1) {
            assert_eq!(decoded(&ids), text.as_bytes());
        }
    }
}

/// One of each known pattern, trained on a little text.
fn tokenizers() -> &'static [Tokenizer] {
    static TOKENIZERS: OnceLock<Vec<Tokenizer>> = OnceLock::new();
    TOKENIZERS.get_or_init(|| {
        let of = |name: &&str| {
            let pattern = Pattern::from_name(name).ok()?;
            let mut counts = WordCounts::new(pattern.clone());
            counts.add_text(&TEXT.repeat(20));
            let options = TrainOptions { vocab_size: 330, pattern, ..TrainOptions::default() };
            train(counts, &options, &Progress::new()).ok()
        };
        Pattern::NAMES.iter().filter_map(of).collect()
    })
}

/// A packed dataset of which one file is exchanged or changed: the first byte says which and how, the rest what.
pub fn dataset(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let Some((pristine, rows)) = packed() else { return };
    let Ok(folder) = tempfile::tempdir() else { return };
    for (name, bytes) in pristine {
        let path = folder.path().join(name);
        let written = path.parent().map(fs::create_dir_all).and_then(|_| fs::write(&path, bytes).ok());
        if written.is_none() {
            return;
        }
    }
    let names: Vec<&String> = pristine.keys().collect();
    let name = names[usize::from(choice >> 2) % names.len()];
    let mut bytes = pristine[name].clone();
    match choice & 3 {
        0 => bytes = rest.to_vec(),
        1 => bytes = sealed(rest),
        2 => patch(&mut bytes, rest),
        _ => {
            patch(&mut bytes, rest);
            bytes = sealed(&bytes);
        }
    }
    let is_changed = bytes != pristine[name];
    if fs::write(folder.path().join(name), bytes).is_err() {
        return;
    }
    let Ok(dataset) = Dataset::open(folder.path()) else { return };
    let _ = dataset.verify(&Progress::new());
    for number in 0..dataset.rows().min(64) {
        let Ok(row) = dataset.row(number) else { continue };
        let _ = dataset.documents(row.doc_ids());
        // A sealed lie may be believed, as anyone can seal; all else must show.
        if !is_changed || choice & 1 == 0 {
            assert_eq!(rows.get(number as usize).map(Vec::as_slice), Some(row.tokens()));
        }
    }
}

/// Overwrites bytes: two of the place, one of the value, and so on.
fn patch(bytes: &mut [u8], patches: &[u8]) {
    for change in patches.as_chunks::<3>().0 {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = bytes.get_mut(place) {
            *byte = change[2];
        }
    }
}

/// JSON text with the seal of docs/format.md section 1 in place of its own, or unchanged where it has no place for one.
fn sealed(json: &[u8]) -> Vec<u8> {
    const MEMBER: &[u8] = b"\"xxh3\": \"";
    let Some(at) = json.windows(MEMBER.len()).rposition(|window| window == MEMBER) else {
        return json.to_vec();
    };
    let before = &json[..at + MEMBER.len()];
    [before, format!("{:016x}\"\n}}\n", xxh3_64(before)).as_bytes()].concat()
}

type Files = BTreeMap<String, Vec<u8>>;

/// The files of a small dataset, and the tokens of its rows.
fn packed() -> Option<&'static (Files, Vec<Vec<u32>>)> {
    static PACKED: OnceLock<Option<(Files, Vec<Vec<u32>>)>> = OnceLock::new();
    let pack_one = || -> Option<(Files, Vec<Vec<u32>>)> {
        let folder = tempfile::tempdir().ok()?;
        let (input, out) = (folder.path().join("texts.txt"), folder.path().join("out"));
        fs::write(&input, TEXT).ok()?;
        let options = PackOptions { seq_len: 16, rows_per_batch: 2, ..PackOptions::default() };
        pack(&[input], &tokenizers()[0], &out, &options, &Progress::new()).ok()?;
        let dataset = Dataset::open(&out).ok()?;
        let tokens = |number| dataset.row(number).map(|row| row.tokens().to_vec()).ok();
        let rows = (0..dataset.rows()).map(tokens).collect::<Option<_>>()?;
        let mut files = Files::new();
        for name in ["", "shards", "documents", "fragments"] {
            for entry in fs::read_dir(out.join(name)).ok()?.flatten().filter(|e| e.path().is_file()) {
                let file = Path::new(name).join(entry.file_name());
                files.insert(file.to_str()?.to_owned(), fs::read(entry.path()).ok()?);
            }
        }
        Some((files, rows))
    };
    PACKED.get_or_init(pack_one).as_ref()
}
