//! The limit on open files: every client needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use damselfly_config::Config;

/// Files for other uses than clients: listeners, event queues, logs.
const RESERVED: u64 = 32;

/// Raises the limit so that it allows this many clients. Returns how many it allows, at most `clients`.
pub fn raise_limit(clients: u32) -> u32 {
    let wanted = u64::from(clients) + RESERVED;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return clients;
    }
    // Only a privileged process can raise the hard limit: try that first.
    let beyond = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum.map(|max| max.max(wanted)),
    };
    if setrlimit(Resource::Nofile, beyond).is_err() {
        let within = Rlimit {
            current: Some(limit.maximum.unwrap_or(wanted).min(wanted)),
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, within);
    }
    let room = files_max().saturating_sub(RESERVED).max(1);
    u32::try_from(room).unwrap_or(u32::MAX).min(clients)
}

/// The current limit on open files.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit on open files to allow `maxclients`, or lowers `maxclients` to what the limit allows. Returns the limit.
pub fn fit_maxclients(config: &mut Config) -> u64 {
    let room = raise_limit(config.maxclients);
    if room < config.maxclients {
        log::warn!(
            "Only {} open files are allowed; maxclients is lowered from {} to {room}. If you need more clients, raise 'ulimit -n'.",
            files_max(),
            config.maxclients,
        );
        config.maxclients = room;
    }
    files_max()
}
