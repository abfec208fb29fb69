//! The keys of a delta layer: from an encoded key to the row's ordinal. Only the writer thread uses it; readers see rows.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::key::Keys;

/// Keys in the order of their rows, and a hash table over them.
#[derive(Default)]
pub(crate) struct LayerKeys {
    keys: Keys,
    table: HashTable<u32>,
}

impl LayerKeys {
    /// The row that was last added under this key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<u32> {
        self.table.find(xxh3_64(key), |row| self.keys.get(*row as usize) == key).copied()
    }

    /// The key of the next row; in place of an older row with the same key.
    pub(crate) fn push(&mut self, key: &[u8]) {
        let row = self.keys.len() as u32;
        let hash = xxh3_64(key);
        match self.table.find_mut(hash, |r| self.keys.get(*r as usize) == key) {
            Some(old) => {
                *old = row;
                self.keys.push(key);
            }
            None => {
                self.keys.push(key);
                let keys = &self.keys;
                self.table.insert_unique(hash, row, |r| xxh3_64(keys.get(*r as usize)));
            }
        }
    }
}
