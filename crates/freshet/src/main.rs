//! The `freshet` binary: reads the command line, runs the command, prints its outcome. `cli/` holds a file per command,
//! `render/` what people see, `node/` the running process, `connectors.rs` which URL is whose.

mod cli;
mod connectors;
mod nearest;
mod node;
mod render;
mod signals;

/// Gives memory back when a copy or a large transaction is over, while the C library's allocator keeps most of what was
/// ever in use; `.cargo/config.toml` says how soon.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(cli::main())
}
