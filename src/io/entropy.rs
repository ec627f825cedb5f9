//! Owns randomness: true (ids, seeds) from the kernel, and a seeded generator for everything that
//! a replay must repeat.

/// 16 random bytes as a version-4 UUID.
pub fn uuid() -> [u8; 16] {
    uuid::Uuid::new_v4().into_bytes()
}

/// Another one, as text.
pub fn uuid_text() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A seed for [`Random`].
pub fn seed() -> u64 {
    // Two UUID halves, so that the fixed version and variant bits meet random ones.
    let bytes = uuid();
    let high = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    let low = u64::from_le_bytes(bytes[8..].try_into().expect("8 bytes"));
    high.rotate_left(32) ^ low
}

/// A small seeded generator (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True `count` times in `of`.
    pub fn chance(&mut self, count: u64, of: u64) -> bool {
        self.below(of) < count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let (mut first, mut second) = (Random::new(7), Random::new(7));
        for _ in 0..100 {
            assert_eq!(first.next_u64(), second.next_u64());
            assert!(first.below(10) < 10);
            second.below(10);
        }
        assert_ne!(seed(), seed());
    }
}
