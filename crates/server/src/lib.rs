//! The server: options, sessions and connections.

pub mod config;
