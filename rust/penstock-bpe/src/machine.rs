//! The only unsafe code of this crate: vector instructions, prefetching, and memory on huge pages.
//! Without them all is the same, but slower.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::Deref;
use std::slice;

use memmap2::MmapMut;
use zerocopy::FromZeros;

/// Bytes classified at once.
pub(crate) const BLOCK_BYTES: usize = 64;

/// A bit a byte and class, the first byte in the lowest bit. Bytes above 127 are in none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    /// `[A-Za-z]`
    pub(crate) letters: u64,
    /// `[0-9]`
    pub(crate) digits: u64,
    /// All from `!` to `~`.
    pub(crate) printable: u64,
    /// The space.
    pub(crate) spaces: u64,
    /// CR and LF.
    pub(crate) newlines: u64,
    /// Tab to CR: all other white space of ASCII.
    pub(crate) breaks: u64,
}

/// What differs between machines of one kind.
pub(crate) trait Machine: Copy {
    /// The classes of `block`.
    fn bits_of(self, block: &[u8; BLOCK_BYTES]) -> Bits;
}

/// Any machine that the program runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

impl Machine for Plain {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[allow(unsafe_code)]
    fn bits_of(self, block: &[u8; BLOCK_BYTES]) -> Bits {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { bits_by_sse2(block) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn bits_of(self, block: &[u8; BLOCK_BYTES]) -> Bits {
        bits_by_bytes(block)
    }
}

/// A machine of the last ten years. There is a value only where that was asked.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
struct WithAvx2(());

#[cfg(target_arch = "x86_64")]
impl Machine for WithAvx2 {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn bits_of(self, block: &[u8; BLOCK_BYTES]) -> Bits {
        // SAFETY: a value of this type exists, so `wide` found AVX2.
        unsafe { bits_by_avx2(block) }
    }
}

/// A machine with masks of 64 bytes. There is a value only where that was asked.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
struct WithAvx512(());

#[cfg(target_arch = "x86_64")]
impl Machine for WithAvx512 {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn bits_of(self, block: &[u8; BLOCK_BYTES]) -> Bits {
        // SAFETY: a value of this type exists, so `wide` found AVX-512 F and BW.
        unsafe { bits_by_avx512(block) }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn bits_by_sse2(block: &[u8; BLOCK_BYTES]) -> Bits {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_cmpgt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };
    // A load without a pointer.
    let load = |quarter: &[u8; 16]| {
        let both = u128::from_le_bytes(*quarter);
        _mm_set_epi64x((both >> 64) as i64, both as i64)
    };
    let is = |v: __m128i, byte: u8| _mm_cmpeq_epi8(v, _mm_set1_epi8(byte as i8));
    // Bytes above 127 are negative here: above nothing that is asked for, below everything.
    let above = |v: __m128i, byte: u8| _mm_cmpgt_epi8(v, _mm_set1_epi8(byte as i8));
    let mask = |v: __m128i, quarter: usize| u64::from(_mm_movemask_epi8(v) as u16) << (16 * quarter);
    let mut bits = Bits::default();
    for (place, quarter) in block.as_chunks::<16>().0.iter().enumerate() {
        let v = load(quarter);
        let lower = _mm_or_si128(v, _mm_set1_epi8(0x20));
        bits.letters |= mask(above(lower, b'a' - 1), place) & !mask(above(lower, b'z'), place);
        bits.digits |= mask(above(v, b'0' - 1), place) & !mask(above(v, b'9'), place);
        bits.printable |= mask(above(v, b' '), place) & !mask(is(v, 0x7F), place);
        bits.spaces |= mask(is(v, b' '), place);
        bits.newlines |= mask(_mm_or_si128(is(v, b'\n'), is(v, b'\r')), place);
        bits.breaks |= mask(above(v, b'\t' - 1), place) & !mask(above(v, b'\r'), place);
    }
    bits
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn bits_by_avx2(block: &[u8; BLOCK_BYTES]) -> Bits {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set_epi64x, _mm256_set1_epi8,
    };
    let is = |v: __m256i, byte: u8| _mm256_cmpeq_epi8(v, _mm256_set1_epi8(byte as i8));
    // Bytes above 127 are negative here: above nothing that is asked for, below everything.
    let above = |v: __m256i, byte: u8| _mm256_cmpgt_epi8(v, _mm256_set1_epi8(byte as i8));
    let mask = |v: __m256i, half: usize| u64::from(_mm256_movemask_epi8(v) as u32) << (32 * half);
    let mut bits = Bits::default();
    for (place, half) in block.as_chunks::<32>().0.iter().enumerate() {
        // A load without a pointer.
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| half.as_chunks::<8>().0[word]).map(i64::from_le_bytes);
        let v = _mm256_set_epi64x(d, c, b, a);
        let lower = _mm256_or_si256(v, _mm256_set1_epi8(0x20));
        bits.letters |= mask(above(lower, b'a' - 1), place) & !mask(above(lower, b'z'), place);
        bits.digits |= mask(above(v, b'0' - 1), place) & !mask(above(v, b'9'), place);
        bits.printable |= mask(above(v, b' '), place) & !mask(is(v, 0x7F), place);
        bits.spaces |= mask(is(v, b' '), place);
        bits.newlines |= mask(_mm256_or_si256(is(v, b'\n'), is(v, b'\r')), place);
        bits.breaks |= mask(above(v, b'\t' - 1), place) & !mask(above(v, b'\r'), place);
    }
    bits
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(unsafe_code)]
fn bits_by_avx512(block: &[u8; BLOCK_BYTES]) -> Bits {
    use std::arch::x86_64::{
        _mm512_cmpeq_epi8_mask, _mm512_cmplt_epu8_mask, _mm512_loadu_si512, _mm512_or_si512,
        _mm512_set1_epi8, _mm512_sub_epi8,
    };
    // SAFETY: the block has 64 bytes, and the load asks for no alignment.
    let v = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
    let all = |byte: u8| _mm512_set1_epi8(byte as i8);
    let between = |v, first: u8, last: u8| {
        _mm512_cmplt_epu8_mask(_mm512_sub_epi8(v, all(first)), all(last - first + 1))
    };
    let is = |byte: u8| _mm512_cmpeq_epi8_mask(v, all(byte));
    Bits {
        letters: between(_mm512_or_si512(v, all(0x20)), b'a', b'z'),
        digits: between(v, b'0', b'9'),
        printable: between(v, b'!', b'~'),
        spaces: is(b' '),
        newlines: is(b'\n') | is(b'\r'),
        breaks: between(v, b'\t', b'\r'),
    }
}

/// The classes, byte by byte.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn bits_by_bytes(block: &[u8; BLOCK_BYTES]) -> Bits {
    let bits =
        |is_of: fn(u8) -> bool| block.iter().rev().fold(0, |bits, &byte| bits << 1 | u64::from(is_of(byte)));
    Bits {
        letters: bits(|byte| byte.is_ascii_alphabetic()),
        digits: bits(|byte| byte.is_ascii_digit()),
        printable: bits(|byte| byte.is_ascii_graphic()),
        spaces: bits(|byte| byte == b' '),
        newlines: bits(|byte| matches!(byte, b'\r' | b'\n')),
        breaks: bits(|byte| matches!(byte, b'\t'..=b'\r')),
    }
}

/// Work that is worth having several times in the program: for every machine, and for newer ones.
pub(crate) trait Work {
    /// What it makes.
    type Output;

    /// Does it. To be built into its callers, with all that matters in it.
    fn run<M: Machine>(self, machine: M) -> Self::Output;
}

/// Does `work`, by wider vectors and newer bit instructions where this machine has them.
#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)]
pub(crate) fn wide<W: Work>(work: W) -> W::Output {
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn with_avx2<W: Work>(work: W) -> W::Output {
        work.run(WithAvx2(()))
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn with_avx512<W: Work>(work: W) -> W::Output {
        work.run(WithAvx512(()))
    }
    let has_bits = is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let has_avx2 = has_bits && is_x86_feature_detected!("avx2");
    let has_masks = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    if has_avx2 && has_masks {
        // SAFETY: this machine has all of the features, as was asked just now.
        unsafe { with_avx512(work) }
    } else if has_avx2 {
        // SAFETY: the same.
        unsafe { with_avx2(work) }
    } else {
        work.run(Plain)
    }
}

/// Does `work`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn wide<W: Work>(work: W) -> W::Output {
    work.run(Plain)
}

/// Asks for `slice[index]` to be brought near, if there is such a place. Changes nothing but time.
#[inline]
#[allow(unsafe_code)]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = slice.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing; the pointer is that of a reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

/// Less memory than this is left on ordinary pages.
const LEAST_HUGE_BYTES: usize = 4 << 20;

/// An empty vector with room for `capacity` items, on huge pages if there is enough of it: page faults and address
/// look-ups cost a sixth of encoding otherwise.
#[must_use]
pub fn with_huge_pages<T>(capacity: usize) -> Vec<T> {
    let items = Vec::with_capacity(capacity);
    ask_for_huge_pages(items.as_ptr(), capacity);
    items
}

/// Items that are zero until they are written: pages that nobody has touched cost nothing.
#[derive(Debug)]
pub(crate) struct Zeroed<T> {
    memory: MmapMut,
    len: usize,
    items: PhantomData<T>,
}

impl<T: FromZeros> Zeroed<T> {
    /// `len` items, on huge pages if that is enough of them. Where there is no memory the program ends, as with a vector.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = Layout::array::<T>(len).map_or(usize::MAX, |layout| layout.size());
        let memory = MmapMut::map_anon(bytes).unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()));
        ask_for_huge_pages(memory.as_ptr(), memory.len());
        Self { memory, len, items: PhantomData }
    }
}

#[allow(unsafe_code)]
impl<T: FromZeros> Deref for Zeroed<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        const { assert!(align_of::<T>() <= 4096) };
        // SAFETY: the memory begins a page, holds `len` items, was zero, and has only been written as items.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

/// Asks for huge pages for `len` items of new memory, if that is enough of it. Changes nothing but time.
#[allow(unsafe_code)]
pub fn ask_for_huge_pages<T>(start: *const T, len: usize) {
    let bytes = len * size_of::<T>();
    if bytes >= LEAST_HUGE_BYTES {
        #[cfg(target_os = "linux")]
        {
            const PAGE_BYTES: usize = 1 << 12;
            // From the start of the first page, which an allocator shares: else the first huge page would not fit.
            let skipped = start.addr() % PAGE_BYTES;
            let first = start.wrapping_byte_sub(skipped).cast_mut().cast();
            let len = (skipped + bytes) & !(PAGE_BYTES - 1);
            // SAFETY: this advice changes no content, whatever lies there. Where the kernel refuses it, or has other
            // pages, nothing happens.
            unsafe { libc::madvise(first, len, libc::MADV_HUGEPAGE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Classify<'a>(&'a [u8; BLOCK_BYTES]);

    impl Work for Classify<'_> {
        type Output = Bits;

        fn run<M: Machine>(self, machine: M) -> Bits {
            machine.bits_of(self.0)
        }
    }

    #[test]
    fn every_byte_at_every_place_has_its_class() {
        for byte in 0..=255 {
            for place in 0..BLOCK_BYTES {
                let mut block = [b'a'; BLOCK_BYTES];
                block[place] = byte;
                let expected = bits_by_bytes(&block);
                assert_eq!(Plain.bits_of(&block), expected, "{byte} at {place}");
                assert_eq!(wide(Classify(&block)), expected, "{byte} at {place}, wide");
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    assert_eq!(WithAvx2(()).bits_of(&block), expected, "{byte} at {place}, AVX2");
                }
            }
        }
    }
}
