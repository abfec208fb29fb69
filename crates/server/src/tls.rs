//! The server's certificate: the user's own, or one that Freshet signs itself at the first start and keeps in the data
//! directory, so that every protocol can be encrypted without any set-up.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use freshet_core::error::io_error;
use freshet_core::{Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// PEM files of the user: the chain, and its key.
    Files {
        /// The certificate chain.
        chain: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// `server.crt` and `server.key` in this directory, made when they are not there.
    SelfSigned {
        /// The data directory.
        directory: PathBuf,
    },
}

/// The TLS side of a listener: TLS 1.2 and 1.3, no client certificates.
///
/// # Errors
/// `Io` when a file cannot be read or written, `Config` when it holds no usable certificate or key.
pub fn server_config(certificate: &Certificate) -> Result<Arc<ServerConfig>> {
    let (chain_path, key_path) = match certificate {
        Certificate::Files { chain, key } => (chain.clone(), key.clone()),
        Certificate::SelfSigned { directory } => {
            let (chain, key) = (directory.join("server.crt"), directory.join("server.key"));
            if !chain.exists() || !key.exists() {
                sign(&chain, &key)?;
            }
            (chain, key)
        }
    };
    let chain = CertificateDer::pem_slice_iter(&read(&chain_path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable("certificate", &chain_path, e))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?).map_err(|e| unusable("private key", &key_path, e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal("no TLS version is left").because(e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| unusable("pair of certificate and key", &chain_path, e).with("key", key_path.display()))?;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| io_error(path, "read the server's certificate", e))
}

fn unusable(what: &str, path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::config(format!("the file holds no usable {what} in PEM format"))
        .with("path", path.display())
        .because(cause)
        .hint("name the PEM files of a certificate and its key, or none at all: then Freshet signs one itself")
}

/// Makes a key and a certificate for this machine. The key is written first: a certificate without its key would
/// stay behind after a crash between the two, the other way round both are made again.
fn sign(chain: &Path, key: &Path) -> Result<()> {
    let failed = |e: rcgen::Error| Error::internal("cannot sign a certificate").because(e);
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let mut wanted = rcgen::CertificateParams::new(names).map_err(failed)?;
    wanted.distinguished_name = rcgen::DistinguishedName::new();
    wanted.distinguished_name.push(rcgen::DnType::CommonName, "Freshet, self-signed");
    let signed = wanted.self_signed(&pair).map_err(failed)?;
    write(key, &pair.serialize_pem(), 0o600)?;
    write(chain, &signed.pem(), 0o644)
}

/// Writes the file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = path.with_extension("new");
    let doing = "write the server's certificate";
    let failed = |e| io_error(path, doing, e);
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn signed_once_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = Certificate::SelfSigned { directory: directory.path().to_path_buf() };
        server_config(&own).expect("a certificate");
        let key = directory.path().join("server.key");
        let first = std::fs::read(&key).expect("the key");
        assert_eq!(std::fs::metadata(&key).expect("the key").permissions().mode() & 0o777, 0o600);
        server_config(&own).expect("the same certificate");
        assert_eq!(std::fs::read(&key).expect("the key"), first);
    }

    #[test]
    fn a_damaged_key_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = Certificate::SelfSigned { directory: directory.path().to_path_buf() };
        server_config(&own).expect("a certificate");
        let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(directory.path().join("server.key"), damaged).expect("written");
        assert!(server_config(&own).expect_err("no key").line().contains("server.key"));
    }

    #[test]
    fn unusable_files_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let (chain, key) = (directory.path().join("a.pem"), directory.path().join("b.pem"));
        let files = Certificate::Files { chain: chain.clone(), key };
        assert!(server_config(&files).expect_err("no file").line().contains("a.pem"));
        std::fs::write(&chain, "nonsense").expect("written");
        std::fs::write(directory.path().join("b.pem"), "nonsense").expect("written");
        assert!(server_config(&files).expect_err("no PEM").hint.is_some());
    }
}
