//! Positions of the model. Each transaction has the number that its server gave it, and a position is the set of those
//! behind it, as GTID sets are. In one log the sets contain each other; behind a failover the same transactions stand in
//! another order, as far as they have nothing to do with each other, and a stored position need not be one of that log.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use freshet_core::{Position, TableName};

use crate::world::{Entry, Table, World};

/// How many transactions of each server, and how many schema changes inside the one that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(pub [usize; 2], pub u64);

impl Set {
    pub fn of(position: &Position) -> Set {
        let mut counts = position.commit.split('+').map(|n| n.parse().expect("the model's own position"));
        Set([counts.next().expect("never empty"), counts.next().unwrap_or(0)], position.event)
    }

    pub fn position(self) -> Position {
        let [a, b] = self.0;
        Position { commit: if b == 0 { a.to_string() } else { format!("{a}+{b}") }, event: self.1 }
    }

    /// Whether all of `other` is in it.
    pub fn holds(self, other: Set) -> bool {
        matches!(self.partial_cmp(&other), Some(Ordering::Equal | Ordering::Greater))
    }

    fn and(mut self, id: Id) -> Set {
        if id.event == 0 {
            self.0[id.server] = self.0[id.server].max(id.number);
        }
        self.1 = id.event;
        self
    }
}

impl PartialOrd for Set {
    fn partial_cmp(&self, other: &Set) -> Option<Ordering> {
        let [a, b] = [0, 1].map(|server| self.0[server].cmp(&other.0[server]));
        match (a, b) {
            (Ordering::Equal, Ordering::Equal) => Some(self.1.cmp(&other.1)),
            _ if a == b || b == Ordering::Equal => Some(a),
            (Ordering::Equal, _) => Some(b),
            _ => None,
        }
    }
}

/// What a server calls a transaction; numbers begin with 1.
#[derive(Debug, Clone, Copy)]
pub struct Id {
    pub server: usize,
    pub number: usize,
    /// Of a schema change inside a transaction, which has more than this entry: its ordinal, from 1; otherwise 0.
    pub event: u64,
}

impl Id {
    pub fn is_in(self, set: Set) -> bool {
        let whole = set.0[self.server];
        self.number <= whole || self.event > 0 && self.number == whole + 1 && self.event <= set.1
    }
}

impl World {
    /// The first entries as a set.
    pub fn set(&self, entries: usize) -> Set {
        self.ids[..entries].iter().fold(Set::default(), |set, id| set.and(*id))
    }

    /// All entries as a set.
    pub fn end(&self) -> Set {
        self.set(self.log.len())
    }

    /// The set with one more entry.
    pub fn with(&self, set: Set, entry: usize) -> Set {
        set.and(self.ids[entry])
    }

    pub fn is_in(&self, entry: usize, set: Set) -> bool {
        self.ids[entry].is_in(set)
    }

    /// The tables behind just these transactions.
    pub fn state(&self, set: Set) -> BTreeMap<TableName, Table> {
        let whole = (0..self.log.len()).take_while(|entry| self.is_in(*entry, set)).count();
        let mut state = self.states[whole].clone();
        for entry in whole..self.log.len() {
            if self.is_in(entry, set) {
                apply(&self.log[entry], &mut state);
            }
        }
        state
    }

    /// From now on the log of another server is read: of its last entries, those that have nothing to do with each other
    /// may stand in another order.
    pub fn fail_over(&mut self) {
        let from = self.log.len().saturating_sub(20);
        for _ in 0..3 {
            for i in from..self.log.len().saturating_sub(1) {
                if self.ids[i].server == self.ids[i + 1].server
                    || tables(&self.log[i]).is_none_or(|a| tables(&self.log[i + 1]).is_none_or(|b| !a.is_disjoint(&b)))
                    || self.rng.bool()
                {
                    continue;
                }
                self.log.swap(i, i + 1);
                self.ids.swap(i, i + 1);
                let mut state = self.states[i].clone();
                apply(&self.log[i], &mut state);
                self.states[i + 1] = state;
            }
        }
    }
}

/// The tables that a transaction changes; a schema change has to do with everything.
fn tables(entry: &Entry) -> Option<BTreeSet<&TableName>> {
    match entry {
        Entry::Rows(ops) => Some(ops.iter().map(|op| &op.table).collect()),
        Entry::Schema(_) => None,
    }
}

fn apply(entry: &Entry, state: &mut BTreeMap<TableName, Table>) {
    let Entry::Rows(ops) = entry else { unreachable!("schema changes keep their places") };
    for op in ops {
        state.get_mut(&op.table).expect("it was there").apply(&op.what);
    }
}
