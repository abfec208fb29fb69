//! "Did you mean": the known word that a mistyped one is nearest to.

/// `did you mean X?`, when one is near enough.
pub(crate) fn did_you_mean<'c>(word: &str, known: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let allowed = 1 + word.chars().count() / 4;
    let near = known.into_iter().map(|k| (distance(&word.to_lowercase(), &k.to_lowercase()), k));
    near.filter(|(d, _)| *d <= allowed).min().map(|(_, k)| format!("did you mean {k}?"))
}

/// Edits between two words, a swap of neighbours being one.
fn distance(a: &str, b: &str) -> usize {
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
    fn near_and_far() {
        assert_eq!(did_you_mean("mysqll", ["mysql", "generator"]).as_deref(), Some("did you mean mysql?"));
        assert_eq!(did_you_mean("hsop", ["shop"]).as_deref(), Some("did you mean shop?"));
        assert_eq!(did_you_mean("xyz", ["shop"]), None);
    }
}
