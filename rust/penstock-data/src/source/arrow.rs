//! Arrow IPC files. IPC *streams* are refused: one that is cut between batches looks whole.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_schema::ArrowError;

use super::columns::{Columns, wanted};
use super::{Origin, SourceOptions};
use crate::error::{Error, Result};

type Batches = FileReader<BufReader<File>>;

pub(super) fn open(
    path: &Path,
    options: &SourceOptions,
    position: Arc<AtomicU64>,
) -> Result<Columns<impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + use<>>> {
    let origin = Origin {
        path: path.to_owned(),
        position,
    };
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let size = file
        .metadata()
        .map_err(|e| Error::io(path, "read the size of", e))?
        .len();
    let mut magic = [0; 6];
    let filled = file.read_exact(&mut magic);
    if filled.is_err() || &magic != b"ARROW1" {
        return Err(origin.corrupt(
            "not an Arrow IPC file (no ARROW1 at its beginning); an Arrow IPC stream must be rewritten as a file, because its end cannot be checked",
        ));
    }
    file.rewind().map_err(|e| Error::io(path, "read", e))?;
    let reader = FileReader::try_new(BufReader::new(file), None).map_err(|e| origin.corrupt(e))?;
    let columns = wanted(&reader.schema(), &origin, options)?;
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let reader: Batches =
        FileReader::try_new(BufReader::new(file), Some(columns)).map_err(|e| origin.corrupt(e))?;
    // The footer lists all batches, so a missing one is an error of the reader.
    Ok(Columns::new(reader, origin, size, None, options))
}
