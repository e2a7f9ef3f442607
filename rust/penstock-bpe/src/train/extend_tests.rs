//! Starting from a vocabulary, cutting one short, and counts that were saved.

use proptest::prelude::*;

use super::*;
use crate::error::CountsFileError;

const TEXT: &str =
    "the cat sat on the mat; the dog sat on the log. 12345 the cats, the dogs\nthe cat sat on the mat\n";

fn counts(texts: &[&str], pattern: &Pattern) -> WordCounts {
    let mut counts = WordCounts::new(pattern.clone());
    texts.iter().for_each(|text| counts.add_text(text));
    counts
}

fn options(vocab_size: usize, pattern: Pattern) -> TrainOptions {
    TrainOptions { vocab_size, pattern, ..TrainOptions::default() }
}

fn trained(counts: WordCounts, options: &TrainOptions) -> Tokenizer {
    train(counts, options, &Progress::new()).unwrap()
}

#[test]
fn extending_on_the_same_counts_equals_training_at_once() {
    let pattern = Pattern::DeepseekV3;
    let whole = trained(counts(&[TEXT], &pattern), &options(300, pattern.clone()));
    let first = trained(counts(&[TEXT], &pattern), &options(270, pattern.clone()));
    let extended = TrainOptions { base: Some(first.clone()), ..options(300, pattern.clone()) };
    assert_eq!(trained(counts(&[TEXT], &pattern), &extended).sha256(), whole.sha256());
    assert_eq!(whole.prefix(270).unwrap().sha256(), first.sha256());
    assert!(matches!(whole.prefix(256), Err(Error::BadPrefix { minimum: 257, .. })));
    assert!(matches!(whole.prefix(301), Err(Error::BadPrefix { .. })));
}

#[test]
fn extending_on_other_text_keeps_ids_and_adds_specials_behind() {
    let pattern = Pattern::Gpt2;
    let base = trained(counts(&[TEXT], &pattern), &options(280, pattern.clone()));
    let specials = vec!["<|endoftext|>".to_owned(), "<|new|>".to_owned()];
    let extended =
        TrainOptions { base: Some(base.clone()), special_tokens: specials, ..options(290, pattern.clone()) };
    let grown = trained(counts(&["zebra zebras zebra zebra"], &pattern), &extended);
    for id in 0..280 {
        assert_eq!(grown.id_to_bytes(id), base.id_to_bytes(id));
    }
    assert_eq!(grown.token_to_id(b"<|new|>"), Some(280));
    assert_eq!(grown.merges()[..base.merges().len()], *base.merges());
    assert_eq!(grown.encode_ordinary("zebra").len(), 1);
    let json = grown.to_json().unwrap();
    let read = Tokenizer::from_json(json.as_bytes(), std::path::Path::new("x.json")).unwrap();
    assert_eq!(read.sha256(), grown.sha256());
}

/// A tokenizer.json with a normaliser and with pieces that are looked up whole, as Qwen's and Llama 3's.
fn normalizing(base: &Tokenizer) -> Tokenizer {
    let mut file: serde_json::Value = serde_json::from_str(&base.to_json().unwrap()).unwrap();
    file["normalizer"] = serde_json::json!({"type": "NFC"});
    file["model"]["ignore_merges"] = true.into();
    let json = file.to_string();
    let read = Tokenizer::from_json(json.as_bytes(), std::path::Path::new("x.json")).unwrap();
    assert_ne!(read.sha256(), base.sha256());
    read
}

#[test]
fn what_normalises_and_looks_up_whole_pieces_is_extended() {
    let pattern = Pattern::Gpt2;
    let base = normalizing(&trained(counts(&[TEXT], &pattern), &options(280, pattern.clone())));
    let extended = TrainOptions { base: Some(base.clone()), ..options(290, pattern.clone()) };
    // The first two are one word in different forms.
    let text = "re\u{301}sume\u{301} r\u{e9}sum\u{e9} re\u{301}sume\u{301} r\u{e9}sum\u{e9} ";
    let count = |extended: &Tokenizer| {
        let mut counts = WordCounts::new(pattern.clone()).normalized_as(Some(extended));
        counts.add_text(&text.repeat(9));
        counts
    };
    let grown = trained(count(&base), &extended);
    assert_eq!(
        (0..280).map(|id| grown.id_to_bytes(id)).collect::<Vec<_>>(),
        (0..280).map(|id| base.id_to_bytes(id)).collect::<Vec<_>>()
    );
    let ids = grown.encode_ordinary(" re\u{301}sume\u{301}");
    assert_eq!((ids.len(), &ids), (1, &grown.encode_ordinary(" r\u{e9}sum\u{e9}")));
    assert_eq!(grown.prefix(280).unwrap().sha256(), base.sha256());
    let json = grown.to_json().unwrap();
    let read = Tokenizer::from_json(json.as_bytes(), std::path::Path::new("x.json")).unwrap();
    assert_eq!(read.sha256(), grown.sha256());

    let refused = train(counts(&[text], &pattern), &extended, &Progress::new());
    assert!(matches!(refused, Err(Error::PatternMismatch { wanted: "NFC", .. })), "{refused:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nfc.counts");
    count(&base).save(&path, &Progress::new()).unwrap();
    let error = WordCounts::open(&path, &pattern, &Progress::new()).unwrap_err();
    assert!(error.to_string().contains("`gpt2 of NFC text`, not with `gpt2`"), "{error}");
    let mut sum = count(&base);
    sum.merge_saved(&path, &Progress::new()).unwrap();
    assert_eq!(sum.total(), 2 * count(&base).total());
}

#[test]
fn a_rank_file_is_not_extended() {
    let pattern = Pattern::Gpt2;
    let base = trained(counts(&[TEXT], &pattern), &options(280, pattern.clone()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tiktoken");
    base.save(&path).unwrap();
    let ranked = Tokenizer::from_file(&path, Some("gpt2")).unwrap();
    let extended = TrainOptions { base: Some(ranked), ..options(300, pattern.clone()) };
    let refused = train(counts(&[TEXT], &pattern), &extended, &Progress::new());
    assert!(matches!(refused, Err(Error::NotExtendable { .. })), "{refused:?}");
}

#[test]
fn super_tokens_reach_across_spaces_and_round_trip() {
    let pattern = Pattern::DeepseekV3;
    let lines = pattern.across_spaces().unwrap();
    let texts = [TEXT; 3];
    let both = (counts(&texts, &pattern), counts(&texts, &lines));
    let tokenizer = train_super(both.0, both.1, 0.9, &options(330, pattern.clone()), &Progress::new());
    let tokenizer = tokenizer.unwrap().tokenizer;
    let tokens: Vec<&[u8]> =
        (0..tokenizer.vocab_size() as u32).filter_map(|id| tokenizer.id_to_bytes(id)).collect();
    assert!(tokens.iter().any(|token| token[1..].windows(2).any(|pair| pair[0] == b' ' && pair[1] != b' ')));
    assert!(tokens.iter().all(|token| String::from_utf8_lossy(token).split_whitespace().count() <= 4));
    let plain = trained(counts(&texts, &pattern), &options(330, pattern));
    assert!(tokenizer.count_tokens(TEXT) < plain.count_tokens(TEXT));
    assert_eq!(tokenizer.decode_bytes(&tokenizer.encode_ordinary(TEXT)).unwrap(), TEXT.as_bytes());
}

proptest! {
    /// Spelling by parts equals merging whole, or the second stage would learn from what no encoder gives.
    #[test]
    fn a_speller_gives_what_the_encoder_gives(
        texts in prop::collection::vec(r"(the |cat |cats|x {1,3}|\(|\)|!!|\t|\r\n|\n|[0-9]{1,4}|你好|世|é|[a-e.,]|\PC){0,30}", 1..9)
    ) {
        let pattern = Pattern::DeepseekV3;
        let text = "x  y   z    w\t\t!! ...  ?? (cat)) the\n\n\r\n";
        let base = trained(
            counts(&[TEXT, text, "你好世界你好, 12 1234567"], &pattern),
            &options(330, pattern.clone()),
        );
        let extended = TrainOptions { base: Some(base), special_tokens: Vec::new(), ..options(330, pattern.clone()) };
        let whole = Base::new(&extended).unwrap();
        let unsplit = whole.unsplit().unwrap();
        for cutting in [pattern, Pattern::Gpt2, Pattern::custom("[a-z]").unwrap()] {
            let mut speller = Speller::several(&whole, &cutting, 1).unwrap().remove(0);
            let mut spelled = Vec::new();
            speller.spell(&texts, |text| text.as_bytes(), |text, symbols| spelled.push((text.clone(), symbols.to_vec())));
            let wanted: Vec<_> = texts.iter().map(|text| (text.clone(), unsplit.encode_ordinary(text))).collect();
            prop_assert_eq!(spelled, wanted);
        }
    }
}

#[test]
fn saved_counts_are_summed_and_damage_is_noticed() {
    let (pattern, progress) = (Pattern::Gpt2, Progress::new());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    counts(&[TEXT], &pattern).save(&path("a.counts"), &progress).unwrap();
    counts(&["the zebra"], &pattern).save(&path("b.counts"), &progress).unwrap();
    let budget = MemoryBudget::new(256 << 20, None).unwrap();
    for with_budget in [false, true] {
        let mut sum = if with_budget {
            WordCounts::within(&budget, 1, pattern.clone())
        } else {
            WordCounts::new(pattern.clone())
        };
        sum.add_text("one more text");
        for name in ["a.counts", "b.counts"] {
            sum.merge(WordCounts::open(&path(name), &pattern, &progress).unwrap()).unwrap();
        }
        sum.save(&path("sum.counts"), &progress).unwrap();
        let again = WordCounts::open(&path("sum.counts"), &pattern, &progress).unwrap();
        assert_eq!(again.total(), sum.total());
        let at_once = counts(&[TEXT, "the zebra", "one more text"], &pattern);
        let wanted = trained(at_once, &options(290, pattern.clone()));
        assert_eq!(trained(sum, &options(290, pattern.clone())).sha256(), wanted.sha256());
        assert_eq!(trained(again, &options(290, pattern.clone())).sha256(), wanted.sha256());
    }
    let good = std::fs::read(path("a.counts")).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(path("bad.counts"), bytes).unwrap();
        WordCounts::open(&path("bad.counts"), &pattern, &progress)
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let error = open(&bytes).unwrap_err();
        assert!(
            matches!(
                error,
                Error::CountsFile(CountsFileError::Damaged { .. } | CountsFileError::UnknownVersion { .. })
            ),
            "{at}: {error}"
        );
        let error = open(&good[..at]).unwrap_err();
        assert!(matches!(error, Error::CountsFile(CountsFileError::Damaged { .. })), "{at}: {error}");
    }
    let other = WordCounts::open(&path("a.counts"), &Pattern::O200k, &progress);
    assert!(matches!(other, Err(Error::CountsFile(CountsFileError::OtherPattern { .. }))));
}
