//! Options: where their values come from, and how clients read and change them.
//!
//! ```text
//! file < environment < command line ──► load ──► Config ──► get, set, rewrite
//!                                         ▲         ▲         ▲
//!                                         └── options: one row per option ──► help, docs
//! ```
//!
//! A [`Config`] is a plain value. CONFIG SET creates a new one or fails as a whole, so readers hold a snapshot that never
//! changes. The only I/O is that of [`Disk`], which callers pass to `load`.

mod command_line;
mod docs;
#[cfg(test)]
mod effects;
mod events;
mod kind;
mod line;
mod load;
mod options;
mod output_limits;
mod redis;
mod rewrite;
mod saving;
mod settings;
mod types;

use damselfly_base::CommandError;
use damselfly_base::glob::Glob;

pub use docs::{docs, help};
pub use kind::{Kind, OptionError, Value};
pub use line::{quoted_word, split as split_words};
pub use load::{Disk, Files, Loaded, Place, Request, StartError, load, text_of};
pub use options::{Access, Changeable, Effect, Opt, Section, find};
pub use output_limits::{OutputLimit, OutputLimits};
pub use saving::{SavePoint, SavePoints, ShutdownFlags};
pub use settings::{Config, UserLine};
pub use types::{
    Allow, AppendFsync, CacheObjective, ClientMemory, DisklessLoad, LogLevel, MaxmemoryPolicy,
    Origin, Percentiles, PrimaryAddress, PropagationErrors, PubSubDefault, RdbVersion,
    SanitizePayloads, Supervised, TlsAuthClients,
};

impl Config {
    /// CONFIG GET: the options whose name matches one of `patterns`, each once, with their values.
    ///
    /// A pattern without `*`, `?` and `[` is a name or an alias. As in Redis, the option is then listed under the spelling of
    /// the pattern.
    pub fn get(&self, patterns: &[&[u8]]) -> Vec<(String, String)> {
        let names =
            || options::all().flat_map(|option| option.names().map(move |name| (name, option)));
        let mut found: Vec<(String, String)> = Vec::new();
        for pattern in patterns {
            let is_glob = pattern.iter().any(|byte| b"*?[".contains(byte));
            let glob = is_glob.then(|| Glob::ignoring_case(pattern));
            let matching = names().filter(|(name, option)| match &glob {
                Some(glob) => !option.is_hidden && glob.matches(name.as_bytes()),
                None => pattern.eq_ignore_ascii_case(name.as_bytes()),
            });
            for (name, option) in matching {
                let shown = if is_glob {
                    name.into()
                } else {
                    String::from_utf8_lossy(pattern)
                };
                if found
                    .iter()
                    .all(|(other, _)| !other.eq_ignore_ascii_case(&shown))
                {
                    found.push((shown.into_owned(), (option.access.read)(self)));
                }
            }
        }
        found
    }

    /// CONFIG SET: returns this configuration with all options of `pairs` changed, or an error for the client.
    ///
    /// This checks only the values. Before using the result, the caller must find out whether it works (the port may be in use, or
    /// the folder may not exist).
    pub fn set(&self, pairs: &[(&[u8], &[u8])], origin: Origin) -> Result<Config, CommandError> {
        let mut chosen: Vec<(&'static str, &'static Opt)> = Vec::with_capacity(pairs.len());
        for (name, _) in pairs {
            let shown = printable(name);
            let Some((known, option)) = by_bytes(name) else {
                return Err(CommandError::quoting(
                    "Unknown option or number of arguments for CONFIG SET - '",
                    name,
                    "'",
                ));
            };
            let refusal = match option.changeable {
                Changeable::AtStart => Some("can't set immutable config"),
                Changeable::Protected if !self.enable_protected_configs.permits(origin) => {
                    Some("can't set protected config")
                }
                // Two names of one option are not duplicates in Redis either: the last wins.
                Changeable::Live | Changeable::Protected => {
                    let twice = chosen.iter().any(|(other, _)| *other == known);
                    twice.then_some("duplicate parameter")
                }
            };
            if let Some(refusal) = refusal {
                return Err(set_failed(&shown, refusal));
            }
            chosen.push((known, option));
        }
        let mut changed = self.clone();
        for ((name, option), (_, value)) in chosen.iter().zip(pairs) {
            let is_text = std::str::from_utf8(value).is_ok();
            option
                .write(&mut changed, &[&String::from_utf8_lossy(value)])
                .and_then(|()| match is_text {
                    true => Ok(()),
                    false => Err(OptionError::new("argument must be UTF-8 text")),
                })
                .map_err(|refusal| set_failed(name, &refusal.to_string()))?;
        }
        Ok(changed)
    }
}

/// The option called `name`, and that name as the table spells it.
fn by_bytes(name: &[u8]) -> Option<(&'static str, &'static Opt)> {
    options::all()
        .flat_map(|option| option.names().map(move |known| (known, option)))
        .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
}

fn set_failed(name: &str, why: &str) -> CommandError {
    CommandError::err(format!(
        "CONFIG SET failed (possibly related to argument '{name}') - {why}"
    ))
}

/// Makes `name` fit for an error reply: up to the first zero byte, as in Redis, and on one line.
fn printable(name: &[u8]) -> String {
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests;
