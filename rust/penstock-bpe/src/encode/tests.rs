//! Merging against the plain rule, whatever the length of the piece, with and without a cache.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::pattern::Pattern;
use crate::tokenizer::SpecialToken;
use crate::train::{TrainOptions, WordCounts, train};
use crate::{Merge, Progress};

/// A tokenizer with overlapping merges over a small alphabet.
pub(super) fn tokenizer() -> Tokenizer {
    let mut counts = WordCounts::new(Pattern::Gpt2);
    for (piece, count) in
        [("abcabcab", 9), ("aaaaaa", 7), ("bcabca", 5), (" cab", 4), ("ééaé", 3), ("cccabb", 2)]
    {
        counts.add_piece(piece.as_bytes(), count).unwrap();
    }
    let options = TrainOptions { vocab_size: 300, pattern: Pattern::Gpt2, ..TrainOptions::default() };
    train(counts, &options, &Progress::new()).unwrap()
}

/// The definition: apply the earliest rule at its leftmost place until none applies.
fn plainly_merged(tokenizer: &Tokenizer, piece: &[u8]) -> Vec<u32> {
    let mut ids: Vec<u32> = piece.iter().map(|&byte| tokenizer.token_to_id(&[byte]).unwrap()).collect();
    let is_at =
        |ids: &[u32], merge: &Merge| ids.windows(2).position(|pair| pair == [merge.left, merge.right]);
    while let Some((at, merge)) =
        tokenizer.merges().iter().find_map(|merge| is_at(&ids, merge).map(|at| (at, merge)))
    {
        ids[at] = merge.product;
        ids.remove(at + 1);
    }
    ids
}

/// A tokenizer of any rules over the bytes of a few characters, tokens of half characters among their products; `order`
/// says which rule goes first, so that rules may use what only later ones make.
fn tokenizer_of(pairs: &[(usize, usize)], order: &[usize]) -> Tokenizer {
    let mut parts: Vec<u32> = "aéè一丁".bytes().map(u32::from).collect();
    parts.sort_unstable();
    parts.dedup();
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut merges = Vec::new();
    for (left, right) in pairs {
        let (left, right) = (parts[left % parts.len()], parts[right % parts.len()]);
        let joined = [tokens[left as usize].as_slice(), &tokens[right as usize]].concat();
        if joined.len() <= 12 && !tokens.contains(&joined) {
            parts.push(tokens.len() as u32);
            tokens.push(joined);
            merges.push((left, right));
        }
    }
    for (place, &other) in order.iter().enumerate().take(merges.len()) {
        let other = other % merges.len();
        merges.swap(place, other);
    }
    Tokenizer::new(Pattern::Gpt2, tokens, merges, vec![]).unwrap()
}

proptest! {
    #[test]
    fn cuts_and_whole_characters_change_nothing(
        pairs in prop::collection::vec((0_usize..60, 0_usize..60), 0..60),
        order in prop::collection::vec(0_usize..60, 0..60),
        is_trained in any::<bool>(),
        pieces in prop::collection::vec("[aéè一丁]{1,12}|[é一]{30,60}", 1..8),
    ) {
        let tokenizer = tokenizer_of(&pairs, if is_trained { &[] } else { &order });
        for piece in pieces.iter().chain(&pieces) {
            prop_assert_eq!(tokenizer.encode_ordinary(piece), plainly_merged(&tokenizer, piece.as_bytes()));
        }
    }

    #[test]
    fn merging_follows_the_rules(pieces in prop::collection::vec("[abc]{1,14}|[abcé]{30,60}|a{1,99}", 1..20)) {
        let tokenizer = tokenizer();
        let mut encoder = tokenizer.encoder();
        // The second time the cache answers.
        for piece in pieces.iter().chain(&pieces) {
            let mut ids = Vec::new();
            encoder.encode_into(piece, &mut ids);
            let mut wanted = Vec::new();
            Pattern::Gpt2.for_each_piece(piece, |piece| {
                wanted.extend(plainly_merged(&tokenizer, piece.as_bytes()));
            });
            prop_assert_eq!(ids, wanted);
        }
    }

    #[test]
    fn decoding_gives_the_text_back(text in "\\PC{0,40}|[abc \n\u{0}-\u{ff}]{0,40}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_ordinary(&text);
        prop_assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), text.as_bytes());
        prop_assert_eq!(tokenizer.count_tokens(&text), ids.len());
        let mut stream = tokenizer.stream_decoder();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed.push_str(&stream.finish());
        prop_assert_eq!(streamed, text);
    }

    #[test]
    fn a_stream_of_any_ids_equals_decoding_at_once(ids in prop::collection::vec(0_u32..270, 0..40)) {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.stream_decoder();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed.push_str(&stream.finish());
        let whole = tokenizer.decode_bytes(&ids).unwrap();
        prop_assert_eq!(streamed, String::from_utf8_lossy(&whole).into_owned());
    }

    #[test]
    fn threads_change_nothing(texts in prop::collection::vec("[abcé ]{0,50}", 0..50), threads in 0_usize..5) {
        let tokenizer = tokenizer();
        let long = "abc cab <w>".repeat(200_000);
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.insert(texts.len() / 2, &long);
        let (ids, offsets) = tokenizer.encode_batch(&texts, &Allowed::None, threads);
        prop_assert_eq!(offsets.len(), texts.len() + 1);
        for (index, text) in texts.iter().enumerate() {
            let range = offsets[index] as usize..offsets[index + 1] as usize;
            prop_assert_eq!(&ids[range], tokenizer.encode_ordinary(text));
        }
    }

    #[test]
    fn texts_are_cut_only_where_it_changes_nothing(text in named(), least in 0_usize..40, is_allowed in any::<bool>()) {
        let (tokenizer, allowed) = (with_names(), if is_allowed { Allowed::All } else { Allowed::None });
        let at = tokenizer.cut(&Matchers::new(tokenizer.model(), &allowed), &text, least);
        if let Some((before, behind)) = at.map(|at| text.split_at(at)) {
            let parts = [before, behind].map(|part| tokenizer.encode(part, &allowed)).concat();
            prop_assert_eq!(parts, tokenizer.encode(&text, &allowed), "{} | {}", before, behind);
        }
    }

    #[test]
    fn the_start_of_a_text_has_its_first_ids(text in named(), rest in named(), is_allowed in any::<bool>()) {
        let (tokenizer, allowed) = (with_names(), if is_allowed { Allowed::All } else { Allowed::None });
        // Its last quarter is longer than any name.
        let start = text.repeat(1 + 400 / text.len().max(1));
        if let Some(at) = tokenizer.cut_of_start(&start, &allowed) {
            let whole = tokenizer.encode(&(start.clone() + &rest), &allowed);
            let first = tokenizer.encode(&start[..at], &allowed);
            prop_assert_eq!(&whole[..first.len()], &first, "{} | {}", start, rest);
        }
    }

    #[test]
    fn a_text_in_parts_has_the_ids_of_the_whole(
        unit in named(), count in 1_usize..200, bytes in 1_usize..3000, threads in 1_usize..4,
    ) {
        let tokenizer = with_names();
        let whole = unit.repeat(count);
        let (texts, allowed) = (["é <a> b", whole.as_str(), "cab", whole.as_str()], Allowed::All);
        let fed = tokenizer.encode_fed(0, &allowed, threads, |intake| {
            for pair in texts.chunks(2) {
                intake.text(pair[0]);
                let mut rest = pair[1];
                intake.parts(&mut |text, _| {
                    let at = (bytes.min(rest.len())..).find(|&at| rest.is_char_boundary(at)).unwrap();
                    text.push_str(&rest[..at]);
                    rest = &rest[at..];
                    Ok::<_, Infallible>(!rest.is_empty())
                })?;
            }
            Ok(())
        });
        prop_assert_eq!(fed.unwrap(), tokenizer.encode_batch(&texts, &allowed, 1));
    }
}

/// Text that names the tokens of [`with_names`], and nearly does.
fn named() -> impl Strategy<Value = String> {
    prop::collection::vec("<a>|<ab cd>|<ab|cd>|MM|[abcM]{1,4}| {1,3}|é|\n|w[x ]y", 0..40)
        .prop_map(|parts| parts.concat())
}

/// A tokenizer with added tokens of all kinds, some of which look as if they might be cut.
fn with_names() -> Tokenizer {
    let tokens = (0..=255).map(|byte| vec![byte]).collect();
    let token = SpecialToken::new;
    let specials = vec![
        token("<a>", 256),
        SpecialToken { lstrip: true, rstrip: true, ..token("<ab cd>", 257) },
        SpecialToken { single_word: true, special: false, ..token("MM", 258) },
        SpecialToken { normalized: true, special: false, ..token("x y", 259) },
    ];
    Tokenizer::new(Pattern::Gpt2, tokens, vec![], specials).unwrap()
}

#[test]
fn what_reading_fails_with_is_returned() {
    for threads in [1, 3] {
        let failed = with_names().encode_fed(0, &Allowed::None, threads, |intake| {
            intake.text("a");
            intake.parts(&mut |text, bytes| {
                text.push_str(&"ab ".repeat(bytes));
                if text.len() > bytes { Err("no more") } else { Ok(true) }
            })
        });
        assert_eq!(failed, Err("no more"));
    }
}

#[test]
fn a_full_cache_still_tells_the_truth() {
    let tokenizer = tokenizer();
    let mut encoder = tokenizer.encoder();
    let (mut ids, mut wanted) = (Vec::new(), Vec::new());
    // More distinct pieces, short and long, than either table holds.
    for round in 0..2 {
        for n in 0..200_000_u32 {
            let word = format!("{:b}", n).replace('0', "a").replace('1', "b");
            let text = if n % 4 == round { format!(" {word}") } else { format!(" c{word}{word}") };
            ids.clear();
            encoder.encode_into(&text, &mut ids);
            if n.is_multiple_of(97) {
                wanted.clear();
                wanted.extend(plainly_merged(&tokenizer, text.as_bytes()));
                assert_eq!(ids, wanted, "{text}");
            }
        }
    }
}

#[test]
fn special_tokens_are_text_unless_allowed() {
    let tokens = (0..=255).map(|byte| vec![byte]).collect();
    let word = SpecialToken { special: false, ..SpecialToken::new("word", 258) };
    let specials = vec![SpecialToken::new("<a>", 256), SpecialToken::new("<b>", 257), word];
    let tokenizer = Tokenizer::new(Pattern::Gpt2, tokens, vec![], specials).unwrap();
    let text = "<a>word<b>";
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    assert_eq!(tokenizer.encode_ordinary(text), [bytes("<a>"), vec![258], bytes("<b>")].concat());
    assert_eq!(tokenizer.encode(text, &Allowed::All), [256, 258, 257]);
    let only = Allowed::Set(HashSet::from(["<b>".to_owned()]));
    assert_eq!(tokenizer.encode(text, &only), [bytes("<a>"), vec![258, 257]].concat());
    assert_eq!(tokenizer.decode_bytes(&[256, 258]).unwrap(), b"<a>word");
    assert!(matches!(
        tokenizer.decode_bytes(&[1, 259]),
        Err(crate::Error::UnknownId { id: 259, index: 1, vocab_size: 259 })
    ));
}

#[test]
fn pieces_of_a_megabyte_take_no_square_of_their_length() {
    let tokenizer = tokenizer();
    for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), "abcab".repeat(1 << 18)] {
        let ids = tokenizer.encode_ordinary(&text);
        assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), text.as_bytes());
    }
}

#[test]
fn tokenizers_and_encoders_go_between_threads() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Tokenizer>();
    is_shared::<Progress>();
    is_send::<Encoder>();
    is_send::<WordCounts>();
}
