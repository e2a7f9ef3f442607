//! Arrow IPC files. IPC *streams* are refused: one that is cut between batches looks whole.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, read_footer_length};
use arrow_schema::ArrowError;

use super::columns::{Columns, decode, wanted};
use super::{Origin, SourceOptions};
use crate::error::{Error, Result};

const TRAILER_BYTES: usize = 10;

type Batches = FileReader<BufReader<File>>;

pub(super) fn open(
    path: &Path,
    options: &SourceOptions,
    position: Arc<AtomicU64>,
) -> Result<Columns<impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + use<>>> {
    let origin = Origin { path: path.to_owned(), position };
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let size = file.metadata().map_err(|e| Error::io(path, "read the size of", e))?.len();
    let mut magic = [0; 6];
    let filled = file.read_exact(&mut magic);
    if filled.is_err() || &magic != b"ARROW1" {
        return Err(origin.corrupt(
            "not an Arrow IPC file (no ARROW1 at its beginning); an Arrow IPC stream must be rewritten as a file, because its end cannot be checked",
        ));
    }
    check_blocks(&file, size).map_err(|detail| origin.corrupt(detail))?;
    file.rewind().map_err(|e| Error::io(path, "read", e))?;
    let reader = decode(&origin, || FileReader::try_new(BufReader::new(file), None))?;
    let columns = wanted(&reader.schema(), &origin, options)?;
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let reader: Batches = decode(&origin, || FileReader::try_new(BufReader::new(file), Some(columns)))?;
    // The footer lists all batches, so a missing one is an error of the reader.
    Ok(Columns::new(reader, origin, size, None, options))
}

/// The reader allocates what the footer asks for, so the footer must not ask for more than the file holds.
fn check_blocks(file: &File, size: u64) -> std::result::Result<(), String> {
    let read = |offset: u64, bytes: &mut [u8]| file.read_exact_at(bytes, offset).map_err(|e| e.to_string());
    let cut = || "it ends before its footer".to_owned();
    let mut trailer = [0; TRAILER_BYTES];
    let trailer_start = size.checked_sub(TRAILER_BYTES as u64).ok_or_else(cut)?;
    read(trailer_start, &mut trailer)?;
    let length = read_footer_length(trailer).map_err(|e| e.to_string())?;
    let footer_start = trailer_start.checked_sub(length as u64).ok_or_else(cut)?;
    let mut footer = vec![0; length];
    read(footer_start, &mut footer)?;
    let footer = arrow_ipc::root_as_footer(&footer).map_err(|e| e.to_string())?;
    let blocks = footer.recordBatches().into_iter().chain(footer.dictionaries()).flatten();
    for block in blocks {
        let parts = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
        let end = parts.iter().try_fold(0u64, |end, part| end.checked_add(u64::try_from(*part).ok()?));
        if end.is_none_or(|end| end > footer_start) {
            return Err("its footer names batches outside the file".to_owned());
        }
    }
    Ok(())
}
