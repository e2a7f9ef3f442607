//! Many texts, or one long one, on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::added::Part;
use super::{Allowed, Encoder, Matchers};
use crate::machine::{joined, with_huge_pages};
use crate::normalize::Normalizer;
use crate::pattern::Family;
use crate::pretokenize::safe_cut;
use crate::threads::thread_count;
use crate::tokenizer::Tokenizer;

/// Threads are handed texts, and parts of long ones, of about this many bytes at a time.
const CHUNK_BYTES: usize = 1 << 18;
/// Longer texts are cut.
const LONG_TEXT_BYTES: usize = 4 * CHUNK_BYTES;
/// A text of this many bytes for each token needs no more room than is reserved.
const LEAST_BYTES_A_TOKEN: usize = 3;

/// What a thread takes at a time.
enum Chunk<'t> {
    /// Whole texts.
    Texts(Range<usize>),
    /// A part of a long text in which no added token is looked for.
    Text(&'t str),
    /// An added token in a long text.
    Token(u32),
    /// The end of a long text.
    End,
}

/// What one thread has made: ids end to end, and for each chunk its number, its ids and how many each of its texts has.
struct Share {
    ids: Vec<u32>,
    chunks: Vec<(usize, Range<usize>, Vec<usize>)>,
}

impl Tokenizer {
    /// Encodes `texts` on `threads` threads (0 = one a core) of its own. Returns the ids of all texts in order, and
    /// `texts.len() + 1` offsets: text `i` has `ids[offsets[i]..offsets[i + 1]]`. The number of threads changes nothing.
    #[must_use]
    pub fn encode_batch(&self, texts: &[&str], allowed: &Allowed, threads: usize) -> (Vec<u32>, Vec<i64>) {
        let threads = thread_count(threads);
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if threads == 1 || bytes < LONG_TEXT_BYTES {
            return self.encode_in_turn(texts, allowed, bytes);
        }
        let mut result = Default::default();
        self.model().with_matchers(allowed, |matchers| {
            let chunks = self.chunks_of(texts, matchers);
            result =
                join(&self.encode_chunks(texts, &chunks, matchers, threads), &chunks, texts.len(), threads);
        });
        result
    }

    fn encode_in_turn(&self, texts: &[&str], allowed: &Allowed, bytes: usize) -> (Vec<u32>, Vec<i64>) {
        let mut ids = with_huge_pages(bytes / LEAST_BYTES_A_TOKEN);
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        let mut encoder = Encoder::new(self);
        self.model().with_matchers(allowed, |matchers| {
            for text in texts {
                encoder.encode_matched_into(text, matchers, &mut ids);
                offsets.push(ids.len() as i64);
            }
        });
        (ids, offsets)
    }

    fn chunks_of<'t>(&self, texts: &[&'t str], matchers: &Matchers) -> Vec<Chunk<'t>> {
        let mut chunks = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (index, text) in texts.iter().enumerate() {
            if text.len() >= LONG_TEXT_BYTES && self.can_be_cut() {
                if start < index {
                    chunks.push(Chunk::Texts(start..index));
                }
                self.cut(text, matchers, &mut chunks);
                (start, bytes) = (index + 1, 0);
                continue;
            }
            bytes += text.len() + 16;
            if bytes >= CHUNK_BYTES {
                chunks.push(Chunk::Texts(start..index + 1));
                (start, bytes) = (index + 1, 0);
            }
        }
        if start < texts.len() {
            chunks.push(Chunk::Texts(start..texts.len()));
        }
        chunks
    }

    fn can_be_cut(&self) -> bool {
        self.model().normalizer == Normalizer::None
            && self.pattern().family().is_some_and(Family::is_cut_behind_words)
    }

    /// Cuts a long text into its added tokens and parts of what lies between.
    fn cut<'t>(&self, text: &'t str, matchers: &Matchers, chunks: &mut Vec<Chunk<'t>>) {
        matchers.for_each_part(text, |part| match part {
            Part::Token(id) => chunks.push(Chunk::Token(id)),
            Part::Text(mut text) => {
                while let Some(at) = safe_cut(text, CHUNK_BYTES) {
                    let (chunk, rest) = text.split_at(at);
                    chunks.push(Chunk::Text(chunk));
                    text = rest;
                }
                chunks.push(Chunk::Text(text));
            }
        });
        chunks.push(Chunk::End);
    }

    fn encode_chunks(
        &self,
        texts: &[&str],
        chunks: &[Chunk<'_>],
        matchers: &Matchers,
        threads: usize,
    ) -> Vec<Share> {
        let next = AtomicUsize::new(0);
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let expected_ids = bytes / LEAST_BYTES_A_TOKEN / threads;
        let work = || self.encode_share(texts, chunks, matchers, &next, expected_ids);
        thread::scope(|scope| {
            // A thread that cannot be started leaves its share to the others.
            let helpers: Vec<_> = (1..threads.min(chunks.len()))
                .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut shares = vec![work()];
            for helper in helpers {
                match helper.join() {
                    Ok(share) => shares.push(share),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            shares
        })
    }

    fn encode_share(
        &self,
        texts: &[&str],
        chunks: &[Chunk<'_>],
        matchers: &Matchers,
        next: &AtomicUsize,
        expected_ids: usize,
    ) -> Share {
        let mut encoder = Encoder::new(self);
        let mut share = Share { ids: with_huge_pages(expected_ids), chunks: Vec::new() };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(number) else { return share };
            let start = share.ids.len();
            let mut lens = Vec::new();
            match chunk {
                Chunk::Texts(range) => {
                    for text in &texts[range.clone()] {
                        let before = share.ids.len();
                        encoder.encode_matched_into(text, matchers, &mut share.ids);
                        lens.push(share.ids.len() - before);
                    }
                }
                Chunk::Text(text) => encoder.encode_part_into(text, &mut share.ids),
                Chunk::Token(id) => share.ids.push(*id),
                Chunk::End => {}
            }
            share.chunks.push((number, start..share.ids.len(), lens));
        }
    }
}

/// Puts the chunks of all shares in order.
fn join(shares: &[Share], chunks: &[Chunk<'_>], texts: usize, threads: usize) -> (Vec<u32>, Vec<i64>) {
    let mut made: Vec<_> =
        shares.iter().flat_map(|share| share.chunks.iter().map(move |chunk| (chunk, &share.ids))).collect();
    made.sort_unstable_by_key(|((number, ..), _)| *number);
    let parts: Vec<&[u32]> = made.iter().map(|((_, range, _), from)| &from[range.clone()]).collect();
    let mut offsets = Vec::with_capacity(texts + 1);
    offsets.push(0);
    let mut start = 0;
    for ((number, range, lens), _) in made {
        let mut end = start;
        start += range.len();
        for &len in lens {
            end += len;
            offsets.push(end as i64);
        }
        if matches!(chunks[*number], Chunk::End) {
            offsets.push(end as i64);
        }
    }
    (joined(&parts, threads), offsets)
}
