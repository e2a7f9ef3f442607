//! Reading a tokenizer.json.

use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use super::pre_tokenizer;
use super::schema::{AddedToken, Bpe, MergeText, Probe, TokenizerFile};
use crate::byte_level;
use crate::error::{Error, Result, show};
use crate::model::Parts;
use crate::normalize::Normalizer;
use crate::tokenizer::{SpecialToken, Tokenizer};
use crate::vocab::MAX_ID;

/// Reads `bytes`; `origin` stands in errors.
pub(crate) fn read(bytes: &[u8], origin: &Path) -> Result<Tokenizer> {
    let json_error = |error: serde_json::Error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Error::Json { reason: error.to_string() }.at(origin, place)
    };
    let probe: Probe = serde_json::from_slice(bytes).map_err(json_error)?;
    if let Some(kind) = probe.model.kind.filter(|kind| kind != "BPE") {
        return Err(
            Error::Unsupported { found: format!("`{kind}`"), expected: "`BPE`" }.at(origin, "model.type")
        );
    }
    let file: TokenizerFile = serde_json::from_slice(bytes).map_err(json_error)?;
    check_model(&file.model).map_err(|(error, place)| error.at(origin, format!("model.{place}")))?;
    check_decoder(&file.decoder).map_err(|error| error.at(origin, "decoder"))?;
    let normalizer = read_normalizer(&file.normalizer).map_err(|error| error.at(origin, "normalizer"))?;
    let pattern = pre_tokenizer::read(&file.pre_tokenizer, origin)?;

    let added = added_ids(&file.added_tokens).map_err(|error| error.at(origin, "added_tokens"))?;
    let ids = token_ids(&file.model.vocab.0).map_err(|error| error.at(origin, "model.vocab"))?;
    let (tokens, unreachable) =
        place_tokens(&file.model.vocab.0, &added).map_err(|error| error.at(origin, "model.vocab"))?;
    check_numbers(&file.added_tokens, &ids).map_err(|(error, place)| error.at(origin, place))?;
    let merges = read_merges(&file.model.merges, &ids).map_err(|error| error.at(origin, "model.merges"))?;
    let ignore_merges = file.model.ignore_merges;
    let specials = file.added_tokens.into_iter().map(special_token).collect();
    let parts =
        Parts { normalizer, tokens, unreachable, merges, ignore_merges, specials, ..Parts::default() };
    Tokenizer::from_parts(pattern, parts).map_err(|error| {
        let place = place_of(&error);
        error.at(origin, place)
    })
}

/// Where in the file a fault of the whole shows.
fn place_of(error: &Error) -> String {
    match error {
        Error::DanglingMerge { index, .. }
        | Error::DuplicateMerge { index, .. }
        | Error::MergeMakesSpecial { index, .. } => format!("model.merges[{index}]"),
        Error::EmptySpecial { .. } | Error::DuplicateSpecial { .. } | Error::SpecialConflict { .. } => {
            "added_tokens".to_owned()
        }
        _ => "model.vocab".to_owned(),
    }
}

fn check_model(model: &Bpe) -> Result<(), (Error, &'static str)> {
    let refuse = |place, found: String, expected| Err((Error::Unsupported { found, expected }, place));
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return refuse("dropout", dropout.to_string(), "null");
    }
    if let Some(token) = &model.unk_token {
        return refuse("unk_token", format!("`{token}`"), "null: every byte has its token");
    }
    for (place, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            return refuse(place, format!("`{affix}`"), "null");
        }
    }
    if model.byte_fallback {
        return refuse("byte_fallback", "true".to_owned(), "false: the vocabulary is byte-level");
    }
    Ok(())
}

fn check_decoder(decoder: &Value) -> Result<()> {
    match decoder.get("type").and_then(Value::as_str) {
        None if decoder.is_null() => Ok(()),
        Some("ByteLevel") => Ok(()),
        other => {
            let found = format!("`{}`", other.unwrap_or("no type"));
            Err(Error::Unsupported { found, expected: "ByteLevel or null" })
        }
    }
}

pub(super) fn read_normalizer(value: &Value) -> Result<Normalizer> {
    let kind = value.get("type").and_then(Value::as_str);
    match (kind, value.get("normalizers").and_then(Value::as_array).map(Vec::as_slice)) {
        (None, _) if value.is_null() => Ok(Normalizer::None),
        (Some("NFC"), _) => Ok(Normalizer::Nfc),
        (Some("NFKC"), _) => Ok(Normalizer::Nfkc),
        (Some("Sequence"), Some([])) => Ok(Normalizer::None),
        // Unlike the outer one, an inner sequence is refused: the depth stays bounded.
        (Some("Sequence"), Some([single])) if single.get("normalizers").is_none() => read_normalizer(single),
        _ => {
            let found = format!("`{}`", kind.unwrap_or("no type"));
            Err(Error::Unsupported { found, expected: "null, NFC or NFKC" })
        }
    }
}

/// The added tokens by their text.
fn added_ids(added: &[AddedToken]) -> Result<FxHashMap<&str, &AddedToken>> {
    let mut by_content = FxHashMap::default();
    let mut by_id = FxHashMap::default();
    for token in added {
        if by_content.insert(token.content.as_str(), token).is_some() {
            return Err(Error::DuplicateSpecial { content: token.content.clone() });
        }
        if let Some(first) = by_id.insert(token.id, token) {
            let (first, second) = (show(first.content.as_bytes()), show(token.content.as_bytes()));
            return Err(Error::DuplicateId { id: token.id, first, second });
        }
    }
    Ok(by_content)
}

/// Refuses an added token whose id is not the one that HF tokenizers give it, which count on from the vocabulary in the
/// order of the file, whatever it says there.
fn check_numbers(added: &[AddedToken], ids: &FxHashMap<&str, u32>) -> Result<(), (Error, String)> {
    let mut next = ids.len() as u64;
    for (index, token) in added.iter().enumerate() {
        let given = ids.get(token.content.as_str()).map_or(next, |&id| u64::from(id));
        // That it is empty is said later.
        if given != u64::from(token.id) && !token.content.is_empty() {
            let found = format!("{given}, the id that Hugging Face tokenizers give it");
            let error = Error::SpecialConflict { content: token.content.clone(), id: token.id, found };
            return Err((error, format!("added_tokens[{index}].id")));
        }
        next = next.max(given + 1);
    }
    Ok(())
}

/// The ids by token string.
fn token_ids(entries: &[(String, u32)]) -> Result<FxHashMap<&str, u32>> {
    let mut ids = FxHashMap::with_capacity_and_hasher(entries.len(), rustc_hash::FxBuildHasher);
    for (token, id) in entries {
        if *id > MAX_ID {
            return Err(Error::IdTooLarge { id: u64::from(*id), limit: MAX_ID });
        }
        if token.is_empty() {
            return Err(Error::EmptyToken { id: *id });
        }
        if let Some(first) = ids.insert(token.as_str(), *id) {
            return Err(Error::DuplicateToken { first, second: *id, bytes: show(token.as_bytes()) });
        }
    }
    Ok(ids)
}

/// Bytes by id, without those that added tokens bring, and the ids that no bytes reach.
fn place_tokens(
    entries: &[(String, u32)],
    added: &FxHashMap<&str, &AddedToken>,
) -> Result<(Vec<Vec<u8>>, FxHashSet<u32>)> {
    let is_added = |token: &str| added.contains_key(token);
    let last = entries.iter().filter(|(token, _)| !is_added(token)).map(|&(_, id)| id).max();
    let mut tokens = vec![Vec::new(); last.map_or(0, |last| last as usize + 1)];
    let mut unreachable = FxHashSet::default();
    let mut owners: FxHashMap<u32, &str> = FxHashMap::default();
    owners.reserve(entries.len());
    for (token, id) in entries {
        if let Some(first) = owners.insert(*id, token) {
            let (first, second) = (show(first.as_bytes()), show(token.as_bytes()));
            return Err(Error::DuplicateId { id: *id, first, second });
        }
        let bytes = byte_level::to_bytes(token);
        if let Some(added) = added.get(token.as_str()) {
            if added.id != *id {
                let found = format!("id {id} in the vocabulary");
                return Err(Error::SpecialConflict { content: token.clone(), id: added.id, found });
            }
            // An added word may be an ordinary token as well, if merging its bytes gives that very text.
            let place = *id as usize;
            if !added.special && place < tokens.len() && bytes.as_deref() == Some(token.as_bytes()) {
                tokens[place] = token.as_bytes().to_vec();
            }
            continue;
        }
        tokens[*id as usize] = bytes.unwrap_or_else(|| {
            unreachable.insert(*id);
            token.as_bytes().to_vec()
        });
    }
    let filled: FxHashSet<u32> = added.values().map(|token| token.id).collect();
    let is_gap = |id: &u32| !owners.contains_key(id) && !filled.contains(id);
    match (last, (0..tokens.len() as u32).find(is_gap)) {
        (Some(last), Some(id)) => Err(Error::IdGap { id, last }),
        _ => Ok((tokens, unreachable)),
    }
}

fn read_merges(merges: &[MergeText], ids: &FxHashMap<&str, u32>) -> Result<Vec<(u32, u32)>> {
    let id_of = |index: usize, part: &str| {
        ids.get(part).copied().ok_or_else(|| Error::DanglingMerge { index, part: show(part.as_bytes()) })
    };
    let read = |(index, merge): (usize, &MergeText)| match merge.parts() {
        Some((left, right)) => Ok((id_of(index, left)?, id_of(index, right)?)),
        None => Err(Error::MergeSyntax { index, found: format!("{merge:?}") }),
    };
    merges.iter().enumerate().map(read).collect()
}

pub(super) fn special_token(token: AddedToken) -> SpecialToken {
    SpecialToken {
        content: token.content,
        id: token.id,
        special: token.special,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        single_word: token.single_word,
        normalized: token.normalized,
    }
}
