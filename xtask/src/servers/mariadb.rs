//! MariaDB, from the distribution's package `mariadb-server`.

use std::path::Path;
use std::process::Command;

use super::{Installed, account, cache, is_root};
use crate::Result;
use crate::run::capture;

/// Finds `mariadbd`, installing the package when it isn't there, and makes the template of its data folder.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn install() -> Result<Installed> {
    let program = match find() {
        Some(program) => program,
        None => {
            apt_install()?;
            find().ok_or("the package mariadb-server has no mariadbd")?
        }
    };
    let version = super::version_in(&capture(Command::new(program).arg("--version"))?)?;
    let template = cache::folder(&format!("template/mariadb-{version}"), |dir| {
        let mut init = Command::new("mariadb-install-db");
        init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        init.arg(format!("--datadir={}", dir.display())).args(account());
        capture(&mut init).map(drop)
    })?;
    let tls = cache::folder("tls", certificate)?;
    let file = |name: &str| tls.join(name).display().to_string();
    Ok(Installed {
        name: "mariadb",
        title: format!("MariaDB {version}"),
        program: vec![program.into(), "--no-defaults".into()],
        flags: vec![
            "--gtid-strict-mode=ON".into(),
            "--log-slave-updates=ON".into(),
            format!("--ssl-cert={}", file("cert.pem")).into(),
            format!("--ssl-key={}", file("key.pem")).into(),
        ],
        forget_accounts: "DROP USER IF EXISTS ''@'localhost', 'root'@'127.0.0.1', 'root'@'::1'",
        template,
    })
}

/// A certificate for the server: MySQL makes its own, MariaDB 10.11 does not.
fn certificate(dir: &Path) -> Result<()> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()])
        .map_err(|e| format!("cannot sign a certificate: {e}"))?;
    let write = |name: &str, text: String| {
        std::fs::write(dir.join(name), text).map_err(|e| format!("cannot write {name}: {e}"))
    };
    write("cert.pem", pair.cert.pem())?;
    write("key.pem", pair.signing_key.serialize_pem())
}

fn find() -> Option<&'static str> {
    ["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd", "/usr/bin/mariadbd"].into_iter().find(|p| Path::new(p).exists())
}

fn apt_install() -> Result<()> {
    println!("installing mariadb-server with apt-get");
    let apt = |args: &[&str]| {
        let mut command = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root() {
            command.args(["--non-interactive", "apt-get"]);
        }
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        // The package starts a server of its own where an init system runs; ours are started by us only.
        command.env("RUNLEVEL", "1");
        capture(&mut command)
    };
    apt(&["update", "-q"])
        .and_then(|_| apt(&["install", "-q", "-y", "--no-install-recommends", "mariadb-server", "mariadb-client"]))
        .map(drop)
        .map_err(|e| format!("MariaDB is missing, and its package `mariadb-server` could not be installed: {e}"))
}
