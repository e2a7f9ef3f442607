//! Work on parts of a list at once.

use std::ops::Range;
use std::thread;

use crate::error::Result;

/// Less is not worth a thread.
const MIN_ITEMS: usize = 1 << 16;

/// Calls `work` on each of up to `threads` parts of `range`, one a thread, with its number; returns the results in order.
pub(super) fn in_shards<T: Send>(
    range: Range<usize>,
    threads: usize,
    work: impl Fn(usize, Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let shards = threads.min(range.len() / MIN_ITEMS).max(1);
    let border = |shard: usize| range.start + (range.len() as u128 * shard as u128 / shards as u128) as usize;
    let part = |shard: usize| border(shard)..border(shard + 1);
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = (1..shards)
            .map(|shard| {
                let range = part(shard);
                // A thread that cannot be started leaves its part to this one.
                let started = thread::Builder::new().spawn_scoped(scope, {
                    let range = range.clone();
                    move || work(shard, range)
                });
                (started, range)
            })
            .collect();
        let mut results = vec![work(0, part(0))?];
        for (shard, (started, range)) in (1..).zip(others) {
            results.push(match started.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result?,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_) => work(shard, range)?,
            });
        }
        Ok(results)
    })
}
