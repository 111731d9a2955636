//! Copying past the processor's cache.
//!
//! What a load copies into the engine's memory is not read again by this processor soon. With plain stores each line of it
//! would first be read from memory, and would push the slots out of the cache. A store copies into a slot, which the drive
//! is to find in the cache: not with this.

/// Copies `len` bytes.
///
/// # Safety
/// `from` may be read and `to` written for `len` bytes, and they do not overlap.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise.
    unsafe {
        x86_64::copy(to, from, len);
    }
    // Other processors notice by themselves that whole lines are written.
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, len);
    }
}

/// Copies a slice onto one of the same length.
pub(super) fn copy_slice(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "copied slices are of one length");
    // SAFETY: of one length; a unique borrow overlaps no other.
    unsafe { copy(to.as_mut_ptr(), from.as_ptr(), from.len()) }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    use std::arch::x86_64::{
        __m128i, __m512i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128, _mm512_loadu_si512,
        _mm512_stream_si512,
    };

    const LINE_BYTES: usize = 64;

    /// # Safety
    /// As of [`super::copy`].
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        let head = to.align_offset(LINE_BYTES).min(len);
        let lines = (len - head) / LINE_BYTES;
        let tail = head + lines * LINE_BYTES;
        // SAFETY: head, lines and tail together are the `len` bytes that the caller promised, and a line's target is on
        // a line's border.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to, head);
            if is_x86_feature_detected!("avx512f") {
                whole_lines(to.add(head), from.add(head), lines);
            } else {
                quarters_of_lines(to.add(head), from.add(head), lines);
            }
            // Streamed stores are not ordered by themselves: others must see them before they are told.
            _mm_sfence();
            std::ptr::copy_nonoverlapping(from.add(tail), to.add(tail), len - tail);
        }
    }

    /// Takes a tenth less processor time than [`quarters_of_lines`] when what it copies is in the cache.
    ///
    /// # Safety
    /// `from` may be read and `to` written for so many lines, `to` is on a line's border, and they do not overlap.
    #[target_feature(enable = "avx512f")]
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the load asks for no alignment, and the store's is seen to"
    )]
    unsafe fn whole_lines(to: *mut u8, from: *const u8, lines: usize) {
        for line in 0..lines {
            let at = line * LINE_BYTES;
            // SAFETY: the caller's promise; the target is aligned as streaming asks for.
            unsafe {
                let value = _mm512_loadu_si512(from.add(at).cast::<__m512i>());
                _mm512_stream_si512(to.add(at).cast::<__m512i>(), value);
            }
        }
    }

    /// # Safety
    /// As of [`whole_lines`]. Every processor of this architecture has these instructions.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the loads ask for no alignment, and the stores' is seen to"
    )]
    unsafe fn quarters_of_lines(to: *mut u8, from: *const u8, lines: usize) {
        for line in 0..lines {
            let at = line * LINE_BYTES;
            // SAFETY: the caller's promise; the target is aligned as streaming asks for.
            unsafe {
                let (from, to) = (from.add(at).cast::<__m128i>(), to.add(at).cast::<__m128i>());
                let quarters: [__m128i; LINE_BYTES / size_of::<__m128i>()] =
                    std::array::from_fn(|quarter| _mm_loadu_si128(from.add(quarter)));
                for (quarter, value) in quarters.into_iter().enumerate() {
                    _mm_stream_si128(to.add(quarter), value);
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn both_ways_copy_all_lines_and_nothing_else() {
            type Lines = unsafe fn(*mut u8, *const u8, usize);
            let from: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(7)).take(1024).collect();
            let mut ways: Vec<Lines> = vec![quarters_of_lines];
            if is_x86_feature_detected!("avx512f") {
                ways.push(|to, from, lines| {
                    // SAFETY: the processor has the instructions; the rest is the caller's promise.
                    unsafe { whole_lines(to, from, lines) }
                });
            }
            for way in ways {
                let mut to = vec![0xEE; 1024];
                let head = to.as_ptr().align_offset(LINE_BYTES);
                // SAFETY: 11 lines behind the first border are inside of both.
                unsafe { way(to.as_mut_ptr().add(head), from.as_ptr().add(3), 11) };
                let (before, rest) = to.split_at(head);
                let (copied, behind) = rest.split_at(11 * LINE_BYTES);
                assert_eq!(copied, &from[3..3 + 11 * LINE_BYTES]);
                assert!(before.iter().chain(behind).all(|&byte| byte == 0xEE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn miri_every_byte_is_copied_and_no_other_whatever_the_borders() {
        let from: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(7)).take(1024).collect();
        for (start, skip, len) in [
            (0, 0, 0),
            (0, 0, 1),
            (1, 0, 63),
            (3, 5, 64),
            (0, 0, 128),
            (63, 1, 700),
            (17, 64, 257),
            (5, 11, 500),
        ] {
            let mut to = vec![0xEE; 1024];
            copy_slice(&mut to[start..start + len], &from[skip..skip + len]);
            assert_eq!(to[start..start + len], from[skip..skip + len], "{start} {skip} {len}");
            assert!(
                to[..start].iter().chain(&to[start + len..]).all(|&byte| byte == 0xEE),
                "{start} {skip} {len}"
            );
        }
    }
}
