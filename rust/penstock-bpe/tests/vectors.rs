//! Ids against those of other programs: public vectors and reference results kept beside the repository. A clone
//! without that folder skips these tests, saying so.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is wrong"
)]

use std::path::{Path, PathBuf};

use penstock_bpe::{Allowed, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The vocabularies by the names that the vectors use: file and, for rank files, pattern.
const VOCABULARIES: [(&str, &str, Option<&str>); 7] = [
    ("gpt-2", "gpt-2.tokenizer.json", None),
    ("r50k_base", "gpt-2.tokenizer.json", None),
    ("deepseek-llm", "deepseek-llm.tokenizer.json", None),
    ("llama3", "llama3.tokenizer.json", None),
    ("llama3", "llama3.tiktoken", Some("llama3")),
    ("qwen2", "qwen2.tokenizer.json", None),
    ("cl100k_base", "cl100k_base.tiktoken", Some("cl100k")),
];

fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let root = std::env::var_os("PENSTOCK_SHARED").map_or(beside, PathBuf::from);
    let folder = root.join("eval/tokenizer");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no {}; set PENSTOCK_SHARED to the folder of shared test data", folder.display());
    None
}

fn rows(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| text.split('\n').filter(|line| !line.is_empty()).map(parse).collect::<Vec<_>>())
        .collect()
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array().map(|ids| ids.iter().map(|id| id.as_u64().unwrap() as u32).collect())
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(|byte| u32::from(digit(byte))).collect();
    let group = |group: &[u32]| {
        let bits = (0..4).fold(0, |bits, place| bits << 6 | group.get(place).copied().unwrap_or(0));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

#[test]
fn public_vectors_give_their_ids() {
    let Some(folder) = shared() else { return };
    let rows = rows(&folder.join("vectors"));
    let mut checked = 0;
    for (name, file, pattern) in VOCABULARIES {
        let tokenizer = Tokenizer::from_file(&folder.join("vocab").join(file), pattern).unwrap();
        for row in rows.iter().filter(|row| row["vocab"] == name) {
            let text = row["text"].as_str().unwrap();
            let wanted = ids(&row["ids"]).unwrap();
            let found = tokenizer.encode(text, &Allowed::None);
            assert_eq!(found, wanted, "{file} {} {text:?}", row["id"]);
            assert_eq!(tokenizer.decode_bytes(&found).unwrap(), normalised(name, text).as_bytes());
            checked += 1;
        }
    }
    println!("{checked} vectors");
    assert!(checked > 200, "{checked}");
}

/// What decoding gives back: qwen2 normalises.
fn normalised(vocabulary: &str, text: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    if vocabulary == "qwen2" { text.nfc().collect() } else { text.to_owned() }
}

/// Hex SHA-256 of the ids as little-endian 32-bit numbers.
fn digest(ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn reference_results_are_met() {
    let Some(folder) = shared() else { return };
    let rows = rows(&folder.join("gold"));
    let mut checked = 0;
    for (name, file, pattern) in VOCABULARIES {
        let tokenizer = Tokenizer::from_file(&folder.join("vocab").join(file), pattern).unwrap();
        for row in &rows {
            let (wanted, hashed) = (ids(&row["ids"][name]), &row["ids_hash"][name]);
            if wanted.is_none() && hashed.is_null() {
                continue;
            }
            let bytes = base64(row["b64"].as_str().unwrap());
            let text = std::str::from_utf8(&bytes).unwrap();
            let found = tokenizer.encode_ordinary(text);
            if let Some(wanted) = wanted {
                assert_eq!(found, wanted, "{file} {} {text:.80?}", row["id"]);
            } else {
                assert_eq!(found.len() as u64, hashed["n"].as_u64().unwrap(), "{file} {}", row["id"]);
                assert_eq!(digest(&found), hashed["sha256"].as_str().unwrap(), "{file} {}", row["id"]);
            }
            checked += 1;
        }
    }
    println!("{checked} results");
    assert!(checked > 10_000, "{checked}");
}
