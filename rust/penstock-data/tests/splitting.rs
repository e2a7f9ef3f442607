//! Tokens that join punctuation and line breaks, split at random while packing.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use penstock_data::{Dataset, Error, PackOptions};
use support::{
    JOIN, JOIN_ID, corpus, documents_of, files, joining_tokenizer, options, pack_quietly, pack_splitting,
    paths,
};

fn documents(out: &Path) -> BTreeMap<u64, Vec<u32>> {
    documents_of(&Dataset::open(out).unwrap())
}

fn joins(documents: &BTreeMap<u64, Vec<u32>>) -> f64 {
    documents.values().flatten().filter(|&&token| token == JOIN_ID).count() as f64
}

#[test]
fn a_share_is_split_and_every_document_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 300);
    let texts: Vec<&String> = corpus.iter().flat_map(|(_, texts)| texts).collect();
    let all = texts.iter().map(|text| text.matches(JOIN).count()).sum::<usize>() as f64;
    assert!(all > 500.0, "{all}");
    let mut seen = Vec::new();
    for (share, seed) in [(0.0, 0), (0.3, 0), (0.3, 1), (1.0, 0)] {
        let out = folder.path().join(format!("{share}-{seed}"));
        let options = |threads| PackOptions { threads, seed, ..options() };
        pack_splitting(&paths(&corpus), &out, share, options(1)).unwrap();
        for threads in [2, 8] {
            let again = folder.path().join(format!("{share}-{seed}-{threads}"));
            pack_splitting(&paths(&corpus), &again, share, options(threads)).unwrap();
            assert!(files(&again) == files(&out), "{threads} threads");
        }
        let documents = documents(&out);
        for (tokens, text) in documents.values().zip(&texts) {
            let decoded = joining_tokenizer().decode_bytes(&tokens[..tokens.len() - 1]).unwrap();
            assert_eq!(decoded, text.as_bytes());
        }
        let deviation = (all * share * (1.0 - share)).sqrt();
        assert!((joins(&documents) - all * (1.0 - share)).abs() <= 4.5 * deviation, "{share} {seed}");
        assert!(!seen.contains(&documents), "another seed or share, another choice");
        seen.push(documents);
    }
}

#[test]
fn the_share_is_part_of_the_plan_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let (plain, split) = (folder.path().join("plain"), folder.path().join("split"));
    pack_splitting(&paths(&corpus), &plain, 0.0, options()).unwrap();
    pack_splitting(&paths(&corpus), &split, 0.25, options()).unwrap();
    let manifest = |out: &Path| fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(!manifest(&plain).contains("split"));
    assert!(manifest(&split).contains("\"boundary_split_ppm\": 250000"));
    for (out, share, recorded, given) in [
        (&split, 0.1, "250000", "100000"),
        (&split, 0.0, "250000", "nothing"),
        (&plain, 0.1, "nothing", "100000"),
    ] {
        let error = pack_splitting(&paths(&corpus), out, share, options()).unwrap_err();
        let is_named = matches!(&error, Error::OtherPlan { what, recorded: r, given: g, .. }
            if what == "parameters.boundary_split_ppm" && r == recorded && g == given);
        assert!(is_named, "{error}");
    }
}

#[test]
fn a_tokenizer_without_such_tokens_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 3);
    let boundary_split = penstock_bpe::Chance::new("boundary_split", 0.1).unwrap();
    let asked = PackOptions { boundary_split, ..options() };
    let error = pack_quietly(&paths(&corpus), &folder.path().join("out"), &asked).unwrap_err();
    assert!(matches!(error, Error::Bpe(penstock_bpe::Error::NoJoins)), "{error}");
}
