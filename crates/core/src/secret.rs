//! A text that must never be printed: passwords in URLs and options.

use std::fmt;

/// Holds a secret; `Debug`, `Display` and serialisation show `***`. It is stored only by [`Secret::reveal`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself: only for the wire and for the store.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The URL with its password replaced by `***`, for people: `mysql://root:***@host/db`. Works on text that is not a
/// valid URL too, because it is used in the messages about such text.
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_string() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // The last `@` before the path ends the credentials: a password may hold an unescaped one.
    let Some(at) = rest[..end].rfind('@').or_else(|| rest.rfind('@').filter(|_| rest.contains(':'))) else {
        return url.to_string();
    };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{}", &rest[at + 1..]),
        None => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_printed() {
        let s = Secret::new("hunter2");
        assert_eq!(format!("{s} {s:?}"), "*** ***");
        assert_eq!(redact_url("mysql://root:p@ss@db:3306/shop?x=1"), "mysql://root:***@db:3306/shop?x=1");
        assert_eq!(redact_url("mysql://root:p/ss@db/shop"), "mysql://root:***@db/shop");
        assert_eq!(redact_url("mysql://root@db/shop"), "mysql://root@db/shop");
        assert_eq!(redact_url("generator"), "generator");
    }
}
