//! `cargo xtask docs`: every path that `docs/architecture.md` names exists, and every command that the README shows is
//! one that the binary and this tool have.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::run::{capture, cargo};

/// `cargo xtask docs`.
///
/// # Errors
/// With every finding.
pub(crate) fn docs() -> Result<()> {
    let root = crate::root();
    let mut wrong = Vec::new();
    for document in ["docs/architecture.md", "README.md"] {
        let text = read(&root.join(document))?;
        for path in named_paths(&text).into_iter().filter(|path| !root.join(path).exists()) {
            wrong.push(format!("{document} names `{path}`, which does not exist"));
        }
    }
    let commands = shown_commands(&read(&root.join("README.md"))?);
    // The one beside this program: building a single package would build DataFusion once more, with other features.
    let own = own_path()?;
    let binary = own.with_file_name("freshet");
    if !binary.exists() {
        capture(&mut cargo(&["build", "--workspace", "--all-targets"]))?;
    }
    for (tool, known) in [
        ("freshet", subcommands(&capture(Command::new(&binary).arg("--help"))?)),
        ("cargo xtask", subcommands(&capture(Command::new(&own).arg("--help"))?)),
    ] {
        for (_, name) in commands.iter().filter(|(t, name)| *t == tool && !known.contains(name)) {
            wrong.push(format!("README.md shows `{tool} {name}`, which does not exist"));
        }
    }
    if wrong.is_empty() {
        println!("docs: {} commands and all paths exist", commands.len());
        return Ok(());
    }
    Err(wrong.join("\n"))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Where this program lies, and beside it everything else that cargo built.
///
/// # Errors
/// When the system does not say.
pub(crate) fn own_path() -> Result<std::path::PathBuf> {
    // A build that ran meanwhile has put another file in our place; Linux then says so in the name.
    let path = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    Ok(path.to_string_lossy().trim_end_matches(" (deleted)").into())
}

/// Words in backquotes, and targets of links, that look like paths of the repository.
fn named_paths(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    quoted
        .chain(linked)
        .map(|word| word.split('#').next().unwrap_or_default())
        .filter(|word| {
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let first = word.split('/').next().unwrap_or_default();
            plain && ["crates", "docs", "tests", "xtask", "console", ".ci"].contains(&first) && word.contains('/')
        })
        .map(str::to_string)
        .collect()
}

/// `(tool, subcommand)` of the lines in fenced blocks that begin with one of our tools.
fn shown_commands(text: &str) -> BTreeSet<(&'static str, String)> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .flat_map(str::lines)
        .filter_map(|line| {
            let line = line.trim_start().trim_start_matches("$ ");
            let (tool, rest) = [("cargo xtask", "cargo xtask "), ("freshet", "freshet "), ("freshet", "./freshet ")]
                .into_iter()
                .find_map(|(tool, prefix)| line.strip_prefix(prefix).map(|rest| (tool, rest)))?;
            let name =
                rest.split_whitespace().next().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))?;
            Some((tool, name.to_string()))
        })
        .collect()
}

/// The first words of the indented lines below `Commands:` of a help text.
fn subcommands(help: &str) -> BTreeSet<String> {
    let list = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    list.take_while(|line| line.starts_with(' ') || line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_paths_and_commands() {
        let text = "See `crates/core/src` and [x](docs/a.md#b), `a/b`, `docs`.\n```sh\n$ freshet demo --x\ncargo xtask test\nls\n```\n";
        assert_eq!(named_paths(text), ["crates/core/src", "docs/a.md"].map(String::from).into());
        let expected = [("cargo xtask", "test".to_string()), ("freshet", "demo".to_string())];
        assert_eq!(shown_commands(text), expected.into());
        let help =
            "About\n\nUsage: x\n\nCommands:\n  demo     Shows\n           more\n  sync     Syncs\n\nOptions:\n  -h\n";
        assert_eq!(subcommands(help), ["demo", "sync"].map(String::from).into());
    }
}
