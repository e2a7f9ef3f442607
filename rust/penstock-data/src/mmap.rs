//! The crate's only unsafe code: a file mapped into memory as an Arrow buffer.
#![allow(unsafe_code)]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_buffer::Buffer;
use memmap2::Mmap;

/// Maps a file read-only. The mapping lives as long as the buffer and its slices.
///
/// # Errors
/// Whatever the system answers.
pub(crate) fn map(file: &File) -> std::io::Result<Buffer> {
    // SAFETY: the mapping is read-only, and committed shards are never written again: a new one replaces its predecessor by
    // rename, which leaves this mapping on the old file. Someone who cuts the file in place nevertheless gets SIGBUS, one who
    // writes into it a checksum error; `ReadMode::Read` is there for folders that are not ours alone.
    let mapping = Arc::new(unsafe { Mmap::map(file)? });
    let Some(start) = NonNull::new(mapping.as_ptr().cast_mut()) else {
        return Ok(Buffer::from_vec(Vec::<u8>::new()));
    };
    let length = mapping.len();
    // SAFETY: `start` is valid for reads of `length` bytes while `mapping` lives, and the buffer owns it. Nobody writes through
    // a `Buffer` of a custom allocation: `into_mutable` refuses those.
    Ok(unsafe { Buffer::from_custom_allocation(start, length, mapping) })
}
