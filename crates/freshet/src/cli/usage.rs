//! What cannot be read as a command: help and version, which are answers, and wrong requests, which are said in the
//! envelope when one was wished for. Passwords in what was typed are hidden.

use std::io::{IsTerminal, Write};

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use freshet_core::Error;
use freshet_core::secret::redact_arguments;

use super::args::Cli;
use crate::render::{self, Style, envelope, is_plain};

/// Prints the answer; the exit code.
pub(super) fn answer(error: &clap::Error) -> u8 {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let has = |option: &str| typed.iter().any(|a| a == option);
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if code != 0 && has("--json") {
        let text = envelope(command(&typed).as_deref(), &Err(wrong(error, &typed))).to_string();
        let _ = writeln!(std::io::stdout(), "{text}");
        return code;
    }
    let terminal = if error.use_stderr() { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    let color = terminal && !is_plain(has("--no-color"));
    let text = match color {
        _ if is_url(error) => render::error(&wrong(error, &typed), Style { color }),
        true => error.render().ansi().to_string(),
        false => error.render().to_string(),
    };
    let text = redact_arguments(&text, typed);
    let _ = match error.use_stderr() {
        true => std::io::stderr().lock().write_all(text.as_bytes()),
        false => std::io::stdout().lock().write_all(text.as_bytes()),
    };
    code
}

/// The command that was typed, if it is one.
fn command(typed: &[String]) -> Option<String> {
    let known: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_string()).collect();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        if word == "--data" {
            words.next();
        } else if !word.starts_with('-') {
            return known.into_iter().find(|k| k == word);
        }
    }
    None
}

/// A wrong request as an error like any other: what is wrong, and as its hint what was perhaps meant.
fn wrong(error: &clap::Error, typed: &[String]) -> Error {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::config("no command is given").hint("`freshet --help` lists them");
    }
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let message = lines.collect::<Vec<_>>().join(" ");
    let message = redact_arguments(message.trim_start_matches("error: "), typed.iter().cloned());
    let help = match command(typed) {
        Some(command) => format!("`freshet {command} --help` says what it takes"),
        None => "`freshet --help` lists the commands".to_string(),
    };
    Error::config(message).hint(suggestion(error).unwrap_or(help))
}

/// Whether a URL stands where the command should.
fn is_url(error: &clap::Error) -> bool {
    let word = error.get(ContextKind::InvalidSubcommand);
    matches!(word, Some(ContextValue::String(word)) if word.contains([':', '@']))
}

/// What was perhaps meant.
fn suggestion(error: &clap::Error) -> Option<String> {
    if is_url(error) {
        return Some("a command stands in front of the URL: `freshet check URL`, or `freshet sync URL`".into());
    }
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let words = kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(word.clone()),
        ContextValue::Strings(words) if !words.is_empty() => Some(words.join(" or ")),
        _ => None,
    })?;
    Some(format!("did you mean {words}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(typed: &[&str]) -> (Option<String>, Error) {
        let error = Cli::try_parse_from([&["freshet"], typed].concat()).expect_err("a wrong request");
        let typed: Vec<String> = typed.iter().map(ToString::to_string).collect();
        (command(&typed), wrong(&error, &typed))
    }

    #[test]
    fn says_what_was_meant() {
        for (typed, command, message, hint) in [
            (vec!["synk"], None, "unrecognized subcommand 'synk'", "did you mean resync or sync?"),
            (vec!["status", "--wach"], Some("status"), "unexpected argument '--wach' found", "did you mean --watch?"),
            (
                vec!["--data", "sync", "verify"],
                Some("verify"),
                "the following required arguments were not provided: <JOB>",
                "`freshet verify --help` says what it takes",
            ),
            (
                vec!["completions", "fihs"],
                Some("completions"),
                "invalid value 'fihs' for '<SHELL>' [possible values: bash, elvish, fish, powershell, zsh]",
                "did you mean fish?",
            ),
            (vec![], None, "no command is given", "`freshet --help` lists them"),
            (
                vec!["mysql://root:sesame@db/shop"],
                None,
                "unrecognized subcommand 'mysql://root:***@db/shop'",
                "a command stands in front of the URL: `freshet check URL`, or `freshet sync URL`",
            ),
        ] {
            let (found, error) = said(&typed);
            assert_eq!((found.as_deref(), error.message.as_str()), (command, message));
            assert_eq!(error.hint.as_deref(), Some(hint), "{typed:?}");
        }
    }
}
