//! Numbers that differ, at the price of three shifts: for frame masks, and to pick who goes away.

/// Marsaglia's xorshift with 64 bits.
#[derive(Debug)]
pub(crate) struct Xorshift(u64);

impl Xorshift {
    /// The sequence that `seed` begins.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
