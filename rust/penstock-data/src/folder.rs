//! Names, sealed JSON files, commits by rename and locks: what keeps a dataset folder whole (docs/format.md sections 1 and 5).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use penstock_bpe::progress::Progress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::error::{Error, Result};

pub(crate) const FORMAT_VERSION: u64 = 1;
const KNOWN_VERSIONS: &str = "1";
const SEAL: &str = ",\n  \"xxh3\": \"";
const SEAL_END: &[u8] = b"\"\n}\n";
const HASH_DIGITS: usize = 16;
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Each attempt fails only if another packer finishes in that very moment.
const LOCK_FOLDER_ATTEMPTS: u32 = 1000;

/// A 64-bit hash as the format writes it.
pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Refuses names that could lead out of the folder.
///
/// # Errors
/// [`Error::UnsafeName`].
pub(crate) fn check_file_name(holder: &Path, name: &str) -> Result<()> {
    let refuse = |problem| Err(Error::UnsafeName { path: holder.to_owned(), name: name.to_owned(), problem });
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
        return refuse("names are 1 to 255 of a-z 0-9 _ . -");
    }
    if name.starts_with('.') {
        return refuse("names do not begin with a dot");
    }
    Ok(())
}

/// Opens a file of the dataset for reading; its name comes from a file and is not trusted.
///
/// # Errors
/// [`Error::UnsafeName`] for a bad name or a link, [`Error::Io`].
pub(crate) fn open_member(holder: &Path, folder: &Path, name: &str) -> Result<(PathBuf, File)> {
    check_file_name(holder, name)?;
    let path = folder.join(name);
    for place in [folder, path.as_path()] {
        let found = fs::symlink_metadata(place).map_err(|e| Error::io(place, "open", e))?;
        let problem = if place == folder { "its folder is not a plain folder" } else { "not a plain file" };
        if if place == folder { !found.is_dir() } else { !found.is_file() } {
            return Err(Error::UnsafeName { path: holder.to_owned(), name: name.to_owned(), problem });
        }
    }
    let file = File::open(&path).map_err(|e| Error::io(&path, "open", e))?;
    Ok((path, file))
}

/// A value as sealed JSON.
///
/// # Errors
/// [`Error::Internal`] if the value is no JSON object with a member.
pub(crate) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let plain = serde_json::to_string_pretty(value).map_err(|_| Error::Internal("a value is no JSON"))?;
    let open = plain.strip_suffix("\n}").ok_or(Error::Internal("a sealed value is no object"))?;
    let mut bytes = format!("{open}{SEAL}").into_bytes();
    let hash = xxh3_64(&bytes);
    bytes.extend_from_slice(hex(hash).as_bytes());
    bytes.extend_from_slice(SEAL_END);
    Ok(bytes)
}

/// The digits of the seal of bytes that [`unseal`] accepts.
pub(crate) fn seal_digits(bytes: &[u8]) -> String {
    let end = bytes.len().saturating_sub(SEAL_END.len());
    String::from_utf8_lossy(&bytes[end.saturating_sub(HASH_DIGITS)..end]).into_owned()
}

/// The value in sealed JSON; the seal is checked before anything is parsed, the version before anything is believed.
///
/// # Errors
/// [`Error::Corruption`], [`Error::UnknownVersion`].
pub(crate) fn unseal<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    let corrupt = |detail: String| Error::corrupt(path, "", detail);
    let body = bytes
        .strip_suffix(SEAL_END)
        .filter(|body| body.len() > HASH_DIGITS)
        .ok_or_else(|| corrupt("it does not end with its seal (cut off?)".to_owned()))?;
    let (covered, digits) = body.split_at(body.len() - HASH_DIGITS);
    if !covered.ends_with(SEAL.as_bytes()) || hex(xxh3_64(covered)).as_bytes() != digits {
        return Err(corrupt("its content differs from its seal".to_owned()));
    }
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    let version = json.get("format_version").cloned().unwrap_or_default();
    if version.as_u64() != Some(FORMAT_VERSION) {
        return Err(Error::UnknownVersion {
            path: path.to_owned(),
            found: version.to_string(),
            known: KNOWN_VERSIONS,
        });
    }
    serde_json::from_value(json).map_err(|e| corrupt(e.to_string()))
}

/// A file under a temporary name, removed unless it is committed.
pub(crate) struct PendingFile {
    temporary: PathBuf,
    path: PathBuf,
    file: Option<File>,
}

impl PendingFile {
    /// Creates the temporary file beside `path`, in place of what a dead process may have left.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let temporary = path.with_file_name(format!(".{name}.tmp"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|e| Error::io(path, "create", e))?;
        Ok(Self { temporary, path: path.to_owned(), file: Some(file) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or(Error::Internal("a committed file is written to"))
    }

    /// Flushes the file to the disk and gives it its name. The folder is still to be flushed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub(crate) fn commit(mut self) -> Result<()> {
        self.file()?.sync_all().map_err(|e| Error::io(&self.path, "flush", e))?;
        fs::rename(&self.temporary, &self.path).map_err(|e| Error::io(&self.path, "rename into place", e))?;
        self.file = None;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Nothing can be done about a failure here; the next owner of the name truncates the file.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A file that keeps the length and the hash of what was written, since the last [`HashingWriter::restart`].
pub(crate) struct HashingWriter {
    file: File,
    bytes: u64,
    hash: Xxh3Default,
}

impl HashingWriter {
    pub(crate) fn new(file: File) -> Self {
        Self { file, bytes: 0, hash: Xxh3Default::new() }
    }

    /// Bytes written in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn digest(&self) -> u64 {
        self.hash.digest()
    }

    /// Begins the hash anew.
    pub(crate) fn restart(&mut self) {
        self.hash.reset();
    }
}

impl Write for HashingWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a small file by rename, flushed together with its folder.
///
/// # Errors
/// [`Error::Io`], [`Error::DiskFull`].
pub(crate) fn commit_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let pending = PendingFile::create(path)?;
    pending.file()?.write_all(bytes).map_err(|e| Error::io_sized(path, "write", bytes.len() as u64, e))?;
    pending.commit()?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Flushes the names in a folder to the disk.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|e| Error::io(folder, "flush", e))
}

/// Creates a folder and those above it.
///
/// # Errors
/// [`Error::Io`], [`Error::DiskFull`].
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))
}

/// A lock that dies with its process, or `None` if somebody else holds it.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::io(path, "lock", error)),
    }
}

/// The lock's file; its folder is made again while packers that have just finished remove it.
fn open_lock(path: &Path) -> Result<File> {
    let mut attempts = 0;
    loop {
        match OpenOptions::new().create(true).append(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < LOCK_FOLDER_ATTEMPTS => {
                attempts += 1;
                path.parent().map_or(Ok(()), create_folder)?;
            }
            other => return other.map_err(|e| Error::io(path, "create", e)),
        }
    }
}

/// Waits for a lock.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`].
pub(crate) fn lock(path: &Path, progress: &Progress) -> Result<File> {
    loop {
        if let Some(file) = try_lock(path)? {
            return Ok(file);
        }
        progress.check()?;
        std::thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sealed(version: u64) -> Vec<u8> {
        seal(&BTreeMap::from([("format_version", version), ("rows", 7)])).unwrap()
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_file_is_noticed() {
        let path = Path::new("m.json");
        let good = sealed(1);
        assert!(unseal::<BTreeMap<String, serde_json::Value>>(path, &good).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = unseal::<BTreeMap<String, serde_json::Value>>(path, &bad);
            assert!(matches!(found, Err(Error::Corruption { .. })), "bit {bit}: {found:?}");
        }
        for length in 0..good.len() {
            assert!(unseal::<BTreeMap<String, serde_json::Value>>(path, &good[..length]).is_err());
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_known_ones() {
        let error = unseal::<BTreeMap<String, u64>>(Path::new("m.json"), &sealed(2)).unwrap_err();
        assert!(matches!(&error, Error::UnknownVersion { found, .. } if found == "2"));
        assert!(error.to_string().contains("version 1"));
    }

    #[test]
    fn names_stay_in_the_folder() {
        let long = "a".repeat(256);
        for name in [
            "", ".", "..", "../a", "/a", "a/b", "a\\b", "A", ".a", "a b", "a\0b", "a\n", "~", "é", "%2e%2e",
            "c:a", &long,
        ] {
            assert!(check_file_name(Path::new("m.json"), name).is_err(), "{name:?}");
        }
        for name in ["a", "00000-00000.arrow", "a_b-c.d", "a..b"] {
            assert!(check_file_name(Path::new("m.json"), name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn an_abandoned_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(PendingFile::create(&folder.path().join("a")).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        commit_bytes(&folder.path().join("a"), b"x").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
