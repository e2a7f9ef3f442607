//! Rows of Arrow record batches as documents: what the two columnar formats have in common.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, downcast_dictionary_array};
use arrow_schema::{ArrowError, DataType, Schema};

use super::{Origin, Outcome, Record, RecordReader, SourceOptions};
use crate::decoder::contained;
use crate::error::{BadLine, Error, Result};

/// The documents of a file that yields record batches.
pub(super) struct Columns<I> {
    batches: I,
    origin: Origin,
    size: u64,
    /// As the file states it, where it does.
    total_rows: Option<u64>,
    names: Names,
    ready: VecDeque<Outcome>,
    rows_read: u64,
}

struct Names {
    text: String,
    source: String,
    id: String,
    max_text_bytes: u64,
}

/// Calls a decoder, which must not be used again after an error.
///
/// # Errors
/// [`Error::CorruptInput`] with the decoder's message, or in place of its panic.
pub(super) fn decode<T, E: std::fmt::Display>(
    origin: &Origin,
    decoder: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    contained(decoder).map_err(|detail| origin.corrupt(detail))
}

/// The indices of the wanted columns, after a look at the text column's type.
///
/// # Errors
/// [`Error::BadColumn`] if there is no text column or it holds no strings.
pub(super) fn wanted(schema: &Schema, origin: &Origin, options: &SourceOptions) -> Result<Vec<usize>> {
    let bad = |problem: String| Error::BadColumn {
        path: origin.path.clone(),
        column: options.text_field.clone(),
        problem,
        columns: schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", "),
    };
    let text = schema.index_of(&options.text_field).map_err(|_| bad("is missing".to_owned()))?;
    let kind = schema.field(text).data_type();
    if !is_string(kind) {
        return Err(bad(format!("has type {kind}, expected a string type")));
    }
    let others = [&options.source_field, &options.id_field];
    let mut indices: Vec<usize> = others.iter().filter_map(|name| schema.index_of(name).ok()).collect();
    indices.push(text);
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

fn is_string(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl<I: Iterator<Item = std::result::Result<RecordBatch, ArrowError>>> Columns<I> {
    pub(super) fn new(
        batches: I,
        origin: Origin,
        size: u64,
        total_rows: Option<u64>,
        options: &SourceOptions,
    ) -> Self {
        let names = Names {
            text: options.text_field.clone(),
            source: options.source_field.clone(),
            id: options.id_field.clone(),
            max_text_bytes: options.max_line_bytes,
        };
        Self { batches, origin, size, total_rows, names, ready: VecDeque::new(), rows_read: 0 }
    }

    fn take_batch(&mut self, batch: &RecordBatch) {
        let Some(text) = batch.column_by_name(&self.names.text) else {
            return;
        };
        let source = batch.column_by_name(&self.names.source);
        let id = batch.column_by_name(&self.names.id);
        for row in 0..batch.num_rows() {
            let line = self.rows_read + 1;
            self.rows_read += 1;
            let outcome = match string_at(text, row) {
                None => self.origin.bad(
                    line,
                    0,
                    BadLine::NotText { field: self.names.text.clone(), found: "null" },
                ),
                Some(text) if text.len() as u64 > self.names.max_text_bytes => {
                    self.origin.bad(line, 0, BadLine::TooLong(self.names.max_text_bytes))
                }
                Some(text) => Ok(Record {
                    text: text.to_owned(),
                    source: source.and_then(|column| label_at(column, row)),
                    id: id.and_then(|column| label_at(column, row)),
                }),
            };
            self.ready.push_back(outcome);
        }
        if let Some(total) = self.total_rows {
            let share = u128::from(self.size) * u128::from(self.rows_read) / u128::from(total.max(1));
            self.origin.position.store(u64::try_from(share).unwrap_or(self.size), Ordering::Relaxed);
        }
    }

    fn finish(&self) -> Result<()> {
        self.origin.position.store(self.size, Ordering::Relaxed);
        match self.total_rows {
            Some(total) if total != self.rows_read => {
                Err(self.origin.corrupt(format_args!("ends after {} of {total} rows", self.rows_read)))
            }
            _ => Ok(()),
        }
    }
}

impl<I: Iterator<Item = std::result::Result<RecordBatch, ArrowError>> + Send> RecordReader for Columns<I> {
    fn next_record(&mut self) -> Result<Option<Outcome>> {
        while self.ready.is_empty() {
            match decode(&self.origin, || self.batches.next().transpose())? {
                Some(batch) => self.take_batch(&batch),
                None => return self.finish().map(|()| None),
            }
        }
        Ok(self.ready.pop_front())
    }
}

fn string_at(column: &dyn Array, row: usize) -> Option<&str> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Some(column.as_string_view().value(row)),
        _ => None,
    }
}

fn label_at(column: &dyn Array, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Int32 => Some(column.as_primitive::<Int32Type>().value(row).to_string()),
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::UInt32 => Some(column.as_primitive::<UInt32Type>().value(row).to_string()),
        DataType::UInt64 => Some(column.as_primitive::<UInt64Type>().value(row).to_string()),
        DataType::Dictionary(..) => downcast_dictionary_array!(
            column => label_at(column.values(), column.key(row)?),
            _ => None
        ),
        _ => string_at(column, row).map(str::to_owned),
    }
}
