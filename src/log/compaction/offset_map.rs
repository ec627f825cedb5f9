//! Owns which offset is the last of each key, for one round of cleaning, in a bounded memory: keys are kept as salted
//! hashes of 128 bits, 24 bytes each. Two keys of one hash would lose a record; nobody outside knows the salt.

use std::hash::{DefaultHasher, Hasher};

use crate::ids::Offset;

/// A map that is to be filled to less would be one of nothing but room.
const LOAD_MIN: f64 = 0.01;

/// Bytes that one key takes.
pub const SLOT_BYTES: usize = size_of::<Slot>();

/// A hash, and the offset plus one: a free one is all zeroes, of which the system has any amount without writing them.
type Slot = [u64; 3];

const FREE: Slot = [0; 3];

pub struct OffsetMap {
    slots: Vec<Slot>,
    keys: usize,
    /// So many keys at most.
    keys_max: usize,
    salt: [u64; 2],
    latest: Offset,
}

impl OffsetMap {
    /// Has room for `keys` if that is within `bytes`, of which it fills no more than `load`
    /// (`log.cleaner.io.buffer.load.factor`). It never grows: that would hold the core for long.
    pub fn new(keys: u64, bytes: usize, load: f64, salt: [u64; 2]) -> OffsetMap {
        let load = load.clamp(LOAD_MIN, 1.0);
        let wanted = (keys as f64 / load) as usize;
        // One stays free, so that every search ends.
        let slots = wanted.saturating_add(2).min((bytes / SLOT_BYTES).max(2));
        OffsetMap {
            slots: vec![FREE; slots],
            keys: 0,
            keys_max: ((slots as f64 * load) as usize).clamp(1, slots - 1),
            salt,
            latest: Offset(-1),
        }
    }

    pub fn is_full(&self) -> bool {
        self.keys >= self.keys_max
    }

    pub fn len(&self) -> usize {
        self.keys
    }

    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// The map knows all that is at or below this offset.
    pub fn latest(&self) -> Offset {
        self.latest
    }

    pub fn advance_to(&mut self, offset: Offset) {
        self.latest = self.latest.max(offset);
    }

    /// The key's last offset so far. False: the map is full, and takes no more.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        if self.is_full() {
            return false;
        }
        let [high, low] = self.hash(key);
        let place = self.find([high, low]);
        self.keys += usize::from(self.slots[place] == FREE);
        self.slots[place] = [high, low, offset.0 as u64 + 1];
        self.advance_to(offset);
        true
    }

    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let [.., behind] = self.slots[self.find(self.hash(key))];
        Some(Offset(behind.checked_sub(1)? as i64))
    }

    /// Where this hash is, or would go.
    fn find(&self, [high, low]: [u64; 2]) -> usize {
        let mut place = (high % self.slots.len() as u64) as usize;
        loop {
            match self.slots[place] {
                [.., 0] => return place,
                [first, second, _] if (first, second) == (high, low) => return place,
                _ => place = (place + 1) % self.slots.len(),
            }
        }
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        self.salt.map(|salt| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(salt);
            hasher.write(key);
            hasher.finish()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_each_key_counts() {
        let mut map = OffsetMap::new(20_000, 1 << 20, 0.9, [1, 2]);
        for offset in 0..20_000i64 {
            assert!(map.put(&(offset % 7_000).to_be_bytes(), Offset(offset)));
        }
        assert_eq!((map.len(), map.latest()), (7_000, Offset(19_999)));
        for key in 0..7_000i64 {
            let last = (0..3).map(|round| key + round * 7_000);
            let last = last.filter(|offset| *offset < 20_000).max();
            assert_eq!(map.get(&key.to_be_bytes()), last.map(Offset), "key {key}");
        }
        assert_eq!(map.get(b"never seen"), None);
    }

    #[test]
    fn a_full_map_says_so_and_still_finds() {
        let mut map = OffsetMap::new(u64::MAX, 100 * SLOT_BYTES, 0.9, [1, 2]);
        let taken = (0..1_000i64).take_while(|key| map.put(&key.to_be_bytes(), Offset(*key)));
        assert_eq!(taken.count(), 90);
        assert_eq!(map.latest(), Offset(89));
        assert_eq!(map.get(&89i64.to_be_bytes()), Some(Offset(89)));
        assert_eq!(map.get(&90i64.to_be_bytes()), None);
        // However little it may have, something always fits.
        assert!(OffsetMap::new(0, 0, 0.0, [0, 0]).put(b"key", Offset(0)));
    }

    #[test]
    fn as_many_keys_as_were_foretold_fit() {
        for (keys, load) in [(1_i64, 0.9), (1_000, 0.9), (1_000, 0.5), (1_000, 1.0)] {
            let mut map = OffsetMap::new(keys as u64, 1 << 20, load, [1, 2]);
            let taken = (0..2 * keys).take_while(|key| map.put(&key.to_be_bytes(), Offset(*key)));
            assert!(
                (keys..=keys + 2).contains(&(taken.count() as i64)),
                "{keys}, {load}"
            );
        }
    }
}
