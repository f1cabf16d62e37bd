//! Commands that administer the server: clients, configuration, statistics, and information about commands.

pub mod client;
pub mod command;
pub mod config;
pub mod debug;
mod digest;
pub mod facts;
pub mod info;
pub mod latency;
pub mod memory;
pub mod pause;
pub mod server;
pub mod slowlog;
