//! Our numbers as a replica, one for each lane. A server that gets a second replica with the number of a first one cuts
//! the first one's stream, so that a number must be nobody else's: it is drawn at random, compared with those that the
//! server knows, and drawn again when another replica, which had not reported itself, took our place all the same.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use freshet_core::Result;

use super::wire::{Connection, Flavour, server_error_number};

/// How often a number is drawn that turns out to be taken.
const DRAWS: usize = 10;
/// Numbers that people give their servers are smaller.
const RANDOM: std::ops::Range<u32> = 1 << 24..1 << 31;

/// The numbers of one process.
pub(super) struct ReplicaId {
    /// The number of lane 0 that the URL gives.
    given: Option<u32>,
    /// The number of lane 0 that was drawn.
    drawn: AtomicU32,
}

impl ReplicaId {
    pub(super) fn new(given: Option<u32>) -> Self {
        ReplicaId { given, drawn: AtomicU32::new(fastrand::u32(RANDOM)) }
    }

    /// The number for a lane's stream. A number that was given is taken as it is.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn for_lane(&self, c: &mut Connection, lane: u32) -> Result<u32> {
        let number = |base: u32| base.wrapping_add(lane).max(1);
        if let Some(given) = self.given {
            return Ok(number(given));
        }
        let taken = taken(c).await?;
        for _ in 0..DRAWS {
            if !taken.contains(&number(self.drawn.load(Ordering::Relaxed))) {
                break;
            }
            self.draw();
        }
        Ok(number(self.drawn.load(Ordering::Relaxed)))
    }

    /// The number of lane 0 as it is now.
    #[cfg(test)]
    pub(super) fn now(&self) -> u32 {
        self.given.unwrap_or_else(|| self.drawn.load(Ordering::Relaxed))
    }

    /// Takes another number from now on; `false` when the URL gives one.
    pub(super) fn draw(&self) -> bool {
        self.drawn.store(fastrand::u32(RANDOM), Ordering::Relaxed);
        self.given.is_none()
    }
}

/// The numbers that the server itself and the replicas that reported themselves have; those that we may see.
async fn taken(c: &mut Connection) -> Result<HashSet<u32>> {
    let mut taken = HashSet::new();
    let renamed = c.server.flavour == Flavour::MySql && c.server.version >= (8, 0, 22);
    for sql in ["SELECT @@server_id", if renamed { "SHOW REPLICAS" } else { "SHOW SLAVE HOSTS" }] {
        match c.query(sql).await {
            Ok(rows) => taken.extend(rows.iter().filter_map(|r| r.number::<u32>(0))),
            Err(e) if server_error_number(&e).is_some() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(taken)
}
