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

/// What stands in a password's place.
const HIDDEN: &str = "***";
/// Parameters of a URL whose value is a secret.
const SECRET_PARAMETERS: [&str; 6] = ["password", "passwd", "pwd", "pass", "secret", "token"];

/// The URL with its password replaced by `***`, for people: `mysql://root:***@host/db`. Made for text that is not a valid
/// URL too, because it is used in the messages about such text: a forgotten scheme or slashes, a host left out, a
/// password with `@`, `/`, `:` or `?` in it, one that is a parameter. In doubt it hides more than the password.
pub fn redact_url(url: &str) -> String {
    let url = hide_parameters(url);
    let legal = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.chars().all(legal) => (Some(scheme), rest),
        _ => (None, url.as_str()),
    };
    let prefix = scheme.map_or(String::new(), |s| format!("{s}://"));
    // The last `@` ends the credentials: a password may hold an unescaped one.
    if let Some(at) = rest.rfind('@') {
        return match rest[..at].split_once(':') {
            Some((user, _)) => format!("{prefix}{user}:{HIDDEN}@{}", &rest[at + 1..]),
            None => url,
        };
    }
    // Without a host, the password stands where the port should.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].split_once(':') {
        Some((host, port)) if scheme.is_some() && !host.starts_with('[') && !is_port(port) => {
            format!("{prefix}{host}:{HIDDEN}{}", &rest[end..])
        }
        _ => url,
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// The values of [`SECRET_PARAMETERS`], up to the next parameter.
fn hide_parameters(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find(['?', '&', ';']) {
        let (before, parameter) = rest.split_at(at + 1);
        out.push_str(before);
        rest = parameter;
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if SECRET_PARAMETERS.iter().any(|s| name.eq_ignore_ascii_case(s)) {
            out.push_str(&format!("{name}={HIDDEN}"));
            rest = &value[value.find('&').unwrap_or(value.len())..];
        }
    }
    out + rest
}

/// A message that may quote what was typed, with the passwords in these arguments (`--option=value` too) hidden.
pub fn redact_arguments(message: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let mut out = message.to_string();
    for argument in arguments {
        let value = argument.split_once('=').filter(|(name, _)| name.starts_with('-')).map(|(_, value)| value);
        for typed in [Some(argument.as_str()), value].into_iter().flatten() {
            let shown = redact_url(typed);
            if shown != typed {
                out = out.replace(typed, &shown);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_printed() {
        let s = Secret::new("hunter2");
        assert_eq!(format!("{s} {s:?}"), "*** ***");
    }

    #[test]
    fn urls() {
        for (url, shown) in [
            ("mysql://root:sesame@db:3306/shop?x=1", "mysql://root:***@db:3306/shop?x=1"),
            // Passwords that hold what separates the parts.
            ("mysql://root:p@ss@db:3306/shop?x=1", "mysql://root:***@db:3306/shop?x=1"),
            ("mysql://root:p/ss@db/shop", "mysql://root:***@db/shop"),
            ("mysql://root:p@s/s@db/shop", "mysql://root:***@db/shop"),
            ("mysql://root:p:s?s#s@db/shop", "mysql://root:***@db/shop"),
            ("mysql://root:p://s@db/shop", "mysql://root:***@db/shop"),
            ("mysql://root:a?pwd=b@db/shop", "mysql://root:***?pwd=***"),
            // Scheme, slashes or host forgotten.
            ("root:sesame@db/shop", "root:***@db/shop"),
            ("root:se://same@db/shop", "root:***@db/shop"),
            ("mysql:root:sesame@db/shop", "mysql:***@db/shop"),
            ("mysql:/root:sesame@db/shop", "mysql:***@db/shop"),
            ("mysql//root:sesame@db/shop", "mysql//root:***@db/shop"),
            ("//root:sesame@db/shop", "//root:***@db/shop"),
            ("://root:sesame@db/shop", "://root:***@db/shop"),
            ("mysql://root:sesame/shop", "mysql://root:***/shop"),
            ("mysql://root:sesame", "mysql://root:***"),
            // As a parameter.
            ("mysql://root@db/shop?password=sesame", "mysql://root@db/shop?password=***"),
            ("mysql://root@db:3306/shop?x=1&PassWord=p@ss&y=2", "mysql://root@db:3306/shop?x=1&PassWord=***&y=2"),
            ("mysql://root:one@db/shop?pwd=two", "mysql://root:***@db/shop?pwd=***"),
        ] {
            assert_eq!(redact_url(url), shown, "{url}");
        }
        for nothing_to_hide in [
            "mysql://root@db/shop",
            "mysql://db:3306/shop",
            "mysql://[::1]:3306/shop",
            "generator://shop?rows=10&seed=2",
            "generator",
            "file:///tmp/a",
            "embedded:",
            "-",
            "",
            "shop.orders",
        ] {
            assert_eq!(redact_url(nothing_to_hide), nothing_to_hide);
        }
    }

    #[test]
    fn messages_that_quote_arguments() {
        let arguments = ["freshet", "mysql://root:ses ame@db/shop", "--listen=root:sesame@db"].map(String::from);
        let message = "no command 'mysql://root:ses ame@db/shop', and 'root:sesame@db' is no address";
        let shown = "no command 'mysql://root:***@db/shop', and 'root:***@db' is no address";
        assert_eq!(redact_arguments(message, arguments), shown);
    }
}
