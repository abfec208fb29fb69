//! From a TCP connection to a session: greeting, TLS, authentication.

use freshet_core::{Error, Result};
use mysql_common::auth::plugins::caching_sha2_password::scramble_sha256;
use mysql_common::auth::plugins::mysql_native_password::scramble_native;
use mysql_common::constants::CapabilityFlags as Can;
use mysql_common::crypto::{der, encrypt};

use super::cursor::{Cursor, put_counted};
use super::error::server_error;
use super::packets::Packets;
use super::{Flavour, Options, ServerVersion, TlsMode, tls};

const NONCE: usize = 20;
/// `utf8mb4_general_ci`, which MySQL and MariaDB number alike; sets the session's three character sets.
const COLLATION: u8 = 45;
const NATIVE: &[u8] = b"mysql_native_password";
const SHA2: &[u8] = b"caching_sha2_password";
/// MySQL asks for it at random when it does not know the user, too.
const SHA256: &[u8] = b"sha256_password";

/// What the server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) version: String,
    pub(super) can: Can,
    nonce: [u8; NONCE],
    plugin: Vec<u8>,
}

impl Greeting {
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut c = Cursor::new(payload);
        if c.u8()? != 10 {
            return None;
        }
        let version = String::from_utf8_lossy(c.until_zero()?).into_owned();
        c.u32()?;
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(c.take(8)?);
        c.u8()?;
        let low = c.u16()?;
        c.take(3)?;
        let high = c.u16()?;
        let can = Can::from_bits_truncate(u32::from(low) | u32::from(high) << 16);
        let length = c.u8()?;
        c.take(10)?;
        let second = c.take(usize::from(length).saturating_sub(8).max(13))?;
        nonce[8..].copy_from_slice(second.get(..12)?);
        let plugin = c.until_zero().unwrap_or(c.rest()).to_vec();
        Some(Greeting { version, can, nonce, plugin })
    }
}

impl ServerVersion {
    /// Reads the version text of a greeting: `8.4.3`, `10.11.6-MariaDB`, `5.5.5-10.11.6-MariaDB-log`.
    pub fn parse(text: &str) -> Self {
        let flavour = if text.to_ascii_lowercase().contains("mariadb") { Flavour::MariaDb } else { Flavour::MySql };
        // MariaDB 10 puts a version in front that old replicas understand.
        let numbers = match flavour {
            Flavour::MariaDb => text.strip_prefix("5.5.5-").unwrap_or(text),
            Flavour::MySql => text,
        };
        let mut parts = numbers.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        ServerVersion { flavour, version: (next(), next(), next()), text: text.to_string() }
    }
}

/// Makes a session of a fresh connection; gives the flags that both sides agreed on.
pub(super) async fn log_in(mut packets: Packets, o: &Options) -> Result<(Packets, Greeting, Can)> {
    let payload = packets.next().await?;
    if payload.first() == Some(&0xFF) {
        return Err(server_error(payload, None).with("server", packets.peer()));
    }
    let Some(greeting) = Greeting::parse(payload) else {
        return Err(packets.broken("the greeting is not that of a MySQL server"));
    };
    let can = agree(&greeting, o, &packets)?;
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(&can.bits().to_le_bytes());
    head.extend_from_slice(&0x4000_0000_u32.to_le_bytes());
    head.push(COLLATION);
    head.extend_from_slice(&[0; 23]);
    if can.contains(Can::CLIENT_SSL) {
        packets.send(&head).await?;
        packets = packets.upgrade(|plain| tls::connect(&o.tls, &o.host, plain)).await?;
    }
    let password = o.password.reveal().as_bytes();
    let plugin = if greeting.plugin == SHA2 { SHA2 } else { NATIVE };
    let answer = scramble(plugin, &greeting.nonce, password).unwrap_or_default();
    packets.send(&response(head, can, o, plugin, &answer)).await?;
    authenticate(&mut packets, plugin.to_vec(), greeting.nonce, password)
        .await
        .map_err(|e| e.with("server", packets.peer()).with("user", &o.user))?;
    Ok((packets, greeting, can))
}

fn agree(greeting: &Greeting, o: &Options, packets: &Packets) -> Result<Can> {
    let mut can = Can::CLIENT_PROTOCOL_41
        | Can::CLIENT_SECURE_CONNECTION
        | Can::CLIENT_PLUGIN_AUTH
        | Can::CLIENT_LONG_PASSWORD
        | Can::CLIENT_TRANSACTIONS
        | Can::CLIENT_LONG_FLAG;
    if !greeting.can.contains(Can::CLIENT_PROTOCOL_41 | Can::CLIENT_PLUGIN_AUTH) {
        return Err(Error::unsupported("the server's protocol is too old")
            .with("server", packets.peer())
            .with("version", &greeting.version)
            .hint("Freshet reads MySQL 5.7 and newer, and MariaDB 10.3 and newer"));
    }
    can |= greeting.can
        & (Can::CLIENT_DEPRECATE_EOF | Can::CLIENT_CONNECT_ATTRS | Can::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA);
    if o.database.is_some() {
        can |= Can::CLIENT_CONNECT_WITH_DB;
    }
    let offered = greeting.can.contains(Can::CLIENT_SSL);
    match o.tls.mode {
        TlsMode::Disabled => {}
        TlsMode::Preferred if !offered => {}
        _ if !offered => {
            return Err(Error::permission("the server does not offer TLS, which is required")
                .with("server", packets.peer())
                .hint("configure a certificate at the server, or set tls=preferred"));
        }
        _ => can |= Can::CLIENT_SSL,
    }
    Ok(can)
}

fn response(mut out: Vec<u8>, can: Can, o: &Options, plugin: &[u8], answer: &[u8]) -> Vec<u8> {
    let zero_ended = |out: &mut Vec<u8>, text: &[u8]| {
        out.extend(text.iter().filter(|b| **b != 0));
        out.push(0);
    };
    zero_ended(&mut out, o.user.as_bytes());
    // An answer has at most 32 bytes, so that both forms of its length are the same byte.
    put_counted(&mut out, answer);
    if let Some(database) = &o.database {
        zero_ended(&mut out, database.as_bytes());
    }
    zero_ended(&mut out, plugin);
    if can.contains(Can::CLIENT_CONNECT_ATTRS) {
        let mut attributes = Vec::new();
        for text in ["program_name", "freshet", "_client_name", "freshet", "_client_version", env!("CARGO_PKG_VERSION")]
        {
            put_counted(&mut attributes, text.as_bytes());
        }
        put_counted(&mut out, &attributes);
    }
    out
}

fn scramble(plugin: &[u8], nonce: &[u8; NONCE], password: &[u8]) -> Option<Vec<u8>> {
    match plugin {
        SHA2 => scramble_sha256(nonce, password).map(|s| s.to_vec()),
        _ => scramble_native(nonce, password).map(|s| s.to_vec()),
    }
}

/// Answers the server until it lets us in.
async fn authenticate(
    packets: &mut Packets,
    mut plugin: Vec<u8>,
    mut nonce: [u8; NONCE],
    password: &[u8],
) -> Result<()> {
    let encrypted = packets.is_encrypted();
    // A server asks three times at most; a forged one must not keep us for ever.
    for _ in 0..8 {
        let payload = packets.next().await?;
        let answer = match payload {
            [0x00, ..] => return Ok(()),
            [0xFF, ..] => return Err(server_error(payload, None)),
            [0xFE, rest @ ..] => {
                (plugin, nonce) = switched(rest)?;
                match plugin == SHA256 {
                    true if encrypted || password.is_empty() => [password, &[0]].concat(),
                    true => vec![0x01],
                    false => scramble(&plugin, &nonce, password).unwrap_or_default(),
                }
            }
            [0x01, 0x03] if plugin == SHA2 => continue,
            [0x01, 0x04] if plugin == SHA2 && encrypted => [password, &[0]].concat(),
            // The password is not in the server's cache: it wants it in full, encrypted by its public key.
            [0x01, 0x04] if plugin == SHA2 => vec![0x02],
            [0x01, key @ ..] if (plugin == SHA2 || plugin == SHA256) && !encrypted => sealed(password, &nonce, key)?,
            _ => return Err(packets.broken("the server's answer to the password is not understood")),
        };
        packets.send(&answer).await?;
    }
    Err(packets.broken("the server never ends asking for the password"))
}

/// Reads a request for another way to authenticate.
fn switched(rest: &[u8]) -> Result<(Vec<u8>, [u8; NONCE])> {
    let mut c = Cursor::new(rest);
    let plugin = c.until_zero().unwrap_or_default();
    if plugin != SHA2 && plugin != SHA256 && plugin != NATIVE {
        let name = if plugin.is_empty() { "mysql_old_password".into() } else { String::from_utf8_lossy(plugin) };
        return Err(Error::unsupported(format!("the user's authentication plugin {name} is not supported"))
            .hint("make a user for Freshet with caching_sha2_password or mysql_native_password"));
    }
    let nonce = c.rest().first_chunk::<NONCE>().copied();
    nonce
        .map(|nonce| (plugin.to_vec(), nonce))
        .ok_or_else(|| Error::data("the server asks for another authentication without a nonce"))
}

/// The password, encrypted by the server's public key.
fn sealed(password: &[u8], nonce: &[u8; NONCE], key: &[u8]) -> Result<Vec<u8>> {
    let bytes = modulus_bytes(key).ok_or_else(|| Error::data("the server's public key is not an RSA key"))?;
    // OAEP takes 42 bytes of the key's length.
    if password.len() + 1 + 42 > bytes {
        return Err(Error::config("the password is too long for the server's public key")
            .hint("connect with TLS: set tls=required"));
    }
    let masked: Vec<u8> = password.iter().chain(&[0]).zip(nonce.iter().cycle()).map(|(p, n)| p ^ n).collect();
    encrypt(&masked, key).map_err(|e| Error::data("the server's public key cannot be used").because(e))
}

/// Checks that a public key in PEM form is an RSA key of sound form (the library that encrypts trusts that); gives
/// the bytes of its modulus.
fn modulus_bytes(pem: &[u8]) -> Option<usize> {
    let (der, der::PubKeyFileType::Pkcs8) = der::pem_to_der(pem).ok()? else { return None };
    let mut outer = Cursor::new(&der);
    let mut info = Cursor::new(der_value(&mut outer, 0x30)?);
    der_value(&mut info, 0x30)?;
    let key = der_value(&mut info, 0x03)?.strip_prefix(&[0])?;
    let mut key = Cursor::new(key);
    let mut numbers = Cursor::new(der_value(&mut key, 0x30)?);
    let significant = |bytes: &[u8]| bytes.iter().skip_while(|b| **b == 0).count();
    let modulus = significant(der_value(&mut numbers, 0x02)?);
    let exponent = significant(der_value(&mut numbers, 0x02)?);
    ((128..=2048).contains(&modulus) && (1..=8).contains(&exponent)).then_some(modulus)
}

fn der_value<'a>(c: &mut Cursor<'a>, tag: u8) -> Option<&'a [u8]> {
    if c.u8()? != tag {
        return None;
    }
    let length = match c.u8()? {
        n @ 0..=0x7F => usize::from(n),
        n @ 0x81..=0x84 => c.take(usize::from(n & 0x7F))?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)),
        _ => return None,
    };
    c.take(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxSKOcxiet8lLMn8ImyUE\n\
        bGGKob5EdRz/4wdiw12ED0GfKKTKhVnodFCfm1mdy7bKOX5QxL9skrvYodpW43eR\n\
        R5bfOzIgy1qIB8RYb6qOXRBw1oA4snBDqtUjDv/lbHLJN+IbzM4oU+e3Lt9rXyLX\n\
        VY289ewONPweXHqSCnTL91w+wkU1peIFV2QhZ+upUCdCtwOn5hnJPNgxtbklFoya\n\
        C8W3Z7Xx7He2QDJsEWAqX197efw0L6j8X8Tyd8Uwb7zUB1tfMGhHfm9EwejPAtzx\n\
        4GztQNtNMtGS2oGZLQBLV9hib4dDL92iiZeckg2LAf4GsJofLLR8mcHCRoqVbQJ1\n\
        MwIDAQAB\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn versions() {
        let of = |text| {
            let v = ServerVersion::parse(text);
            (v.flavour, v.version)
        };
        assert_eq!(of("5.5.5-10.11.6-MariaDB-0+deb12u1-log"), (Flavour::MariaDb, (10, 11, 6)));
        assert_eq!(of("11.4.2-MariaDB"), (Flavour::MariaDb, (11, 4, 2)));
        assert_eq!(of("8.4.3"), (Flavour::MySql, (8, 4, 3)));
        assert_eq!(of("5.7.44-log"), (Flavour::MySql, (5, 7, 44)));
        assert_eq!(of(""), (Flavour::MySql, (0, 0, 0)));
    }

    #[test]
    fn greeting_of_mariadb() {
        let mut p = b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0abcdefgh\0".to_vec();
        p.extend_from_slice(&[0xFE, 0xF7, 45, 2, 0, 0xFF, 0x81, 21]);
        p.extend_from_slice(&[0; 10]);
        p.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
        let g = Greeting::parse(&p).unwrap();
        assert_eq!(&g.nonce, b"abcdefghijklmnopqrst");
        assert_eq!(g.plugin, NATIVE);
        assert!(g.can.contains(Can::CLIENT_PLUGIN_AUTH | Can::CLIENT_DEPRECATE_EOF));
        for n in 0..p.len() - 24 {
            assert_eq!(Greeting::parse(&p[..n]), None);
        }
    }

    #[test]
    fn seals_the_password() {
        assert_eq!(modulus_bytes(KEY.as_bytes()), Some(256));
        assert_eq!(sealed(b"secret", &[7; NONCE], KEY.as_bytes()).unwrap().len(), 256);
        assert!(sealed(&[b'x'; 300], &[7; NONCE], KEY.as_bytes()).is_err());
        assert!(sealed(b"secret", &[7; NONCE], b"rubbish").is_err());
    }

    proptest! {
        #[test]
        fn bad_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 30usize..400, new: char) {
            let _ = Greeting::parse(&bytes);
            let _ = switched(&bytes);
            let _ = sealed(b"secret", &[0; NONCE], &bytes);
            let mut key: Vec<char> = KEY.chars().collect();
            if at < key.len() { key[at] = new; }
            let key: String = key.into_iter().collect();
            let _ = sealed(b"secret", &[0; NONCE], key.as_bytes());
        }
    }
}
