//! Statements in the log: the ends of transactions, changes of rows that are not logged as such, and definitions.

use std::collections::HashSet;
use std::sync::Arc;

use freshet_core::{Commit, Error, Event, Position, Result, SchemaChange, TableChange, TableName};

use super::super::super::ddl::{self, Parsed};
use super::super::super::wire::shortened;
use super::super::event::{Header, Query};
use super::super::statement::{self, Kind};
use super::super::xa::{Gathered, Xid};
use super::{Log, Schemas};

impl Log {
    pub(super) fn query(&mut self, header: &Header, query: &Query<'_>) -> Result<()> {
        let (text, certain) = statement::decoded(query.text, query.collation);
        match Kind::of(&text) {
            Kind::Begin => {
                self.in_transaction = true;
                Ok(())
            }
            Kind::XaStart => {
                self.in_transaction = true;
                self.xa = Some(Gathered::from(self.begin));
                Ok(())
            }
            Kind::Commit => self.commit(header),
            Kind::XaCommit | Kind::XaRollback => {
                let xid = Xid::of_statement(&text).ok_or_else(|| self.malformed(header))?;
                let gathered = self.xa.take().or(self.kept.take(&xid));
                let origin = self.position.prepared.0.remove(&xid);
                match Kind::of(&text) {
                    Kind::XaCommit => self.xa_commit(header, xid, gathered, origin),
                    _ => self.commit(header),
                }
            }
            Kind::Rollback => {
                self.roll_back()?;
                self.commit(header)
            }
            Kind::Savepoint => {
                self.set_savepoint(&text);
                Ok(())
            }
            Kind::RollbackToSavepoint => self.roll_back_to(&text),
            Kind::ReleaseSavepoint | Kind::XaEnd => Ok(()),
            Kind::Rows => {
                self.rows_by_statement(query, &text);
                self.end_statement(header, &text)
            }
            Kind::Other => {
                if statement::makes_side_effects(&text) {
                    self.options.side_effects.more = true;
                }
                self.definition(header, query, &text, certain)?;
                self.end_statement(header, &text)
            }
        }
    }

    /// A statement outside of a transaction is one.
    fn end_statement(&mut self, header: &Header, text: &str) -> Result<()> {
        if statement::leaves_transaction_open(text) {
            self.in_transaction = true;
        }
        if self.in_transaction { Ok(()) } else { self.commit(header) }
    }

    /// Rows were changed by a statement that the log holds in place of them.
    pub(super) fn rows_by_statement(&mut self, query: &Query<'_>, text: &str) {
        let database = String::from_utf8_lossy(query.database).into_owned();
        let written = ddl::written(text, &self.context(query, &database));
        let all = || self.schemas.keys().cloned().collect::<Vec<_>>();
        let mut tables = match &written {
            ddl::Written::Unknown => all(),
            ddl::Written::Tables(tables) if tables.iter().any(|t| self.options.side_effects.are_unknown_of(t)) => all(),
            ddl::Written::Tables(tables) => {
                let effects = tables.iter().flat_map(|t| {
                    self.options
                        .side_effects
                        .of(t, true, None)
                        .into_iter()
                        .chain(self.options.side_effects.of(t, false, None))
                });
                let children: Vec<TableName> = effects.map(|(c, _)| c.child).collect();
                tables.iter().chain(&children).filter(|t| self.schemas.contains_key(*t)).cloned().collect()
            }
        };
        tables.sort();
        tables.dedup();
        tables.retain(|t| !self.watched.contains(t));
        for table in tables {
            let error = Error::unsupported("a change is in the log as a statement, not as rows")
                .with("statement", shortened(text))
                .with("table", &table)
                .with("log position", self.place());
            self.suspend(
                &table,
                error.hint(
                    "SET GLOBAL binlog_format = 'ROW' at the server, and do not change binlog_format in sessions; then \
                     `freshet resync JOB TABLE`",
                ),
            );
        }
    }

    fn context<'a>(&'a self, query: &Query<'a>, database: &'a str) -> ddl::Context<'a> {
        ddl::Context {
            default_database: database,
            ansi_quotes: query.ansi_quotes(),
            no_backslash_escapes: query.no_backslash_escapes(),
            charsets: &self.options.charsets,
            mariadb: self.mariadb,
            lower_case_names: self.options.lower_case_names,
            strict: query.strict(),
            zone: ddl::Zone::parse(query.time_zone),
        }
    }

    fn definition(&mut self, header: &Header, query: &Query<'_>, text: &str, certain: bool) -> Result<()> {
        let database = String::from_utf8_lossy(query.database);
        let context = self.context(query, &database);
        let cascades = ddl::cascades(text, &context);
        let charset = ddl::database_charset(text, &context);
        let parsed = ddl::parse(text, &context, &self.schemas, &self.pattern);
        self.options.charsets.databases.extend(charset);
        let steps = match parsed {
            Parsed::Unrelated => {
                self.options.side_effects.add(cascades, &[]);
                return Ok(());
            }
            Parsed::CannotFollow { tables, why } => {
                if self.is_waiting() {
                    self.hand_out()?;
                }
                for table in tables {
                    self.suspend(&table, why.clone());
                }
                return Ok(());
            }
            Parsed::Changes(steps) => steps,
        };
        self.options.side_effects.add(cascades, &steps);
        if self.skip > 0 {
            self.skip -= 1;
            self.schema_changes += 1;
            return Ok(());
        }
        if !certain {
            let error = Error::unsupported("a statement is in a character set that is not known")
                .with("statement", shortened(text));
            let mut tables: Vec<_> = steps.into_iter().map(|(table, _)| table).collect();
            tables.dedup();
            tables.iter().for_each(|table| self.suspend(table, error.clone()));
            return Ok(());
        }
        self.schema_change(header, text, steps)
    }

    /// Brings a schema change about: what is before is handed out, then the change, then the commit behind it.
    fn schema_change(&mut self, header: &Header, text: &str, steps: Vec<(TableName, TableChange)>) -> Result<()> {
        let schemas = match after(&self.schemas, &steps) {
            Ok(schemas) => schemas,
            Err(misfit) => {
                let (table, error) = *misfit;
                self.suspend(&table, error.with("statement", shortened(text)));
                return Ok(());
            }
        };
        if self.moved {
            self.hand_out()?;
        } else {
            self.hand_out_rows()?;
        }
        self.schemas = schemas;
        watch_on(&mut self.watched, &steps);
        self.maps.clear();
        self.decoders.clear();
        self.by_name.clear();
        self.output.push_back(Event::Schema(SchemaChange { statement: text.to_string(), steps }));
        self.schema_changes += 1;
        if self.in_transaction || statement::leaves_transaction_open(text) {
            let position = Position { event: self.schema_changes, ..self.position.position() };
            self.output.push_back(Event::Commit(Commit { position, time_ms: None, transactions: 0 }));
            return Ok(());
        }
        self.commit(header)?;
        if self.moved { self.hand_out() } else { Ok(()) }
    }
}

/// The schemas behind a statement's steps, or the table that they don't fit.
fn after(schemas: &Schemas, steps: &[(TableName, TableChange)]) -> Result<Schemas, Box<(TableName, Error)>> {
    let mut schemas = schemas.clone();
    for (table, change) in steps {
        if let TableChange::CreateTable(schema) = change {
            schemas.insert(schema.name.clone(), Arc::new(schema.clone()));
            continue;
        }
        let Some(old) = schemas.remove(table) else {
            if let TableChange::RenameTable { to } = change {
                // One that was not followed got a followed name: its columns are not known, so its rows are left out. What
                // had that name before is gone, even if its going was not told.
                schemas.remove(to);
                continue;
            }
            let error = Error::schema("a table that is not known is changed").with("table", table);
            return Err(Box::new((table.clone(), error)));
        };
        if let Some(new) = old.after(change).map_err(|e| Box::new((table.clone(), e)))? {
            schemas.insert(new.name.clone(), Arc::new(new));
        }
    }
    Ok(schemas)
}

/// A watched table stays one under its new name; what is created under the name of one that is gone is followed.
fn watch_on(watched: &mut HashSet<TableName>, steps: &[(TableName, TableChange)]) {
    for (table, change) in steps {
        match change {
            TableChange::RenameTable { to } if watched.remove(table) => drop(watched.insert(to.clone())),
            TableChange::DropTable | TableChange::CreateTable(_) => drop(watched.remove(table)),
            _ => {}
        }
    }
}
