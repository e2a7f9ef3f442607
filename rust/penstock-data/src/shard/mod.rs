//! Shards: Arrow IPC files of rows (docs/format.md sections 2 and 3).

mod frame;
mod read;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_buffer::ToByteSlice;
use arrow_schema::{DataType, Field, Schema};
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

pub(crate) use read::{Block, Decoded, ShardReader};
pub use read::{ReadMode, Row};
pub(crate) use write::{RowWriter, arrow_io};

use crate::folder::FORMAT_VERSION;
use crate::manifest::Parameters;

#[cfg(target_endian = "big")]
compile_error!("shards are little-endian and read without conversion");

/// What a shard says about itself, so that it cannot stand in for another one.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Identity {
    format_version: u64,
    task: u32,
    shard: u32,
    seq_len: u32,
    lookahead: u32,
}

impl Identity {
    pub(crate) fn new(task: u32, shard: u32, parameters: &Parameters) -> Self {
        let Parameters { seq_len, lookahead, .. } = *parameters;
        Self { format_version: FORMAT_VERSION, task, shard, seq_len, lookahead }
    }

    /// Tokens of a row.
    pub(crate) fn width(self) -> usize {
        self.seq_len as usize + self.lookahead as usize
    }

    pub(crate) fn file_name(self) -> String {
        format!("{:05}-{:05}.arrow", self.task, self.shard)
    }

    pub(crate) fn schema(self) -> Arc<Schema> {
        // One key: the map behind it is written in no fixed order.
        let label = serde_json::to_string(&self).unwrap_or_default();
        let list = |name: &str, kind| Field::new(name, DataType::List(item(kind)), false);
        let width = i32::try_from(self.width()).unwrap_or(i32::MAX);
        let fields = vec![
            Field::new("tokens", DataType::FixedSizeList(item(DataType::UInt32), width), false),
            list("doc_ends", DataType::UInt32),
            list("doc_ids", DataType::UInt64),
            Field::new("xxh3", DataType::UInt64, false),
        ];
        Arc::new(Schema::new_with_metadata(fields, HashMap::from([("penstock".to_owned(), label)])))
    }
}

fn item(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind, false))
}

/// The checksum of a row; its index in the shard is the seed, so that exchanged rows differ from theirs.
pub(crate) fn row_hash(row_in_shard: u64, tokens: &[u32], doc_ends: &[u32], doc_ids: &[u64]) -> u64 {
    let mut hash = Xxh3::with_seed(row_in_shard);
    hash.update(tokens.to_byte_slice());
    hash.update(doc_ends.to_byte_slice());
    hash.update(doc_ids.to_byte_slice());
    hash.digest()
}
