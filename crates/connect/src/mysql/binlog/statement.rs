//! What kind of statement the log holds, from its first words, and statements that changed rows without logging them.

use std::borrow::Cow;

use encoding_rs::WINDOWS_1252;

/// What a statement in the log means for transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Begin,
    Commit,
    Rollback,
    RollbackToSavepoint,
    Savepoint,
    ReleaseSavepoint,
    XaStart,
    XaEnd,
    /// `XA COMMIT` of a transaction that was prepared before.
    XaCommit,
    XaRollback,
    /// It changes rows, and the log does not say which.
    Rows,
    /// Perhaps a data definition statement.
    Other,
}

impl Kind {
    pub(super) fn of(text: &str) -> Self {
        let mut words = Words { rest: text };
        let mut next = || words.next().unwrap_or_default().to_ascii_uppercase();
        match next().as_str() {
            "BEGIN" => Kind::Begin,
            "START" if next() == "TRANSACTION" => Kind::Begin,
            "COMMIT" => Kind::Commit,
            "ROLLBACK" if next() == "TO" => Kind::RollbackToSavepoint,
            "ROLLBACK" => Kind::Rollback,
            "SAVEPOINT" => Kind::Savepoint,
            "RELEASE" => Kind::ReleaseSavepoint,
            "XA" => match next().as_str() {
                "START" | "BEGIN" => Kind::XaStart,
                "COMMIT" => Kind::XaCommit,
                "ROLLBACK" => Kind::XaRollback,
                _ => Kind::XaEnd,
            },
            "INSERT" | "REPLACE" | "UPDATE" | "DELETE" | "LOAD" | "WITH" | "SELECT" | "CALL" | "DO" => Kind::Rows,
            _ => Kind::Other,
        }
    }
}

/// Whether a statement replaces rows (`REPLACE`, `LOAD DATA … REPLACE INTO`).
pub(super) fn replaces(text: &str) -> bool {
    let mut words = Words { rest: text };
    match words.next() {
        Some(word) if word.eq_ignore_ascii_case("REPLACE") => true,
        Some(word) if word.eq_ignore_ascii_case("LOAD") => text.to_ascii_uppercase().contains("REPLACE INTO"),
        _ => false,
    }
}

/// The words at the begin of a statement, without comments.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
            if let Some(comment) = self.rest.strip_prefix("/*").filter(|c| !c.starts_with(['!', 'M'])) {
                self.rest = comment.split_once("*/")?.1;
            } else if self.rest.starts_with('#') || self.rest.starts_with("-- ") {
                self.rest = self.rest.split_once('\n')?.1;
            } else {
                break;
            }
        }
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word).filter(|w| !w.is_empty())
    }
}

/// The savepoint that `SAVEPOINT` or `ROLLBACK TO` names, as servers write it: behind the last blank, but for names with
/// blanks in them, which they quote.
pub(super) fn savepoint(text: &str) -> String {
    let text = text.trim_end();
    let name = match text.find('`') {
        Some(quote) => &text[quote..],
        None => text.rsplit(char::is_whitespace).next().unwrap_or_default(),
    };
    name.trim_matches('`').to_lowercase()
}

/// Whether a statement creates a table and fills it in the same transaction (MySQL's CREATE TABLE … SELECT).
pub(super) fn leaves_transaction_open(text: &str) -> bool {
    let end = text.trim_end();
    end.len() >= 17
        && end.is_char_boundary(end.len() - 17)
        && end[end.len() - 17..].eq_ignore_ascii_case("START TRANSACTION")
}

/// Whether a statement makes something by which a change of one table changes another.
pub(super) fn makes_side_effects(text: &str) -> bool {
    let head: String = text.chars().take(400).collect::<String>().to_ascii_uppercase();
    let mut words = head.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    matches!(words.next(), Some("CREATE" | "ALTER")) && words.any(|w| w == "TRIGGER" || w == "VIEW")
}

/// A statement's text from the client's character set, and whether that is certain.
pub(super) fn decoded(bytes: &[u8], collation: u16) -> (Cow<'_, str>, bool) {
    if matches!(collation, 5 | 8 | 15 | 31 | 47..=49 | 94) {
        return (WINDOWS_1252.decode_without_bom_handling(bytes).0, true);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), true),
        Err(_) => (String::from_utf8_lossy(bytes), false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replacing() {
        for text in
            ["REPLACE INTO t VALUES (1)", "/* c */ replace t SET a = 1", "LOAD DATA INFILE 'f' REPLACE INTO TABLE t"]
        {
            assert!(replaces(text), "{text}");
        }
        for text in ["UPDATE t SET a = REPLACE(a, 'b', 'c')", "LOAD DATA INFILE 'f' IGNORE INTO TABLE t", ""] {
            assert!(!replaces(text), "{text}");
        }
    }

    #[test]
    fn kinds() {
        for (text, kind) in [
            ("BEGIN", Kind::Begin),
            ("begin", Kind::Begin),
            ("COMMIT /* x */", Kind::Commit),
            ("ROLLBACK", Kind::Rollback),
            ("ROLLBACK TO `a`", Kind::RollbackToSavepoint),
            ("SAVEPOINT `a`", Kind::Savepoint),
            ("XA START X'61',X'',1", Kind::XaStart),
            ("XA COMMIT X'61',X'',1", Kind::XaCommit),
            ("/* hi */ -- there\n# now\n  insert into t values (1)", Kind::Rows),
            ("SELECT `d`.`f`()", Kind::Rows),
            ("ALTER TABLE t ADD c INT", Kind::Other),
            ("ANALYZE TABLE t", Kind::Other),
            ("GRANT INSERT ON d.* TO u", Kind::Other),
            ("BEGINNING", Kind::Other),
            ("", Kind::Other),
            ("/* open", Kind::Other),
        ] {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
        for text in ["SAVEPOINT `A b`", "ROLLBACK TO SAVEPOINT `a b`", "ROLLBACK TO `a b` "] {
            assert_eq!(savepoint(text), "a b");
        }
        assert_eq!(savepoint("savepoint x"), "x");
        assert!(leaves_transaction_open("CREATE TABLE `t` (`a` int) START TRANSACTION"));
        assert!(!leaves_transaction_open("ä"));
    }

    #[test]
    fn side_effects() {
        assert!(makes_side_effects("CREATE DEFINER=`a`@`b` TRIGGER t BEFORE INSERT ON x FOR EACH ROW SET @a = 1"));
        assert!(makes_side_effects("create or replace view v as select 1"));
        assert!(!makes_side_effects("CREATE TABLE t (a INT)"));
    }

    proptest! {
        #[test]
        fn any_text(text in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..40), collation: u16) {
            let _ = (Kind::of(&text), leaves_transaction_open(&text), decoded(&bytes, collation));
            let _ = (makes_side_effects(&text), savepoint(&text));
        }
    }
}
