//! MySQL, which Debian has in its unstable suite only. The packages and every library they need, the loader included,
//! are unpacked into the cache folder and run from there; the system stays as it is. The archive's address comes from
//! the machine's own apt sources and the version is the one that the archive has today.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Installed, account, cache};
use crate::Result;
use crate::run::capture;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const PACKAGES: [&str; 2] = ["mysql-server-core", "mysql-client-core"];

/// Finds an unpacked MySQL in the cache or gets one, and makes the template of its data folder.
///
/// # Errors
/// Why there is no MySQL for this machine.
pub(crate) fn install() -> Result<Installed> {
    let root = match unpacked()? {
        Some(root) => root,
        None => download()?,
    };
    let root_text = root.display();
    let program = vec![
        root.join("usr/lib64/ld-linux-x86-64.so.2").into_os_string(),
        "--library-path".into(),
        root.join("usr/lib/x86_64-linux-gnu").into_os_string(),
        root.join("usr/sbin/mysqld").into_os_string(),
        "--no-defaults".into(),
        format!("--basedir={root_text}/usr").into(),
        format!("--lc-messages-dir={root_text}/usr/share/mysql").into(),
        format!("--character-sets-dir={root_text}/usr/share/mysql/charsets").into(),
        format!("--plugin-dir={root_text}/usr/lib/mysql/plugin").into(),
    ];
    let version = super::version_in(&capture(Command::new(&program[0]).args(&program[1..4]).arg("--version"))?)?;
    let template = cache::folder(&format!("template/mysql-{version}"), |dir| {
        let mut init = Command::new(&program[0]);
        init.args(&program[1..]).arg("--initialize-insecure").arg(format!("--datadir={}", dir.display()));
        init.args(account()).arg("--innodb-redo-log-capacity=32M").arg("--mysqlx=0");
        capture(&mut init)?;
        let _ = fs::remove_file(dir.join("auto.cnf")); // every server draws its own UUID
        Ok(())
    })?;
    Ok(Installed {
        name: "mysql",
        title: format!("MySQL {version}"),
        program,
        flags: ["--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--mysqlx=0", "--secure-file-priv="]
            .map(Into::into)
            .to_vec(),
        forget_accounts: "DROP USER IF EXISTS ''@'localhost'",
        template,
    })
}

/// The youngest MySQL in the cache.
fn unpacked() -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(cache::dir()?.join("mysql")) else { return Ok(None) };
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("usr/sbin/mysqld").exists())
        .max_by_key(|path| age(path)))
}

fn download() -> Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("Debian's MySQL packages are for amd64 only".into());
    }
    let work = tempfile::tempdir().map_err(|e| format!("cannot create a temporary folder: {e}"))?;
    let apt = PrivateApt::new(work.path())?;
    capture(apt.command("apt-get").args(["update", "-q"]))?;
    let version = apt.version(PACKAGES[0])?;
    println!("getting MySQL {version} from the distribution's unstable suite (about 55 MB, once)");
    cache::folder(&format!("mysql/{}", version.replace(['/', ':'], "_")), |root| {
        let debs = work.path().join("debs");
        fs::create_dir(&debs).map_err(|e| format!("cannot create {}: {e}", debs.display()))?;
        capture(apt.command("apt-get").arg("download").args(apt.closure()?).current_dir(&debs))?;
        let files = fs::read_dir(&debs).map_err(|e| format!("cannot read {}: {e}", debs.display()))?;
        for deb in files.flatten() {
            capture(Command::new("dpkg-deb").arg("-x").arg(deb.path()).arg(root))?;
        }
        Ok(())
    })
}

/// apt with sources, lists and state of its own, so that it neither sees nor changes the system's.
struct PrivateApt {
    config: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path) -> Result<Self> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).map(|()| path).map_err(|e| format!("cannot write {name}: {e}"))
        };
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(folder)).map_err(|e| format!("cannot create {folder}: {e}"))?;
        }
        let archive = debian_archive()?;
        let status = write("status", String::new())?;
        let sources = write("sid.list", format!("deb [signed-by={KEYRING}] {archive} sid main\n"))?;
        let config = write(
            "apt.conf",
            format!(
                "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::State::status \"{}\";\n\
                 Dir::State::lists \"{dir}/lists\";\nDir::Cache \"{dir}/cache\";\n\
                 APT::Sandbox::User \"\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n",
                sources.display(),
                status.display(),
                dir = dir.display(),
            ),
        )?;
        Ok(PrivateApt { config })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    fn version(&self, package: &str) -> Result<String> {
        let policy = capture(self.command("apt-cache").args(["policy", package]))?;
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        candidate
            .filter(|v| *v != "(none)")
            .map(str::to_string)
            .ok_or_else(|| format!("the unstable suite has no package {package}"))
    }

    /// The packages with everything that they need to run. Perl is only for their scripts.
    fn closure(&self) -> Result<Vec<String>> {
        let mut depends = self.command("apt-cache");
        depends.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks"]);
        depends.args(["--no-replaces", "--no-enhances"]).args(PACKAGES);
        let mut packages: Vec<String> = capture(&mut depends)?
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && !line.contains("perl"))
            .map(str::to_string)
            .collect();
        packages.sort();
        packages.dedup();
        Ok(packages)
    }
}

/// The address of Debian's archive as this machine's apt knows it.
fn debian_archive() -> Result<String> {
    if !Path::new(KEYRING).exists() {
        return Err(format!("not a Debian: there is no {KEYRING}"));
    }
    let targets = capture(Command::new("apt-get").args(["indextargets", "--format", "$(CREATED_BY) $(REPO_URI)"]))?;
    targets
        .lines()
        .filter_map(|line| line.strip_prefix("Packages "))
        .map(|uri| uri.trim_end_matches('/'))
        .find(|uri| uri.ends_with("/debian"))
        .map(str::to_string)
        .ok_or_else(|| "apt's sources do not name Debian's archive".into())
}
