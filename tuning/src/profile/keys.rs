//! Owns the keys of a core that take a number: what each means, when it may be said, and between which bounds. Reading, writing,
//! the choice of a profile and the search for a better one all go by this table.

use super::{Core, Role, Roles};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Of a core without that role nobody would look at it. `None`: any that does something.
    pub role: Option<Role>,
    pub unit: Unit,
    pub least: u64,
    pub most: u64,
    /// What the broker takes where the profile says nothing, if that is one number.
    pub default: Option<u64>,
    /// What is worth trying, ascending; none where the machine says what is right.
    pub tries: &'static [u64],
    pub get: fn(&Core) -> Option<u64>,
    pub set: fn(&mut Core, Option<u64>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Bytes,
    /// Bytes, in whole blocks of a disk.
    Blocks,
    Microseconds,
    Percent,
    Writes,
}

/// What direct writes and reads are made of.
pub const BLOCK: u64 = 4 * KIB;

/// In the order in which they are written.
pub const KEYS: [Key; 7] = [
    Key {
        name: "tail_cache_bytes",
        role: Some(Role::Partitions),
        unit: Unit::Bytes,
        least: 8 * MIB,
        most: 256 * GIB,
        // Its part of `log.tail.cache.bytes`.
        default: None,
        tries: &[],
        get: |core| core.tail_cache_bytes,
        set: |core, value| core.tail_cache_bytes = value,
    },
    Key {
        name: "network_bytes",
        role: Some(Role::Network),
        unit: Unit::Bytes,
        least: 6 * MIB,
        most: 256 * GIB,
        default: Some(192 * MIB),
        tries: &[],
        get: |core| core.network_bytes,
        set: |core, value| core.network_bytes = value,
    },
    Key {
        name: "preempt_us",
        role: None,
        unit: Unit::Microseconds,
        least: 20,
        most: 10_000,
        default: Some(500),
        tries: &[100, 250, 500, 1_000, 2_000],
        get: |core| core.preempt_us,
        set: |core, value| core.preempt_us = value,
    },
    Key {
        name: "cleaner_percent",
        role: Some(Role::Partitions),
        unit: Unit::Percent,
        least: 1,
        most: 90,
        default: Some(20),
        tries: &[],
        get: |core| core.cleaner_percent,
        set: |core, value| core.cleaner_percent = value,
    },
    Key {
        name: "write_bytes",
        role: Some(Role::Partitions),
        unit: Unit::Blocks,
        least: MIB,
        most: 16 * MIB,
        default: Some(2 * MIB),
        tries: &[MIB, 2 * MIB, 4 * MIB, 8 * MIB],
        get: |core| core.write_bytes,
        set: |core, value| core.write_bytes = value,
    },
    Key {
        name: "write_depth",
        role: Some(Role::Partitions),
        unit: Unit::Writes,
        least: 1,
        most: 16,
        default: Some(2),
        tries: &[1, 2, 4, 8],
        get: |core| core.write_depth,
        set: |core, value| core.write_depth = value,
    },
    Key {
        name: "read_ahead_bytes",
        role: Some(Role::Network),
        unit: Unit::Blocks,
        least: 64 * KIB,
        most: 2 * MIB,
        default: Some(256 * KIB),
        tries: &[64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB],
        get: |core| core.read_ahead_bytes,
        set: |core, value| core.read_ahead_bytes = value,
    },
];

impl Key {
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Those that a search varies.
    pub fn worth_trying() -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(|key| !key.tries.is_empty())
    }

    /// Whether a core with these roles has a use for it.
    pub fn is_for(&self, roles: Roles) -> bool {
        match self.role {
            Some(role) => roles.has(role),
            None => !roles.is_empty(),
        }
    }

    /// Why it cannot have this value.
    pub fn refusal(&self, value: u64) -> Option<String> {
        let Key { least, most, .. } = *self;
        if !(least..=most).contains(&value) {
            let shown = |value| self.unit.shown(value);
            return Some(format!(
                "{value} is out of bounds: it goes from {} to {}",
                shown(least),
                shown(most)
            ));
        }
        (self.unit == Unit::Blocks && !value.is_multiple_of(BLOCK))
            .then(|| format!("{value} is no multiple of {BLOCK}"))
    }
}

impl Unit {
    /// As the format has it, and what that is in larger units.
    pub fn shown(self, value: u64) -> String {
        match self {
            Unit::Bytes | Unit::Blocks => match in_words(value) {
                words if words.ends_with('B') => format!("{value} ({words})"),
                _ => value.to_string(),
            },
            Unit::Microseconds => format!("{value} us"),
            Unit::Percent => format!("{value} %"),
            Unit::Writes => value.to_string(),
        }
    }
}

/// `256 MiB`, if it is a whole number of something.
pub fn in_words(bytes: u64) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    bytes.to_string()
}

const _: () = {
    let mut at = 0;
    while at < KEYS.len() {
        let key = &KEYS[at];
        assert!(key.least <= key.most);
        if let Some(default) = key.default {
            assert!(key.least <= default && default <= key.most);
        }
        let mut tried = 0;
        while tried < key.tries.len() {
            assert!(key.least <= key.tries[tried] && key.tries[tried] <= key.most);
            tried += 1;
        }
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_bounds_is_told_both() {
        let key = Key::named("write_bytes").unwrap();
        assert_eq!(key.refusal(1 << 20), None);
        assert_eq!(
            key.refusal(5).unwrap(),
            "5 is out of bounds: it goes from 1048576 (1 MiB) to 16777216 (16 MiB)"
        );
        assert_eq!(
            key.refusal((1 << 20) + 1).unwrap(),
            "1048577 is no multiple of 4096"
        );
        let key = Key::named("preempt_us").unwrap();
        assert_eq!(
            key.refusal(1).unwrap(),
            "1 is out of bounds: it goes from 20 us to 10000 us"
        );
    }

    #[test]
    fn each_key_is_the_field_of_its_name() {
        for key in &KEYS {
            let mut core = Core::default();
            (key.set)(&mut core, Some(7));
            assert_eq!((key.get)(&core), Some(7));
            assert!(format!("{core:?}").contains(&format!("{}: Some(7)", key.name)));
        }
    }

    #[test]
    fn the_readme_has_every_key_with_its_bounds_and_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        for key in &KEYS {
            let start = format!("| `{}` |", key.name);
            let row = readme.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("no row of {}", key.name));
            for value in [key.least, key.most].into_iter().chain(key.default) {
                let words = in_words(value);
                assert!(row.contains(&words), "{words} in {row}");
            }
        }
    }
}
