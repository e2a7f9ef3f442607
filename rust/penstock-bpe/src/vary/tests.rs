//! Variation: how often, where, and that nothing but ids changes.

use std::collections::HashSet;

use super::*;
use crate::pattern::Pattern;
use crate::tokenizer::SpecialToken;
use crate::train::{TrainOptions, WordCounts, train};
use crate::{Error, Progress};

const TEXT: &str =
    "First line.\nif (a[0] == b) {\n    return f(a, b);\n}\n\nIs it? It is:\r\n\r\n\"yes.\"\n最后一行。\n";

/// Has tokens that join punctuation and line breaks, some of whose halves are no single token.
fn tokenizer() -> Tokenizer {
    let mut counts = WordCounts::new(Pattern::DeepseekV3);
    counts.add_text(&TEXT.repeat(50));
    let options = TrainOptions { vocab_size: 400, pattern: Pattern::DeepseekV3, ..TrainOptions::default() };
    train(counts, &options, &Progress::new()).unwrap()
}

fn chance(value: f64) -> Chance {
    Chance::new("chance", value).unwrap()
}

fn encode(tokenizer: &Tokenizer, texts: &[&str], variation: &Variation, threads: usize) -> Vec<Vec<u32>> {
    let (ids, offsets) = tokenizer.encode_varied(texts, &Allowed::None, variation, threads).unwrap();
    offsets.windows(2).map(|range| ids[range[0] as usize..range[1] as usize].to_vec()).collect()
}

fn is_join(tokenizer: &Tokenizer, id: u32) -> bool {
    let token = String::from_utf8_lossy(tokenizer.id_to_bytes(id).unwrap()).into_owned();
    let head = token.trim_end_matches(['\r', '\n']);
    head.len() < token.len() && !head.is_empty() && !head.ends_with(char::is_whitespace)
}

#[test]
fn without_chance_nothing_varies() {
    let tokenizer = tokenizer();
    let texts = [TEXT, "", "a.\n"];
    let plain: Vec<_> = texts.iter().map(|text| tokenizer.encode_ordinary(text)).collect();
    assert_eq!(encode(&tokenizer, &texts, &Variation { seed: 9, ..Variation::default() }, 1), plain);
}

#[test]
fn with_certainty_every_join_is_split_into_what_its_halves_are() {
    let tokenizer = tokenizer();
    let variation = Variation { boundary_split: chance(1.0), ..Variation::default() };
    let plain = tokenizer.encode_ordinary(TEXT);
    let joins = plain.iter().filter(|&&id| is_join(&tokenizer, id)).count();
    assert!(joins >= 6, "{joins}");
    let mut expected = Vec::new();
    for id in plain {
        let token = std::str::from_utf8(tokenizer.id_to_bytes(id).unwrap());
        match token {
            Ok(token) if is_join(&tokenizer, id) => {
                let (head, tail) = token.split_at(token.trim_end_matches(['\r', '\n']).len());
                expected.extend(tokenizer.encode_ordinary(head));
                expected.extend(tokenizer.encode_ordinary(tail));
            }
            _ => expected.push(id),
        }
    }
    let split = &encode(&tokenizer, &[TEXT], &variation, 1)[0];
    assert_eq!(split, &expected);
    assert!(!split.iter().any(|&id| is_join(&tokenizer, id)));
    assert_eq!(tokenizer.decode_bytes(split).unwrap(), TEXT.as_bytes());
}

#[test]
fn a_share_of_the_joins_is_split_and_all_texts_come_back() {
    let tokenizer = tokenizer();
    let texts: Vec<String> = (0..400).map(|number| format!("{number} {TEXT}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let joins =
        |texts: &[Vec<u32>]| texts.iter().flatten().filter(|&&id| is_join(&tokenizer, id)).count() as f64;
    let all = joins(&encode(&tokenizer, &texts, &Variation::default(), 1));
    let mut seen = HashSet::new();
    for (share, seed) in [(0.1, 1), (0.1, 2), (0.5, 1), (0.9, 1)] {
        let variation = Variation { boundary_split: chance(share), seed, ..Variation::default() };
        let varied = encode(&tokenizer, &texts, &variation, 1);
        for threads in [2, 3, 8] {
            assert_eq!(encode(&tokenizer, &texts, &variation, threads), varied);
        }
        for (text, ids) in texts.iter().zip(&varied) {
            assert_eq!(tokenizer.decode_bytes(ids).unwrap(), text.as_bytes());
        }
        let deviation = (all * share * (1.0 - share)).sqrt();
        assert!((all - joins(&varied) - all * share).abs() < 4.5 * deviation, "{share} {seed}");
        assert!(seen.insert(varied), "another seed or share, another choice");
    }
}

#[test]
fn added_tokens_are_never_split() {
    let tokens = (0..=255u8).map(|byte| vec![byte]).chain([b".\n".to_vec()]).collect();
    let merges = vec![(u32::from(b'.'), u32::from(b'\n'))];
    let added = SpecialToken { special: false, ..SpecialToken::new(";\n", 257) };
    let tokenizer = Tokenizer::new(Pattern::Cl100k, tokens, merges, vec![added]).unwrap();
    let variation = Variation { boundary_split: chance(1.0), ..Variation::default() };
    assert_eq!(encode(&tokenizer, &[".\n;\n"], &variation, 1), [[46, 10, 257]]);
}

#[test]
fn a_vocabulary_without_joins_says_so() {
    let tokens = (0..=255u8).map(|byte| vec![byte]).collect();
    let tokenizer = Tokenizer::new(Pattern::Gpt2, tokens, vec![], vec![]).unwrap();
    let found = BoundarySplit::new(&tokenizer, chance(0.1), 0);
    assert!(matches!(found, Err(Error::NoJoins)));
    assert!(BoundarySplit::new(&tokenizer, Chance::default(), 0).is_ok());
}

#[test]
fn dropping_every_merge_gives_bytes() {
    let tokenizer = tokenizer();
    let variation = Variation { dropout: chance(1.0), ..Variation::default() };
    let bytes: Vec<u32> = TEXT.bytes().map(|byte| tokenizer.token_to_id(&[byte]).unwrap()).collect();
    assert_eq!(encode(&tokenizer, &[TEXT], &variation, 1), [bytes]);
}

#[test]
fn dropping_next_to_nothing_gives_the_plain_ids() {
    let tokenizer = tokenizer();
    let variation = Variation { dropout: chance(1e-6), ..Variation::default() };
    let long = "abcab.\n".repeat(20);
    for text in [TEXT, &long, "  \n é日本 123456"] {
        assert_eq!(encode(&tokenizer, &[text], &variation, 1), [tokenizer.encode_ordinary(text)], "{text}");
    }
}

#[test]
fn dropout_depends_on_seed_and_text_alone() {
    let tokenizer = tokenizer();
    let texts: Vec<String> = (0..50).map(|number| format!("{number} {TEXT}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let plain = tokenizer.encode_ordinary(texts[0]).len();
    let variation = |seed| Variation { dropout: chance(0.1), boundary_split: chance(0.2), seed };
    let varied = encode(&tokenizer, &texts, &variation(0), 1);
    for threads in [2, 3, 8, 100] {
        assert_eq!(encode(&tokenizer, &texts, &variation(0), threads), varied);
    }
    assert_eq!(encode(&tokenizer, &texts[7..8], &variation(0), 1)[0], varied[7]);
    assert_ne!(encode(&tokenizer, &texts, &variation(1), 1), varied);
    assert!(varied[0].len() > plain);
    for (text, ids) in texts.iter().zip(&varied) {
        assert_eq!(tokenizer.decode_bytes(ids).unwrap(), text.as_bytes());
    }
}
