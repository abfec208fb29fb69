//! A cache of decoded file parts, bounded in bytes. Two generations: what is used moves to the young one, and when that
//! holds half of the bytes, the old one is thrown away.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Segment and place within its files.
pub(crate) type Key = (u64, u64);
type Entry = (Arc<dyn Any + Send + Sync>, usize);

pub(crate) struct Cache {
    limit: usize,
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    young_bytes: usize,
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Cache { limit, generations: Mutex::default() }
    }

    /// The part, read by `load` if it is not there; `load` also tells its bytes in memory.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) fn get<T: Any + Send + Sync, E>(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<(Arc<T>, usize), E>,
    ) -> Result<Arc<T>, E> {
        let lock = || self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hit) = lock().touch(key, self.limit)
            && let Ok(hit) = hit.downcast::<T>()
        {
            return Ok(hit);
        }
        let (value, bytes) = load()?;
        lock().insert(key, (Arc::clone(&value) as _, bytes), self.limit);
        Ok(value)
    }

    /// As [`Cache::get`], for a part that is used up at once: it is not kept.
    ///
    /// # Errors
    /// Those of `load`.
    pub(crate) fn pass<T: Any + Send + Sync, E>(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<(Arc<T>, usize), E>,
    ) -> Result<Arc<T>, E> {
        let hit = self.generations.lock().unwrap_or_else(PoisonError::into_inner).touch(key, self.limit);
        match hit.map(|hit| hit.downcast::<T>()) {
            Some(Ok(hit)) => Ok(hit),
            _ => load().map(|(value, _)| value),
        }
    }

    /// Forgets everything about a segment.
    pub(crate) fn forget(&self, segment: u64) {
        let mut g = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        g.old.retain(|k, _| k.0 != segment);
        let mut freed = 0;
        g.young.retain(|k, e| {
            let keep = k.0 != segment;
            freed += if keep { 0 } else { e.1 };
            keep
        });
        g.young_bytes -= freed;
    }
}

impl Generations {
    fn touch(&mut self, key: Key, limit: usize) -> Option<Arc<dyn Any + Send + Sync>> {
        if let Some((value, _)) = self.young.get(&key) {
            return Some(Arc::clone(value));
        }
        let entry = self.old.remove(&key)?;
        let value = Arc::clone(&entry.0);
        self.insert(key, entry, limit);
        Some(value)
    }

    fn insert(&mut self, key: Key, entry: Entry, limit: usize) {
        if self.young_bytes + entry.1 > limit / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += entry.1;
        if let Some((_, replaced)) = self.young.insert(key, entry) {
            self.young_bytes -= replaced;
        }
    }
}
