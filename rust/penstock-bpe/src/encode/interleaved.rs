//! The tables compiled once more, on loom's model of memory: whatever order threads run in, and whichever of the values that
//! they may see they do see, also on machines that reorder more than this one. What is found is what was put.

use std::sync::atomic::Ordering::Relaxed;

use loom::model::Builder;
use loom::thread;

use entry::{Entry, Evictions, FREE, counted};
use shared::Shared;
use sync::Arc;
use table::Table;

#[path = "entry.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod entry;
#[path = "shared.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod shared;
#[path = "table.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod table;

/// The model of what they share.
mod sync {
    use std::array;
    /// Words of the model cannot be made of zeros, but are zero at first.
    pub(super) use std::default::Default as FromZeros;
    use std::ops::Deref;
    use std::sync::atomic::Ordering::{self, Relaxed};

    use loom::sync::atomic;
    pub(super) use loom::sync::atomic::fence;
    pub(super) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(super) use loom::thread::yield_now;

    /// An atomic of loom all of whose uses conflict. Loom remembers but the last of them: where a thread loads and then stores,
    /// it does not know what another had loaded before, and never tries to let that thread wait. So each use comes with a store
    /// that nobody sees.
    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub(super) struct $name(atomic::$name, atomic::AtomicBool);

            #[allow(dead_code)]
            impl $name {
                pub(super) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value), atomic::AtomicBool::new(false))
                }

                fn used(&self) -> &atomic::$name {
                    self.1.store(true, Relaxed);
                    &self.0
                }

                pub(super) fn load(&self, order: Ordering) -> $value {
                    self.used().load(order)
                }

                pub(super) fn store(&self, value: $value, order: Ordering) {
                    self.used().store(value, order);
                }

                pub(super) fn compare_exchange(
                    &self,
                    from: $value,
                    to: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.used().compare_exchange(from, to, success, failure)
                }
            }
        };
    }

    atomic!(AtomicBool, bool);
    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);

    impl AtomicUsize {
        pub(super) fn fetch_add(&self, more: usize, order: Ordering) -> usize {
            self.used().fetch_add(more, order)
        }
    }

    pub(super) const PART_PAIRS: usize = 4;

    #[derive(Debug)]
    pub(super) struct Words<const COUNT: usize>([AtomicU64; COUNT]);

    impl<const COUNT: usize> Default for Words<COUNT> {
        fn default() -> Self {
            Self(array::from_fn(|_| AtomicU64::new(0)))
        }
    }

    impl<const COUNT: usize> Deref for Words<COUNT> {
        type Target = [AtomicU64; COUNT];

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    #[derive(Debug)]
    pub(super) struct Zeroed<T>(Vec<T>);

    impl<T: Default> Zeroed<T> {
        pub(super) fn new(len: usize) -> Self {
            Self((0..len).map(|_| T::default()).collect())
        }
    }

    impl<T> Deref for Zeroed<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }

    pub(super) fn prefetch<T>(_: &[T], _: usize) {}
}

type Key = entry::Key<2>;

/// Keys whose last words are the same, and of as many tokens: those of two can be mistaken for a third's.
fn key(number: u64) -> Key {
    [number, 3 << 56]
}

fn tokens(number: u64) -> [u32; 4] {
    [number as u32, number as u32 + 10, number as u32 + 20, number as u32 + 30]
}

fn words(number: u64) -> [u64; 2] {
    let [a, b, c, d] = tokens(number).map(u64::from);
    [a | b << 32, c | d << 32]
}

/// Tries all that can happen, but for schedules that take the processor from a thread more than so many times.
fn all_cases(preemptions: Option<usize>, case: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(case);
}

fn put(entry: &Entry<2>, number: u64) {
    entry.write(entry.last(), counted(key(number), 4), words(number), &Evictions::new());
}

fn check(entry: &Entry<2>, number: u64) {
    let mut places = [0; 4];
    if let Some(count) = entry.get(key(number), &mut places) {
        assert_eq!((count, places), (4, tokens(number)));
    }
}

#[test]
fn a_first_write_is_seen_whole_or_not_at_all() {
    all_cases(Some(3), || {
        let entry = Arc::new(Entry::default());
        let writers = [1, 2].map(|number| {
            let entry = Arc::clone(&entry);
            thread::spawn(move || {
                entry.write(FREE, counted(key(number), 4), words(number), &Evictions::new())
            })
        });
        let mut places = [0; 4];
        if let Some(count) = entry.get_unchecked(key(1), &mut places) {
            assert_eq!((count, places), (4, tokens(1)));
        }
        writers.into_iter().for_each(|writer| assert!(writer.join().is_ok()));
        assert_ne!(entry.last(), FREE);
    });
}

#[test]
fn an_entry_that_makes_room_is_not_mixed_with_the_next() {
    all_cases(Some(2), || {
        let entry = Arc::new(Entry::default());
        put(&entry, 1);
        let writer = {
            let entry = Arc::clone(&entry);
            thread::spawn(move || [2, 1].map(|number| put(&entry, number)))
        };
        check(&entry, 1);
        check(&entry, 2);
        writer.join().unwrap();
        check(&entry, 1);
    });
}

#[test]
fn an_entry_is_taken_over_whole() {
    all_cases(Some(3), || {
        let entry = Arc::new(Entry::default());
        let writer = {
            let entry = Arc::clone(&entry);
            thread::spawn(move || [1, 2].map(|number| put(&entry, number)))
        };
        if let Some((found, tokens)) = entry.read() {
            assert!([1, 2].contains(&found[0]));
            assert_eq!((found, tokens), (counted(key(found[0]), 4), words(found[0])));
        }
        writer.join().unwrap();
    });
}

#[test]
fn readers_that_do_not_look_twice_notice_evictions() {
    // Entries of one word, so that there is not too much to try.
    let key = |number: u64| [number | 1 << 56];
    let put = move |(entry, evictions): &(Entry<1>, Evictions), number: u64| {
        entry.write(entry.last(), counted(key(number), 2), [number], evictions);
    };
    all_cases(Some(2), move || {
        let shared = Arc::new((Entry::default(), Evictions::new()));
        put(&shared, 1);
        let writers = [2, 3].map(|number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || put(&shared, number))
        });
        let (entry, evictions) = &*shared;
        let before = evictions.count();
        let found = [1, 2].map(|number| {
            let mut places = [0; 2];
            entry.get_unchecked(key(u64::from(number)), &mut places).is_none_or(|_| places == [number, 0])
        });
        assert!(evictions.count() != before || found == [true, true]);
        writers.into_iter().for_each(|writer| assert!(writer.join().is_ok()));
    });
}

fn find<const UNCHECKED: bool>(table: &Table<2>, number: u64) -> Option<Vec<u32>> {
    let mut places = [0; 4];
    let len = table.entries().get::<UNCHECKED>(key(number), table.prefetch(key(number)), &mut places)?;
    Some(places[..len].to_vec())
}

fn is_right(found: Option<Vec<u32>>, number: u64) -> bool {
    found.is_none_or(|found| found == tokens(number))
}

#[test]
fn tables_grow_by_all_threads_and_lose_nothing() {
    all_cases(Some(2), || {
        let shared = Arc::new(Shared::<2>::new(8, 16));
        let (old, table) = (shared.table(), shared.table());
        // One in either part, and one that a thread puts wherever its table then is.
        let pair_of = |number: &u64| old.prefetch(key(*number));
        let first = (1..).find(|number| pair_of(number) < 4).unwrap();
        let second = (1..).find(|number| pair_of(number) >= 4).unwrap();
        let late = (first.max(second) + 1..).find(|number| pair_of(number) == pair_of(&second)).unwrap();
        for number in [first, second] {
            old.put(key(number), &tokens(number));
        }
        old.refused.store(1, Relaxed);
        let run = move |shared: &Shared<2>, mut table: Arc<Table<2>>, parts: usize| {
            (0..parts).for_each(|_| shared.renew(&mut table));
            for number in [first, second] {
                assert_eq!(find::<false>(&table, number).unwrap(), tokens(number));
            }
            assert!(is_right(find::<true>(&table, late), late));
        };
        let other = {
            let (shared, table) = (Arc::clone(&shared), shared.table());
            thread::spawn(move || {
                table.put(key(late), &tokens(late));
                run(&shared, table, 2);
            })
        };
        run(&shared, table, 1);
        other.join().unwrap();
        // Each may have met the other at work, and gone on without.
        run(&shared, Arc::clone(&old), 2);
        assert!(old.is_old() && !shared.table().is_old());
        run(&shared, shared.table(), 0);
        assert!(old.next.try_lock().unwrap().is_none(), "keeps memory");
    });
}
