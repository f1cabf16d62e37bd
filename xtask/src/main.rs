//! `cargo xtask`: the project's own tasks, one module each.
#![forbid(unsafe_code)]

mod certificates;
mod ci;
mod compare;
mod fuzz;
mod install;
mod live;
mod perl;
mod steps;
mod tcl;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask TASK
  test                    installs what the tests need and runs every suite
  programs [NAME]         runs only the programs of that suite that do real work through BullMQ, Celery and others
  ci                      runs what must pass before a merge: format, tidy, clippy, test, loom, broken locks, sanitizer, fuzz, live fuzz
  tidy                    checks the project's own rules for code
  fuzz [TARGET] [--seconds N]
                          fuzzes code that parses bytes or uses unsafe, and the commands
  fuzz --live [--seconds N] [--seed S] [--threads T]
                          fuzzes a running server over many connections (default: two minutes; 1, 2 and 4 threads)
  tcl [--file unit/x] [--program PATH] [--verbose]
                          runs Redis's own Tcl suite against Damselfly or another server
  memcached [--file NAME.t]
                          runs memcached's own tests against Damselfly
  compare [--help]        measures Damselfly and the installed peers in one run
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // All paths below are relative to the project's root.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(error) = std::env::set_current_dir(&root) {
        eprintln!("cannot enter {}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    let outcome = match words.as_slice() {
        ["test"] => test::run(),
        ["programs"] => test::programs(""),
        ["programs", name] => test::programs(name),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(),
        ["fuzz", "--live", options @ ..] => {
            live::run(options).and_then(|count| match count.failed {
                0 => Ok(()),
                _ => Err("the live fuzzer found a fault".into()),
            })
        }
        ["fuzz", options @ ..] => fuzz::run(options),
        ["tcl", options @ ..] => tcl::run(options),
        ["memcached", options @ ..] => perl::run(options),
        ["compare", options @ ..] => {
            let options: Vec<String> = options.iter().map(ToString::to_string).collect();
            compare::compare(&options)
        }
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
