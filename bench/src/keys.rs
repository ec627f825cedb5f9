//! Owns which key a record has. Randomness is seeded: a run can be repeated.

use crate::workload::Keys;

/// Different keys of a run.
const KEYS: usize = 10_000;

#[derive(Clone, Debug)]
pub struct KeyChoice {
    keys: Keys,
    turn: usize,
    state: u64,
    /// For Zipf: how likely each key or one before it is, in shares of u64.
    cumulative: Vec<f64>,
}

impl KeyChoice {
    pub fn new(keys: Keys, seed: u64) -> KeyChoice {
        let mut cumulative = Vec::new();
        if keys == Keys::Zipf {
            let mut sum = 0.0;
            for rank in 1..=KEYS {
                sum += 1.0 / rank as f64;
                cumulative.push(sum);
            }
        }
        KeyChoice {
            keys,
            turn: 0,
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            cumulative,
        }
    }

    /// The next record's key; `None` without keys.
    pub fn next_key(&mut self) -> Option<[u8; 8]> {
        let number = match self.keys {
            Keys::NoKey => return None,
            Keys::KeyRoundRobin => {
                self.turn = (self.turn + 1) % KEYS;
                self.turn
            }
            Keys::Uniform => (self.fraction() * KEYS as f64) as usize,
            Keys::Zipf => {
                let sum = *self.cumulative.last().expect("made for it");
                let point = self.fraction() * sum;
                self.cumulative.partition_point(|upto| *upto <= point)
            }
        };
        let mut key = *b"k0000000";
        let mut rest = number;
        for place in key[1..].iter_mut().rev() {
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Some(key)
    }

    /// 0 up to but without 1.
    fn fraction(&mut self) -> f64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn counts(keys: Keys) -> Vec<usize> {
        let mut choice = KeyChoice::new(keys, 1);
        let mut counts = HashMap::<_, usize>::new();
        for _ in 0..100_000 {
            *counts.entry(choice.next_key().unwrap()).or_default() += 1;
        }
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn distributions_are_what_they_are_called() {
        assert_eq!(KeyChoice::new(Keys::NoKey, 1).next_key(), None);
        assert_eq!(counts(Keys::KeyRoundRobin), vec![10; KEYS]);
        let uniform = counts(Keys::Uniform);
        assert!(uniform[0] < 40, "{}", uniform[0]);
        let zipf = counts(Keys::Zipf);
        // The first of 10,000 keys has 1 / H(10,000), about 10.2 %, and the second half of that.
        assert!((9_500..11_000).contains(&zipf[0]), "{}", zipf[0]);
        assert!((4_600..5_700).contains(&zipf[1]), "{}", zipf[1]);
    }
}
