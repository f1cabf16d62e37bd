//! The number of files that the process may open: every client needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use damselfly_config::Config;

/// Beside clients: for listeners, event queues, logs, files.
const RESERVED: u64 = 32;

/// Raises the limit so that there is room for so many clients; returns how many there is room for.
pub fn raise_limit(clients: u32) -> u32 {
    let wanted = u64::from(clients) + RESERVED;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return clients;
    }
    // The hard limit can only be raised with the right to do so; try that first.
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

/// The most files that may be open now.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Makes room for `maxclients`, or lowers it to what there is room for. Returns the limit.
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
