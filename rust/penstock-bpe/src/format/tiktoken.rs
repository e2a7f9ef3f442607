//! Rank files, as tiktoken reads them: a line `<base64 of the bytes> <rank>` for each token.
//!
//! Such a file states no merges: a piece that is a token becomes it, and otherwise the two neighbours that make the
//! token of least rank are merged first. So every way to cut a token into two tokens is a merge rule.

use std::fmt::Write;
use std::path::Path;

use rustc_hash::FxHashMap;

use crate::encode::merge::Workspace;
use crate::error::{Error, Result, show};
use crate::model::{Model, Parts};
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::tokenizer::{SpecialToken, Tokenizer};
use crate::vocab::{MAX_ID, Vocab};

/// The longest token of a rank file: all its cuts are looked up, so hostile ones would cost the square of this.
const MAX_RANKED_BYTES: usize = 1 << 10;
/// The control token of a vocabulary that no list names.
const END_OF_TEXT: &str = "<|endoftext|>";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Reads `bytes`; `origin` stands in errors.
pub(crate) fn read(bytes: &[u8], pattern: Pattern, origin: &Path) -> Result<Tokenizer> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            place_line(line, &mut tokens).map_err(|error| error.at(origin, format!("line {number}")))?;
        }
    }
    let specials = match tokens.first() {
        // Where control tokens come first, as in what `train` makes, rank 0 is left to the first of them.
        Some(first) if first.is_empty() => vec![SpecialToken::new(END_OF_TEXT, 0)],
        _ => known_specials(&pattern, tokens.len() as u32),
    };
    let whole = |error: Error| error.at(origin, "all lines");
    check_gaps(&tokens, &specials).map_err(whole)?;
    let merges = all_merges(&tokens).map_err(whole)?;
    let parts =
        Parts { tokens, merges, rank_by_product: true, ignore_merges: true, specials, ..Parts::default() };
    Tokenizer::from_parts(pattern, parts).map_err(whole)
}

/// Puts the token of one line at its rank.
fn place_line(line: &[u8], tokens: &mut Vec<Vec<u8>>) -> Result<()> {
    let malformed = || Error::RankLine { found: show(line) };
    let space = line.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
    let rank = std::str::from_utf8(&line[space + 1..]).ok().and_then(|rank| rank.parse::<u64>().ok());
    let rank = rank.ok_or_else(malformed)?;
    let token = decode_base64(&line[..space]).ok_or_else(|| Error::Base64 { found: show(&line[..space]) })?;
    let id = u32::try_from(rank).ok().filter(|&id| id <= MAX_ID);
    let id = id.ok_or(Error::IdTooLarge { id: rank, limit: MAX_ID })?;
    if token.is_empty() {
        return Err(Error::EmptyToken { id });
    }
    if token.len() > MAX_RANKED_BYTES {
        return Err(Error::TokenTooLong { id, size_bytes: token.len(), limit_bytes: MAX_RANKED_BYTES });
    }
    let place = id as usize;
    if place >= tokens.len() {
        tokens.resize_with(place + 1, Vec::new);
    }
    if !tokens[place].is_empty() {
        return Err(Error::DuplicateId { id, first: show(&tokens[place]), second: show(&token) });
    }
    tokens[place] = token;
    Ok(())
}

fn check_gaps(tokens: &[Vec<u8>], specials: &[SpecialToken]) -> Result<()> {
    let is_filled = |id: u32| specials.iter().any(|token| token.id == id);
    let gap = (0..).zip(tokens).find(|&(id, token)| token.is_empty() && !is_filled(id));
    match gap {
        Some((id, _)) => Err(Error::IdGap { id, last: tokens.len() as u32 - 1 }),
        None => Ok(()),
    }
}

/// All ways to cut a token into two tokens, by rank of the token and then by the place of the cut.
fn all_merges(tokens: &[Vec<u8>]) -> Result<Vec<(u32, u32)>> {
    let vocab = Vocab::new(tokens, |_| true)?;
    let mut merges = Vec::new();
    for token in tokens {
        for cut in 1..token.len() {
            if let (Some(left), Some(right)) = (vocab.find(&token[..cut]), vocab.find(&token[cut..])) {
                merges.push((left, right));
            }
        }
    }
    Ok(merges)
}

/// The special tokens of the vocabularies published as rank files, told by pattern and size; `<|endoftext|>` behind
/// the last token of any other.
fn known_specials(pattern: &Pattern, len: u32) -> Vec<SpecialToken> {
    let listed =
        |specials: &[(&str, u32)]| specials.iter().map(|&(text, id)| SpecialToken::new(text, id)).collect();
    match (pattern, len) {
        (Pattern::Gpt2, 50_256 | 50_281) => listed(&[("<|endoftext|>", 50_256)]),
        (Pattern::Cl100k, 100_256) => listed(&[
            ("<|endoftext|>", 100_257),
            ("<|fim_prefix|>", 100_258),
            ("<|fim_middle|>", 100_259),
            ("<|fim_suffix|>", 100_260),
            ("<|endofprompt|>", 100_276),
        ]),
        (Pattern::O200k, 199_998) => listed(&[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)]),
        (Pattern::Llama3, 128_000) => llama3_specials(len),
        (Pattern::Qwen2, 151_643) => {
            listed(&[("<|endoftext|>", len), ("<|im_start|>", len + 1), ("<|im_end|>", len + 2)])
        }
        _ => listed(&[(END_OF_TEXT, len)]),
    }
}

/// Llama 3 has 256 special tokens, most of them reserved.
fn llama3_specials(first: u32) -> Vec<SpecialToken> {
    let mut names: Vec<String> = ["<|begin_of_text|>", "<|end_of_text|>"].map(String::from).into();
    let reserved = |range: std::ops::Range<u32>| range.map(|n| format!("<|reserved_special_token_{n}|>"));
    names.extend(reserved(0..4));
    names.extend(["<|start_header_id|>", "<|end_header_id|>"].map(String::from));
    names.extend(reserved(4..5));
    names.push("<|eot_id|>".to_owned());
    names.extend(reserved(5..251));
    (first..).zip(names).map(|(id, name)| SpecialToken::new(name, id)).collect()
}

/// The content of a rank file, if one can say all that `tokenizer` does.
pub(super) fn write(tokenizer: &Tokenizer, path: &Path) -> Result<String> {
    let model = tokenizer.model();
    let refuse = |reason| Err(Error::NotARankFile { path: path.to_owned(), reason });
    let ranked = model.rank_by_product && model.ignore_merges;
    if !ranked && !ranks_say_all(model) {
        return refuse("its ids are not the ranks of its merges, or it holds more than bytes and merges");
    }
    let added: FxHashMap<u32, ()> = model.specials.iter().map(|token| (token.id, ())).collect();
    let mut text = String::new();
    for id in (0..model.vocab.len() as u32).filter(|id| !added.contains_key(id)) {
        if let Some(bytes) = tokenizer.id_to_bytes(id) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {id}", encode_base64(bytes));
        }
    }
    match read(text.as_bytes(), model.pattern.clone(), path) {
        Ok(again) if same_tokens(&again, tokenizer) => Ok(text),
        _ => refuse("its special tokens are not those that go with its pattern and size"),
    }
}

fn same_tokens(a: &Tokenizer, b: &Tokenizer) -> bool {
    a.special_tokens() == b.special_tokens()
        && a.vocab_size() == b.vocab_size()
        && (0..a.vocab_size() as u32).all(|id| a.id_to_bytes(id) == b.id_to_bytes(id))
}

/// Whether "merge the neighbours that make the token of least rank" gives what the listed merges give.
///
/// It does if products rise with the merges and the bytes of each token merge to that token. For take the first
/// neighbours x, y that only the rank rule would merge, into t. Until then no merge crossed the borders of x or
/// of y, so the bytes of t went the same way as they go alone, and alone they end in t, by a last merge of
/// just two parts: x and y, which is then a listed merge.
fn ranks_say_all(model: &Model) -> bool {
    let mut workspace = Workspace::default();
    let mut ids = Vec::new();
    let mut merges_to_itself = |bytes: &[u8], id: u32| {
        ids.clear();
        workspace.merge(bytes, &model.pairs, None, &mut ids);
        ids == [id]
    };
    let rising = model.merges.windows(2).all(|two| two[0].product < two[1].product);
    rising
        && model.normalizer == Normalizer::None
        && model.specials.iter().all(|token| token.special)
        && (0..model.vocab.len() as u32)
            .filter(|&id| model.specials.iter().all(|token| token.id != id))
            .all(|id| merges_to_itself(model.vocab.get(id), id))
}

/// Strict base64: whole groups of four, padding at the end only, no stray bits.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for &byte in &text[..text.len() - padding] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict() {
        for bytes in [&b""[..], b"f", b"fo", b"foo", b"foob", b"\xFF\xFE\x00"] {
            assert_eq!(decode_base64(encode_base64(bytes).as_bytes()).as_deref(), Some(bytes));
        }
        assert_eq!(encode_base64(b"foob"), "Zm9vYg==");
        for wrong in ["Zg", "Zg=", "Z===", "Zh==", "Zg==Zg==", "Z g=", "Zm9v\n"] {
            assert_eq!(decode_base64(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
