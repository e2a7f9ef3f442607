//! Tables that threads share: what is found is what was put.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::thread;

use super::shared::Shared;
use super::table::Table;
use crate::vocab::MAX_ID;

fn key(number: u64) -> [u64; 2] {
    [(number * 3) | (number % 2) << 63, (number >> 8) | 7 << 56]
}

fn tokens(number: u64) -> Vec<u32> {
    [number as u32, !number as u32 & MAX_ID, 5, 6][..number as usize % 5].to_vec()
}

fn find(table: &Table<2>, number: u64) -> Option<Vec<u32>> {
    let mut tokens = [0; 4];
    let len = table.entries().get::<false>(key(number), table.prefetch(key(number)), &mut tokens)?;
    Some(tokens[..len].to_vec())
}

/// More keys than there is room for, some of which differ in a single bit: what is found is what was put.
#[test]
fn what_is_found_was_put() {
    let shared = Shared::<2>::new(4, 1 << 8);
    let mut table = shared.table();
    let mut found = 0;
    for number in 0..2000 {
        assert_eq!(find(&table, number), None, "{number}");
        table.put(key(number), &tokens(number));
        for earlier in (0..=number).step_by(97) {
            let kept = find(&table, earlier);
            assert!(kept.is_none() || kept == Some(tokens(earlier)), "{earlier}");
            found += usize::from(kept.is_some());
        }
        shared.renew(&mut table);
    }
    assert!(found > 1000 && !table.is_crowded());
}

/// Whatever other threads put meanwhile, while the table grows and when it is full: what is found is what was put.
#[test]
fn threads_share_what_they_put() {
    for (max_pairs, least) in [(4, 5), (1 << 12, 2900)] {
        assert!(found_of_3000(&Shared::new(4, max_pairs)) > least);
    }
}

/// As in a process that was forked while another thread held the lock.
#[test]
fn nobody_waits_for_a_lock_that_is_lost() {
    let shared = Shared::<2>::new(4, 1 << 8);
    let mut table = shared.table();
    let _lost = shared.lock();
    for number in 0..300 {
        table.put(key(number), &tokens(number));
        shared.renew(&mut table);
    }
    let own = shared.table();
    own.put(key(300), &tokens(300));
    assert_eq!(find(&own, 300), Some(tokens(300)));
    assert_eq!(find(&table, 300), None);
}

/// Two threads that meet the same pieces in the same empty table: neither sees a half of what the other writes.
#[test]
fn what_is_just_being_put_is_not_seen() {
    for _ in 0..40 {
        let tables: Vec<_> = (0..1500).map(|_| Table::<2>::new(4, 4)).collect();
        // Their memory is there before they meet.
        tables.iter().for_each(|table| table.put(key(5), &[]));
        let (arrived, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = || {
            for (round, table) in tables.iter().enumerate() {
                arrived.fetch_add(1, AcqRel);
                // A busy machine may have taken the other's processor away.
                while arrived.load(Acquire) < 2 * (round + 1) {
                    thread::yield_now();
                }
                for number in 1..4 {
                    let is_right = |found: Vec<u32>| found == tokens(number);
                    match find_unchecked(table, number).map(is_right) {
                        Some(is_right) => _ = wrong.fetch_add(usize::from(!is_right), Relaxed),
                        None => table.put(key(number), &tokens(number)),
                    }
                }
            }
        };
        thread::scope(|scope| (0..2).for_each(|_| _ = scope.spawn(run)));
        assert_eq!(wrong.into_inner(), 0);
    }
}

/// As whole blocks of pieces are looked up.
fn find_unchecked(table: &Table<2>, number: u64) -> Option<Vec<u32>> {
    let (mut tokens, before) = ([0; 4], table.evictions());
    let len = table.entries().get::<true>(key(number), table.prefetch(key(number)), &mut tokens)?;
    (table.evictions() == before).then(|| tokens[..len].to_vec())
}

fn found_of_3000(shared: &Shared<2>) -> usize {
    let run = || {
        let mut table = shared.table();
        for number in (0..30_000).map(|number| number % 3000) {
            match find(&table, number) {
                Some(found) => assert_eq!(found, tokens(number), "{number}"),
                None => table.put(key(number), &tokens(number)),
            }
            shared.renew(&mut table);
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| _ = scope.spawn(run)));
    (0..3000).filter(|&number| find(&shared.table(), number).is_some()).count()
}
