//! Who may come in: the configured users with the hashes that the protocols check against. A password itself is never
//! kept. Both of MySQL's password plugins are answered in one exchange, because both hashes are known.

use std::collections::BTreeMap;

use freshet_core::{Error, Result, Secret};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The users and their passwords' hashes.
#[derive(Clone, Default)]
pub struct Users {
    by_name: BTreeMap<String, Credentials>,
}

/// What is kept of a password; empty when the user has none.
#[derive(Clone)]
enum Credentials {
    Empty,
    Hashed { sha1: [u8; 20], sha256: [u8; 32] },
}

impl Users {
    /// The default: `root`, without a password. Good for loopback only.
    pub fn root_without_password() -> Self {
        Users::default().with("root", &Secret::default())
    }

    /// With this user; replaces one of the same name. An empty password means none.
    #[must_use]
    pub fn with(mut self, name: &str, password: &Secret) -> Self {
        let credentials = if password.is_empty() {
            Credentials::Empty
        } else {
            let bytes = password.reveal().as_bytes();
            Credentials::Hashed { sha1: sha1(&[&sha1(&[bytes])]), sha256: sha256(&[&sha256(&[bytes])]) }
        };
        self.by_name.insert(name.to_string(), credentials);
        self
    }

    /// The first user that comes in without a password.
    pub fn without_password(&self) -> Option<&str> {
        self.by_name.iter().find(|(_, c)| matches!(c, Credentials::Empty)).map(|(name, _)| name.as_str())
    }

    /// Whether the user exists and has a password.
    pub(crate) fn has_password(&self, user: &str) -> bool {
        matches!(self.by_name.get(user), Some(Credentials::Hashed { .. }))
    }

    /// Fails when the address can be reached from elsewhere and somebody could come in without a password.
    ///
    /// # Errors
    /// `Config`, with what to set.
    pub fn check_listen(&self, address: std::net::SocketAddr) -> Result<()> {
        match self.without_password() {
            Some(user) if !address.ip().to_canonical().is_loopback() => {
                Err(Error::config("refusing to listen for other machines while a user has no password")
                    .with("address", address)
                    .with("user", user)
                    .hint("set a password for the user, or listen on 127.0.0.1"))
            }
            _ => Ok(()),
        }
    }

    /// Checks a `mysql_native_password` answer: `SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))`.
    pub(crate) fn native(&self, user: &str, nonce: &[u8], answer: &[u8]) -> bool {
        match self.by_name.get(user) {
            Some(Credentials::Empty) => answer.is_empty(),
            Some(Credentials::Hashed { sha1: stored, .. }) => {
                let Ok(answer) = <[u8; 20]>::try_from(answer) else { return false };
                let mask = sha1(&[nonce, stored]);
                equal(&sha1(&[&xor(answer, mask)]), stored)
            }
            None => false,
        }
    }

    /// Checks a `caching_sha2_password` answer: `SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)`.
    pub(crate) fn caching_sha2(&self, user: &str, nonce: &[u8], answer: &[u8]) -> bool {
        match self.by_name.get(user) {
            Some(Credentials::Empty) => answer.is_empty(),
            Some(Credentials::Hashed { sha256: stored, .. }) => {
                let Ok(answer) = <[u8; 32]>::try_from(answer) else { return false };
                let mask = sha256(&[stored, nonce]);
                equal(&sha256(&[&xor(answer, mask)]), stored)
            }
            None => false,
        }
    }

    /// Checks a password itself, as it comes over TLS.
    pub fn password(&self, user: &str, password: &[u8]) -> bool {
        match self.by_name.get(user) {
            Some(Credentials::Empty) => password.is_empty(),
            Some(Credentials::Hashed { sha256: stored, .. }) => equal(&sha256(&[&sha256(&[password])]), stored),
            None => false,
        }
    }
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().into()
}

fn xor<const N: usize>(mut a: [u8; N], b: [u8; N]) -> [u8; N] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}

/// Compares in a time that does not depend on the contents.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users::root_without_password().with("ann", &Secret::new("s3cret"))
    }

    /// What a client computes; written down independently of the checks above.
    fn native_answer(password: &str, nonce: &[u8]) -> Vec<u8> {
        let once = sha1(&[password.as_bytes()]);
        let twice = sha1(&[&once]);
        xor(once, sha1(&[nonce, &twice])).to_vec()
    }

    fn sha2_answer(password: &str, nonce: &[u8]) -> Vec<u8> {
        let once = sha256(&[password.as_bytes()]);
        let twice = sha256(&[&once]);
        xor(once, sha256(&[&twice, nonce])).to_vec()
    }

    #[test]
    fn both_plugins() {
        let nonce = [7_u8; 20];
        assert!(users().native("ann", &nonce, &native_answer("s3cret", &nonce)));
        assert!(users().caching_sha2("ann", &nonce, &sha2_answer("s3cret", &nonce)));
        assert!(users().password("ann", b"s3cret"));
        assert!(users().native("root", &nonce, b"") && users().caching_sha2("root", &nonce, b""));
        for wrong in ["", "S3cret", "s3cret "] {
            assert!(!users().native("ann", &nonce, &native_answer(wrong, &nonce)));
            assert!(!users().caching_sha2("ann", &nonce, &sha2_answer(wrong, &nonce)));
            assert!(!users().password("ann", wrong.as_bytes()));
        }
        assert!(!users().native("ann", &[8; 20], &native_answer("s3cret", &nonce)));
        assert!(!users().native("ann", &nonce, b"") && !users().native("bob", &nonce, b""));
        assert!(!users().native("root", &nonce, &native_answer("x", &nonce)));
    }

    #[test]
    fn known_hash() {
        // SELECT PASSWORD('mypass') of MariaDB.
        let twice = sha1(&[&sha1(&[b"mypass"])]);
        let mut text = String::new();
        freshet_core::text::hex(&twice, &mut text);
        assert_eq!(text, "6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4");
    }

    #[test]
    fn no_open_door_to_other_machines() {
        let everywhere = "0.0.0.0:9030".parse().expect("an address");
        let error = users().check_listen(everywhere).expect_err("root has no password");
        assert!(error.line().contains("0.0.0.0:9030") && error.hint.is_some(), "{error}");
        for loopback in ["127.0.0.1:9030", "[::1]:9030", "[::ffff:127.0.0.1]:9030"] {
            users().check_listen(loopback.parse().expect("an address")).expect("loopback is fine");
        }
        users().with("root", &Secret::new("x")).check_listen(everywhere).expect("everybody has a password");
    }
}
