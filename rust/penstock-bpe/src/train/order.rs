//! Sorting that can be left off soon, however much there is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::Result;

/// Items between two looks at whether to go on.
const CHECKED_ITEMS: usize = 1 << 17;

/// Calls `take` with each item in order. They are sorted in chunks, by `threads` threads, that are then merged; `check`
/// ends it early.
pub(super) fn in_order<T: Ord + Send>(
    items: &mut [T],
    threads: usize,
    check: &(impl Fn() -> Result<()> + Sync),
    mut take: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    sort_chunks(items, threads, check);
    check()?;
    let mut chunks: Vec<_> = items.chunks(CHECKED_ITEMS).map(<[T]>::iter).collect();
    let mut heads: BinaryHeap<_> = chunks
        .iter_mut()
        .enumerate()
        .filter_map(|(chunk, rest)| rest.next().map(|item| Reverse((item, chunk))))
        .collect();
    let mut taken = 0_usize;
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((item, chunk)) = *head;
        take(item)?;
        match chunks[chunk].next() {
            Some(next) => *head = Reverse((next, chunk)),
            None => drop(std::collections::binary_heap::PeekMut::pop(head)),
        }
        taken += 1;
        if taken.is_multiple_of(CHECKED_ITEMS) {
            check()?;
        }
    }
    Ok(())
}

fn sort_chunks<T: Ord + Send>(items: &mut [T], threads: usize, check: &(impl Fn() -> Result<()> + Sync)) {
    let chunks = items.len().div_ceil(CHECKED_ITEMS);
    let queue = Mutex::new(items.chunks_mut(CHECKED_ITEMS));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(chunk) = next().filter(|_| check().is_ok()) {
            chunk.sort_unstable();
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(chunks) {
            // A thread that cannot be started leaves its share to the others.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}
