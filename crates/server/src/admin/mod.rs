//! Commands that administer the server: clients, configuration, statistics, and information about commands.

pub mod acl;
pub mod client;
pub mod cluster;
pub mod command;
pub mod config;
pub mod debug;
mod digest;
pub mod facts;
pub mod info;
pub mod latency;
pub mod memory;
pub mod module;
pub mod pause;
mod serialized_length;
pub mod server;
pub mod slowlog;

use damselfly_commands::Args;

use crate::long_commands::LongRun;
use crate::memcached;
use crate::persistence;
use crate::registry::Row;

/// The part of a command on the server that runs on a thread for long commands.
pub fn long_part(row: &Row, args: Args<'_>) -> LongRun {
    match row.command.name {
        "SHUTDOWN" if row.name == memcached::SHUTDOWN => {
            LongRun::Server(memcached::save_and_shut_down)
        }
        "SAVE" => LongRun::Server(persistence::commands::save_and_wait),
        "SHUTDOWN" => LongRun::Server(server::save_and_shut_down),
        _ => debug::long_part(args),
    }
}
