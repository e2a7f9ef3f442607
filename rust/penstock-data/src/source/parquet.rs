//! Parquet files: only the wanted columns are read.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::columns::{Columns, decode, wanted};
use super::{Origin, SourceOptions};
use crate::error::{Error, Result};

const ROWS_PER_READ: usize = 256;

pub(super) fn open(
    path: &Path,
    options: &SourceOptions,
    position: Arc<AtomicU64>,
) -> Result<Columns<ParquetRecordBatchReader>> {
    let origin = Origin { path: path.to_owned(), position };
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let size = file.metadata().map_err(|e| Error::io(path, "read the size of", e))?.len();
    let builder = decode(&origin, || ParquetRecordBatchReaderBuilder::try_new(file))?;
    let columns = wanted(builder.schema(), &origin, options)?;
    let rows = builder.metadata().file_metadata().num_rows();
    let rows = u64::try_from(rows).map_err(|_| origin.corrupt("a negative number of rows"))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    let reader = decode(&origin, || builder.with_projection(mask).with_batch_size(ROWS_PER_READ).build())?;
    Ok(Columns::new(reader, origin, size, Some(rows), options))
}
