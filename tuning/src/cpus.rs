//! Owns sets of CPUs and how the kernel spells them.

use std::collections::BTreeSet;
use std::fmt;

/// Linux is built for at most so many.
pub const CPUS_MAX: u32 = 8192;

const MASK_BITS: u32 = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// `0-3,8`; nothing is the empty set.
    pub fn from_list(text: &str) -> Option<CpuSet> {
        let mut cpus = BTreeSet::new();
        for range in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= CPUS_MAX {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(CpuSet(cpus))
    }

    /// `ff,0000000f`: words of 32 CPUs in hexadecimal, the highest first.
    pub fn from_mask(text: &str) -> Option<CpuSet> {
        let mut cpus = BTreeSet::new();
        let words: Vec<&str> = text.trim().split(',').collect();
        if words.len() > (CPUS_MAX / MASK_BITS) as usize {
            return None;
        }
        for (index, word) in words.iter().rev().enumerate() {
            let bits = u32::from_str_radix(word, 16).ok()?;
            let first = index as u32 * MASK_BITS;
            cpus.extend(
                (0..MASK_BITS)
                    .filter(|bit| bits & (1 << bit) != 0)
                    .map(|bit| first + bit),
            );
        }
        Some(CpuSet(cpus))
    }

    /// Without leading words of nothing.
    pub fn to_mask(&self) -> String {
        let words = self.last().map_or(1, |last| last / MASK_BITS + 1);
        let word = |index: u32| {
            let first = index * MASK_BITS;
            let bits = self.0.range(first..first + MASK_BITS);
            bits.fold(0u32, |word, cpu| word | 1 << (cpu - first))
        };
        let highest = format!("{:x}", word(words - 1));
        let others = (0..words - 1)
            .rev()
            .map(|index| format!("{:08x}", word(index)));
        std::iter::once(highest)
            .chain(others)
            .collect::<Vec<_>>()
            .join(",")
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    fn last(&self) -> Option<u32> {
        self.0.last().copied()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + '_ {
        self.0.iter().copied()
    }

    /// The `count` lowest.
    pub fn first(&self, count: usize) -> CpuSet {
        self.iter().take(count).collect()
    }

    pub fn without(&self, others: &CpuSet) -> CpuSet {
        CpuSet(&self.0 - &others.0)
    }

    pub fn common(&self, others: &CpuSet) -> CpuSet {
        CpuSet(&self.0 & &others.0)
    }

    pub fn with(&self, others: &CpuSet) -> CpuSet {
        CpuSet(&self.0 | &others.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

/// As a list.
impl fmt::Display for CpuSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(out, "{separator}{first}")?;
            if last > first {
                write!(out, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_come_back() {
        for (list, mask) in [
            ("", "0"),
            ("0", "1"),
            ("0-3,8", "10f"),
            ("31-32,63", "80000001,80000000"),
            ("64", "1,00000000,00000000"),
        ] {
            let cpus = CpuSet::from_list(list).unwrap();
            assert_eq!(
                (cpus.to_string(), cpus.to_mask()),
                (list.into(), mask.into())
            );
            assert_eq!(CpuSet::from_mask(mask).unwrap(), cpus);
        }
        assert_eq!(CpuSet::from_list("3,0-1,1").unwrap().to_string(), "0-1,3");
        assert_eq!(
            CpuSet::from_mask("00000000,00000003").unwrap().to_string(),
            "0-1"
        );
    }

    #[test]
    fn nonsense_is_no_set() {
        for list in ["a", "3-1", "1,,2", "-1", "0-4294967295", "99999999999"] {
            assert_eq!(CpuSet::from_list(list), None, "{list}");
        }
        for mask in ["", "xyz", "1,", "123456789"] {
            assert_eq!(CpuSet::from_mask(mask), None, "{mask}");
        }
    }
}
