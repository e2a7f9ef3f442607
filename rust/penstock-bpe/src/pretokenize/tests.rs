//! Scanners against the regular expressions that define them, run by an engine that backtracks.

use proptest::prelude::*;

use crate::pattern::{Family, Pattern};
use crate::unicode::class_of;

/// The expressions of a family, to be applied in sequence.
struct Reference(Vec<fancy_regex::Regex>);

impl Reference {
    fn new(family: Family) -> Self {
        Self(family.expressions().iter().map(|e| fancy_regex::Regex::new(e).unwrap()).collect())
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for regex in &self.0 {
            pieces = pieces.iter().flat_map(|piece| isolate(regex, piece)).collect();
        }
        pieces
    }
}

fn isolate(regex: &fancy_regex::Regex, text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut done = 0;
    for found in regex.find_iter(text) {
        let found = found.unwrap();
        if done < found.start() {
            parts.push(text[done..found.start()].to_owned());
        }
        parts.push(found.as_str().to_owned());
        done = found.end();
    }
    if done < text.len() {
        parts.push(text[done..].to_owned());
    }
    parts
}

fn pieces(family: Family, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    Pattern::from(family).for_each_piece(text, |piece| found.push(piece.to_owned()));
    found
}

const FAMILIES: [Family; 10] = Family::ALL;

/// Whether to test all that there is: minutes instead of seconds.
fn is_thorough() -> bool {
    std::env::var_os("PENSTOCK_THOROUGH").is_some()
}

/// Characters that some rule treats in its own way, and neighbours of every range that is spelled out.
const TELLING: &str = "aZsStTdDmMlLvVeErR'’ſKéÉǅʰªßאᎠＡ𐐀あ一龥龦々ヿ぀〿㄀゛・゠㐀仐한0٣²Ⅷ１① \t\u{2003}。！→\u{b}\u{85}\u{a0}\u{3000}\u{200b}\u{200d}\
    \u{1c}\r\n\u{2028}.,/!_-$+~`@\\]\u{ab}€\u{300}\u{903}\u{20dd}\u{0}\u{7f}\u{ad}\u{e000}\u{378}😀🇩\u{10ffff}";

/// Texts made of runs of telling characters, of words, and now and then of anything.
fn texts() -> impl Strategy<Value = String> {
    let telling: Vec<char> = TELLING.chars().collect();
    let part = prop_oneof![
        6 => prop::collection::vec(prop::sample::select(telling), 1..6).prop_map(String::from_iter),
        2 => "( |\n|\r\n|\t){1,5}",
        2 => "[A-Za-z]{1,5}('([sS]|[tT]|[lL]{2}|[vV]e|[rR][eE]|[mM]|[dD]|ſ|x))?",
        1 => "[0-9]{1,8}",
        1 => "\\PC{1,4}",
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if is_thorough() { 10_000_000 } else { 4000 }))]

    #[test]
    fn random_texts_are_cut_as_by_the_expression(text in texts()) {
        thread_local! {
            static REFERENCES: Vec<Reference> = FAMILIES.into_iter().map(Reference::new).collect();
        }
        REFERENCES.with(|references| {
            for (family, reference) in FAMILIES.into_iter().zip(references) {
                prop_assert_eq!(pieces(family, &text), reference.pieces(&text), "{:?} {:?}", family, &text);
            }
            Ok(())
        })?;
    }

    #[test]
    fn cutting_where_it_is_safe_changes_no_piece(text in texts(), least in 0_usize..30) {
        if let Some(at) = super::safe_cut(&text, least) {
            let (before, behind) = text.split_at(at);
            for family in FAMILIES.into_iter().filter(|family| family.is_cut_behind_words()) {
                let parts = [pieces(family, before), pieces(family, behind)].concat();
                prop_assert_eq!(&parts, &pieces(family, &text), "{:?} {:?} at {}", family, &text, at);
            }
        }
    }
}

/// Every code point at which the class changes, both sides of it, and one in sixty-one of the others; all of them in the
/// thorough run.
#[test]
#[cfg_attr(feature = "unicode-17", ignore = "the expressions are of Unicode 16")]
fn code_points_in_context_are_cut_as_by_the_expression() {
    let class = |code: u32| char::from_u32(code).map(class_of);
    let is_thorough = is_thorough();
    let is_tested = |code: &u32| {
        is_thorough
            || *code < 0x250
            || code.is_multiple_of(61)
            || class(*code) != class(code + 1)
            || class(*code) != class(code - 1)
    };
    let tested: Vec<char> = (0..0x11_0000).filter(is_tested).filter_map(char::from_u32).collect();
    assert!(tested.len() > 20_000);
    for family in FAMILIES {
        let reference = Reference::new(family);
        for &c in &tested {
            let text = format!("a{c}A{c}a {c}1{c}{c}'s{c}\n{c}一{c}  {c}.{c}.\n{c}");
            assert_eq!(pieces(family, &text), reference.pieces(&text), "{family:?} {c:?}");
        }
    }
}

/// Blocks and look-ahead show their errors at edges, so the text starts at 64 places in text of many kinds, and at 64 in
/// source code.
#[test]
fn real_text_is_cut_as_by_the_expression_wherever_it_starts() {
    let text = concat!(include_str!("deepseek_early.rs"), include_str!("../normalize.rs"));
    let others = "Größe und naïveté. В 2024 году, «да»!\r\n\r\n最后一行：共１２件。（完）\n\tשלום עולם 123 — नमस्ते, ١٢٣\n한국어 텍스트…  \n";
    let text = format!("{others}{text}{others}");
    for family in FAMILIES {
        let reference = Reference::new(family);
        let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
        for start in starts[..64].iter().chain(&starts[others.len()..][..64]) {
            let text = &text[*start..];
            assert_eq!(pieces(family, text), reference.pieces(text), "{family:?}");
        }
    }
}

#[test]
fn nothing_gives_no_piece() {
    for family in FAMILIES {
        assert!(pieces(family, "").is_empty());
    }
    let mut count = 0;
    Pattern::custom("x*").unwrap().for_each_piece("", |_| count += 1);
    assert_eq!(count, 0);
}
