//! The beginning of a connection: the server's greeting, the switch to TLS, the client's answer, and the proof of its
//! password by whichever of the plugins the client speaks.

use freshet_core::{Error, Result};
use mysql_common::constants::CapabilityFlags as Flags;

use super::fault::{Fault, Lost};
use super::packet::{Channel, Malformed, Reader, Socket, put_counted};
use crate::auth::Users;

/// Bytes of a nonce.
const NONCE: usize = 20;
/// Connection attributes kept of a client: more are ignored.
const ATTRIBUTES: usize = 64;

/// What the server offers. LOCAL INFILE, compression and session tracking are not among it.
fn offered(tls: bool) -> Flags {
    let mut flags = Flags::CLIENT_LONG_PASSWORD
        | Flags::CLIENT_FOUND_ROWS
        | Flags::CLIENT_LONG_FLAG
        | Flags::CLIENT_CONNECT_WITH_DB
        | Flags::CLIENT_ODBC
        | Flags::CLIENT_IGNORE_SPACE
        | Flags::CLIENT_PROTOCOL_41
        | Flags::CLIENT_INTERACTIVE
        | Flags::CLIENT_TRANSACTIONS
        | Flags::CLIENT_SECURE_CONNECTION
        | Flags::CLIENT_MULTI_STATEMENTS
        | Flags::CLIENT_MULTI_RESULTS
        | Flags::CLIENT_PS_MULTI_RESULTS
        | Flags::CLIENT_PLUGIN_AUTH
        | Flags::CLIENT_CONNECT_ATTRS
        | Flags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA
        | Flags::CLIENT_DEPRECATE_EOF;
    flags.set(Flags::CLIENT_SSL, tls);
    flags
}

/// A way to prove a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plugin {
    Native,
    CachingSha2,
    /// The password itself; over TLS only.
    Clear,
}

impl Plugin {
    fn named(name: &[u8], encrypted: bool) -> Option<Self> {
        match name {
            b"mysql_native_password" => Some(Plugin::Native),
            b"caching_sha2_password" => Some(Plugin::CachingSha2),
            b"mysql_clear_password" if encrypted => Some(Plugin::Clear),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Plugin::Native => "mysql_native_password",
            Plugin::CachingSha2 => "caching_sha2_password",
            Plugin::Clear => "mysql_clear_password",
        }
    }

    fn accepts(self, users: &Users, user: &str, nonce: &[u8], answer: &[u8]) -> bool {
        match self {
            Plugin::Native => users.native(user, nonce, answer),
            // A client without a password sends nothing or a single zero byte.
            Plugin::CachingSha2 if answer == [0] => users.caching_sha2(user, nonce, b""),
            Plugin::CachingSha2 => users.caching_sha2(user, nonce, answer),
            Plugin::Clear => users.password(user, answer.strip_suffix(&[0]).unwrap_or(answer)),
        }
    }
}

/// A fresh nonce: printable, because some clients read it as a C string.
pub(super) fn nonce() -> Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| Error::io("the system gives no random numbers").because(e))?;
    // The 90 characters from '%' to '~': past '$', which old clients take for a separator.
    nonce.iter_mut().for_each(|b| *b = b'%' + *b % 90);
    Ok(nonce)
}

/// Writes the greeting.
pub(super) fn put_greeting(out: &mut Vec<u8>, version: &str, id: u32, nonce: &[u8; NONCE], tls: bool) {
    let flags = offered(tls).bits().to_le_bytes();
    out.push(10);
    out.extend_from_slice(version.as_bytes());
    out.push(0);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&nonce[..8]);
    out.push(0);
    out.extend_from_slice(&flags[..2]);
    out.push(super::columns::UTF8MB4 as u8);
    out.extend_from_slice(&[2, 0]);
    out.extend_from_slice(&flags[2..]);
    out.push(NONCE as u8 + 1);
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(&nonce[8..]);
    out.push(0);
    out.extend_from_slice(Plugin::Native.name().as_bytes());
    out.push(0);
}

/// Whether the message is the wish to switch to TLS: a client's answer cut off before the user.
pub(super) fn wants_tls(message: &[u8]) -> bool {
    let flags = Reader(message).u32().map_or(Flags::empty(), Flags::from_bits_truncate);
    message.len() == 32 && flags.contains(Flags::CLIENT_SSL)
}

/// What a client answers to the greeting, or sends to become another user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// What both sides can do.
    pub(super) flags: Flags,
    pub(super) user: String,
    pub(super) database: Option<String>,
    /// Names and values that the client tells of itself, as `program_name`.
    pub(super) attributes: Vec<(String, String)>,
    answer: Vec<u8>,
    plugin: Vec<u8>,
}

impl Login {
    /// Reads the answer to the greeting.
    ///
    /// # Errors
    /// A fault for a message that is malformed or of a client from before MySQL 4.1.
    pub(super) fn read(message: &[u8], tls: bool) -> Result<Self, Fault> {
        let mut m = Reader(message);
        let flags = Flags::from_bits_truncate(m.u32()?) & offered(tls);
        if !flags.contains(Flags::CLIENT_PROTOCOL_41 | Flags::CLIENT_SECURE_CONNECTION) {
            return Err(Fault::handshake());
        }
        // Longest packet, character set, 23 bytes of nothing.
        m.bytes(4 + 1 + 23)?;
        let user = text(m.until_zero())?;
        let answer = if flags.contains(Flags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA) {
            m.counted()?
        } else {
            let length = m.u8()?;
            m.bytes(usize::from(length))?
        };
        let database =
            if flags.contains(Flags::CLIENT_CONNECT_WITH_DB) { text(m.until_zero())? } else { String::new() };
        Login::finish(flags, user, answer, database, m)
    }

    /// Reads a COM_CHANGE_USER, behind the command's byte.
    ///
    /// # Errors
    /// A fault for a malformed message.
    pub(super) fn read_change(message: &[u8], flags: Flags) -> Result<Self, Fault> {
        let mut m = Reader(message);
        let user = text(m.until_zero())?;
        let length = m.u8()?;
        let answer = m.bytes(usize::from(length))?;
        let database = text(m.until_zero())?;
        // Character set.
        if !m.is_empty() {
            m.u16()?;
        }
        Login::finish(flags, user, answer, database, m)
    }

    fn finish(flags: Flags, user: String, answer: &[u8], database: String, mut m: Reader<'_>) -> Result<Self, Fault> {
        let plugin = if flags.contains(Flags::CLIENT_PLUGIN_AUTH) && !m.is_empty() {
            m.until_zero()
        } else {
            Plugin::Native.name().as_bytes()
        };
        let mut attributes = Vec::new();
        if flags.contains(Flags::CLIENT_CONNECT_ATTRS) && !m.is_empty() {
            let mut list = Reader(m.counted()?);
            while !list.is_empty() && attributes.len() < ATTRIBUTES {
                attributes.push((text(list.counted()?)?, text(list.counted()?)?));
            }
        }
        let database = Some(database).filter(|d| !d.is_empty());
        Ok(Login { flags, user, database, attributes, answer: answer.to_vec(), plugin: plugin.to_vec() })
    }

    /// Whether the client sent a password.
    pub(super) fn with_password(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Checks the password. A client that answered by another plugin than the greeting's is asked again, by its own
    /// one if we know it. Answers nothing but that: what follows is the caller's OK or error.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn prove<S: Socket>(
        &mut self,
        channel: &mut Channel<S>,
        users: &Users,
        nonce: &[u8; NONCE],
        encrypted: bool,
    ) -> Result<bool, Lost> {
        let named = Plugin::named(&self.plugin, encrypted);
        let mut plugin = named.unwrap_or(Plugin::Native);
        let mut accepted = named.is_some_and(|p| p.accepts(users, &self.user, nonce, &self.answer));
        // An answer by the plugin of the greeting is final, by another one perhaps just a dummy.
        if !accepted && named != Some(Plugin::Native) {
            let fresh = self::nonce().map_err(Fault::from)?;
            let out = channel.begin();
            out.push(0xFE);
            out.extend_from_slice(plugin.name().as_bytes());
            out.push(0);
            out.extend_from_slice(&fresh);
            out.push(0);
            channel.end();
            channel.flush().await?;
            self.answer = channel.read().await?.to_vec();
            accepted = plugin.accepts(users, &self.user, &fresh, &self.answer);
            if !accepted && plugin == Plugin::CachingSha2 && encrypted {
                // The client may hold back its hash: ask for the password itself.
                plugin = Plugin::Clear;
                channel.begin().extend_from_slice(&[1, 4]);
                channel.end();
                channel.flush().await?;
                let answer = channel.read().await?;
                return Ok(plugin.accepts(users, &self.user, &fresh, &answer));
            }
        }
        if accepted && plugin == Plugin::CachingSha2 && users.has_password(&self.user) {
            channel.begin().extend_from_slice(&[1, 3]);
            channel.end();
        }
        Ok(accepted)
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_string).map_err(|_| Malformed)
}

/// Appends an OK packet: `header` is 0, or 0xFE where it stands for the end of rows.
pub(super) fn put_ok(out: &mut Vec<u8>, header: u8, affected: u64, status: u16, info: &str) {
    out.push(header);
    super::packet::put_length(out, affected);
    super::packet::put_length(out, 0);
    out.extend_from_slice(&status.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    if !info.is_empty() {
        put_counted(out, info.as_bytes());
    }
}

/// Appends an error packet.
pub(super) fn put_fault(out: &mut Vec<u8>, fault: &Fault) {
    out.push(0xFF);
    out.extend_from_slice(&fault.code.to_le_bytes());
    out.push(b'#');
    out.extend_from_slice(fault.state.as_bytes());
    out.extend_from_slice(fault.message.as_bytes());
}
