//! A cache beside a tokenizer file: its content as it is held in memory, without JSON to parse or merges to resolve.
//!
//! ```text
//! magic, key (8 bytes), xxh3 of all that follows (8)
//! lengths of: head, starts, token bytes, merges (4 each)
//! head: JSON; starts: u32 each; the bytes of all tokens, end to end; merges: left, right, product as u32
//! ```
//!
//! The key is a hash of the source and of the pattern asked for. A file that does not fit, or is damaged, is no error: the
//! source is read and the file written anew. Nothing in it is believed beyond what a tokenizer.json could say as well.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::json_write::added_token;
use super::schema::AddedToken;
use super::{json as json_read, pre_tokenizer};
use crate::encode::pairs::Merge;
use crate::model::{Model, Resolved};
use crate::pattern::Pattern;
use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 24] = b"penstock tokenizer v2\n\0\0";
const LENGTHS: usize = 4;

/// All but tokens and merges.
#[derive(Deserialize)]
struct Head {
    added_tokens: Vec<AddedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    ignore_merges: bool,
    rank_by_product: bool,
    /// Ids of tokens that text does not become.
    unreachable: Vec<u32>,
}

/// The key of a source read with a pattern.
pub(super) fn key_of(source: &[u8], pattern: Option<&Pattern>) -> u64 {
    xxh3_64_with_seed(source, pattern.map_or(0, |pattern| xxh3_64(pattern.canonical().as_bytes())))
}

/// The content of a cache; `None` for a tokenizer that no cache can hold.
pub(crate) fn write(tokenizer: &Tokenizer, key: u64) -> Option<Vec<u8>> {
    let model = tokenizer.model();
    if model.sentencepiece.is_some() {
        return None;
    }
    let vocab = &model.vocab;
    let ids = 0..vocab.len() as u32;
    let is_unreachable = |&id: &u32| !vocab.get(id).is_empty() && vocab.find(vocab.get(id)) != Some(id);
    let head = json!({
        "added_tokens": model.specials.iter().map(added_token).collect::<Vec<_>>(),
        "normalizer": model.normalizer.name().map(|name| json!({"type": name})),
        "pre_tokenizer": pre_tokenizer::write(&model.pattern),
        "ignore_merges": model.ignore_merges,
        "rank_by_product": model.rank_by_product,
        "unreachable": ids.filter(is_unreachable).collect::<Vec<_>>(),
    });
    let (bytes, starts) = vocab.flat();
    let starts: Vec<u8> = starts.iter().flat_map(|start| start.to_le_bytes()).collect();
    let merges = model.merges.iter().flat_map(|merge| [merge.left, merge.right, merge.product]);
    let merges: Vec<u8> = merges.flat_map(u32::to_le_bytes).collect();
    let sections = [head.to_string().as_bytes(), &starts, bytes, &merges].map(<[u8]>::to_vec);
    let lengths = sections.iter().flat_map(|section| (section.len() as u32).to_le_bytes()).collect();
    let body = [vec![lengths], sections.to_vec()].concat().concat();
    Some([&MAGIC[..], &key.to_le_bytes(), &xxh3_64(&body).to_le_bytes(), &body].concat())
}

/// The tokenizer of a cache, if it is whole and of that key.
pub(crate) fn read(cache: &[u8], key: u64, origin: &Path) -> Option<Tokenizer> {
    let rest = cache.strip_prefix(MAGIC)?;
    let (found, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, body) = rest.split_first_chunk::<8>()?;
    if u64::from_le_bytes(*found) != key || u64::from_le_bytes(*checksum) != xxh3_64(body) {
        return None;
    }
    let (lengths, mut rest) = body.split_at_checked(4 * LENGTHS)?;
    let mut section = |place: usize| {
        let length = numbers(lengths).nth(place)? as usize;
        let (section, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(section)
    };
    let (head, starts, bytes, merges) = (section(0)?, section(1)?, section(2)?, section(3)?);
    let head: Head = serde_json::from_slice(head).ok()?;
    let pattern = pre_tokenizer::read(&head.pre_tokenizer, origin).ok()?;
    let merges = merges.as_chunks::<12>().0.iter().map(|merge| {
        let mut parts = numbers(merge);
        let mut part = || parts.next().unwrap_or_default();
        Merge { left: part(), right: part(), product: part() }
    });
    let resolved = Resolved {
        normalizer: json_read::read_normalizer(&head.normalizer).ok()?,
        starts: numbers(starts).collect(),
        bytes: bytes.to_vec(),
        unreachable: head.unreachable.into_iter().collect(),
        merges: merges.collect(),
        rank_by_product: head.rank_by_product,
        ignore_merges: head.ignore_merges,
        specials: head.added_tokens.into_iter().map(json_read::special_token).collect(),
    };
    Model::from_resolved(pattern, resolved).map(Tokenizer::from_model)
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number))
}
