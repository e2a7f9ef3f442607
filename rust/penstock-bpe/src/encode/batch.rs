//! Many texts on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Allowed, Encoder};
use crate::tokenizer::Tokenizer;

/// Texts are handed to threads in chunks of about this many bytes.
const CHUNK_BYTES: usize = 1 << 18;

/// The ids of one chunk of texts, and how many each text has.
struct Encoded {
    chunk: usize,
    ids: Vec<u32>,
    lens: Vec<usize>,
}

impl Tokenizer {
    /// Encodes `texts` on `threads` threads (0 = one a core) of its own. Returns the ids of all texts in order, and
    /// `texts.len() + 1` offsets: text `i` has `ids[offsets[i]..offsets[i + 1]]`. The number of threads changes nothing.
    #[must_use]
    pub fn encode_batch(&self, texts: &[&str], allowed: &Allowed, threads: usize) -> (Vec<u32>, Vec<i64>) {
        let chunks = chunks_of(texts);
        let threads =
            if threads == 0 { thread::available_parallelism().map_or(1, Into::into) } else { threads };
        let next = AtomicUsize::new(0);
        let work = || self.encode_chunks(texts, &chunks, allowed, &next);
        let mut parts = thread::scope(|scope| {
            // A thread that cannot be started leaves its share to the others.
            let helpers: Vec<_> = (1..threads.min(chunks.len()))
                .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut parts = work();
            for helper in helpers {
                match helper.join() {
                    Ok(more) => parts.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            parts
        });
        parts.sort_unstable_by_key(|part| part.chunk);
        join(&parts, texts.len())
    }

    fn encode_chunks(
        &self,
        texts: &[&str],
        chunks: &[std::ops::Range<usize>],
        allowed: &Allowed,
        next: &AtomicUsize,
    ) -> Vec<Encoded> {
        let mut encoder = Encoder::new(self);
        let mut done = Vec::new();
        while let Some(range) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut ids = Vec::new();
            let mut lens = Vec::with_capacity(range.len());
            for text in &texts[range.clone()] {
                let before = ids.len();
                encoder.encode_allowed_into(text, allowed, &mut ids);
                lens.push(ids.len() - before);
            }
            done.push(Encoded { chunk: range.start, ids, lens });
        }
        done
    }
}

fn chunks_of(texts: &[&str]) -> Vec<std::ops::Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        bytes += text.len() + 16;
        if bytes >= CHUNK_BYTES || index + 1 == texts.len() {
            chunks.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    chunks
}

fn join(parts: &[Encoded], texts: usize) -> (Vec<u32>, Vec<i64>) {
    let mut ids = Vec::with_capacity(parts.iter().map(|part| part.ids.len()).sum());
    let mut offsets = Vec::with_capacity(texts + 1);
    let mut end = 0_i64;
    offsets.push(end);
    for part in parts {
        ids.extend_from_slice(&part.ids);
        for &len in &part.lens {
            end += len as i64;
            offsets.push(end);
        }
    }
    (ids, offsets)
}
