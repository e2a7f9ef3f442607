//! Counts kept in a file: to go on counting later, to sum several corpora, to train again.
//!
//! The file is a head (magic, version, name and definition of the pattern, with the normaliser if there is one), a run, and
//! a tail (number of pieces with repetitions and without, length of the run, XXH3-128 of all before). Numbers are
//! little-endian.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::run::{Run, RunWriter};
use crate::error::{CountsFileError, Error, Result};
use crate::normalize::Normalizer;
use crate::pattern::Pattern;
use crate::progress::Progress;

const MAGIC: [u8; 16] = *b"penstock counts\n";
/// Of the layout of the file.
const VERSION: u32 = 1;
const TAIL_BYTES: u64 = 3 * 8 + 16;
const CHECKED_BYTES: usize = 1 << 20;
/// Longest definition of a pattern that is read.
const MAX_HEAD_BYTES: u32 = 1 << 20;

/// Passes bytes on and takes their checksum.
struct Summed<W> {
    out: W,
    sum: Box<Xxh3>,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes counts to `path`, which appears whole or not at all. `fill` writes the run and returns the number of distinct
/// pieces.
pub(super) fn write(
    path: &Path,
    pattern: &Pattern,
    normalizer: Normalizer,
    total: u64,
    fill: impl FnOnce(&mut dyn FnMut(&[u8], u64) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path, "create"))?;
    let mut writer = RunWriter::new(Summed { out: temporary, sum: Box::new(Xxh3::new()) });
    let (name, definition) = described(pattern, normalizer);
    writer.write(&MAGIC);
    writer.write(&VERSION.to_le_bytes());
    for part in [name, definition] {
        writer.write(&(part.len() as u32).to_le_bytes());
        writer.write(part.as_bytes());
    }
    let head_bytes = writer.written_bytes();
    let mut pieces = 0_u64;
    fill(&mut |piece, count| {
        pieces += 1;
        writer.push(piece, count);
        Ok(())
    })?;
    let run_bytes = writer.written_bytes() - head_bytes;
    [total, pieces, run_bytes].iter().for_each(|number| writer.write(&number.to_le_bytes()));
    let (summed, _) = writer.finish().map_err(Error::io(path, "write"))?;
    let Summed { out: mut temporary, sum } = summed;
    let written = temporary.write_all(&sum.digest128().to_le_bytes());
    written.and_then(|()| temporary.as_file().sync_all()).map_err(Error::io(path, "write"))?;
    temporary.persist(path).map_err(|error| Error::io(path, "replace")(error.error))?;
    Ok(())
}

/// Name and definition of what text was cut by.
fn described(pattern: &Pattern, normalizer: Normalizer) -> (String, String) {
    let (name, definition) = (pattern.name(), pattern.canonical());
    match normalizer.name() {
        None => (name.to_owned(), definition),
        Some(normal) => (format!("{name} of {normal} text"), format!("{definition}\n{normal}")),
    }
}

/// The run of a file of counts that were made with `pattern` of normalised text, and the number of pieces with repetitions.
/// Reads all of the file to check it.
pub(super) fn open(
    path: &Path,
    pattern: &Pattern,
    normalizer: Normalizer,
    progress: &Progress,
) -> Result<(Run, u64)> {
    let damaged = |reason| Error::from(CountsFileError::Damaged { path: path.to_owned(), reason });
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let size_bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
    let mut reader = Reader { file: &file, path, at: 0 };
    if reader.take::<16>().ok() != Some(MAGIC) {
        return Err(damaged("not a file of counts"));
    }
    let version = u32::from_le_bytes(reader.take()?);
    if version != VERSION {
        return Err(CountsFileError::UnknownVersion { path: path.to_owned(), version, known: VERSION }.into());
    }
    let name = reader.text()?.ok_or_else(|| damaged("no name of a pattern"))?;
    let definition = reader.text()?.ok_or_else(|| damaged("no definition of a pattern"))?;
    let start = reader.at;
    let Some(end) = size_bytes.checked_sub(TAIL_BYTES).filter(|&end| end >= start) else {
        return Err(damaged("the file is cut short"));
    };
    check_sum(&file, path, size_bytes - 16, progress)?;
    reader.at = end;
    let total = u64::from_le_bytes(reader.take()?);
    let _pieces = u64::from_le_bytes(reader.take()?);
    if u64::from_le_bytes(reader.take()?) != end - start {
        return Err(damaged("the length of the list is not as stated"));
    }
    let (wanted, wanted_definition) = described(pattern, normalizer);
    if definition != wanted_definition {
        let path = path.to_owned();
        return Err(CountsFileError::OtherPattern { path, counted: name, wanted }.into());
    }
    Ok((Run { file: Arc::new(file), path: path.to_owned(), start, end }, total))
}

/// Compares the checksum behind the first `len_bytes` with them.
fn check_sum(file: &File, path: &Path, len_bytes: u64, progress: &Progress) -> Result<()> {
    progress.start("check counts", len_bytes);
    let mut sum = Box::new(Xxh3::new());
    let mut buffer = vec![0; CHECKED_BYTES];
    let mut at = 0;
    while at < len_bytes {
        let part = &mut buffer[..(len_bytes - at).min(CHECKED_BYTES as u64) as usize];
        file.read_exact_at(part, at).map_err(Error::io(path, "read"))?;
        sum.update(part);
        at += part.len() as u64;
        progress.add(part.len() as u64);
        progress.check()?;
    }
    let mut stated = [0; 16];
    file.read_exact_at(&mut stated, len_bytes).map_err(Error::io(path, "read"))?;
    if u128::from_le_bytes(stated) != sum.digest128() {
        let reason = "the checksum does not fit";
        return Err(CountsFileError::Damaged { path: path.to_owned(), reason }.into());
    }
    Ok(())
}

/// Reads the head and the tail.
struct Reader<'f> {
    file: &'f File,
    path: &'f Path,
    at: u64,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let read = self.file.read_exact_at(&mut bytes, self.at);
        read.map_err(|_| CountsFileError::Damaged {
            path: self.path.to_owned(),
            reason: "the file is cut short",
        })?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// A text behind its length; `None` if it cannot be one.
    fn text(&mut self) -> Result<Option<String>> {
        let len = u32::from_le_bytes(self.take()?);
        if len > MAX_HEAD_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        if self.file.read_exact_at(&mut bytes, self.at).is_err() {
            return Ok(None);
        }
        self.at += u64::from(len);
        Ok(String::from_utf8(bytes).ok())
    }
}
