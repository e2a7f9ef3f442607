//! The only unsafe code of this crate: vector instructions, prefetching and huge pages. Without them all is the same, but slower.

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

/// The classes of `block`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)]
pub(crate) fn bits_of(block: &[u8; BLOCK_BYTES]) -> Bits {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { bits_by_sse2(block) }
}

/// The classes of `block`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn bits_of(block: &[u8; BLOCK_BYTES]) -> Bits {
    bits_by_bytes(block)
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

/// [`bits_of`], byte by byte.
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

/// Work that is worth having twice in the program: for every machine, and for those of the last ten years.
pub(crate) trait Work {
    /// What it makes.
    type Output;

    /// Does it. To be built into its callers, with all that matters in it.
    fn run(self) -> Self::Output;
}

/// Does `work`, by wider vectors and newer bit instructions where this machine has them.
#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)]
pub(crate) fn wide<W: Work>(work: W) -> W::Output {
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn run_wide<W: Work>(work: W) -> W::Output {
        work.run()
    }
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        // SAFETY: this machine has all of the features, as was asked just now.
        unsafe { run_wide(work) }
    } else {
        work.run()
    }
}

/// Does `work`.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn wide<W: Work>(work: W) -> W::Output {
    work.run()
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
#[allow(unsafe_code)]
pub(crate) fn with_huge_pages<T>(capacity: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(capacity);
    let bytes = capacity * size_of::<T>();
    if bytes >= LEAST_HUGE_BYTES {
        #[cfg(target_os = "linux")]
        {
            const PAGE_BYTES: usize = 1 << 12;
            let start: *mut T = items.as_mut_ptr();
            let start = start.cast::<u8>();
            let skipped = start.align_offset(PAGE_BYTES).min(bytes);
            let len = (bytes - skipped) & !(PAGE_BYTES - 1);
            // SAFETY: the range lies within the vector's own memory, and this advice changes no content. Where the
            // kernel refuses it, or has other pages, nothing happens.
            unsafe { libc::madvise(start.add(skipped).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_has_its_class() {
        for byte in 0..=255 {
            for place in 0..BLOCK_BYTES {
                let mut block = [b'a'; BLOCK_BYTES];
                block[place] = byte;
                assert_eq!(bits_of(&block), bits_by_bytes(&block), "{byte} at {place}");
            }
        }
    }
}
