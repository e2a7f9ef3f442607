//! A table that several threads use and that grows under them.

use std::sync::TryLockError;
use std::sync::atomic::Ordering::Release;

use super::sync::{Arc, Mutex, MutexGuard, yield_now};
use super::table::{PAIRS_BESIDE, Table};

/// How often a lock is asked for before it counts as lost.
const LOCK_TRIES: usize = 10_000;
/// Size of a table that is not shared.
const OWN_PAIRS: usize = 1 << 14;

/// The table that all threads use: each has its own reference, which it renews.
#[derive(Debug)]
pub(crate) struct Shared<const WORDS: usize> {
    table: Mutex<Arc<Table<WORDS>>>,
    max_pairs: usize,
}

impl<const WORDS: usize> Shared<WORDS> {
    /// A table for about `pieces` that grows to at most `max_pairs`, a power of two from [`PAIRS_BESIDE`] on.
    pub(crate) fn new(pieces: usize, max_pairs: usize) -> Self {
        let count = pieces.next_power_of_two().clamp(PAIRS_BESIDE, max_pairs);
        Self { table: Mutex::new(Arc::new(Table::new(count, max_pairs))), max_pairs }
    }

    /// It is held for a moment only, except in a process that was forked in that moment: there, for ever.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, Arc<Table<WORDS>>>> {
        for _ in 0..LOCK_TRIES {
            match self.table.try_lock() {
                Ok(table) => return Some(table),
                Err(TryLockError::Poisoned(table)) => return Some(table.into_inner()),
                Err(TryLockError::WouldBlock) => yield_now(),
            }
        }
        None
    }

    /// The present table; one of the caller's own if that is out of reach.
    pub(crate) fn table(&self) -> Arc<Table<WORDS>> {
        let own = || Arc::new(Table::new(OWN_PAIRS.min(self.max_pairs), OWN_PAIRS.min(self.max_pairs)));
        self.lock().map_or_else(own, |table| Arc::clone(&table))
    }

    /// Puts the present table in place of an old one, and a larger one in place of one that has become crowded: all threads
    /// that notice fill it.
    #[inline]
    pub(crate) fn renew(&self, table: &mut Arc<Table<WORDS>>) {
        if table.is_crowded() || table.is_old() {
            self.renew_crowded(table);
        }
    }

    #[cold]
    fn renew_crowded(&self, table: &mut Arc<Table<WORDS>>) {
        if let Some(next) = table.grow_by_a_part(self.max_pairs)
            && let Some(mut present) = self.lock()
        {
            *present = next;
            table.is_old.store(true, Release);
        }
        if table.is_old() {
            *table = self.table();
        }
    }
}
