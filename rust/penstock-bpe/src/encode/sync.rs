//! What threads share the tables by. `interleaved` compiles the tables once more with a model in place of these.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;
pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, fence};
pub(super) use std::sync::{Arc, Mutex, MutexGuard};
pub(super) use std::thread::yield_now;

pub(super) use zerocopy::FromZeros;

pub(super) use crate::machine::{Zeroed, prefetch};

/// Pairs that one thread brings to a larger table before it goes on with its text: less than a millisecond.
pub(super) const PART_PAIRS: usize = 1 << 12;

/// Words of an entry.
#[derive(Debug, FromZeros)]
pub(super) struct Words<const COUNT: usize>([AtomicU64; COUNT]);

impl<const COUNT: usize> Deref for Words<COUNT> {
    type Target = [AtomicU64; COUNT];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
