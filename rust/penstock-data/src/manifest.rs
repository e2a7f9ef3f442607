//! The sealed JSON files of a dataset folder (docs/format.md section 4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A hash as the JSON files write it: 16 hexadecimal digits.
pub type HexHash = String;

/// Everything about the packing that the bytes depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Input positions of a row.
    pub seq_len: u32,
    /// Tokens stored after them: 1 + MTP depth.
    pub lookahead: u32,
    /// `best_fit` or `concatenate`.
    pub mode: String,
    /// Seed of the order of the pieces inside a row.
    pub seed: u64,
    /// Most rows open at a time.
    pub open_bins: u32,
    /// Rows of a record batch.
    pub rows_per_batch: u32,
    /// A shard closes before it exceeds this.
    pub shard_bytes: u64,
    /// `none`, `lz4` or `zstd`.
    pub compression: String,
    /// Field that holds the text.
    pub text_field: String,
    /// Field of the source label.
    pub source_field: String,
    /// Field of the documents' own ids.
    pub id_field: String,
    /// Longest accepted line.
    pub max_line_bytes: u64,
    /// `fail` or `skip`.
    pub on_bad_line: String,
    /// Millionths of the tokens that join punctuation and line breaks that are split; left out where none is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub boundary_split_ppm: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Which tokenizer made the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// Of its canonical content.
    pub sha256: String,
    /// Name of its split pattern.
    pub pattern: String,
    /// Everything counted, specials included.
    pub vocab_size: u64,
    /// The end-of-text token, if it has one.
    pub eot_id: Option<u32>,
}

/// An input before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputName {
    /// Path relative to the deepest folder that holds all inputs.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
}

/// `plan.json`: what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub format_version: u64,
    /// The packer's parameters.
    pub parameters: Parameters,
    /// The tokenizer.
    pub tokenizer: TokenizerInfo,
    /// The inputs in task order.
    pub inputs: Vec<InputName>,
}

/// An input as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputContent {
    /// As in the plan.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Of the bytes on the disk.
    pub xxh3: HexHash,
}

/// A record batch in its shard: offset, bytes of metadata, bytes of body, rows, hash of metadata and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry(pub u64, pub u32, pub u64, pub u32, pub HexHash);

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name in `shards/`.
    pub file: String,
    /// Size in bytes.
    pub size: u64,
    /// Rows in it.
    pub rows: u64,
    /// Hash of all that is not a batch body.
    pub frame_xxh3: HexHash,
    /// Its record batches in order.
    pub batches: Vec<BatchEntry>,
}

/// One documents table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Name in `documents/`.
    pub file: String,
    /// Records in it.
    pub rows: u64,
    /// Size in bytes.
    pub size: u64,
    /// Of the whole file.
    pub xxh3: HexHash,
}

/// Sums over the documents of one source label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Documents packed.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Their tokens, end-of-text included.
    pub tokens: u64,
}

/// Sums over a task or over all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Documents packed.
    pub documents: u64,
    /// Rows written.
    pub rows: u64,
    /// Tokens of the documents, end-of-text included, repeated lookahead not.
    pub tokens: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Input positions that belong to no document.
    pub pad_tokens: u64,
    /// Documents in more than one row.
    pub cut_documents: u64,
    /// Documents left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Sums by source label.
    pub by_source: BTreeMap<String, SourceCounts>,
}

/// Most labels that are counted apart: a label that is different in every document must not make a manifest of gigabytes.
const MAX_LABELS: usize = 1000;
const OTHER_LABELS: &str = "(other)";

impl Counts {
    /// Counts one packed document.
    pub(crate) fn add_document(&mut self, label: &str, text_bytes: u64, tokens: u64) {
        self.documents += 1;
        self.tokens += tokens;
        self.text_bytes += text_bytes;
        self.add_source(label, SourceCounts { documents: 1, text_bytes, tokens });
    }

    fn add_source(&mut self, label: &str, more: SourceCounts) {
        let label = if self.by_source.contains_key(label) || self.by_source.len() < MAX_LABELS {
            label
        } else {
            OTHER_LABELS
        };
        // `entry` would allocate the key for each document.
        if !self.by_source.contains_key(label) {
            self.by_source.insert(label.to_owned(), SourceCounts::default());
        }
        if let Some(counts) = self.by_source.get_mut(label) {
            add(&mut counts.documents, more.documents);
            add(&mut counts.text_bytes, more.text_bytes);
            add(&mut counts.tokens, more.tokens);
        }
    }

    /// Adds a task's sums.
    pub(crate) fn add(&mut self, more: &Self) {
        add(&mut self.documents, more.documents);
        add(&mut self.rows, more.rows);
        add(&mut self.tokens, more.tokens);
        add(&mut self.text_bytes, more.text_bytes);
        add(&mut self.pad_tokens, more.pad_tokens);
        add(&mut self.cut_documents, more.cut_documents);
        for (reason, count) in &more.skipped {
            add(self.skipped.entry(reason.clone()).or_default(), *count);
        }
        for (label, counts) in &more.by_source {
            self.add_source(label, *counts);
        }
    }
}

/// Sums of real counts stay far below the end of 64 bits; those of forged files stop there and so differ from the manifest's.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

/// `fragments/<task>.json`: a finished task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Version of the format.
    pub format_version: u64,
    /// Its number.
    pub task: u32,
    /// Seal of the plan it belongs to.
    pub plan_xxh3: HexHash,
    /// What it read.
    pub input: InputContent,
    /// What it wrote.
    pub shards: Vec<ShardEntry>,
    /// The table of its documents.
    pub documents_table: TableEntry,
    /// Its sums.
    pub counts: Counts,
}

/// A fragment as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentEntry {
    /// Name in `fragments/`.
    pub file: String,
    /// Of the whole file.
    pub xxh3: HexHash,
    /// Rows of the task.
    pub rows: u64,
    /// Documents of the task.
    pub documents: u64,
    /// Tokens of the task.
    pub tokens: u64,
}

/// `manifest.json`: the whole dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format_version: u64,
    /// The packer's parameters.
    pub parameters: Parameters,
    /// The tokenizer.
    pub tokenizer: TokenizerInfo,
    /// Seal of `plan.json`.
    pub plan_xxh3: HexHash,
    /// The tasks in order.
    pub fragments: Vec<FragmentEntry>,
    /// Sums over all.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_cap_are_counted_together() {
        let mut counts = Counts::default();
        for i in 0..1500 {
            counts.add_document(&format!("label {i:04}"), 10, 3);
        }
        counts.add_document("label 0003", 10, 3);
        assert_eq!(counts.by_source.len(), MAX_LABELS + 1);
        assert_eq!(counts.by_source["label 0003"].documents, 2);
        assert_eq!(
            counts.by_source[OTHER_LABELS],
            SourceCounts { documents: 500, text_bytes: 5000, tokens: 1500 }
        );
    }
}
