//! End to end: the real binary against real servers, started by `cargo xtask test`. One test binary, because linking
//! is what makes many slow. A scenario is a function over a source; `on_both_servers!` makes a test of it for MariaDB
//! and one for MySQL, named `mariadb::NAME` and `mysql::NAME`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // scenarios are test code, though not marked as such

use freshet_tests::source::{Flavour, Source};

mod away;
mod bad_input;
mod cascades;
mod cli;
mod clients;
mod ddl;
mod drivers;
mod harness;
mod jobs_sql;
mod keys;
mod kills;
mod lanes;
mod policies;
mod readme;
mod scale;
mod types;
mod verify;

macro_rules! on_both_servers {
    ($($room:ident :: $scenario:ident),* $(,)?) => {
        on_both_servers!(mod mariadb, MariaDb, $($room::$scenario),*);
        on_both_servers!(mod mysql, MySql, $($room::$scenario),*);
    };
    (mod $module:ident, $flavour:ident, $($room:ident :: $scenario:ident),*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                let test = concat!(stringify!($module), "::", stringify!($scenario));
                if let Some(source) = super::Source::find_or_skip(super::Flavour::$flavour, test) {
                    super::$room::$scenario(source).await;
                }
            })*
        }
    };
}

on_both_servers! {
    types::every_type,
    types::random_values,
    keys::composite_and_text_keys,
    keys::odd_names,
    ddl::columns_come_and_go,
    away::and_comes_back,
    away::a_replica_takes_over,
    ddl::definitions_are_compared,
    ddl::tables_come_and_go,
    ddl::changes_are_seen_whole,
    ddl::while_writers_write,
    scale::fifty_tables,
    scale::one_large_table,
    cli::jobs,
    cli::replace,
    jobs_sql::jobs_as_sql,
    jobs_sql::lag,
    cli::file_sink,
    clients::mariadb_command_line,
    clients::interactive_command_line,
    clients::prepared_statements,
    clients::large_values,
    kills::freshet_at_random_instants,
    kills::the_source,
    kills::terminate_and_resume,
    kills::amid_a_large_transaction,
    lanes::resync_under_load,
    lanes::changed_while_copied,
    lanes::without_a_key,
    lanes::partial_images,
    lanes::a_table_takes_the_place_of_another,
    lanes::a_large_transaction,
    lanes::repair,
    lanes::purged_while_paused,
    lanes::refused_and_resumed,
    lanes::purged_while_copied,
    verify::a_multiset_is_verified,
    verify::damage_is_found_and_repaired,
    policies::lenient,
    policies::ignore,
    policies::try_evolve,
    policies::evolve,
    policies::exception,
    cascades::foreign_keys,
    readme::readme,
    bad_input::wrong_password,
    bad_input::no_grant,
    bad_input::binlog_off,
    bad_input::statement_format,
    bad_input::unknown_table,
    bad_input::port_in_use,
    bad_input::second_process,
    bad_input::flipped_bytes,
    bad_input::disk_full,
}
