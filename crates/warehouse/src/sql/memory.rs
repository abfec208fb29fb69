//! The memory of all queries, in two halves: operators that can write to the disk (sorts, aggregations) share one of them
//! fairly and spill beyond their share; what cannot (merging what was spilled, hash tables of joins, rows that a
//! statement changes) has the other. So a query that sorts all there is leaves room for the others to begin.

use std::fmt;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct QueryMemory {
    limit: usize,
    spilling: FairSpillPool,
    others: GreedyMemoryPool,
}

impl QueryMemory {
    /// So many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let others = limit / 2;
        QueryMemory { limit, spilling: FairSpillPool::new(limit - others), others: GreedyMemoryPool::new(others) }
    }

    fn of(&self, consumer: &MemoryConsumer) -> &dyn MemoryPool {
        if consumer.can_spill() { &self.spilling } else { &self.others }
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.reserved(), self.limit)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "queries"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.of(consumer).register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.of(consumer).unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of(reservation.consumer()).grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of(reservation.consumer()).shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.of(reservation.consumer()).try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.spilling.reserved() + self.others.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
    use freshet_core::{Error, TableName};

    use crate::TableWrite;
    use crate::sql::lab::Lab;
    use crate::sql::{SqlOptions, mysql_error};

    const ROWS: i64 = 300_000;
    const MEMORY: usize = 32 << 20;

    /// Bytes and number of the files below a folder.
    fn files(dir: &Path) -> (u64, usize) {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.fold((0, 0), |(bytes, n), entry| match entry.metadata() {
            Ok(m) if m.is_dir() => {
                let (more, files) = files(&entry.path());
                (bytes + more, n + files)
            }
            Ok(m) => (bytes + m.len(), n + 1),
            // Gone meanwhile.
            Err(_) => (bytes, n),
        })
    }

    /// The most that queries have had in files while it watched.
    struct Watch {
        most: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
        thread: std::thread::JoinHandle<()>,
    }

    impl Watch {
        fn new(lab: &Lab) -> Watch {
            let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let (m, s, dir) = (Arc::clone(&most), Arc::clone(&stop), lab.warehouse.scratch());
            let thread = std::thread::spawn(move || {
                while !s.load(Ordering::Relaxed) {
                    m.fetch_max(files(&dir).0, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            });
            Watch { most, stop, thread }
        }

        fn end(self) -> u64 {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.join().unwrap();
            self.most.load(Ordering::Relaxed)
        }
    }

    /// A table of `ROWS` rows: key `k` from 0, `g` = k % 7, and `pad`, 100 digits, others for each row, in no order.
    async fn big(memory: usize) -> Lab {
        let mut lab = Lab::with(SqlOptions { partitions: 2, memory }).await;
        lab.run("CREATE TABLE t (k BIGINT NOT NULL, g INT, pad STRING) UNIQUE KEY (k)").await;
        let keys: Vec<i64> = (0..ROWS).collect();
        let pad = |k: &i64| format!("{:0>100}", (k * 7919 + 13) % ROWS);
        let rows = RecordBatch::try_from_iter([
            ("g", Arc::new(keys.iter().map(|k| Some((k % 7) as i32)).collect::<Int32Array>()) as _),
            ("pad", Arc::new(StringArray::from_iter_values(keys.iter().map(pad))) as _),
            ("k", Arc::new(Int64Array::from(keys)) as _),
        ]);
        let write = TableWrite::new(TableName::new("d", "t"), rows.unwrap(), None);
        lab.warehouse.commit(None, vec![write]).await.unwrap();
        lab
    }

    fn names_the_setting(e: &Error) {
        assert!(e.message.contains("more memory"), "{e}");
        assert!(e.hint.as_ref().is_some_and(|h| h.contains("--query-memory")), "{e}");
        assert_eq!(mysql_error(e).0, 1041, "{e}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_larger_than_the_limit_spills_and_is_right() {
        let mut lab = big(MEMORY).await;
        let n = ROWS.to_string();
        for (sql, answer) in [
            // The window makes the sort count every row of its answer.
            (
                "SELECT COUNT(*), SUM(CASE WHEN pad > before THEN 1 ELSE 0 END) \
                 FROM (SELECT pad, LAG(pad) OVER (ORDER BY pad) AS before FROM t) x",
                format!("{n} {}", ROWS - 1),
            ),
            (
                "SELECT COUNT(*), SUM(n), MIN(m) FROM (SELECT pad, COUNT(*) n, MAX(g) m FROM t GROUP BY pad) x",
                format!("{n} {n} 0"),
            ),
            ("SELECT COUNT(DISTINCT pad) FROM t", n.clone()),
        ] {
            let watch = Watch::new(&lab);
            assert_eq!(lab.run(sql).await, [answer], "{sql}");
            let spilled = watch.end();
            assert!(spilled > 1 << 20, "{sql}: only {spilled} bytes were spilled");
            assert_eq!(files(&lab.warehouse.scratch()).1, 0, "{sql}: files are left");
        }
        let watch = Watch::new(&lab);
        let sorted = lab.run("SELECT pad, k FROM t ORDER BY pad DESC").await;
        assert!(sorted.len() == ROWS as usize && sorted.is_sorted_by(|a, b| a > b));
        assert!(watch.end() > 1 << 20);
        assert_eq!(files(&lab.warehouse.scratch()).1, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_cannot_spill_fails_alone_and_says_which_setting() {
        let mut lab = big(MEMORY).await;
        lab.run("CREATE TABLE copy (k BIGINT NOT NULL, g INT, pad STRING) UNIQUE KEY (k)").await;
        for sql in [
            "SELECT COUNT(DISTINCT pad), COUNT(DISTINCT CONCAT(pad, 'x')) FROM t",
            "SELECT COUNT(*) FROM t a CROSS JOIN t b WHERE a.pad > b.pad",
            "INSERT INTO copy SELECT * FROM t",
            "UPDATE t SET g = g + 1",
        ] {
            names_the_setting(&lab.fails(sql).await);
            assert_eq!(files(&lab.warehouse.scratch()).1, 0, "{sql}: files are left");
        }
        // Nothing of it is left, nor has anything else changed.
        let answer = lab.run("SELECT COUNT(*), SUM(g), (SELECT COUNT(*) FROM copy) FROM t").await;
        let g: i64 = (0..ROWS).map(|k| k % 7).sum();
        assert_eq!(answer, [format!("{ROWS} {g} 0")]);
        // With enough it is done.
        let mut lab = big(1 << 30).await;
        assert_eq!(lab.run("SELECT COUNT(DISTINCT pad), COUNT(DISTINCT CONCAT(pad, 'x')) FROM t").await.len(), 1);
        lab.run("UPDATE t SET g = g + 1").await;
        assert_eq!(lab.run("SELECT SUM(g) FROM t").await, [(g + ROWS).to_string()]);
    }

    /// While a query has taken all that it may, others are answered and rows are written.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn others_go_on_meanwhile() {
        let lab = big(MEMORY).await;
        let mut large = lab.session();
        let sort = tokio::spawn(async move {
            for _ in 0..3 {
                assert_eq!(large.run("SELECT pad, k FROM t ORDER BY pad").await.len() as i64, ROWS);
            }
        });
        let (mut small, mut n) = (lab.session(), 0_i64);
        while !sort.is_finished() {
            n += 1;
            let key = Arc::new(Int64Array::from(vec![-n])) as _;
            let g = Arc::new(Int32Array::from(vec![1])) as _;
            let pad = Arc::new(StringArray::from(vec![Some("")])) as _;
            let rows = RecordBatch::try_from_iter([("k", key), ("g", g), ("pad", pad)]).unwrap();
            let write = TableWrite::new(TableName::new("e", "s"), rows, None);
            if n == 1 {
                small.run("CREATE DATABASE e").await;
                small.run("CREATE TABLE e.s (k BIGINT NOT NULL, g INT, pad STRING) UNIQUE KEY (k)").await;
            }
            lab.warehouse.commit(None, vec![write]).await.unwrap();
            let sql = "SELECT COUNT(*), COUNT(DISTINCT a.k), MAX(b.g) FROM e.s a JOIN e.s b ON a.k = b.k";
            assert_eq!(small.run(sql).await, [format!("{n} {n} 1")]);
            assert_eq!(small.run("SELECT g FROM t WHERE k = 8").await, ["1"]);
        }
        sort.await.unwrap();
        assert!(n > 3, "{n}");
    }

    #[tokio::test]
    async fn what_a_killed_process_has_spilled_is_removed_at_the_start() {
        let lab = Lab::new().await;
        let old = lab.warehouse.scratch().join("datafusion-old");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("spilled"), "rows").unwrap();
        let _again = lab.sql(SqlOptions::default());
        assert!(!old.exists());
    }
}
