//! Behind each round: wait until Freshet is level, helping suspended tables on as a person would, and compare.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use freshet_tests::compare::{compare_definition, compare_table};
use freshet_tests::freshet::{connect, escape};
use freshet_tests::quote;
use freshet_tests::shape::tables;
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::ddl::OUTSIDE;
use crate::round::Run;

/// How long it may take to become level.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often one table may need help in one quiesce.
const HELP: u32 = 5;

impl Run {
    /// Waits until Freshet is level, and compares every table.
    ///
    /// # Errors
    /// When it does not become level, or a table differs.
    pub(crate) async fn quiesce(&mut self) -> Result<(), String> {
        let start = Instant::now();
        let followed = self.level().await?;
        self.scene.journal.level_after(start.elapsed());
        self.scene.journal.note("rounds", "level", &format!("after {:.1?}", start.elapsed()));
        let took = start.elapsed();
        let rows = self.compare(&followed).await?;
        if self.rng.u8(0..3) == 0 {
            let verified = self.sync.request().run(&["verify", "job", "--json"]).await;
            if verified.code != 0 {
                return Err(format!("`freshet verify` says otherwise than the comparison: {verified:?}"));
            }
            self.scene.journal.count("comparisons", "verified by Freshet too", 1);
        }
        let journal = &self.scene.journal;
        println!(
            "round {}: {} tables, {rows} rows equal, level after {took:.1?}; {} kills of Freshet, {} of the server so far",
            journal.of("rounds", "level"),
            followed.len(),
            journal.kills(),
            journal.of("kills", "server"),
        );
        Ok(())
    }

    /// The tables that are followed, once all of them are live and hold what the source holds.
    async fn level(&mut self) -> Result<Vec<String>, String> {
        let start = Instant::now();
        let number = self.rng.u64(1..1 << 50);
        let mark = format!("{}.zz_mark", self.scene.db);
        self.scene.source.run(&format!("REPLACE INTO {mark} VALUES (1, {number})")).await;
        let mut conn = self.scene.source.connect().await;
        let all = tables(&mut conn, &self.scene.db, None).await.map_err(|e| e.to_string())?;
        let followed: BTreeSet<String> = all.into_iter().map(|t| t.name).filter(|n| !n.starts_with(OUTSIDE)).collect();
        let listed = conn.query::<String, _>(format!("SHOW TABLES FROM {}", quote(&self.scene.db))).await;
        let listed = listed.map_err(|e| e.to_string())?;
        let broken: BTreeSet<String> = listed.into_iter().filter(|n| !followed.contains(n)).collect();
        let mut helped = BTreeMap::new();
        let mut last = String::new();
        loop {
            if start.elapsed() > PATIENCE {
                return Err(format!("not level after {PATIENCE:?}: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.assert_runs()?;
            let output = self.sync.request().run(&["status", "job", "--json"]).await;
            let Ok(status) = serde_json::from_str::<Value>(&output.stdout) else {
                last = format!("no status: {output:?}");
                continue;
            };
            let job = &status["result"]["jobs"][0];
            last = summary(job);
            let Some(listed) = job["tables"].as_array() else { continue };
            match job["state"].as_str() {
                Some("paused") => {
                    self.help(&["resume", "job"], "the job was paused").await;
                    continue;
                }
                Some("failed") => return Err(format!("the job has failed: {}", job["error"])),
                _ => {}
            }
            let is_broken = |t: &Value| name(t).is_some_and(|n| broken.contains(&n));
            let suspended: Vec<&Value> = listed.iter().filter(|t| t["state"] == "suspended" && !is_broken(t)).collect();
            for table in &suspended {
                self.repair(table, &mut helped).await?;
            }
            let live = listed.iter().filter(|t| t["state"] == "live" && t["resync"].is_null()).filter_map(name);
            // MariaDB can leave a table that it lists and cannot read, where CREATE OR REPLACE is killed, or waits in vain
            // for rows of a partition that a prepared transaction has locked; nothing of it is in the log.
            let live: BTreeSet<String> = live.filter(|n| !broken.contains(n)).collect();
            if suspended.is_empty() && live == followed && self.holds(&mark, number).await {
                return Ok(followed.into_iter().collect());
            }
            let missing: Vec<_> = followed.difference(&live).collect();
            let surplus: Vec<_> = live.difference(&followed).collect();
            last += &format!("; not live: {missing:?}, live and not at the source: {surplus:?}");
        }
    }

    /// Whether the warehouse holds the mark.
    async fn holds(&self, mark: &str, number: u64) -> bool {
        let Ok(mut ours) = connect(self.sync.port).await else { return false };
        let found: mysql_async::Result<Option<u64>> =
            ours.query_first(format!("SELECT n FROM {mark} WHERE id = 1")).await;
        found.is_ok_and(|n| n == Some(number))
    }

    /// Does for a suspended table what its message says.
    async fn repair(&mut self, table: &Value, helped: &mut BTreeMap<String, u32>) -> Result<(), String> {
        let (Some(name), error) = (name(table), &table["error"]) else { return Ok(()) };
        let reason = error["message"].as_str().unwrap_or("no reason");
        let hint = error["hint"].as_str().unwrap_or_default();
        let times = helped.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 {
            self.scene.journal.note("suspended tables", reason, &format!("{name}: {error}"));
            println!("suspended: {name}: {error}");
        }
        if *times > HELP {
            return Err(format!("{name} is suspended again and again: {error}"));
        }
        if hint.starts_with("correct the value") {
            self.drop_impossible_dates(&name).await;
        }
        // The first time what the message says; if that does not help, a new copy.
        let verb = if hint.contains("resync") || hint.starts_with("correct the value") || *times > 1 {
            "resync"
        } else {
            "resume"
        };
        let pattern = format!("{}.{}", escape(&self.scene.db), escape(&name));
        self.help(&[verb, "job", &pattern], &format!("{name} was suspended")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// Sessions without a strict mode leave dates that don't exist; without them the table can be followed.
    async fn drop_impossible_dates(&self, table: &str) {
        let mut conn = self.scene.source.connect().await;
        conn.query_drop("SET SESSION sql_mode = ''").await.unwrap();
        let Some(found) = tables(&mut conn, &self.scene.db, Some(table)).await.unwrap().pop() else { return };
        for column in found.columns.iter().filter(|c| c.data_type.starts_with("date") || c.data_type == "timestamp") {
            let (table, column) = (format!("{}.{}", self.scene.db, quote(table)), quote(&column.name));
            let delete = format!("DELETE FROM {table} WHERE CAST({column} AS CHAR) LIKE '%-00%'");
            conn.query_drop(&delete).await.unwrap();
            self.scene.journal.note("help", "impossible dates deleted", &delete);
        }
    }

    async fn help(&self, args: &[&str], why: &str) {
        let said = self.sync.request().run(args).await;
        self.scene.journal.note("help", args[0], &format!("{why}: {} {}", said.code, said.stderr.replace('\n', " ")));
    }

    /// Compares each table; the rows of all.
    async fn compare(&mut self, followed: &[String]) -> Result<usize, String> {
        let mut theirs = self.scene.source.connect().await;
        let mut ours = connect(self.sync.port).await.map_err(|e| format!("the warehouse does not answer: {e}"))?;
        let db = &self.scene.db;
        let mut rows = 0;
        let mut differences = Vec::new();
        for table in followed {
            if let Err(why) = compare_definition(&mut theirs, &mut ours, db, table).await {
                differences.push(why);
            }
            match compare_table(&mut theirs, &mut ours, db, table).await {
                Ok(n) => {
                    rows += n;
                    self.scene.journal.count("comparisons", "tables", 1);
                    self.scene.journal.count("comparisons", "rows", n as u64);
                }
                Err(why) => differences.push(why),
            }
        }
        let shown: Vec<String> =
            ours.query(format!("SHOW TABLES FROM {}", quote(db))).await.map_err(|e| format!("SHOW TABLES: {e}"))?;
        let left = self.scene.left.lock().unwrap().clone();
        let listed: Vec<String> =
            theirs.query(format!("SHOW TABLES FROM {}", quote(db))).await.map_err(|e| format!("SHOW TABLES: {e}"))?;
        let known = |t: &String| followed.contains(t) || left.contains(t) || listed.contains(t);
        let surplus: Vec<&String> = shown.iter().filter(|t| !known(t)).collect();
        if !surplus.is_empty() {
            differences.push(format!("the target has tables that are not followed: {surplus:?}"));
        }
        if differences.is_empty() {
            return Ok(rows);
        }
        // Late or wrong?
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut still = 0;
        for table in followed {
            still += usize::from(compare_table(&mut theirs, &mut ours, db, table).await.is_err());
        }
        Err(format!("{}\n(5 s later {still} tables differ)", differences.join("\n")))
    }
}

/// The name of a table in a status, without its database.
fn name(table: &Value) -> Option<String> {
    table["name"]["table"].as_str().map(str::to_string)
}

/// A status in one line.
fn summary(job: &Value) -> String {
    let tables = job["tables"].as_array().map_or(&[][..], Vec::as_slice);
    let unfinished = tables.iter().filter(|t| t["state"] != "live" || !t["resync"].is_null());
    let unfinished: Vec<String> =
        unfinished.map(|t| format!("{} {} resync {}", name(t).unwrap_or_default(), t["state"], t["resync"])).collect();
    format!("job {} at {}, error {}, unfinished: {unfinished:?}", job["state"], job["position"], job["error"])
}
