//! Ways in which a change of one table changes another without a row event of its own: foreign keys that cascade, where
//! the engine does that below the log (MariaDB, MySQL before 9.6), and, of a statement that is logged as its text,
//! triggers and views. Tables whose rows may have changed so are suspended, and `check` says it beforehand.

use std::collections::HashSet;
use std::sync::Arc;

use freshet_core::schema::quote_name;
use freshet_core::{Error, ForeignKey, Result, TableChange, TableName, TableSchema};

use super::ddl::{Cascade, Rule};
use super::types::MysqlType;
use super::wire::{Connection, Flavour, Row};

/// What is known about a server's tables.
#[derive(Debug, Clone, Default)]
pub(in crate::mysql) struct SideEffects {
    pub(in crate::mysql) cascades: Vec<Cascade>,
    /// The server logs what foreign keys do, when it logs rows.
    pub(in crate::mysql) cascades_are_logged: bool,
    /// Views, and tables with triggers.
    indirect: HashSet<TableName>,
    /// Triggers or views have been made since.
    pub(in crate::mysql) more: bool,
}

impl SideEffects {
    /// Asks the server; what the user may not see is not known.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(in crate::mysql) async fn ask(c: &mut Connection) -> Result<Self> {
        let rows = c
            .query(
                "SELECT r.CONSTRAINT_SCHEMA, r.TABLE_NAME, r.CONSTRAINT_NAME, r.DELETE_RULE, r.UPDATE_RULE, \
                 k.REFERENCED_TABLE_SCHEMA, k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME, k.COLUMN_NAME \
                 FROM information_schema.REFERENTIAL_CONSTRAINTS r JOIN information_schema.KEY_COLUMN_USAGE k \
                 ON k.CONSTRAINT_SCHEMA = r.CONSTRAINT_SCHEMA AND k.TABLE_NAME = r.TABLE_NAME \
                 AND k.CONSTRAINT_NAME = r.CONSTRAINT_NAME \
                 WHERE (r.DELETE_RULE IN ('CASCADE', 'SET NULL') OR r.UPDATE_RULE IN ('CASCADE', 'SET NULL')) \
                 AND k.REFERENCED_TABLE_NAME IS NOT NULL \
                 ORDER BY r.CONSTRAINT_SCHEMA, r.TABLE_NAME, r.CONSTRAINT_NAME, k.ORDINAL_POSITION",
            )
            .await?;
        let mut cascades: Vec<Cascade> = Vec::new();
        for row in &rows {
            let text = |i: usize| row.get_str(i).unwrap_or_default();
            let found = Cascade {
                name: text(2).into(),
                child: TableName::new(text(0), text(1)),
                columns: Vec::new(),
                parent: TableName::new(text(5), text(6)),
                references: Vec::new(),
                on_delete: Rule::parse(text(3)),
                on_update: Rule::parse(text(4)),
            };
            if cascades.last().is_none_or(|last| (&last.name, &last.child) != (&found.name, &found.child)) {
                cascades.push(found);
            }
            if let Some(last) = cascades.last_mut() {
                last.references.push(text(7).into());
                last.columns.push(text(8).into());
            }
        }
        let name = |r: &Row| Some(TableName::new(r.get_str(0)?, r.get_str(1)?));
        let mut indirect = HashSet::new();
        for sql in [
            "SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE FROM information_schema.TRIGGERS \
             WHERE EVENT_OBJECT_SCHEMA NOT IN ('sys', 'mysql')",
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'VIEW' \
             AND TABLE_SCHEMA NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')",
        ] {
            indirect.extend(c.query(sql).await?.iter().filter_map(name));
        }
        let cascades_are_logged = cascades_are_logged(c).await?;
        Ok(SideEffects { cascades, cascades_are_logged, indirect, more: false })
    }

    /// Whether row events of this table may stand for changes of others.
    pub(in crate::mysql) fn is_parent(&self, table: &TableName) -> bool {
        !self.cascades_are_logged && self.cascades.iter().any(|c| c.parent == *table)
    }

    /// Whether it is not known what a statement that changes this table changes.
    pub(in crate::mysql) fn are_unknown_of(&self, table: &TableName) -> bool {
        self.more || self.indirect.contains(table)
    }

    /// The foreign keys that act when rows of a table are deleted or updated, and those that act in turn, each with
    /// whether it gives its columns other values than NULL. `key`: whether an update changed the table's key, and the
    /// key's columns; `None`: it is not known what it changed.
    pub(in crate::mysql) fn of(
        &self,
        table: &TableName,
        deleted: bool,
        key: Option<(bool, &[String])>,
    ) -> Vec<(Cascade, bool)> {
        let mut found = Vec::new();
        let mut queue = vec![(table.clone(), deleted, key)];
        let mut seen = HashSet::new();
        while let Some((table, deleted, key)) = queue.pop() {
            for cascade in self.cascades.iter().filter(|c| c.parent == table) {
                let rule = if deleted { cascade.on_delete } else { cascade.on_update };
                let untouched = key.is_some_and(|(changed, key)| {
                    !deleted
                        && !changed
                        && cascade.references.iter().all(|c| key.iter().any(|k| k.eq_ignore_ascii_case(c)))
                });
                let Some(rule) = rule.filter(|_| !untouched) else { continue };
                found.push((cascade.clone(), !deleted && rule == Rule::Cascade));
                let deletes = deleted && rule == Rule::Cascade;
                if seen.insert((cascade.child.clone(), deletes)) {
                    queue.push((cascade.child.clone(), deletes, None));
                }
            }
        }
        found
    }

    /// Takes in what a statement in the log made: new foreign keys, tables and columns that have other names now.
    pub(in crate::mysql) fn add(&mut self, cascades: Vec<Cascade>, steps: &[(TableName, TableChange)]) {
        self.cascades.extend(cascades);
        for (table, change) in steps {
            for Cascade { child, columns, parent, references, .. } in &mut self.cascades {
                for (name, columns) in [(child, columns), (parent, references)].into_iter().filter(|(n, _)| *n == table)
                {
                    match change {
                        TableChange::RenameTable { to } => *name = to.clone(),
                        TableChange::RenameColumn { from, to } => {
                            columns.iter_mut().filter(|c| *c == from).for_each(|c| c.clone_from(to));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Cascade {
    /// As the engine is told of it. `moves`: it gives its columns other values than NULL. `None`: what it refers to is not
    /// known, or compared by something else than its text.
    pub(in crate::mysql) fn key(
        &self,
        moves: bool,
        schema: impl Fn(&TableName) -> Option<Arc<TableSchema>>,
    ) -> Option<ForeignKey> {
        let of = |table: &TableName, columns: &[String]| -> Option<Vec<(String, MysqlType)>> {
            let schema = schema(table)?;
            let known = |name: &String| {
                let column = schema.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))?;
                Some((column.name.clone(), MysqlType::parse(&column.source_type).ok()?))
            };
            columns.iter().map(known).collect()
        };
        let (own, parents) = (of(&self.child, &self.columns)?, of(&self.parent, &self.references)?);
        // Enumerations refer by number, and what is padded depends on the type.
        let is_text =
            |t: &MysqlType| matches!(t, MysqlType::Char { .. } | MysqlType::VarChar { .. } | MysqlType::Text { .. });
        if !own.iter().zip(&parents).all(|((_, a), (_, b))| a == b || is_text(a) && is_text(b)) {
            return None;
        }
        let names = |columns: Vec<(String, MysqlType)>| columns.into_iter().map(|(name, _)| name).collect();
        let (columns, references) = (names(own), names(parents));
        Some(ForeignKey { child: self.child.clone(), columns, parent: self.parent.clone(), references, moves })
    }

    /// Why its rows are read again.
    pub(in crate::mysql) fn reason(&self) -> String {
        format!(
            "the foreign key {} ({}) has changed rows when {} did",
            quote_name(&self.name),
            self.rules(),
            self.parent
        )
    }

    /// Why the table is suspended.
    pub(in crate::mysql) fn error(&self) -> Error {
        Error::unsupported("a foreign key has changed rows of the table, which this server does not log")
            .with("table", &self.child)
            .with("foreign key", format!("{} to {}", quote_name(&self.name), self.parent))
            .hint(format!(
                "`freshet resync JOB TABLE` reads it again; so that it stays in step: {}; or put cascades=resync into the \
                 source's URL: then that is done by itself, each time",
                self.remedy()
            ))
    }

    /// What it does, as in its definition.
    pub(in crate::mysql) fn rules(&self) -> String {
        let rule = |rule| match rule {
            Rule::Cascade => "CASCADE",
            Rule::SetNull => "SET NULL",
        };
        let delete = self.on_delete.map(|r| format!("ON DELETE {}", rule(r)));
        let update = self.on_update.map(|r| format!("ON UPDATE {}", rule(r)));
        [delete, update].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The statement that takes the foreign key away.
    pub(in crate::mysql) fn remedy(&self) -> String {
        format!(
            "ALTER TABLE {} DROP FOREIGN KEY {}; (add it again without {}, and let the application change these rows)",
            self.child.quoted(),
            quote_name(&self.name),
            self.rules()
        )
    }
}

/// MySQL has foreign keys above the storage engine since 9.6, unless that is switched off.
async fn cascades_are_logged(c: &mut Connection) -> Result<bool> {
    if c.server.flavour == Flavour::MariaDb {
        return Ok(false);
    }
    let rows = c.query("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'").await?;
    Ok(rows.first().and_then(|r| r.get_str(1)) == Some("OFF"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::Column;

    #[test]
    fn foreign_keys_act_in_turn() {
        let name = |t: &str| TableName::new("d", t);
        let cascade = |child: &str, parent: &str, on_delete, on_update| Cascade {
            name: "k".into(),
            child: name(child),
            parent: name(parent),
            columns: vec!["up".into()],
            references: vec!["id".into()],
            on_delete,
            on_update,
        };
        let (cascade_rule, null) = (Some(Rule::Cascade), Some(Rule::SetNull));
        let mut effects = SideEffects {
            cascades: vec![
                cascade("b", "a", cascade_rule, None),
                cascade("c", "b", cascade_rule, None),
                cascade("d", "b", null, None),
                cascade("e", "d", cascade_rule, None),
                cascade("f", "a", None, cascade_rule),
                cascade("a", "c", cascade_rule, None),
            ],
            ..SideEffects::default()
        };
        let children = |effects: &SideEffects, deleted, key: Option<(bool, &[String])>| {
            let mut found: Vec<_> =
                effects.of(&name("a"), deleted, key).into_iter().map(|(c, _)| c.child.table).collect();
            found.sort();
            found.dedup();
            found.concat()
        };
        let id = ["ID".to_string()];
        assert_eq!(children(&effects, true, None), "abcd");
        assert_eq!(children(&effects, false, None), "f");
        assert_eq!(children(&effects, false, Some((false, &id))), "");
        assert_eq!(children(&effects, false, Some((false, &[]))), "f");
        assert_eq!(children(&effects, false, Some((true, &id))), "f");
        effects.add(Vec::new(), &[(name("f"), TableChange::RenameTable { to: name("g") })]);
        assert_eq!(children(&effects, false, None), "g");
        let rename = |from: &str, to: &str| TableChange::RenameColumn { from: from.into(), to: to.into() };
        effects.add(Vec::new(), &[(name("g"), rename("up", "above")), (name("a"), rename("id", "no"))]);
        let (cascade, moves) = &effects.of(&name("a"), false, None)[0];
        assert_eq!((&cascade.columns[0][..], &cascade.references[0][..], *moves), ("above", "no", true));
        assert!(effects.of(&name("a"), true, None).iter().all(|(_, moves)| !moves));
        assert!(effects.is_parent(&name("a")) && !effects.is_parent(&name("e")));
    }

    #[test]
    fn foreign_keys_that_compare_as_their_text_does() {
        let table = |name: &str, columns: &[(&str, &str)]| {
            let column = |(n, t): &(&str, &str)| {
                let mut column = Column::new(*n, MysqlType::parse(t).unwrap().data_type());
                column.source_type = (*t).into();
                column
            };
            Arc::new(TableSchema {
                name: TableName::new("d", name),
                columns: columns.iter().map(column).collect(),
                key: vec!["id".into()],
                comment: String::new(),
                source_defaults: String::new(),
            })
        };
        for (child, parent, compared) in [
            ("int", "int", true),
            ("int unsigned", "int", false),
            ("varchar(10) character set utf8mb4", "char(20) character set utf8mb4", true),
            ("varbinary(16)", "binary(16)", false),
            ("enum('a','b')", "enum('a','b')", true),
            ("enum('a','b')", "enum('b','a')", false),
        ] {
            let tables = [table("c", &[("no", "int"), ("Up", child)]), table("p", &[("id", parent)])];
            let names = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>();
            let mut cascade = Cascade {
                name: "k".into(),
                child: TableName::new("d", "c"),
                columns: names(&["up"]),
                parent: TableName::new("d", "p"),
                references: names(&["ID"]),
                on_delete: Some(Rule::Cascade),
                on_update: None,
            };
            let key = |c: &Cascade| c.key(false, |name| tables.iter().find(|t| t.name == *name).cloned());
            let found = key(&cascade).map(|k| (k.columns, k.references));
            assert_eq!(found, compared.then(|| (names(&["Up"]), names(&["id"]))), "{child} {parent}");
            cascade.columns = names(&["gone"]);
            assert_eq!(key(&cascade), None);
            cascade.parent = TableName::new("d", "elsewhere");
            assert_eq!(key(&cascade), None);
        }
    }
}
