//! The `damselfly` program: loads its configuration, starts the server and waits until it stops.

mod check_aof;
mod check_rdb;
mod daemon;
mod logging;
mod restore_to;
mod supervisor;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use damselfly_config::{Config, Disk, Loaded, Place, Request, StartError, Supervised, text_of};
use damselfly_server::event_loop::open_files;
use damselfly_server::signals::Signals;
use damselfly_server::start::Server;

use daemon::Process;
use supervisor::Supervisor;

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

/// Names of the program that imply an option.
const NAMES: [(&str, &str); 4] = [
    ("damselfly-check-rdb", "--check-rdb"),
    ("redis-check-rdb", "--check-rdb"),
    ("damselfly-check-aof", "--check-aof"),
    ("redis-check-aof", "--check-aof"),
];

/// The option that the name of the program stands for.
fn implied_option(program: Option<&str>) -> Option<String> {
    let name = Path::new(program?).file_name()?.to_str()?;
    let (_, option) = NAMES.iter().find(|(known, _)| *known == name)?;
    Some(String::from(*option))
}

/// What the arguments and the environment ask for.
fn asked() -> Result<Request, StartError> {
    let mut args = std::env::args_os();
    let name = args.next();
    let name = name.as_deref().and_then(OsStr::to_str);
    let args: Vec<String> = args
        .map(|arg| text_of(Place::CommandLine, arg))
        .collect::<Result<_, _>>()?;
    let args = implied_option(name).into_iter().chain(args);
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        // Others are not read.
        if let Some(name) = name.to_str().filter(|name| name.starts_with("DAMSELFLY_")) {
            let value = text_of(Place::Environment(name.to_owned()), value)?;
            variables.push((name.to_owned(), value));
        }
    }
    damselfly_config::load(args, variables, &Disk)
}

fn main() -> ExitCode {
    let loaded = match asked() {
        Ok(Request::Help) => {
            print!("{}", damselfly_config::help());
            return ExitCode::SUCCESS;
        }
        Ok(Request::Version) => {
            println!(
                "Damselfly server v={} (Redis {} compatible) malloc={} bits=64",
                damselfly_server::VERSION,
                damselfly_server::REDIS_VERSION,
                damselfly_base::heap::allocator_name()
            );
            return ExitCode::SUCCESS;
        }
        Ok(Request::CheckRdb(path)) => return check_rdb::run(&path),
        Ok(Request::CheckAof { path, fixes }) => return check_aof::run(&path, fixes),
        Ok(Request::RestoreTo {
            second,
            source,
            into,
        }) => return restore_to::run(second, &source, &into),
        Ok(Request::Run(loaded)) => *loaded,
        Err(error) => return fail(&error.to_string()),
    };
    match serve(loaded) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Prints one line and returns a failure.
fn fail(why: &str) -> ExitCode {
    eprintln!("damselfly: {why}");
    ExitCode::FAILURE
}

fn serve(loaded: Loaded) -> Result<ExitCode, String> {
    let Loaded {
        mut config,
        file,
        warnings,
    } = loaded;
    // The path is relative to the folder in which the program was started, which is about to change to `dir`.
    let file = file.map(|path| std::path::absolute(&path).unwrap_or(path));
    enter_dir(&mut config)?;
    logging::start(&config)?;
    let supervisor = Supervisor::find(config.supervised);
    config.supervised = supervisor.option();
    // Under a service manager there is no fork: it watches the process that it started.
    let mut child = None;
    if config.daemonize && config.supervised == Supervised::No {
        if config.logfile.is_empty() {
            eprintln!(
                "damselfly: nothing will be logged: a server in the background needs the option logfile"
            );
        }
        let failed = |error| format!("Can't run in the background: {error}");
        match daemon::fork().map_err(failed)? {
            Process::Parent(code) => return Ok(code),
            Process::Child(own) => child = Some(own),
        }
    }
    supervisor.starting();
    for warning in &warnings {
        log::warn!("{warning}");
    }
    if config.disable_thp
        && let Err(error) = rustix::thread::disable_transparent_huge_pages(true)
    {
        log::warn!("Can't turn off transparent huge pages for this process: {error}");
    }
    let open_files = open_files::fit_maxclients(&mut config);
    let signals = Signals::handle().map_err(|error| format!("Can't handle signals: {error}"))?;
    // It is logged, too, since nobody may read what a service writes to its standard error.
    let server = Server::start(config, file).inspect_err(|why| log::error!("{why}"))?;
    let config = server.shared().config();
    log::info!(
        "Damselfly {} (Redis {} compatible) started, PID: {}, {} threads, {} shards, up to {} clients ({open_files} files)",
        damselfly_server::VERSION,
        damselfly_server::REDIS_VERSION,
        std::process::id(),
        server.shared().threads.len(),
        server.shared().engine.shards(),
        config.maxclients,
    );
    // As in Redis, before the snapshot is loaded: that may take longer than scripts wait.
    if let Some(child) = child {
        child
            .ready()
            .map_err(|error| format!("Can't run in the background: {error}"))?;
    }
    if let Err(error) = server.load(&signals) {
        log::error!("{error}");
        server.shared().stop();
        std::mem::forget(server.wait(&signals));
        return Ok(ExitCode::FAILURE);
    }
    if !server.is_stopping() {
        log::info!("Ready to accept connections on {}", places(&config));
        supervisor.ready();
    }
    server.wait_for_stop(&signals);
    supervisor.stopping();
    // With very many keys, freeing them would take seconds.
    std::mem::forget(server.wait(&signals));
    log::warn!("Damselfly is now ready to exit, bye bye...");
    Ok(ExitCode::SUCCESS)
}

/// Where the server listens.
fn places(config: &Config) -> String {
    let encrypted_memcached = config.tls_memcached && config.memcached_port > 0;
    let mut places = Vec::new();
    for (port, what) in [
        (config.port, ""),
        (config.tls_port, " (TLS)"),
        (
            config.memcached_port,
            match encrypted_memcached {
                true => " (memcached, TLS)",
                false => " (memcached)",
            },
        ),
    ] {
        if port > 0 {
            places.push(format!("port {port}{what}"));
        }
    }
    if !config.unixsocket.is_empty() {
        places.push(config.unixsocket.clone());
    }
    places.join(", ")
}

/// Changes to the working directory `dir`, and makes it absolute in the configuration.
fn enter_dir(config: &mut Config) -> Result<(), String> {
    std::env::set_current_dir(&config.dir)
        .map_err(|error| format!("Can't chdir to '{}': {error}", config.dir))?;
    let dir = std::env::current_dir()
        .map_err(|error| format!("Can't read the working directory: {error}"))?;
    config.dir = dir.display().to_string();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_programs_that_check_files_imply_an_option() {
        for (name, option) in [
            ("redis-check-rdb", Some("--check-rdb")),
            ("/usr/bin/damselfly-check-rdb", Some("--check-rdb")),
            ("./redis-check-aof", Some("--check-aof")),
            ("/usr/bin/damselfly", None),
        ] {
            assert_eq!(implied_option(Some(name)).as_deref(), option, "{name}");
        }
        assert_eq!(implied_option(None), None);
    }
}
