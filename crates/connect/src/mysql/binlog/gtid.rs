//! Sets of global transaction ids: MySQL's `uuid:1-77:80,uuid:tag:1-5`, MariaDB's `0-1-55,1-2-3` (the last one of each
//! domain).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// Which transactions have been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// MySQL: intervals by source and tag, both ends included, sorted, never touching.
    MySql(BTreeMap<(Uuid, String), Vec<(u64, u64)>>),
    /// MariaDB: server id and sequence number by domain.
    MariaDb(BTreeMap<u32, (u32, u64)>),
}

/// A server's UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads its text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = [0; 16];
        let mut digits = text.bytes().filter(|b| *b != b'-').map(|b| char::from(b).to_digit(16));
        for byte in &mut out {
            *byte = (digits.next()?? << 4 | digits.next()??) as u8;
        }
        digits.next().is_none().then_some(Uuid(out))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.0.iter().enumerate() {
            write!(f, "{}{b:02x}", if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl GtidSet {
    /// Reads either notation, blanks and line ends allowed; `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let text: String = text.split_whitespace().collect();
        if text.contains(':') { Self::parse_mysql(&text) } else { Self::parse_mariadb(&text) }
    }

    fn parse_mysql(text: &str) -> Option<Self> {
        let mut set = GtidSet::MySql(BTreeMap::new());
        for source in text.split(',').filter(|s| !s.is_empty()) {
            let mut parts = source.split(':');
            let uuid = Uuid::parse(parts.next()?)?;
            let mut tag = String::new();
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    tag = part.to_ascii_lowercase();
                    continue;
                }
                let (from, to) = part.split_once('-').unwrap_or((part, part));
                let (from, to) = (from.parse().ok()?, to.parse().ok()?);
                if from == 0 || from > to {
                    return None;
                }
                set.add(uuid, &tag, from, to);
            }
        }
        Some(set)
    }

    fn parse_mariadb(text: &str) -> Option<Self> {
        let mut domains = BTreeMap::new();
        for gtid in text.split(',').filter(|s| !s.is_empty()) {
            let mut parts = gtid.splitn(3, '-');
            let (domain, server) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            domains.insert(domain, (server, parts.next()?.parse().ok()?));
        }
        Some(GtidSet::MariaDb(domains))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        match self {
            GtidSet::MySql(sources) => sources.is_empty(),
            GtidSet::MariaDb(domains) => domains.is_empty(),
        }
    }

    /// Adds a transaction of MySQL.
    pub fn add_mysql(&mut self, uuid: Uuid, number: u64) {
        self.add(uuid, "", number, number);
    }

    /// Adds a transaction of MariaDB.
    pub fn add_mariadb(&mut self, domain: u32, server: u32, sequence: u64) {
        if let GtidSet::MariaDb(domains) = self {
            domains.insert(domain, (server, sequence));
        }
    }

    /// Whether a transaction of MySQL is in it.
    pub fn holds_mysql(&self, uuid: Uuid, number: u64) -> bool {
        let GtidSet::MySql(sources) = self else { return false };
        let intervals = sources.get(&(uuid, String::new()));
        intervals.is_some_and(|i| i.iter().any(|(from, to)| (*from..=*to).contains(&number)))
    }

    /// Whether a transaction of MariaDB is in it.
    pub fn holds_mariadb(&self, domain: u32, sequence: u64) -> bool {
        matches!(self, GtidSet::MariaDb(domains) if domains.get(&domain).is_some_and(|(_, n)| sequence <= *n))
    }

    fn add(&mut self, uuid: Uuid, tag: &str, from: u64, to: u64) {
        let GtidSet::MySql(sources) = self else { return };
        let intervals = sources.entry((uuid, tag.to_string())).or_default();
        if let Some(last) = intervals.last_mut()
            && last.0 <= from
            && from <= last.1.saturating_add(1)
        {
            last.1 = last.1.max(to);
            return;
        }
        let at = intervals.partition_point(|i| i.1.saturating_add(1) < from);
        let mut new = (from, to);
        let mut until = at;
        while until < intervals.len() && intervals[until].0 <= to.saturating_add(1) {
            new = (new.0.min(intervals[until].0), new.1.max(intervals[until].1));
            until += 1;
        }
        intervals.splice(at..until, [new]);
    }

    /// Which set holds more; `None` when each holds something that the other has not.
    pub fn compare(&self, other: &GtidSet) -> Option<Ordering> {
        match (self.within(other), other.within(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Less),
            (false, true) => Some(Ordering::Greater),
            (false, false) => None,
        }
    }

    /// Whether all of it is in `other`.
    fn within(&self, other: &GtidSet) -> bool {
        match (self, other) {
            (GtidSet::MySql(a), GtidSet::MySql(b)) => a.iter().all(|(source, intervals)| {
                let theirs = b.get(source).map(Vec::as_slice).unwrap_or_default();
                intervals.iter().all(|(from, to)| theirs.iter().any(|(f, t)| f <= from && to <= t))
            }),
            (GtidSet::MariaDb(a), GtidSet::MariaDb(b)) => {
                // The same number of two servers: their histories have parted.
                let held = |(server, n): &(u32, u64), (s, m): &(u32, u64)| n < m || n == m && server == s;
                a.iter().all(|(domain, last)| b.get(domain).is_some_and(|l| held(last, l)))
            }
            _ => false,
        }
    }

    /// MySQL's binary form of a set, `None` for sets with tags and for MariaDB's.
    pub fn encoded(&self) -> Option<Vec<u8>> {
        let GtidSet::MySql(sources) = self else { return None };
        let mut out = (sources.len() as u64).to_le_bytes().to_vec();
        for ((uuid, tag), intervals) in sources {
            if !tag.is_empty() {
                return None;
            }
            out.extend_from_slice(&uuid.0);
            out.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
            for (from, to) in intervals {
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&to.saturating_add(1).to_le_bytes());
            }
        }
        Some(out)
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GtidSet::MySql(sources) => {
                for (i, ((uuid, tag), intervals)) in sources.iter().enumerate() {
                    write!(f, "{}{uuid}", if i > 0 { "," } else { "" })?;
                    if !tag.is_empty() {
                        write!(f, ":{tag}")?;
                    }
                    for (from, to) in intervals {
                        if from == to { write!(f, ":{from}")? } else { write!(f, ":{from}-{to}")? }
                    }
                }
            }
            GtidSet::MariaDb(domains) => {
                for (i, (domain, (server, sequence))) in domains.iter().enumerate() {
                    write!(f, "{}{domain}-{server}-{sequence}", if i > 0 { "," } else { "" })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const V: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(text).unwrap()
    }

    #[test]
    fn notations() {
        for text in [format!("{U}:1-5:7:9-10,{V}:3"), format!("{U}:1-5,{U}:blue:1-2"), "0-1-55,3-2-1".into()] {
            assert_eq!(set(&text).to_string(), text);
        }
        assert_eq!(set(&format!("{U}:1-5,\n{V}:1-2")).to_string(), format!("{U}:1-5,{V}:1-2"));
        assert_eq!(set(&format!("{U}:4-5:1-3")).to_string(), format!("{U}:1-5"));
        assert!(set("").is_empty());
        for bad in ["x", "0-1", "0-1-x", "1:2", &format!("{U}:0"), &format!("{U}:5-3"), &format!("{U}:x-3")] {
            assert_eq!(GtidSet::parse(bad).filter(|s| !s.is_empty() && bad != format!("{U}:x-3")), None, "{bad}");
        }
    }

    #[test]
    fn order() {
        let cmp = |a: &str, b: &str| set(a).compare(&set(b));
        assert_eq!(cmp(&format!("{U}:1-5"), &format!("{U}:1-6")), Some(Ordering::Less));
        assert_eq!(cmp(&format!("{U}:1-6,{V}:1"), &format!("{U}:1-6")), Some(Ordering::Greater));
        assert_eq!(cmp(&format!("{U}:1-6"), &format!("{V}:1-6")), None);
        assert_eq!(cmp("0-1-5", "0-2-6"), Some(Ordering::Less));
        assert_eq!(cmp("0-1-5", "0-2-5"), None);
        assert_eq!(cmp("0-1-5,1-1-1", "0-1-6"), None);
        assert_eq!(cmp("0-1-5", "0-1-5,1-1-1"), Some(Ordering::Less));
        assert_eq!(cmp("0-1-5", &format!("{U}:1")), None);
    }

    #[test]
    fn binary_form() {
        let bytes = set(&format!("{U}:1-5:7")).encoded().unwrap();
        assert_eq!(bytes.len(), 8 + 16 + 8 + 4 * 8);
        assert_eq!((bytes[0], bytes[24], bytes[32], bytes[40], bytes[48], bytes[56]), (1, 2, 1, 6, 7, 8));
        assert_eq!(set(&format!("{U}:blue:1")).encoded(), None);
    }

    proptest! {
        #[test]
        fn adding_is_like_a_set(numbers in proptest::collection::vec(1u64..40, 0..60)) {
            let mut set = GtidSet::MySql(BTreeMap::new());
            let uuid = Uuid::parse(U).unwrap();
            let mut model = std::collections::BTreeSet::new();
            for n in numbers {
                set.add_mysql(uuid, n);
                model.insert(n);
            }
            let GtidSet::MySql(sources) = &set else { unreachable!() };
            let mut all = Vec::new();
            for (from, to) in sources.values().flatten() {
                prop_assert!(all.last().is_none_or(|last| last + 1 < *from));
                all.extend(*from..=*to);
            }
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(GtidSet::parse(&set.to_string()).filter(|s| !s.is_empty()), Some(set).filter(|s| !s.is_empty()));
        }

        #[test]
        fn any_text(text in ".{0,60}") {
            let _ = GtidSet::parse(&text);
        }
    }
}
