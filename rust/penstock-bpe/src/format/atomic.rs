//! A file that appears whole or not at all.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `bytes` to `path` through a neighbouring file that is renamed once it is safely on disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = neighbour(path);
    let result = write_and_rename(&temporary, path, bytes);
    if result.is_err() {
        // Nothing half-written may stay; if even this fails, the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(temporary)
        .map_err(Error::io(temporary, "create"))?;
    file.write_all(bytes).map_err(Error::io(temporary, "write"))?;
    file.sync_all().map_err(Error::io(temporary, "write"))?;
    fs::rename(temporary, path).map_err(Error::io(path, "replace"))?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder, "write"))
}

/// A hidden name beside `path` that no other writer uses, nor one that was killed. Process numbers would not do: in
/// containers they repeat.
fn neighbour(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".{name}.{random:016x}.tmp"))
}
