//! Chance that follows from a seed: for stores and drives that fail the same way twice.

/// A step of the generator `SplitMix64`.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers, one after the other.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn of(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = mix(self.0);
        self.0
    }

    pub(crate) fn roll(&mut self, probability: f64) -> bool {
        // 32 bits are exact in a double, and fine enough.
        f64::from((self.next() >> 32) as u32) < probability * f64::from(u32::MAX) + probability
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }
}
