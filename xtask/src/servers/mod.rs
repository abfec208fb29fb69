//! Real database servers for tests and benchmarks, each in a temporary folder on a free port of 127.0.0.1, installed
//! when missing and gone with this process. To add one: a file like `mariadb.rs` that returns an [`Installed`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

mod cache;
pub(crate) mod clients;
mod mariadb;
mod mysql;
mod run_dir;
mod server;

pub(crate) use server::Size;

use crate::Result;
use run_dir::RunDir;
use server::Server;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Start only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Flavour>,
    /// A second server of each, for tests that kill, reset and replicate
    #[arg(long)]
    second: bool,
}

/// A kind of server.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flavour {
    Mariadb,
    Mysql,
}

impl Flavour {
    pub(crate) const ALL: [Flavour; 2] = [Flavour::Mariadb, Flavour::Mysql];
}

/// A server that this machine can run.
pub(crate) struct Installed {
    /// Name in files, variables and messages.
    pub(crate) name: &'static str,
    /// Name and version for people.
    pub(crate) title: String,
    /// Program and the arguments that always come first.
    pub(crate) program: Vec<OsString>,
    /// Arguments that only this flavour knows.
    pub(crate) flags: Vec<OsString>,
    /// Statement that drops the accounts without a password that a new data folder has.
    pub(crate) forget_accounts: &'static str,
    /// A freshly initialised data folder, to be copied.
    pub(crate) template: PathBuf,
}

/// Running servers. Dropping ends them.
pub(crate) struct Servers {
    servers: Vec<Server>,
    /// Lines `SKIPPED …` about servers that this machine cannot have.
    pub(crate) skipped: Vec<String>,
    run_dir: RunDir,
}

impl Servers {
    /// Installs what is missing and starts one server of each flavour. Without MariaDB nothing works; a MySQL that
    /// cannot be had is skipped.
    ///
    /// # Errors
    /// When MariaDB cannot be had, or a server does not start.
    pub(crate) fn start(flavours: &[Flavour], size: Size) -> Result<Self> {
        let mut all = Servers { servers: Vec::new(), skipped: Vec::new(), run_dir: RunDir::new()? };
        for flavour in flavours {
            let start = Instant::now();
            let installed = match flavour {
                Flavour::Mariadb => mariadb::install()?,
                Flavour::Mysql => match mysql::install() {
                    Ok(installed) => installed,
                    Err(why) => {
                        let skipped = format!("SKIPPED server mysql: {}", why.lines().next().unwrap_or_default());
                        println!("{why}\n{skipped}");
                        all.skipped.push(skipped);
                        continue;
                    }
                },
            };
            let server = all.add(&installed, installed.name, size, &[])?;
            println!("{} on port {} after {:.1} s", server.title, server.port, start.elapsed().as_secs_f32());
        }
        Ok(all)
    }

    /// Starts a second server of each flavour that is there, named `mariadb2` and `mysql2`: for tests that reset, kill,
    /// restart or replicate, one at a time.
    ///
    /// # Errors
    /// When one does not start.
    pub(crate) fn add_seconds(&mut self, size: Size) -> Result<()> {
        let names: Vec<String> = self.servers.iter().map(|s| s.name.clone()).collect();
        for name in names {
            let installed = if name == "mysql" { mysql::install()? } else { mariadb::install()? };
            self.add(&installed, &format!("{name}2"), size, &[])?;
        }
        Ok(())
    }

    /// Starts a second MariaDB, named `replica`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn add_replica(&mut self, size: Size, extra: &[&str]) -> Result<()> {
        self.add(&mariadb::install()?, "replica", size, extra).map(drop)
    }

    fn add(&mut self, installed: &Installed, name: &str, size: Size, extra: &[&str]) -> Result<&Server> {
        let server_id = 1000 + self.servers.len() as u32;
        let server = Server::start(installed, self.run_dir.path(), name, server_id, size, extra)
            .map_err(|why| format!("{} does not start: {why}", installed.title))?;
        self.servers.push(server);
        Ok(&self.servers[self.servers.len() - 1])
    }

    /// The variables by which tests find the servers: `FRESHET_TEST_NAME` with the URL, `FRESHET_TEST_NAME_CTL`.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let named = |s: &Server| format!("FRESHET_TEST_{}", s.name.to_uppercase());
        self.servers
            .iter()
            .flat_map(|s| [(named(s), s.url()), (named(s) + "_CTL", s.ctl().display().to_string())])
            .collect()
    }
}

/// `cargo xtask servers`.
///
/// # Errors
/// When a server cannot be had or does not start.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let flavours = if options.only.is_empty() { &Flavour::ALL[..] } else { &options.only };
    let mut servers = Servers::start(flavours, Size::TEST)?;
    if options.second {
        servers.add_seconds(Size::TEST)?;
    }
    wait_for_ctrl_c(&servers)
}

/// Shows how to reach the servers and waits until the process is ended; the janitor does the rest.
pub(crate) fn wait_for_ctrl_c(servers: &Servers) -> Result<()> {
    println!();
    for (name, value) in servers.variables() {
        println!("export {name}='{value}'");
    }
    println!("\nThe servers run until Ctrl-C.");
    loop {
        std::thread::park();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// The servers refuse to run as root unless told to.
fn account() -> Option<&'static str> {
    is_root().then_some("--user=root")
}

/// The version in a server's answer to `--version`: the word behind `Ver`.
fn version_in(answer: &str) -> Result<String> {
    let mut words = answer.split_whitespace().skip_while(|word| *word != "Ver").skip(1);
    words.next().map(str::to_string).ok_or_else(|| format!("no version in {answer:?}"))
}
