//! `damselfly-bench`: measures a server from the command line.

use damselfly_bench::options::{Options, command};
use damselfly_bench::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let options = match Options::from_matches(&matches) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("damselfly-bench: {message}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(report) if options.json => println!("{}", report.json()),
        Ok(report) => print!("{}", report.table()),
        Err(error) => {
            eprintln!("damselfly-bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
