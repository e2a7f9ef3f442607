//! Writing a tokenizer.json that HF tokenizers loads to the same ids, and the file beside it that transformers wants.

use serde_json::{Map, Value, json};

use super::pre_tokenizer;
use crate::byte_level;
use crate::error::{Error, Result};
use crate::tokenizer::{SpecialToken, Tokenizer};

/// The content of a tokenizer.json.
pub(crate) fn to_json(tokenizer: &Tokenizer) -> Result<String> {
    let model = tokenizer.model();
    if model.sentencepiece.is_some() {
        return Err(Error::OnlyAsModel { format: "a tokenizer.json" });
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": model.specials.iter().map(added_token).collect::<Vec<_>>(),
        "normalizer": model.normalizer.name().map(|name| json!({"type": name})),
        "pre_tokenizer": pre_tokenizer::write(&model.pattern),
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": model.ignore_merges,
            "vocab": vocab(tokenizer),
            "merges": merges(tokenizer),
        }
    });
    Ok(format!("{file}\n"))
}

pub(super) fn added_token(token: &SpecialToken) -> Value {
    json!({
        "id": token.id,
        "content": token.content,
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special,
    })
}

fn token_string(tokenizer: &Tokenizer, id: u32) -> String {
    byte_level::to_string(tokenizer.model().vocab.get(id))
}

/// Token strings by id. HF numbers added tokens onward from the vocabulary unless their text stands in it, so theirs
/// stands there wherever counting on would give another id.
fn vocab(tokenizer: &Tokenizer) -> Map<String, Value> {
    let model = tokenizer.model();
    let mut added = model.specials.iter().peekable();
    let is_sequel = counts_on(tokenizer);
    let mut vocab = Map::new();
    for id in 0..model.vocab.len() as u32 {
        let special = added.next_if(|token| token.id == id);
        let bytes = model.vocab.get(id);
        let name = match special {
            Some(_) if is_sequel && id >= ordinary_len(tokenizer) => continue,
            Some(token) => token.content.clone(),
            None if bytes.is_empty() => continue,
            // What no bytes reach was no byte-level string in the file it came from.
            None if model.vocab.find(bytes) != Some(id) => String::from_utf8_lossy(bytes).into_owned(),
            None => token_string(tokenizer, id),
        };
        vocab.insert(name, Value::from(id));
    }
    vocab
}

/// The id behind the last token that was not added.
fn ordinary_len(tokenizer: &Tokenizer) -> u32 {
    let model = tokenizer.model();
    let added: rustc_hash::FxHashSet<u32> = model.specials.iter().map(|token| token.id).collect();
    let is_ordinary = |id: &u32| !added.contains(id) && !model.vocab.get(*id).is_empty();
    (0..model.vocab.len() as u32).rev().find(is_ordinary).map_or(0, |last| last + 1)
}

/// Whether the added tokens behind the ordinary ones have ids without a gap.
fn counts_on(tokenizer: &Tokenizer) -> bool {
    let first = ordinary_len(tokenizer);
    let behind = tokenizer.special_tokens().iter().map(|token| token.id).filter(|&id| id >= first);
    behind.zip(first..).all(|(id, wanted)| id == wanted)
}

fn merges(tokenizer: &Tokenizer) -> Vec<Value> {
    let merges = tokenizer.merges().iter();
    merges
        .map(|merge| json!([token_string(tokenizer, merge.left), token_string(tokenizer, merge.right)]))
        .collect()
}

/// The content of a tokenizer_config.json, by which transformers finds its class.
pub(super) fn transformers_config(tokenizer: &Tokenizer) -> String {
    let end =
        tokenizer.eot_id().and_then(|id| tokenizer.special_tokens().iter().find(|token| token.id == id));
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_prefix_space": false,
    });
    if let Some(end) = end {
        config["eos_token"] = Value::from(end.content.as_str());
        config["pad_token"] = Value::from(end.content.as_str());
    }
    format!("{config:#}\n")
}
