//! CONFIG: reads options, changes them and writes them back to the file while the server runs.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Arity, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;
use damselfly_tls::Acceptor;

use crate::event_loop::listener::Address;
use crate::event_loop::open_files;
use crate::persistence::aof::{self, Mode};
use crate::registry::{Handler, SessionFn};
use crate::replace_file::replace_file;
use crate::session::Context;
use crate::shared::Shared;
use crate::tls;
use damselfly_config::{Config, Section};

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "CONFIG",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(SUBCOMMANDS),
    group: Group::Server,
    usage: "CONFIG",
    summary: "Commands that read and change options.",
    since: "2.0.0",
    complexity: "Depends on subcommand.",
}];

/// The traits of subcommands that a cluster's clients send to all nodes.
const ON_ALL_NODES: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Tip("request_policy:all_nodes"),
    Trait::Tip("response_policy:all_succeeded"),
];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits: &[Trait::Admin, Trait::NoScript, Trait::Loading, Trait::Stale],
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage,
        summary,
        since,
        complexity,
    }
}

static SUBCOMMANDS: &[Command<Handler>] = &[
    subcommand(
        "GET",
        AtLeast(3),
        get,
        "CONFIG GET parameter [parameter ...]",
        "Returns the options whose names match the patterns, with their values.",
        "2.0.0",
        "O(N) where N is the number of patterns",
    ),
    Command {
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::Loading,
            Trait::Stale,
            Trait::Tip("request_policy:all_nodes"),
            Trait::Tip("response_policy:all_succeeded"),
        ],
        ..subcommand(
            "SET",
            AtLeast(4),
            set,
            "CONFIG SET parameter value [parameter value ...]",
            "Changes options: all that are given, or none if one is refused.",
            "2.0.0",
            "O(N) where N is the number of options given",
        )
    },
    Command {
        traits: ON_ALL_NODES,
        ..subcommand(
            "RESETSTAT",
            Exactly(2),
            resetstat,
            "CONFIG RESETSTAT",
            "Resets the statistics of INFO to zero.",
            "2.0.0",
            "O(1)",
        )
    },
    Command {
        traits: ON_ALL_NODES,
        ..subcommand(
            "REWRITE",
            Exactly(2),
            rewrite,
            "CONFIG REWRITE",
            "Writes the current options into the configuration file.",
            "2.8.0",
            "O(1)",
        )
    },
];

fn get(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let patterns: Vec<_> = args.from(2).collect();
    let found = context.shared.config().get(&patterns);
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn set(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let words: Vec<_> = args.from(2).collect();
    let (pairs, []) = words.as_chunks::<2>() else {
        return Err(CommandError::Syntax.into());
    };
    let pairs: Vec<_> = pairs.iter().map(|[name, value]| (*name, *value)).collect();
    let origin = context.session.client.origin;
    let is_fixed = |(name, _): &(&[u8], &[u8])| {
        let is = |fixed: &&str| name.eq_ignore_ascii_case(fixed.as_bytes());
        FIXED_WHILE_LOADING.iter().any(is)
    };
    if context.shared.gate.is_loading_any() && pairs.iter().any(is_fixed) {
        let text = "LOADING Redis is loading the dataset in memory";
        return Err(CommandError::Text(String::from(text)).into());
    }
    let given = |name: &str| {
        pairs
            .iter()
            .position(|(given, _)| given.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut bind = Vec::new();
    if LISTENING.iter().any(|name| given(name).is_some()) {
        bind = context.shared.config().set(&pairs, origin)?.bind;
    }
    // Host names are resolved before anything is locked, since that may take long.
    let mut addresses = Address::resolve_all(&bind);
    context
        .shared
        .change_config(|old| -> std::result::Result<_, CommandError> {
            let mut new = old.set(&pairs, origin)?;
            if listens_elsewhere(&new, old) && new.bind != bind {
                // Another CONFIG SET has changed them meanwhile.
                addresses = Address::resolve_all(&new.bind);
            }
            let change = Change {
                old,
                enters_dir: given("dir").is_some(),
                // Redis tries the option that is given first.
                port_is_first: given("bind")
                    .is_none_or(|bind| given("port").is_some_and(|port| port < bind)),
                addresses: &addresses,
                tls_option: Section::Tls
                    .options()
                    .iter()
                    .filter_map(|option| Some((given(option.name)?, option.name)))
                    .min()
                    .map(|(_, name)| name),
            };
            change
                .apply(context.shared, &mut new)
                .map_err(|(name, why)| {
                    CommandError::err(format!(
                        "CONFIG SET failed (possibly related to argument '{name}') - {why}"
                    ))
                })?;
            Ok(new)
        })?;
    if given("appendonly").is_some() {
        let (aof, config) = (&context.shared.aof, context.shared.config());
        // If a shard is busy, a timer tries again.
        aof.run_due(context.shared, &config);
    }
    reply.ok();
    Ok(())
}

/// Options that can't be changed while data is loaded, as in Redis.
const FIXED_WHILE_LOADING: &[&str] = &["appendonly", "dir", "repl-diskless-load"];

/// The options that decide where the server listens, and for what.
const LISTENING: &[&str] = &[
    "port",
    "tls-port",
    "memcached-port",
    "tls-memcached",
    "bind",
];

/// True if two configurations differ in these options.
fn listens_elsewhere(new: &Config, old: &Config) -> bool {
    let ports = |config: &Config| {
        let (plain, encrypted) = (config.port, config.tls_port);
        (
            plain,
            encrypted,
            config.memcached_port,
            config.tls_memcached,
        )
    };
    ports(new) != ports(old) || new.bind != old.bind
}

/// A change of the configuration.
struct Change<'c> {
    old: &'c Config,
    /// `dir` was given, even if with its current value.
    enters_dir: bool,
    /// `port` was given before `bind`.
    port_is_first: bool,
    /// The addresses to listen on.
    addresses: &'c [Address],
    /// The first option for TLS that was given, even if with its current value: then all its files are read again.
    tls_option: Option<&'static str>,
}

/// The option that can't be applied, and the reason.
type Refused = (&'static str, String);

impl Change<'_> {
    /// Applies the `new` configuration to the process, or changes nothing that matters.
    fn apply(&self, shared: &Shared, new: &mut Config) -> std::result::Result<(), Refused> {
        if new.maxclients > self.old.maxclients {
            let room = open_files::raise_limit(new.maxclients);
            if room < new.maxclients {
                return Err((
                    "maxclients",
                    format!(
                        "The operating system is not able to handle the specified number of clients, try with {room}"
                    ),
                ));
            }
        }
        if self.enters_dir {
            new.dir = enter(&new.dir).map_err(|error| ("dir", reason(&error)))?;
            if new.dir != self.old.dir && shared.aof.mode() != Mode::Off {
                let _ = enter(&self.old.dir);
                let why = "the append-only file is in the current folder; turn it off first: CONFIG SET appendonly no";
                return Err(("dir", why.to_owned()));
            }
        }
        let applied = Self::check_append_only(shared, new)
            .and_then(|()| self.load_tls(shared, new))
            .and_then(|encryption| {
                // Last, since it is the hardest to undo.
                self.listen(shared, new).map(|()| encryption)
            });
        let encryption = applied.inspect_err(|_| {
            if self.enters_dir {
                let _ = enter(&self.old.dir);
            }
        })?;
        if let Some(acceptor) = encryption {
            shared.tls.install(acceptor);
        }
        log::set_max_level(new.loglevel.filter());
        Ok(())
    }

    /// Refuses to turn the append-only file on where it can't be written.
    fn check_append_only(shared: &Shared, new: &Config) -> std::result::Result<(), Refused> {
        if !new.appendonly || shared.aof.mode() != Mode::Off {
            return Ok(());
        }
        shared.aof.check_writable(new, None).map_err(|error| {
            let folder = aof::folder(new);
            log::warn!(
                "Unable to write the append-only file in {}: {error}",
                folder.display()
            );
            let text = "Unable to turn on AOF. Check server logs.";
            ("appendonly", text.to_owned())
        })
    }

    /// What new connections will need for TLS; `None` if that does not change.
    fn load_tls(
        &self,
        shared: &Shared,
        new: &Config,
    ) -> std::result::Result<Option<Option<Acceptor>>, Refused> {
        let begins = tls::is_wanted(new) && !tls::is_wanted(self.old);
        if self.tls_option.is_none() && !begins {
            return Ok(None);
        }
        let now_s = crate::clock::now_ms() / 1000;
        let loaded = tls::load(new).and_then(|acceptor| match acceptor {
            Some(acceptor) => {
                shared.tls.check_renewal(&acceptor, now_s)?;
                Ok(Some(acceptor))
            }
            None => Ok(None),
        });
        loaded.map(Some).map_err(|why| {
            log::warn!("Unable to update TLS configuration, so the old one stays in use: {why}");
            let text = "Unable to update TLS configuration. Check server logs.";
            (self.tls_option.unwrap_or("memcached-port"), text.to_owned())
        })
    }

    /// Listens on the port and addresses of the `new` configuration.
    fn listen(&self, shared: &Shared, new: &Config) -> std::result::Result<(), Refused> {
        let old = self.old;
        let Some(acceptor) = shared.acceptor.get() else {
            return Ok(());
        };
        if !listens_elsewhere(new, old) {
            return Ok(());
        }
        acceptor.rebind(new, self.addresses).map_err(|why| {
            log::warn!("{why}");
            for (name, changed) in [
                ("memcached-port", new.memcached_port != old.memcached_port),
                ("tls-memcached", new.tls_memcached != old.tls_memcached),
                ("tls-port", new.tls_port != old.tls_port),
            ] {
                if changed {
                    let text = "Unable to listen on this port. Check server logs.";
                    return (name, text.to_owned());
                }
            }
            let is_port = new.port != old.port && (new.bind == old.bind || self.port_is_first);
            let (name, text) = match is_port {
                true => ("port", "Unable to listen on this port. Check server logs."),
                false => ("bind", "Failed to bind to specified addresses."),
            };
            (name, text.to_owned())
        })
    }
}

/// Makes `dir` the working directory and returns its full path.
fn enter(dir: &str) -> io::Result<String> {
    std::env::set_current_dir(dir)?;
    Ok(std::env::current_dir()?.display().to_string())
}

/// The operating system's error text, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn resetstat(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    for thread in &context.shared.threads {
        thread.counters.reset();
    }
    let mut tx = context.section();
    for shard in 0..tx.engine().shards() {
        tx.with_shard(shard, |tx| *tx.expired_mut(shard) = 0)?;
    }
    drop(tx);
    context.shared.engine.reset_expired_fields();
    damselfly_engine::garbage::reset_freed();
    context.shared.persistence.reset_counters();
    context.shared.aof.delayed_syncs.store(0, Relaxed);
    context.shared.replication.reset_counters();
    context.shared.over_limit.reset();
    context.shared.tls.reset_counters();
    context.shared.scripts.cache().reset_evicted();
    reply.ok();
    Ok(())
}

fn rewrite(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(path) = &context.shared.config_file else {
        return Err(CommandError::err("The server is running without a config file").into());
    };
    let config = context.shared.config();
    let users = context.shared.users.config_lines(&config);
    let written = users
        .map_err(io::Error::other)
        .and_then(|users| rewrite_file(path, &config, &users));
    written.map_err(|error| {
        log::warn!("CONFIG REWRITE failed: {error}");
        CommandError::err(format!("Rewriting config file: {}", reason(&error)))
    })?;
    log::info!("CONFIG REWRITE executed with success.");
    reply.ok();
    Ok(())
}

/// Changes the file so that it gives this configuration and these `user` lines.
fn rewrite_file(path: &Path, config: &Config, users: &[String]) -> io::Result<()> {
    let existing = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    replace_file(path, &config.rewrite(&existing, users))
}
