//! The keys of a delta layer: from an encoded key to the row's ordinal. Only the writer thread uses it; readers see rows.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::key::Keys;

/// Keys in the order of their rows, and a hash table over them.
#[derive(Default)]
pub(crate) struct LayerKeys {
    keys: Keys,
    table: HashTable<u32>,
    /// Of a multiset: of each row the one before it with the same key; itself if there is none.
    before: Vec<u32>,
}

impl LayerKeys {
    /// The row that was last added under this key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<u32> {
        self.table.find(xxh3_64(key), |row| self.keys.get(*row as usize) == key).copied()
    }

    /// All rows that were added under this key with [`LayerKeys::push_also`], the last one first.
    pub(crate) fn all(&self, key: &[u8]) -> impl Iterator<Item = u32> {
        let before = |row: &u32| self.before.get(*row as usize).copied().filter(|b| b != row);
        std::iter::successors(self.get(key), before)
    }

    /// The key of the next row, besides older rows with the same key.
    pub(crate) fn push_also(&mut self, key: &[u8]) {
        let row = self.keys.len() as u32;
        self.before.push(self.get(key).unwrap_or(row));
        self.push(key);
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
