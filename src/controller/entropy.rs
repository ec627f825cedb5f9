//! Owns the randomness of one controller request: a generator seeded by the driver, so that the
//! same seed and request always make the same records.

use crate::protocol::Uuid;

#[derive(Clone, Debug)]
pub struct Entropy {
    states: [u64; 2],
}

impl Entropy {
    /// Both halves must come from the operating system: topic ids must differ between clusters.
    pub fn new(seeds: [u64; 2]) -> Entropy {
        Entropy { states: seeds }
    }

    /// Even over all 64 bits.
    pub fn number(&mut self) -> u64 {
        splitmix(&mut self.states[0])
    }

    /// Even enough in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match u64::try_from(bound) {
            Ok(bound @ 1..) => usize::try_from(self.number() % bound).unwrap_or_default(),
            _ => 0,
        }
    }

    /// A version 4 UUID. Like Kafka's, its text never begins with a dash, which command lines
    /// would take for an option.
    pub fn uuid(&mut self) -> Uuid {
        loop {
            let high = splitmix(&mut self.states[0]);
            let low = splitmix(&mut self.states[1]);
            let mut bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            let uuid = Uuid(bytes);
            if !uuid.to_string().starts_with('-') {
                return uuid;
            }
        }
    }
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
