//! Which known word a mistyped one most likely means: options, tables, columns, jobs, statements.

/// The candidate with the fewest edits, when they are few for the word's length; case does not count.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = 1 + word.chars().count() / 4;
    let near = candidates.into_iter().map(|c| (distance(&word.to_lowercase(), &c.to_lowercase()), c));
    near.filter(|(d, _)| *d <= allowed).min().map(|(_, c)| c)
}

/// Edits between two words, a swap of neighbours being one; long ones are cut.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names() {
        assert_eq!(distance("orders", "odrers"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("ordesr", ["users", "orders"]), Some("orders"));
        assert_eq!(nearest("xyz", ["users", "orders"]), None);
    }
}
