//! Runs: sorted lists of counts on disk, written when memory is full, summed as they are read.
//!
//! A run lists distinct pieces by (hash, bytes), each as count and length (both LEB128) and bytes. The hash is one of
//! the bytes alone, so that any two runs agree on the order, whoever wrote them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{CountsFileError, Error, Result, show};
use crate::progress::Progress;

const WRITE_BUFFER_BYTES: usize = 1 << 20;
/// All runs that are summed at once share this much memory for reading.
const READ_BUFFERS_BYTES: usize = 32 << 20;
const MIN_READ_BYTES: usize = 1 << 12;
const MAX_READ_BYTES: usize = 1 << 20;
/// Longest piece of a run: beyond any text that is read.
const MAX_PIECE_BYTES: u64 = u32::MAX as u64;
/// Pieces between two looks at the cancel flag.
const CHECKED_PIECES: u64 = 1 << 14;

/// The hash that orders runs and decides what a sample keeps: of the content alone, the same on every machine.
#[inline]
pub(super) fn content_hash(piece: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(piece)
}

/// One run: a part of a file.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) file: Arc<File>,
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Writes a run. A failed write is kept and told by [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct RunWriter<W: Write> {
    out: BufWriter<W>,
    written_bytes: u64,
    failure: Option<io::Error>,
}

impl<W: Write> RunWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(WRITE_BUFFER_BYTES, out), written_bytes: 0, failure: None }
    }

    /// Appends a piece; the caller keeps the order.
    pub(super) fn push(&mut self, piece: &[u8], count: u64) {
        let mut head = [0; 20];
        let mut len = leb128(count, &mut head, 0);
        len = leb128(piece.len() as u64, &mut head, len);
        self.write(&head[..len]);
        self.write(piece);
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.failure.is_none() {
            self.failure = self.out.write_all(bytes).err();
            self.written_bytes += bytes.len() as u64;
        }
    }

    /// Bytes written so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// The target and the bytes written.
    pub(super) fn finish(self) -> io::Result<(W, u64)> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.out.into_inner().map_err(io::IntoInnerError::into_error)?, self.written_bytes)),
        }
    }
}

fn leb128(mut value: u64, out: &mut [u8; 20], mut at: usize) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Reads a run from its beginning, one piece at a time.
#[derive(Debug)]
struct RunReader<'r> {
    run: &'r Run,
    /// Place in the file of the end of `buffer`.
    at: u64,
    buffer: Vec<u8>,
    /// What of `buffer` was taken.
    taken: usize,
    read_bytes: usize,
    piece: Vec<u8>,
    hash: u64,
    count: u64,
}

impl<'r> RunReader<'r> {
    fn new(run: &'r Run, read_bytes: usize) -> Self {
        let (at, buffer, piece) = (run.start, Vec::new(), Vec::new());
        Self { run, at, buffer, taken: 0, read_bytes, piece, hash: 0, count: 0 }
    }

    /// Reads the next piece; `false` at the end. A piece out of order is damage.
    fn advance(&mut self) -> Result<bool> {
        if self.at == self.run.end && self.taken == self.buffer.len() {
            return Ok(false);
        }
        let count = self.number()?;
        let len = self.number()?;
        if len > MAX_PIECE_BYTES || len > self.left_bytes() || len == 0 || count == 0 {
            return Err(self.damaged("a piece of impossible size or count"));
        }
        let before = std::mem::take(&mut self.piece);
        self.piece = self.bytes(len as usize)?;
        let hash = content_hash(&self.piece);
        if !before.is_empty() && (self.hash, before.as_slice()) >= (hash, self.piece.as_slice()) {
            return Err(self.damaged("pieces out of order"));
        }
        (self.hash, self.count) = (hash, count);
        Ok(true)
    }

    fn left_bytes(&self) -> u64 {
        self.run.end - self.at + (self.buffer.len() - self.taken) as u64
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number beyond 64 bits"))
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        if self.taken == self.buffer.len() {
            self.refill()?;
        }
        self.taken += 1;
        Ok(self.buffer[self.taken - 1])
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            if self.taken == self.buffer.len() {
                self.refill()?;
            }
            let part = (len - bytes.len()).min(self.buffer.len() - self.taken);
            bytes.extend_from_slice(&self.buffer[self.taken..self.taken + part]);
            self.taken += part;
        }
        Ok(bytes)
    }

    fn refill(&mut self) -> Result<()> {
        let left = self.run.end - self.at;
        if left == 0 {
            return Err(self.damaged("the list ends within a piece"));
        }
        let len = left.min(self.read_bytes as u64) as usize;
        self.buffer.resize(len, 0);
        let read = self.run.file.read_exact_at(&mut self.buffer, self.at);
        read.map_err(Error::io(&self.run.path, "read counts from"))?;
        (self.at, self.taken) = (self.at + len as u64, 0);
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> Error {
        CountsFileError::Damaged { path: self.run.path.clone(), reason }.into()
    }
}

/// The head of a run, for the queue of all runs: the least (hash, bytes) first.
struct Head<'r>(RunReader<'r>);

impl Head<'_> {
    fn key(&self) -> (u64, &[u8]) {
        (self.0.hash, &self.0.piece)
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head<'_> {}

/// Calls `take` with each distinct piece of `runs` and the sum of its counts, in the order of runs.
pub(super) fn sum_runs(
    runs: &[Run],
    progress: &Progress,
    mut take: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    progress.start("sum counts", runs.iter().map(|run| run.end - run.start).sum());
    let read_bytes = (READ_BUFFERS_BYTES / runs.len().max(1)).clamp(MIN_READ_BYTES, MAX_READ_BYTES);
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for run in runs {
        let mut reader = RunReader::new(run, read_bytes);
        if reader.advance()? {
            heads.push(Head(reader));
        }
    }
    let (mut piece, mut count, mut taken, mut taken_bytes) = (Vec::new(), 0_u64, 0, 0);
    while let Some(mut head) = heads.peek_mut() {
        let reader = &mut head.0;
        if piece == reader.piece {
            let sum = count.checked_add(reader.count);
            count = sum.ok_or_else(|| Error::CountOverflow { piece: show(&piece) })?;
        } else {
            if count > 0 {
                take(&piece, count)?;
            }
            piece.clone_from(&reader.piece);
            count = reader.count;
        }
        taken += 1;
        taken_bytes += piece.len() as u64 + 2;
        if !reader.advance()? {
            std::collections::binary_heap::PeekMut::pop(head);
        }
        if taken % CHECKED_PIECES == 0 {
            progress.check()?;
            progress.add(std::mem::take(&mut taken_bytes));
        }
    }
    if count > 0 {
        take(&piece, count)?;
    }
    Ok(())
}
