//! Other people's clients for the warehouse's port: PyMySQL in a Python environment of its own and MySQL's Connector/J,
//! both in the cache folder. A machine without Python, Java, Maven or the network goes without, and says so.

use std::fs;
use std::process::Command;

use super::cache;
use crate::Result;
use crate::run::capture;

const PYMYSQL: &str = "1.1.1";
const CONNECTOR_J: &str = "9.4.0";

/// The variables by which tests find the clients, and a line `SKIPPED …` for each that this machine cannot have.
pub(crate) fn install() -> (Vec<(String, String)>, Vec<String>) {
    let (mut variables, mut skipped) = (Vec::new(), Vec::new());
    for (name, variable, installed) in
        [("pymysql", "FRESHET_TEST_PYMYSQL", pymysql()), ("connector-j", "FRESHET_TEST_CONNECTOR_J", connector_j())]
    {
        match installed {
            Ok(path) => variables.push((variable.to_string(), path)),
            Err(why) => {
                println!("{why}");
                skipped.push(format!("SKIPPED client {name}: {}", why.lines().next().unwrap_or_default()));
            }
        }
    }
    (variables, skipped)
}

/// A Python that has PyMySQL.
fn pymysql() -> Result<String> {
    let folder = cache::folder(&format!("clients/pymysql-{PYMYSQL}"), |dir| {
        capture(Command::new("python3").args(["-m", "venv", "--copies"]).arg(dir))?;
        let python = dir.join("bin/python");
        capture(Command::new(&python).args(["-m", "pip", "install", "--quiet", &format!("pymysql=={PYMYSQL}")]))
            .map(drop)
    })?;
    // The environment was moved to its place after it was made: only its own Python knows where it is.
    let python = folder.join("bin/python").display().to_string();
    capture(Command::new(&python).args(["-c", "import pymysql"]))?;
    Ok(python)
}

/// The jar, where there is a Java that runs single source files.
fn connector_j() -> Result<String> {
    capture(Command::new("java").arg("--source").arg("11").arg("--version"))?;
    let name = format!("mysql-connector-j-{CONNECTOR_J}.jar");
    let folder = cache::folder(&format!("clients/connector-j-{CONNECTOR_J}"), |dir| {
        let get = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";
        capture(
            Command::new("mvn")
                .args(["--batch-mode", "--quiet", get])
                .arg(format!("-Dartifact=com.mysql:mysql-connector-j:{CONNECTOR_J}"))
                .arg(format!("-DoutputDirectory={}", dir.display())),
        )?;
        fs::metadata(dir.join(&name)).map(drop).map_err(|e| format!("Maven brought no {name}: {e}"))
    })?;
    Ok(folder.join(name).display().to_string())
}
