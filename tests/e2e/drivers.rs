//! Two widely used client libraries against the warehouse, each a program of its own in `tests/drivers`: PyMySQL and
//! Connector/J. They log in with and without TLS and a password, browse, read every kind of value by text and prepared
//! statements, change rows, and meet errors.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use freshet_tests::freshet::{PATIENCE, binary, connect, free_port, freshet};

#[tokio::test]
async fn pymysql() {
    let Some(python) = variable("FRESHET_TEST_PYMYSQL", "drivers::pymysql") else { return };
    both_ways(Command::new(python).arg(script("pymysql_client.py")), "PyMySQL").await;
}

#[tokio::test]
async fn connector_j() {
    let Some(jar) = variable("FRESHET_TEST_CONNECTOR_J", "drivers::connector_j") else { return };
    both_ways(
        Command::new("java").args(["-Dfile.encoding=UTF-8", "-cp", &jar]).arg(script("ConnectorJ.java")),
        "Connector/J",
    )
    .await;
}

fn variable(name: &str, test: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|v| !v.is_empty());
    if value.is_none() {
        let line =
            format!("SKIPPED {test}: {name} is not set (cargo xtask test sets it where the client can be had)\n");
        let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
    }
    value
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers").join(name)
}

/// Runs the client without a password and with one.
async fn both_ways(client: &mut Command, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let password = dir.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    let password = password.display().to_string();
    let shop = std::fs::read_to_string(script("shop.sql")).unwrap();
    let mut served = Served::start(&data, &[]).await;
    let said = freshet(&["sql", &shop, "--data", &data]);
    assert_eq!(said.code, 0, "{said:?}");
    client.arg(served.port.to_string());
    content(client, name);
    served = {
        drop(served);
        Served::start(&data, &["--root-password-file", &password]).await
    };
    let program = client.get_program().to_os_string();
    let arguments: Vec<_> = client.get_args().map(ToOwned::to_owned).collect();
    let (last, rest) = arguments.split_last().unwrap();
    assert!(!last.is_empty());
    content(Command::new(program).args(rest).arg(served.port.to_string()).arg("open sesame"), name);
}

fn content(client: &mut Command, name: &str) {
    let out = client.output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains(name) && said.contains("is content"), "{said}{wrong}");
}

/// `freshet serve`, ended with the test.
struct Served {
    child: Child,
    port: u16,
}

impl Served {
    async fn start(data: &str, more: &[&str]) -> Served {
        let port = free_port();
        let child = Command::new(binary())
            .args(["serve", "--quiet", "--data", data, "--listen", &format!("127.0.0.1:{port}")])
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let served = Served { child, port };
        let start = Instant::now();
        // A refused password is an answer too.
        while matches!(connect(port).await, Err(mysql_async::Error::Io(_))) {
            assert!(start.elapsed() < PATIENCE, "no answer");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
