//! The `freshet` binary: reads the command line, runs the command, prints its outcome. `cli/` holds a file per command,
//! `render/` what people see, `node/` the running process, `connectors.rs` which URL is whose.

mod cli;
mod connectors;
mod nearest;
mod node;
mod render;
mod signals;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(cli::main())
}
