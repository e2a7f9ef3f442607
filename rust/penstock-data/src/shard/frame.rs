//! What surrounds the bodies of a shard: where the batches lie, the hash of all else, the footer.

use std::io;
use std::ops::Deref;
use std::path::Path;

use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::read_footer_length;
use arrow_schema::Schema;
use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Result};
use crate::manifest::{BatchEntry, ShardEntry};

const TRAILER_BYTES: usize = 10;

/// First rows of the batches, if these lie in the file one after the other.
pub(super) fn check_layout(holder: &Path, entry: &ShardEntry) -> Result<Vec<u64>> {
    let wrong = || Error::corrupt(holder, "", format!("its batches of {} do not fit together", entry.file));
    let mut first_rows = Vec::with_capacity(entry.batches.len());
    let mut rows = 0u64;
    let mut position = None;
    for BatchEntry(offset, metadata, body, batch_rows, _) in &entry.batches {
        if position.is_some_and(|end| end != *offset) || *batch_rows == 0 {
            return Err(wrong());
        }
        let end = offset
            .checked_add(u64::from(*metadata))
            .and_then(|at| at.checked_add(*body))
            .ok_or_else(wrong)?;
        position = Some(end);
        first_rows.push(rows);
        rows = rows.checked_add(u64::from(*batch_rows)).ok_or_else(wrong)?;
    }
    if position.is_none_or(|end| end > entry.size) || rows != entry.rows {
        return Err(wrong());
    }
    Ok(first_rows)
}

/// The hash of a shard without its bodies (docs/format.md section 3).
///
/// # Errors
/// Those of `read`.
pub(super) fn frame_hash<B: Deref<Target = [u8]>>(
    batches: &[BatchEntry],
    size: u64,
    read: impl Fn(u64, usize) -> io::Result<B>,
) -> io::Result<u64> {
    let mut hash = Xxh3Default::new();
    let mut add = |from: u64, to: u64| {
        let length = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        read(from, length).map(|bytes| hash.update(&bytes))
    };
    add(0, batches.first().map_or(size, |first| first.0))?;
    for BatchEntry(offset, metadata, ..) in batches {
        add(*offset, offset + u64::from(*metadata))?;
    }
    if let Some(BatchEntry(offset, metadata, body, ..)) = batches.last() {
        add(offset + u64::from(*metadata) + body, size)?;
    }
    Ok(hash.digest())
}

/// The schema in the file's last bytes.
pub(super) fn footer_schema(tail: &[u8]) -> Option<Schema> {
    let trailer_start = tail.len().checked_sub(TRAILER_BYTES)?;
    let trailer: [u8; TRAILER_BYTES] = tail[trailer_start..].try_into().ok()?;
    let start = trailer_start.checked_sub(read_footer_length(trailer).ok()?)?;
    let footer = arrow_ipc::root_as_footer(&tail[start..trailer_start]).ok()?;
    Some(fb_to_schema(footer.schema()?))
}
