//! The `damselfly` program: reads its options, starts the server, waits for the end.

mod logging;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use damselfly_server::config::{self, Config, Disk, Loaded, Request};
use damselfly_server::start::Server;

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

fn main() -> ExitCode {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let args = std::env::args_os().skip(1).map(text);
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let request = config::load(args, variables, &Disk);
    let loaded = match request {
        Ok(Request::Help) => {
            print!("{}", config::help());
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
        Ok(Request::Run(loaded)) => *loaded,
        Err(error) => return fail(&error.to_string()),
    };
    match serve(loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One clear line and a non-zero exit.
fn fail(why: &str) -> ExitCode {
    eprintln!("damselfly: {why}");
    ExitCode::FAILURE
}

fn serve(loaded: Loaded) -> Result<(), String> {
    let Loaded {
        mut config,
        file,
        warnings,
    } = loaded;
    // The file stays where it was named from, even though the process moves to `dir`.
    let file = file.map(|path| std::path::absolute(&path).unwrap_or(path));
    enter_dir(&mut config)?;
    logging::start(&config)?;
    for warning in &warnings {
        log::warn!("{warning}");
    }
    let open_files = raise_file_limit(&mut config);
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, signalled.clone())
            .map_err(|error| format!("Can't handle signal {signal}: {error}"))?;
    }
    let server = Server::start(config, file)?;
    let config = server.shared().config();
    log::info!(
        "Damselfly {} (Redis {} compatible) started, pid {}, {} threads, {} shards, up to {} clients ({open_files} files)",
        damselfly_server::VERSION,
        damselfly_server::REDIS_VERSION,
        std::process::id(),
        server.shared().threads.len(),
        server.shared().engine.shards(),
        config.maxclients,
    );
    log::info!("Ready to accept connections on port {}", config.port);
    server.wait(&signalled);
    log::warn!("Damselfly is now ready to exit, bye bye...");
    Ok(())
}

/// Makes `dir` the working directory, and absolute in the configuration.
fn enter_dir(config: &mut Config) -> Result<(), String> {
    std::env::set_current_dir(&config.dir)
        .map_err(|error| format!("Can't chdir to '{}': {error}", config.dir))?;
    let dir = std::env::current_dir()
        .map_err(|error| format!("Can't read the working directory: {error}"))?;
    config.dir = dir.display().to_string();
    Ok(())
}

/// Makes room for `maxclients` file descriptors, or lowers it to what there is room for. Returns the limit.
fn raise_file_limit(config: &mut Config) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// For listeners, event queues, logs, files.
    const RESERVED: u64 = 32;
    let wanted = u64::from(config.maxclients) + RESERVED;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return current;
    }
    // The hard limit can only be raised with the right to do so; try that first.
    let beyond = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum.map(|max| max.max(wanted)),
    };
    if setrlimit(Resource::Nofile, beyond).is_ok() {
        return wanted;
    }
    let within = limit.maximum.unwrap_or(wanted).min(wanted);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(within),
            maximum: limit.maximum,
        },
    );
    let reached = getrlimit(Resource::Nofile).current.unwrap_or(current);
    if reached < wanted {
        config.maxclients = u32::try_from(reached.saturating_sub(RESERVED).max(1)).unwrap_or(1);
        log::warn!(
            "Only {reached} open files are allowed; maxclients is lowered to {}. If you need more clients, raise 'ulimit -n'.",
            config.maxclients
        );
    }
    reached
}
