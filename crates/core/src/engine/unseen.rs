//! Rows that changed without being in the log, because foreign keys changed them below it. Where it can be found out which
//! ([`foreign_keys`](crate::engine::foreign_keys)), these are read again, right behind the commit that did it: the target
//! is brought to before the commit and asked, then to behind it, and then gets the rows as the source has them now. That
//! a table is in between is durable before the position passes the commit; a run that ends there leaves a table that is
//! copied again.
//!
//! Of a table that is on its way these rows are looked for when it joins, if the run that learned of them lives until then.
//!
//! Otherwise the table is copied again from behind the commit. While a copy is under way it is not begun anew, because
//! where rows change so all the time none would ever end: it comes to its end, shows its contents, and the next one
//! follows; live is the table only behind a copy during which nothing of the kind happened.

use std::cmp::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::connector::ForeignKey;
use crate::engine::foreign_keys::{Found, Owed, Touched};
use crate::engine::job::{Job, with_retries};
use crate::engine::lane::MAIN;
use crate::engine::read_back::{keys_of, rows_now};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::schema::TableName;
use crate::store::{Change, TableRecord, TableState};

/// Rows that are read and written at a time.
const ROWS: usize = 10_000;
/// More rows of a table that are ahead are not kept in mind.
const AHEAD: usize = 1_000_000;
/// More values that rows may name are not kept in mind.
const OWED: usize = 100_000;
/// How long the source is waited for before the table is copied again instead.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a copy waits for more of the kind before it begins.
const PAUSE: Duration = Duration::from_secs(1);

/// What the source has said of a table's rows up to the coming commit.
pub(crate) struct Unseen {
    pub(crate) reason: String,
    /// The foreign keys that did it; `None`: not all of them are known.
    pub(crate) by: Option<Vec<ForeignKey>>,
}

impl Job {
    /// The source has said that rows of a table have changed unseen.
    pub(crate) fn note_unseen(&mut self, table: TableName, reason: String, by: Option<ForeignKey>) {
        let noted = self.unseen.entry(table).or_insert_with(|| Unseen { reason, by: Some(Vec::new()) });
        match by {
            Some(key) => noted.by.iter_mut().for_each(|all| all.push(key.clone())),
            None => noted.by = None,
        }
    }

    /// Takes in what the source has said of the transactions up to this commit, which is not in the buffer yet. Returns
    /// which rows are to be read again behind it; `None`: the transaction itself is read again, because parts of it are
    /// staged with rows of tables that are copied now.
    pub(crate) async fn changed_unseen(&mut self, to: &Position) -> Result<Option<Touched>> {
        if self.unseen.is_empty() {
            return Ok(Some(Touched::new()));
        }
        self.flush_all(MAIN).await?;
        let unseen = std::mem::take(&mut self.unseen);
        let Found { rows: mut touched, mut owed } = self.touched(&unseen).await?;
        let staged = |name: &TableName| self.main.parts > 0 && self.main.routes.contains_key(name);
        let staged = unseen.keys().any(staged);
        let mut change = Change::new();
        for (name, Unseen { reason, .. }) in unseen {
            if let Some(owed) = owed.remove(&name).filter(|_| !touched.contains_key(&name)) {
                self.owe(&name, owed, to, &mut change);
                continue;
            }
            let Some(rows) = touched.get(&name) else {
                tracing::info!(job = self.name(), table = %name, "is copied again: {reason}");
                self.copy_whole(&name, to, &mut change).await?;
                continue;
            };
            tracing::info!(job = self.name(), table = %name, "{} rows are read again: {reason}", rows.len());
            let Some(record) = self.tables.get_mut(&name).filter(|_| !rows.is_empty()) else { continue };
            if record.state == TableState::Live {
                self.ahead.insert(name.clone(), Default::default());
            }
            if let Some(ahead) = self.ahead.get_mut(&name) {
                ahead.extend(rows.iter().cloned());
            }
            if self.ahead.get(&name).is_some_and(|ahead| ahead.len() > AHEAD) {
                self.ahead.remove(&name);
            }
            match &record.state {
                TableState::CatchingUp { high } if self.context.reached(high, to) => {}
                _ => record.state = TableState::CatchingUp { high: to.clone() },
            }
            record.unseen = Some(to.clone());
            change.table(&self.context.spec.name, record);
        }
        touched.retain(|_, rows| !rows.is_empty());
        self.context.store.commit(change).await?;
        self.route_main();
        self.context.progress.set_tables(self.tables.values());
        if staged {
            self.open_main().await?;
            return Ok(None);
        }
        Ok(Some(touched))
    }

    /// Reads rows again. The main lane is behind the commit at which they changed, and nothing of it is under way.
    pub(crate) async fn read_again(&mut self, touched: Touched, to: &Position) -> Result<()> {
        for (name, rows) in touched {
            let rows: Vec<&[String]> = rows.iter().map(Vec::as_slice).collect();
            let mut result = Ok(());
            for some in rows.chunks(ROWS) {
                // It may have been suspended meanwhile.
                let waits = self.tables.get(&name).is_some_and(|t| matches!(t.state, TableState::CatchingUp { .. }));
                let Some((_, schema)) = self.schemas.get(&name).filter(|_| waits && result.is_ok()) else { break };
                let keys = keys_of(schema, some);
                let read = async || rows_now(&self.context, schema, keys.as_ref().map_err(Clone::clone)?).await;
                let read = tokio::time::timeout(PATIENCE, with_retries(read, |e, pause| self.retrying(e, pause))).await;
                result = match read.unwrap_or_else(|_| Err(Error::source_unavailable("the source does not answer"))) {
                    Ok(rows) => self.write_as_now(&name, rows).await,
                    Err(e) => Err(e),
                };
            }
            let (mut change, job) = (Change::new(), self.context.spec.name.clone());
            let Some(record) = self.tables.get_mut(&name) else { continue };
            match result {
                Ok(()) if matches!(record.state, TableState::Suspended { .. }) => {
                    self.copy_whole(&name, to, &mut change).await?;
                }
                Ok(()) => {
                    record.unseen = None;
                    change.table(&job, record);
                }
                // The source is already behind a schema change that the lane has not come to, say.
                Err(e) if e.kind.is_about_a_table() => {
                    tracing::info!(job = self.name(), table = %name, "is copied again: {}", e.line());
                    self.copy_whole(&name, to, &mut change).await?;
                }
                Err(e) => return Err(e),
            }
            change.ledger(&job, &self.ledger);
            self.context.store.commit(change).await?;
        }
        self.context.progress.set_tables(self.tables.values());
        Ok(())
    }

    /// Rows of a table that is on its way have changed unseen: they are looked for when it joins.
    fn owe(&mut self, name: &TableName, owed: Owed, to: &Position, change: &mut Change) {
        self.main.leave(name);
        let Some(record) = self.tables.get_mut(name) else { return };
        // Of what was noted before, and is not in mind, nothing is known any more.
        if record.unseen.is_none() {
            self.owed.insert(name.clone(), Owed::new());
        }
        if let Some(all) = self.owed.get_mut(name) {
            for (key, values) in owed {
                match all.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, known)) => known.extend(values),
                    None => all.push((key, values)),
                }
            }
            if all.iter().map(|(_, values)| values.len()).sum::<usize>() > OWED {
                self.owed.remove(name);
            }
        }
        (record.state, record.unseen) = (TableState::Away, Some(to.clone()));
        change.table(&self.context.spec.name, record);
    }

    /// Reads the rows again of tables that have just joined and of which some have changed unseen on their way.
    pub(crate) async fn read_owed(&mut self, joined: &[TableName]) -> Result<()> {
        for name in joined {
            let waits = |t: &&TableRecord| t.copy.is_none() && matches!(t.state, TableState::CatchingUp { .. });
            let Some(at) = self.tables.get(name).filter(waits).and_then(|t| t.unseen.clone()) else { continue };
            let Some(owed) = self.owed.remove(name) else { continue };
            let found = match self.context.rules.owed_again {
                true => self.named(name, &owed).await?,
                false => Some(Default::default()),
            };
            match found {
                Some(rows) => {
                    tracing::info!(job = self.name(), table = %name, "{} rows are read again behind its copy", rows.len());
                    self.ahead.insert(name.clone(), rows.clone());
                    self.read_again(Touched::from([(name.clone(), rows)]), &at).await?;
                }
                None => {
                    let mut change = Change::new();
                    self.copy_whole(name, &at, &mut change).await?;
                    change.ledger(self.name(), &self.ledger);
                    self.context.store.commit(change).await?;
                }
            }
        }
        Ok(())
    }

    /// The last run ended between a commit and reading the rows again that had changed unseen: which they were is not
    /// known any more.
    pub(crate) async fn finish_reading_again(&mut self) -> Result<()> {
        let between = |t: &&TableRecord| t.unseen.is_some() && matches!(t.state, TableState::CatchingUp { .. });
        let names: Vec<_> = self.tables.values().filter(between).map(|t| t.name.clone()).collect();
        let mut change = Change::new();
        for name in names {
            self.queue_again(&name, &mut change);
        }
        self.context.store.commit(change).await
    }

    async fn copy_whole(&mut self, name: &TableName, to: &Position, change: &mut Change) -> Result<()> {
        let Some(record) = self.tables.get(name) else { return Ok(()) };
        let on_its_way = record.copy.is_some();
        if !on_its_way && !matches!(record.state, TableState::Suspended { .. }) {
            self.leave_lanes(name).await?;
            self.queue_again(name, change);
        }
        self.main.leave(name);
        self.owed.remove(name);
        self.paused.entry(name.clone()).or_insert_with(Instant::now);
        let Some(record) = self.tables.get_mut(name) else { return Ok(()) };
        match &mut record.state {
            TableState::Suspended { at, .. } => *at = None,
            state => *state = TableState::Away,
        }
        record.unseen = Some(to.clone());
        change.table(&self.context.spec.name, record);
        Ok(())
    }

    /// Whether a table that waits for its copy waits for nothing else.
    pub(crate) fn may_begin(&self, record: &TableRecord) -> bool {
        let paused = self.paused.get(&record.name).is_some_and(|since| since.elapsed() < PAUSE);
        let before = |at: &Position| self.context.source.compare(&self.main.position, at) == Some(Ordering::Less);
        !paused && !record.unseen.as_ref().is_some_and(before)
    }

    /// Forgets the pauses that are over.
    pub(crate) fn end_pauses(&mut self) {
        self.paused.retain(|_, since| since.elapsed() < PAUSE);
    }
}
