//! "Did you mean": the known word that a mistyped one is nearest to.

/// `did you mean X?`, when one is near enough.
pub(crate) fn did_you_mean<'c>(word: &str, known: impl IntoIterator<Item = &'c str>) -> Option<String> {
    freshet_core::nearest::nearest(word, known).map(|k| format!("did you mean {k}?"))
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
