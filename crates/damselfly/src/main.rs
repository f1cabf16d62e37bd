//! The `damselfly` program: reads its options, starts the server, waits for the end.

mod logging;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use damselfly_config::{Config, Disk, Loaded, Request};
use damselfly_server::event_loop::open_files;
use damselfly_server::start::Server;

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

fn main() -> ExitCode {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let args = std::env::args_os().skip(1).map(text);
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let request = damselfly_config::load(args, variables, &Disk);
    let loaded = match request {
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
    if config.disable_thp
        && let Err(error) = rustix::thread::disable_transparent_huge_pages(true)
    {
        log::warn!("Can't turn transparent huge pages off for this process: {error}");
    }
    let open_files = open_files::fit(&mut config);
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
    log::warn!(
        "This version keeps data in memory only: 'save' and 'dbfilename' have no effect yet, and when the process ends, the data is gone."
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
