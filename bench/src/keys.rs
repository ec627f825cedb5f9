//! Owns which key a record has. Randomness is seeded: a run can be repeated.

use crate::random::Random;
use crate::workload::Keys;

/// Different keys of a run.
const KEYS: usize = 10_000;

#[derive(Clone, Debug)]
pub struct KeyChoice {
    keys: Keys,
    turn: usize,
    random: Random,
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
            random: Random::new(seed),
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
            Keys::Uniform => (self.random.next_fraction() * KEYS as f64) as usize,
            Keys::Zipf => {
                let sum = *self.cumulative.last().expect("made for it");
                let point = self.random.next_fraction() * sum;
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
