//! The seeds of rust/fuzz, replayed: what was once found stays fixed.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/lib.rs"]
#[allow(missing_docs, unreachable_pub)]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
    for seed in seeds {
        let data = fs::read(&seed).unwrap();
        run(&data);
        // Cut files are the commonest damage.
        for cut in 1..8 {
            run(&data[..data.len() * cut / 8]);
        }
    }
}

#[test]
fn tokenizer_json() {
    replay("tokenizer_json", targets::tokenizer_json);
}

#[test]
fn tiktoken() {
    replay("tiktoken", targets::tiktoken);
}

#[test]
fn sentencepiece() {
    replay("sentencepiece", targets::sentencepiece);
}

#[test]
fn pattern() {
    replay("pattern", targets::pattern);
}

#[test]
fn encode_decode() {
    replay("encode_decode", targets::encode_decode);
}

#[test]
fn dataset() {
    replay("dataset", targets::dataset);
}
