//! A byte tokenizer, a corpus from a seed, and the documents of a dataset read back.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use penstock_bpe::progress::Progress;
use penstock_bpe::{Chance, Pattern, SpecialToken, Tokenizer};
use penstock_data::{Dataset, Error, PackOptions, PackReport, pack};

pub const EOT: u32 = 256;

/// One token a byte, and an end of text.
pub fn byte_tokenizer() -> Tokenizer {
    let tokens = (0..=255u8).map(|byte| vec![byte]).collect();
    let eot = SpecialToken::new("<|endoftext|>", EOT);
    Tokenizer::new(Pattern::from_name("gpt2").unwrap(), tokens, Vec::new(), vec![eot]).unwrap()
}

/// The token of `JOIN`.
pub const JOIN_ID: u32 = 258;
pub const JOIN: &str = "。\n";

/// Bytes, the way to `JOIN`, and an end of text.
pub fn joining_tokenizer() -> Tokenizer {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
    tokens.extend((2..=4).map(|end| JOIN.as_bytes()[..end].to_vec()));
    let merges = vec![(0xE3, 0x80), (256, 0x82), (257, 0x0A)];
    let eot = SpecialToken::new("<|endoftext|>", 259);
    Tokenizer::new(Pattern::Cl100k, tokens, merges, vec![eot]).unwrap()
}

/// Packs with [`joining_tokenizer`] and splits some of what it joins.
pub fn pack_splitting(
    paths: &[PathBuf],
    out: &Path,
    share: f64,
    options: PackOptions,
) -> Result<PackReport, Error> {
    let boundary_split = Chance::new("boundary_split", share).unwrap();
    pack(paths, &joining_tokenizer(), out, &PackOptions { boundary_split, ..options }, &Progress::new())
}

pub fn byte_tokenizer_without_eot() -> Tokenizer {
    let tokens = (0..=255u8).map(|byte| vec![byte]).collect();
    Tokenizer::new(Pattern::from_name("gpt2").unwrap(), tokens, Vec::new(), Vec::new()).unwrap()
}

pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Texts of 1 to about 6000 bytes, most of them short, some with the spelling of a special token in them.
pub fn texts(count: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    (0..count)
        .map(|i| {
            let magnitude = random(&mut state) % 13;
            let length = 1 + random(&mut state) % (1 << magnitude);
            let mut text = format!("{i} ");
            while (text.len() as u64) < length {
                match random(&mut state) % 50 {
                    0 => text.push_str("<|endoftext|>"),
                    1 => text.push_str("日本語。\n"),
                    n => write!(text, "w{n} ").unwrap(),
                }
            }
            text
        })
        .collect()
}

pub fn write_jsonl(path: &Path, texts: &[String]) {
    let mut lines = String::new();
    for (i, text) in texts.iter().enumerate() {
        let source = ["web", "code", "books"][i % 3];
        let line = serde_json::json!({"id": format!("doc-{i}"), "source": source, "text": text});
        writeln!(lines, "{line}").unwrap();
    }
    fs::write(path, lines).unwrap();
}

/// Three files with texts, as (path, texts).
pub fn corpus(folder: &Path, documents_each: usize) -> Vec<(PathBuf, Vec<String>)> {
    (0..3)
        .map(|i| {
            let path = folder.join(format!("part-{i}.jsonl"));
            let texts = texts(documents_each, 100 + i);
            write_jsonl(&path, &texts);
            (path, texts)
        })
        .collect()
}

pub fn paths(corpus: &[(PathBuf, Vec<String>)]) -> Vec<PathBuf> {
    corpus.iter().map(|(path, _)| path.clone()).collect()
}

/// Short rows, small batches and shards, so that a small corpus has many.
pub fn options() -> PackOptions {
    PackOptions {
        seq_len: 256,
        rows_per_batch: 16,
        shard_bytes: 100_000,
        open_bins: 32,
        threads: 2,
        ..PackOptions::default()
    }
}

pub fn pack_quietly(paths: &[PathBuf], out: &Path, options: &PackOptions) -> Result<PackReport, Error> {
    pack(paths, &byte_tokenizer(), out, options, &Progress::new())
}

/// Every file of a folder with its bytes; names are relative.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// The tokens of every document, put together again by the rule of docs/format.md section 2.
pub fn documents_of(dataset: &Dataset) -> BTreeMap<u64, Vec<u32>> {
    let mut documents: BTreeMap<u64, (usize, Vec<u32>)> = BTreeMap::new();
    for number in 0..dataset.rows() {
        let row = dataset.row(number).unwrap();
        let mut start = 0;
        for (end, doc_id) in row.doc_ends().iter().zip(row.doc_ids()) {
            let piece = &row.tokens()[start..*end as usize];
            let (next, tokens) = documents.entry(*doc_id).or_default();
            tokens.truncate(*next);
            tokens.extend(piece);
            *next += dataset.seq_len().saturating_sub(start);
            start = *end as usize;
        }
    }
    documents.into_iter().map(|(doc_id, (_, tokens))| (doc_id, tokens)).collect()
}
