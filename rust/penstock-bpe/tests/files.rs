//! Files: what is written is read back the same, and what is wrong is refused with its place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is wrong")]

use std::path::Path;

use penstock_bpe::train::{TrainOptions, WordCounts, train};
use penstock_bpe::{Allowed, Error, Pattern, PatternError, Progress, SpecialToken, Tokenizer};
use serde_json::{Value, json};

fn trained(pattern: Pattern) -> Tokenizer {
    let mut counts = WordCounts::new(pattern.clone());
    counts.add_text(&"the cat sat on the mat; it's 12345 天気がいい 的的的. Thé end!\n\n".repeat(5));
    let options = TrainOptions { vocab_size: 320, pattern, ..TrainOptions::default() };
    train(counts, &options, &Progress::new()).unwrap()
}

fn bytes_only(specials: Vec<SpecialToken>) -> Tokenizer {
    Tokenizer::new(Pattern::Cl100k, (0..=255).map(|byte| vec![byte]).collect(), vec![], specials).unwrap()
}

#[test]
fn saved_tokenizers_read_back_equal() {
    let folder = tempfile::tempdir().unwrap();
    let custom = Pattern::custom(r"[a-z]+|\s").unwrap();
    let named = Pattern::NAMES.iter().map(|name| Pattern::from_name(name).unwrap());
    for (index, pattern) in named.chain([custom]).enumerate() {
        let tokenizer = trained(pattern.clone());
        for name in [format!("tok{index}"), format!("tok{index}.json")] {
            let path = folder.path().join(name);
            tokenizer.save(&path).unwrap();
            let again = Tokenizer::from_file(&path, None).unwrap();
            assert_eq!(again.sha256(), tokenizer.sha256());
            assert_eq!(again.pattern(), &pattern);
            let text = "the mat's <|endoftext|> 天気 123456\n";
            assert_eq!(again.encode(text, &Allowed::All), tokenizer.encode(text, &Allowed::All));
        }
    }
    let names: Vec<_> =
        std::fs::read_dir(folder.path().join("tok0")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// In a container every process may have the same number.
#[test]
fn what_a_killed_process_left_does_not_hinder_saving() {
    let folder = tempfile::tempdir().unwrap();
    for write in 0..200 {
        let name = format!(".tokenizer.json.{}-{write}.tmp", std::process::id());
        std::fs::write(folder.path().join(name), b"half").unwrap();
    }
    trained(Pattern::Gpt2).save(&folder.path().join("tokenizer.json")).unwrap();
}

#[test]
fn gaps_between_special_tokens_survive() {
    let word = SpecialToken { special: false, lstrip: true, ..SpecialToken::new("日", 300) };
    let tokenizer = bytes_only(vec![SpecialToken::new("<x>", 270), word]);
    let again = Tokenizer::from_json(tokenizer.to_json().unwrap().as_bytes(), Path::new("x")).unwrap();
    assert_eq!(again.sha256(), tokenizer.sha256());
    assert_eq!((again.vocab_size(), again.id_to_bytes(260)), (301, None));
    assert_eq!(again.encode("a 日<x>", &Allowed::All), [97, 300, 270]);
}

#[test]
fn other_spellings_of_the_same_file_read_equal() {
    for pattern in [Pattern::Llama3, Pattern::DeepseekV3] {
        let tokenizer = trained(pattern.clone());
        let mut file: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        for merge in file.pointer_mut("/model/merges").unwrap().as_array_mut().unwrap() {
            *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
        file["normalizer"] = json!({"type": "Sequence", "normalizers": []});
        file["decoder"] = Value::Null;
        file["post_processor"] = json!({"type": "ByteLevel"});
        let splits = file.pointer_mut("/pre_tokenizer/pretokenizers").unwrap().as_array_mut().unwrap();
        if pattern == Pattern::Llama3 {
            splits[0]["behavior"] = json!("Removed");
            splits[0]["invert"] = json!(true);
        } else {
            // Line breaks may stand raw in an expression.
            let raw = splits[2]["pattern"]["Regex"].as_str().unwrap().replace("\\r\\n", "\r\n");
            splits[2]["pattern"]["Regex"] = json!(raw);
        }
        let again = Tokenizer::from_json(file.to_string().as_bytes(), Path::new("x")).unwrap();
        assert_eq!(again.sha256(), tokenizer.sha256());
    }
}

#[test]
fn composed_text_is_what_a_normaliser_asks_for() {
    let mut file: Value = serde_json::from_str(&trained(Pattern::Gpt2).to_json().unwrap()).unwrap();
    let plain = Tokenizer::from_json(file.to_string().as_bytes(), Path::new("x")).unwrap();
    for (name, text, wanted) in [("NFC", "e\u{301}ﬁ", "éﬁ"), ("NFKC", "e\u{301}ﬁ", "éfi")] {
        file["normalizer"] = json!({"type": name});
        let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), Path::new("x")).unwrap();
        assert_eq!(tokenizer.encode_ordinary(text), plain.encode_ordinary(wanted));
        let again = Tokenizer::from_json(tokenizer.to_json().unwrap().as_bytes(), Path::new("x")).unwrap();
        assert_eq!(again.sha256(), tokenizer.sha256());
        assert_ne!(again.sha256(), plain.sha256());
    }
}

#[test]
fn an_added_token_that_files_cannot_tell_from_another_is_refused() {
    // U+00F8 is how the byte 0xF8 is spelled.
    let tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let result = Tokenizer::new(Pattern::Gpt2, tokens, vec![], vec![SpecialToken::new("ø", 256)]);
    assert!(matches!(result, Err(Error::SpecialConflict { id: 256, .. })));
}

#[test]
fn a_rank_file_reads_back_equal_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut text: String = (0..=255_u8).map(|byte| format!("{} {byte}\r\n", base64(&[byte]))).collect();
    text += &format!("{} 256\n{} 257\n", base64(b"ab"), base64(b"abc"));
    let path = folder.path().join("x.tiktoken");
    std::fs::write(&path, text).unwrap();
    assert!(matches!(Tokenizer::from_file(&path, None), Err(Error::PatternNeeded { .. })));
    let tokenizer = Tokenizer::from_file(&path, Some("o200k")).unwrap();
    assert_eq!(tokenizer.encode_ordinary("abcab"), [257, 256]);
    assert_eq!(tokenizer.eot_id(), Some(258));
    let copy = folder.path().join("copy.tiktoken");
    tokenizer.save(&copy).unwrap();
    assert_eq!(Tokenizer::from_file(&copy, Some("o200k")).unwrap().sha256(), tokenizer.sha256());
    let own = trained(Pattern::Gpt2);
    own.save(&copy).unwrap();
    let again = Tokenizer::from_file(&copy, Some("gpt2")).unwrap();
    assert_eq!(again.special_tokens(), own.special_tokens());
    for text in ["the mat's catalog", "12345 天気がいい。", "Thé end!!\n\n  on", "的的的的"] {
        assert_eq!(again.encode_ordinary(text), own.encode_ordinary(text), "{text}");
    }
}

#[test]
fn merges_that_ranks_cannot_say_are_no_rank_file() {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend([b"bc".to_vec(), b"ab".to_vec()]);
    let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
    // `ab` comes before `bc`, but by the ranks of its ids it would come after it.
    let tokenizer = Tokenizer::new(Pattern::Gpt2, tokens, vec![(a, b), (b, c)], vec![]).unwrap();
    assert_eq!(tokenizer.encode_ordinary("abc"), [257, c]);
    let folder = tempfile::tempdir().unwrap();
    let refused = tokenizer.save(&folder.path().join("x.tiktoken"));
    assert!(matches!(refused, Err(Error::NotARankFile { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut padded = bytes.to_vec();
    padded.resize(3, 0);
    let bits = padded.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
    let digit = |place: usize| char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]);
    (0..4).map(|place| if place <= bytes.len() { digit(place) } else { '=' }).collect()
}

/// The message of the refusal of `text` as a rank file.
fn rank_refusal(text: &str) -> String {
    Tokenizer::from_tiktoken(text.as_bytes(), Pattern::Gpt2, Path::new("f.tiktoken")).unwrap_err().to_string()
}

#[test]
fn faults_of_rank_files_name_their_line() {
    let bytes: String = (0..=255_u8).map(|byte| format!("{} {byte}\n", base64(&[byte]))).collect();
    for (fault, wanted) in [
        ("YWI=", "line 257: expected `<base64> <rank>`"),
        ("YWI= x", "line 257: expected"),
        ("YWI= -1", "line 257: expected"),
        ("YWI 256", "line 257: `\"YWI\"` is not base64"),
        ("Y*I= 256", "line 257: `\"Y*I=\"` is not base64"),
        (" 256", "line 257: token 256 is empty"),
        ("YWI= 3", "line 257: id 3 is given to two tokens"),
        ("YQ== 256", "all lines: tokens 97 and 256 have the same bytes"),
        ("YWI= 258", "all lines: no token has id 256"),
        ("YWI= 99999999999", "line 257: id 99999999999 is beyond"),
    ] {
        let message = rank_refusal(&format!("{bytes}{fault}\n"));
        assert!(message.starts_with(&format!("f.tiktoken: {wanted}")), "{fault}: {message}");
    }
    assert!(rank_refusal("YQ== 0\n").contains("no token for the single byte 0x00"));
    assert!(rank_refusal("").contains("no token for the single byte 0x00"));
    assert!(rank_refusal("\u{0}\u{1}").contains("line 1"));
}

/// The message of the refusal of a good tokenizer.json after `change`.
fn json_refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut file: Value = serde_json::from_str(&trained(Pattern::DeepseekV3).to_json().unwrap()).unwrap();
    change(&mut file);
    let result = Tokenizer::from_json(file.to_string().as_bytes(), Path::new("t.json"));
    result.expect_err("a fault was put in").to_string()
}

/// Puts `value` at `place`, a JSON pointer.
fn put(place: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |file| {
        let (parent, name) = place.rsplit_once('/').unwrap();
        file.pointer_mut(parent).unwrap()[name] = value;
    }
}

#[test]
fn faults_of_json_files_name_their_place() {
    let split = |behavior: &str, regex: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let nested = (0..30)
        .fold(json!({"type": "ByteLevel"}), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
    let added = |id: u32, content: &str| json!([{"id": id, "content": content, "special": true}]);
    for (place, value, wanted) in [
        ("/model/type", json!("Unigram"), "model.type: unsupported: `Unigram`"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/unk_token", json!("<unk>"), "model.unk_token"),
        ("/model/byte_fallback", json!(true), "model.byte_fallback"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix"),
        ("/normalizer", json!({"type": "Lowercase"}), "normalizer: unsupported: `Lowercase`"),
        ("/decoder", json!({"type": "WordPiece"}), "decoder"),
        ("/pre_tokenizer", Value::Null, "pre_tokenizer: unsupported: no pre-tokenizer"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "pre_tokenizer: unsupported: `Whitespace`"),
        (
            "/pre_tokenizer",
            json!({"type": "ByteLevel", "add_prefix_space": true}),
            "pre_tokenizer.add_prefix_space: unsupported: true",
        ),
        (
            "/pre_tokenizer",
            split("Removed", "a"),
            "pre_tokenizer.pretokenizers[0].behavior: unsupported: \"Removed\"",
        ),
        (
            "/pre_tokenizer",
            split("Isolated", "(?<=a)b"),
            "pre_tokenizer.pretokenizers[0]: pattern `(?<=a)b`: look",
        ),
        ("/pre_tokenizer", split("Isolated", "(a"), "pre_tokenizer.pretokenizers[0]: pattern `(a`"),
        ("/pre_tokenizer", nested, "pre_tokenizer.pretokenizers[0].pretokenizers[0]"),
        ("/model/merges/3", json!(["a"]), "line 1, column"),
        ("/model/merges/3", json!("a b c"), "model.merges: merge 3: expected two token strings"),
        ("/model/merges/3", json!(["a", "日"]), "model.merges: merge 3: \"\\xe6\\x97\\xa5\" is not in"),
        ("/model/merges/3", json!(["Q", "Q"]), "model.merges[3]: merge 3: \"QQ\" is not in the vocabulary"),
        ("/model/vocab/b", json!(70), "model.vocab: id 70 is given to two tokens"),
        ("/model/vocab/b", json!(4_000_000_000_u32), "model.vocab: id 4000000000 is beyond"),
        ("/model/vocab/b", json!(5000), "model.vocab: no token has id"),
        ("/model/vocab/b", json!(-1), "line 1, column"),
        ("/model/vocab", json!({}), "model."),
        ("/added_tokens", added(7, "<z>"), "added_tokens[0].id: special token `<z>` of id 7 conflicts with"),
        ("/added_tokens", added(9, "<|endoftext|>"), "model.vocab: special token `<|endoftext|>` of id 9"),
        (
            "/added_tokens",
            added(4_000_000_000, "<z>"),
            "added_tokens[0].id: special token `<z>` of id 4000000000",
        ),
        ("/added_tokens", added(320, ""), "added_tokens: special token 0 is empty"),
    ] {
        let shown = value.to_string();
        let message = json_refusal(put_at(place, value));
        assert!(message.starts_with(&format!("t.json: {wanted}")), "{place} {shown}: {message}");
    }
}

/// As [`put`], also into lists.
fn put_at(place: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |file| match file.pointer_mut(place) {
        Some(found) => *found = value,
        None => put(place, value)(file),
    }
}

#[test]
fn repeated_merges_and_merges_into_special_tokens_are_refused() {
    let repeat = |file: &mut Value| {
        let merges = file.pointer_mut("/model/merges").unwrap().as_array_mut().unwrap();
        let first = merges[0].clone();
        merges.push(first);
    };
    assert!(json_refusal(repeat).contains("repeats merge 0"));
    let special = |file: &mut Value| {
        file["added_tokens"] = json!([{"id": 257, "content": "th", "special": true}]);
        let vocab = file.pointer_mut("/model/vocab").unwrap().as_object_mut().unwrap();
        let old = vocab.iter().find(|(_, id)| **id == json!(257)).unwrap().0.clone();
        vocab.remove(&old);
        vocab.insert("th".to_owned(), json!(257));
        file["model"]["merges"] = json!([["t", "h"]]);
    };
    let message = json_refusal(special);
    assert!(
        message.contains("merge 0 makes the special token `th`") || message.contains("same bytes"),
        "{message}"
    );
}

#[test]
fn cut_and_damaged_files_never_panic() {
    let whole = trained(Pattern::Qwen2).to_json().unwrap().into_bytes();
    for end in (0..whole.len()).step_by(whole.len() / 200) {
        let refused = Tokenizer::from_json(&whole[..end], Path::new("t.json"));
        assert!(matches!(refused, Err(Error::InFile { .. })), "cut at {end}");
    }
    let mut state = 1_u32;
    for _ in 0..300 {
        let mut damaged = whole.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % damaged.len();
            damaged[at] = (state >> 24) as u8;
        }
        // Either outcome is right; a panic is not.
        let _ = Tokenizer::from_json(&damaged, Path::new("t.json"));
    }
    assert!(Tokenizer::from_json("[".repeat(100_000).as_bytes(), Path::new("t.json")).is_err());
}

#[test]
fn paths_that_lead_nowhere_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Tokenizer::from_file(path, None).unwrap_err();
    let other = folder.path().join("x.bin");
    assert!(matches!(refused(folder.path()), Error::NoTokenizer { .. }));
    assert!(matches!(refused(&other), Error::NoTokenizer { .. }));
    std::fs::write(&other, "").unwrap();
    assert!(matches!(refused(&other), Error::UnknownFormat { .. }));
    let tokenizer = trained(Pattern::Gpt2);
    let in_nothing = folder.path().join("no/where.json");
    assert!(matches!(tokenizer.save(&in_nothing), Err(Error::Io { .. })));
    tokenizer.save(folder.path()).unwrap();
    let conflict = Tokenizer::from_file(folder.path(), Some("o200k"));
    assert!(matches!(conflict, Err(Error::PatternConflict { stated: "gpt2", .. })));
    assert!(matches!(
        Tokenizer::from_file(folder.path(), Some("x")),
        Err(Error::Pattern(PatternError::Unknown { .. }))
    ));
}

#[test]
fn hashes_tell_tokenizers_apart() {
    let plain = bytes_only(vec![]);
    let other = bytes_only(vec![SpecialToken::new("<x>", 256)]);
    let strip = bytes_only(vec![SpecialToken { lstrip: true, ..SpecialToken::new("<x>", 256) }]);
    let hashes =
        [plain.sha256(), other.sha256(), strip.sha256(), trained(Pattern::Gpt2).sha256()].map(str::to_owned);
    assert!(hashes.iter().all(|hash| hash.len() == 64));
    assert_eq!(std::collections::HashSet::from(hashes).len(), 4);
}
