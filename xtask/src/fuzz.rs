//! `cargo xtask fuzz`: coverage-guided fuzzing of code that parses bytes or uses `unsafe`.
//!
//! The targets are the programs in `fuzz/`, each of which runs libFuzzer on one function. They are built with the compiler's own
//! coverage instrumentation and address sanitizer, on the stable toolchain. Inputs that reached new code stay in
//! `target/fuzz/corpus`, so each run continues where the last one stopped.

use crate::steps::{Count, command, must};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// A fuzz target: its name, and some inputs to start from.
struct Target {
    name: &'static str,
    seeds: &'static [&'static [u8]],
}

/// All targets; those that need the most time come first.
const TARGETS: &[Target] = &[
    Target {
        name: "commands",
        seeds: &[b"\0\x02\x01\0\x01\x05abcdefghijklmnopqrstuvwxyz", &[0x5a; 512]],
    },
    Target {
        name: "rdb",
        seeds: &[
            b"\x00REDIS0009\xfe\x00\xfb\x01\x00\xfd\x01\x02\x03\x04\x01\x01l\x02\x01a\x017\n\x01z\x18\x18\x00\x00\x00\x12\x00\x00\x00\x04\x00\x00\x01a\x03\xfd\x02\x01b\x03\xf0\x90\xee\xfe\xff\x0e\x01q\x02\x18\x18\x00\x00\x00\x12\x00\x00\x00\x04\x00\x00\x01a\x03\xfd\x02\x01b\x03\xf0\x90\xee\xfe\xff\x0e\x0e\x00\x00\x00\n\x00\x00\x00\x01\x00\x00\x01x\xff\x03\x01t\x01\x01m\x031.5\x0c\x01s\x18\x18\x00\x00\x00\x12\x00\x00\x00\x04\x00\x00\x01a\x03\xf2\x02\x01b\x03\x031.5\xff\t\x01m\x14\x02\x01a\x02\x0112?\x01b\x06\x01-70000?\xff\r\x01h\x18\x18\x00\x00\x00\x12\x00\x00\x00\x04\x00\x00\x01a\x03\xfd\x02\x01b\x03\xf0\x90\xee\xfe\xff\x0b\x01i\x10\x04\x00\x00\x00\x02\x00\x00\x00\xfb\xff\xff\xffp\x11\x01\x00\xffooB\x0b\x10\xcc\x9c/",
            b"\x00REDIS0013\xfa\x01n\x01v\xf5\x02#!\x00\x01n\xc2\x01\x02\x03\x04\x02\x01s\x02\x01a\x017\x04\x01p\x01\x01f\x01v\x14\x02s2\x14\x14\x00\x00\x00\x04\x00\x81a\x02\x0c\x01\x81b\x02\xf2\x90\xee\xfe\x04\xff\x17\x01t\x11\x11\x00\x00\x00\x03\x00\x81f\x02\x81v\x02\xf1\x88\x13\x03\xff\x10\x01h\x14\x14\x00\x00\x00\x04\x00\x81a\x02\x0c\x01\x81b\x02\xf2\x90\xee\xfe\x04\xff\x11\x01z\x14\x14\x00\x00\x00\x04\x00\x81a\x02\x01\x01\x81b\x02\x831.5\x04\xff\x12\x01q\x02\x02\x14\x14\x00\x00\x00\x04\x00\x81a\x02\x0c\x01\x81b\x02\xf2\x90\xee\xfe\x04\xff\x01\x05plain\x18\x01d\x88\x13\x00\x00\x00\x00\x00\x00\x01\x01\x01f\x01v\xffu\xee\xa4 Z%\x0f\xa6",
            b"\x00REDIS0013\x0f\x011\x01\x10\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01@EE\x00\x00\x00\x19\x00\x02\x01\x01\x01\x02\x01\x81a\x02\x81b\x02\x00\x01\x02\x01\x00\x01\x00\x01\x01\x01\x83two\x04\x05\x01\x03\x01\x00\x01\x01\x01\x03\x01\x04\x01\x05\x01\x00\x01\x01\x01\xdf\xff\x02\x01\x01\x85other\x06\x81x\x02\x06\x01\xff\x02\x06\x00\x01\x05group\x05\x01\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01\xe8\x03\x00\x00\x00\x00\x00\x00\x02\x01\x08consumer\xd0\x07\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01\x1b\x015\x01\x10\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01@EE\x00\x00\x00\x19\x00\x02\x01\x01\x01\x02\x01\x81a\x02\x81b\x02\x00\x01\x02\x01\x00\x01\x00\x01\x01\x01\x83two\x04\x05\x01\x03\x01\x00\x01\x01\x01\x03\x01\x04\x01\x05\x01\x00\x01\x01\x01\xdf\xff\x02\x01\x01\x85other\x06\x81x\x02\x06\x01\xff\x02\x06\x00\x05\x01\x05\x02\x03\x01\x05group\x05\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01\xe8\x03\x00\x00\x00\x00\x00\x00\x02\x01\x08consumer\xd0\x07\x00\x00\x00\x00\x00\x00\xb8\x0b\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01\x00@dC\xe8\x01\x08producer\x01\x03iid\x05\x01\x01\x00\xff\x7f\x85s\xce)!OH",
        ],
    },
    Target {
        name: "rdb_dump",
        seeds: &[
            b"\x00\x12\x02\x02\x14\x14\x00\x00\x00\x04\x00\x81a\x02\x0c\x01\x81b\x02\xf2\x90\xee\xfe\x04\xff\x01\x05plain",
            b"\x00\x15\x01\x10\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01@EE\x00\x00\x00\x19\x00\x02\x01\x01\x01\x02\x01\x81a\x02\x81b\x02\x00\x01\x02\x01\x00\x01\x00\x01\x01\x01\x83two\x04\x05\x01\x03\x01\x00\x01\x01\x01\x03\x01\x04\x01\x05\x01\x00\x01\x01\x01\xdf\xff\x02\x01\x01\x85other\x06\x81x\x02\x06\x01\xff\x02\x06\x00\x05\x01\x05\x02\x03\x01\x05group\x05\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01\xe8\x03\x00\x00\x00\x00\x00\x00\x02\x01\x08consumer\xd0\x07\x00\x00\x00\x00\x00\x00\xb8\x0b\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x01",
            b"\x00\r\x18\x18\x00\x00\x00\x12\x00\x00\x00\x04\x00\x00\x01a\x03\xfd\x02\x01b\x03\xf0\x90\xee\xfe\xff",
            b"\x00\t\x14\x02\x01a\x02\x0112?\x01b\x06\x01-70000?\xff",
            b"\x00\x17\x11\x11\x00\x00\x00\x03\x00\x81f\x02\x81v\x02\xf1\x88\x13\x03\xff",
            b"\x00\x0b\x0c\x02\x00\x00\x00\x02\x00\x00\x00\xfb\xff\x07\x00",
            b"\x00\x00\xc3\x05\x15\x00a\xe0\x0b\x00",
        ],
    },
    Target {
        name: "config",
        seeds: &[
            b"\0\xffport 1\n\xffsave 900 1\n\xffinclude other\n\xffrename-command GET \"\"",
            b"\0\xffbind 127.0.0.1 -::1\n\xffmaxmemory 1gb\n\xffuser default on nopass",
            b"\x01\x20yes\n\x21no\n\x2210\n\x231gb",
        ],
    },
    Target {
        name: "table",
        seeds: &[b"\0\0\x01\0\x02\x05\x03\x0a\x01\x0c\0\x0d\xff", &[0x80; 64]],
    },
    Target {
        name: "entry",
        seeds: &[b"\x04key\0\x08val\x04\x0f\x01\x03\x01\x01\x02\x03\x04\x05\x06\x07\x08"],
    },
    Target {
        name: "listpack",
        seeds: &[
            b"\0\0\0\0\x02\x03abc\0\0\0\x03\x01\0\0\x06",
            b"\xff\x03\0\0\0\x81a\x02\x07\x01\xdf\xff\x02",
        ],
    },
    Target {
        name: "intset",
        seeds: &[b"\x05\x02\x01\0\x02\0\x30\x01\x02\x03\x04\x05\x06\x07\x08\x03"],
    },
    Target {
        name: "hyperloglog",
        seeds: &[
            &[0x5a; 64],
            b"\x01\x04\x10\x7f\xff\x80\x83\x00\x01\x02\x03\x04\x05\x06\x07\x08",
        ],
    },
    Target {
        name: "bitfield",
        seeds: &[&[0x5a; 64], b"\x10\x01\x01\x08\x01\x00\x00\x20\xff\xff\xff\xff\xff\xff\xff\xff"],
    },
    Target {
        name: "sorted_set",
        seeds: &[
            b"\x08\x02\0\0\0\x81a\x02\x05\x01\x02bc\x03\x01\x02\x03\x04\x05\x06\x07\x01",
            &[0x82; 200],
        ],
    },
    Target {
        name: "chain",
        seeds: &[
            b"\x05\0\0\x01\0\0\0\0\0\0\0\x01\x09\0\0\x03\x01\0\0\x02\x03\x02\0\0\x02",
            &[0x6c; 256],
        ],
    },
    Target {
        name: "stream",
        seeds: &[
            b"\0\x04\0\0\x03\0\0\x05\0\0\0\0\0\x01\0\0\x01\0\0\x03\0\0\0\x05\0\0\0\x04\x07",
            &[0x6c; 256],
        ],
    },
    Target {
        name: "hash",
        seeds: &[
            b"\0\x80\x01\xa0\0\0\0\0\0\0\0\x01\x03\x01\xf3\x01\x85\x01\x07\x01",
            b"\xc0\x02\0\0\0\x81a\x02\x01\x01",
            b"\xe0\x04\0\0\0\x07\x01\x81a\x02\x01\x01\x07\x01",
        ],
    },
    Target {
        name: "requests",
        seeds: &[
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n",
            b"SET k \"a\\x00\\n\" 'b'\r\nPING\r\n*-1\r\n*0\r\n",
        ],
    },
    Target {
        name: "memcached_requests",
        seeds: &[
            b"get a b c\r\nset k 1 2 3\r\nabc\r\ncas k 0 0 1 7 noreply\r\nx\r\n",
            b"ms Zm9v 2 b T5 F7\r\nhi\r\nmg Zm9v b v k\r\nadd k 0 0 90\r\nincr n 5\r\ndelete k 0\r\n",
        ],
    },
    Target {
        name: "replies",
        seeds: &[
            b"+OK\r\n-ERR no\r\n:1\r\n$1\r\na\r\n$-1\r\n*2\r\n:1\r\n*0\r\n*-1\r\n",
            b"%1\r\n+a\r\n~1\r\n#t\r\n_\r\n,1.5\r\n(123\r\n=5\r\ntxt:a\r\n>1\r\n+m\r\n!3\r\nERR\r\n|1\r\n+k\r\n+v\r\n+r\r\n",
        ],
    },
    Target {
        name: "glob",
        seeds: &[b"\x05a*[bc]aXb", b"\x08*[^a-z]\\]Q]", b"\x04a*a*aaaaaaaa"],
    },
    Target {
        name: "decoders",
        seeds: &[
            b"\x00\x00{\"a\":[1,2.5e3,\"x\\u00e9\",null,true,{}]}",
            b"\x01\x00\x93\x01\xa1a\x82\xa1b\xcb\x3f\xf8\0\0\0\0\0\0\xa1c\xc0",
            b"\x04\x08>hBc0!4dabcdefghijklmnopqrstuvwx",
            b"\x06\x0e^(%a+)%s-(%d?)[a-z]hello 1x",
            b"\x08\x08(.)(%w*)key:123",
            b"\x0a\x00%d %5s %.3f",
            b"\x0b\x04=abcreturn 1 + f(x)",
        ],
    },
    Target {
        name: "scripts",
        seeds: &[
            b"#!lua flags=no-writes\nreturn redis.call('get', KEYS[1])",
            b"local t = {} for i = 1, 10 do t[i] = i end return {map = t}",
            b"return {pcall(string.gsub, 'abc', '%w', function(c) return c .. c end)}",
            b"local co = coroutine.wrap(function() coroutine.yield(1) end) return {co(), co(), pcall(co)}",
            b"redis.setresp(3) return redis.call('x', '%1\\r\\n+a\\r\\n:1\\r\\n')",
        ],
    },
    Target {
        name: "numbers",
        seeds: &[
            b"9223372036854775807",
            b"-9223372036854775808",
            b"3.0e3 0x1.8p-3",
            b"1e4932 1.18973149535723176502e+4932",
            b"0.1 -inf",
        ],
    },
];

/// The folder for builds, inputs and logs.
const FOLDER: &str = "target/fuzz";
/// The target triple must be explicit, so that build scripts are built without the address sanitizer.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Compiler flags: edge counters and traced comparisons for libFuzzer, and the sanitizer.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Zsanitizer=address --cfg fuzzing --cfg sanitize_address";
/// How many seconds each target runs by default.
const SECONDS: u32 = 20;
/// The same in CI.
const SECONDS_IN_CI: u32 = 8;
/// The longest input, in bytes.
const INPUT_BYTES_MAX: usize = 1024;

const USAGE: &str = "\
Usage: cargo xtask fuzz [TARGET] [--seconds N]
       cargo xtask fuzz TARGET --input FILE     reruns one input
       cargo xtask fuzz --live [--seconds N] [--seed S] [--threads T]     fuzzes a running server
Targets: commands, rdb, rdb_dump, config, table, entry, listpack, intset, chain, stream, hash, sorted_set, hyperloglog, bitfield, requests, memcached_requests, replies, glob, decoders, scripts, numbers (default: all)";

/// The options on the command line.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    /// Indices of [`TARGETS`].
    targets: Vec<usize>,
    seconds: u32,
    input: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(mut words: &[&'a str]) -> Option<Self> {
        let mut options = Self {
            targets: (0..TARGETS.len()).collect(),
            seconds: SECONDS,
            input: None,
        };
        if let [name, rest @ ..] = words
            && !name.starts_with('-')
        {
            let chosen = TARGETS.iter().position(|target| target.name == *name)?;
            (options.targets, words) = (vec![chosen], rest);
        }
        match words {
            [] => {}
            ["--seconds", seconds] => options.seconds = seconds.parse().ok()?,
            ["--input", file] if options.targets.len() == 1 => options.input = Some(file),
            _ => return None,
        }
        Some(options)
    }
}

/// Runs the targets that the words of the command line select.
///
/// # Errors
/// A target does not build, or it found a fault. For a fault, the output shows how to reproduce it.
pub fn run(words: &[&str]) -> Result<(), String> {
    let options = Options::parse(words).ok_or(USAGE)?;
    let mut targets = options.targets.iter().map(|&index| &TARGETS[index]);
    build(targets.clone())?;
    if let Some(input) = options.input {
        return targets.try_for_each(|target| must(Command::new(program(target)).arg(input)));
    }
    let count = fuzz(targets.collect(), options.seconds)?;
    match count.failed {
        0 => Ok(()),
        failed => Err(format!("{failed} of the targets found a fault")),
    }
}

/// Checks the format of all targets and builds them: they are no part of the workspace, so no other step notices that they do not compile.
///
/// # Errors
/// The format is not that of rustfmt, or the build fails.
pub fn build_all() -> Result<Count, String> {
    let manifest = ["--manifest-path", "fuzz/Cargo.toml"];
    must(command(&["cargo", "fmt", "--check"]).args(manifest))?;
    build(TARGETS.iter()).map(|()| Count::one(true))
}

/// Runs each target for a short time.
///
/// # Errors
/// The build fails, or a program can't be started.
pub fn short() -> Result<Count, String> {
    build(TARGETS.iter())?;
    fuzz(TARGETS.iter().collect(), SECONDS_IN_CI)
}

fn build(targets: impl Iterator<Item = &'static Target>) -> Result<(), String> {
    let words = [
        "cargo",
        "build",
        "--quiet",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target",
        TRIPLE,
        "--target-dir",
        FOLDER,
    ];
    must(
        command(&words)
            .args(targets.flat_map(|target| ["--bin", target.name]))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", RUSTFLAGS),
    )
}

/// Runs targets, as many at a time as there are processors.
fn fuzz(targets: Vec<&'static Target>, seconds: u32) -> Result<Count, String> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(targets.into_iter());
    let next = || waiting.lock().expect("no worker panics").next();
    let work = || -> Result<Count, String> {
        let mut count = Count::default();
        while let Some(target) = next() {
            let one = Count::one(target.fuzz(seconds)?);
            count.passed += one.passed;
            count.failed += one.failed;
        }
        Ok(count)
    };
    let counts: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join();
        workers.into_iter().map(join).collect()
    });
    let mut total = Count::default();
    for count in counts {
        let count = count.map_err(|_| "a worker panicked")??;
        total.passed += count.passed;
        total.failed += count.failed;
    }
    Ok(total)
}

fn program(target: &Target) -> PathBuf {
    Path::new(FOLDER)
        .join(TRIPLE)
        .join("debug")
        .join(target.name)
}

impl Target {
    /// Runs the target; false if it found a fault.
    fn fuzz(&self, seconds: u32) -> Result<bool, String> {
        let name = self.name;
        let corpus = self.corpus()?;
        let finds = Path::new(FOLDER).join("finds").join(name);
        fs::create_dir_all(&finds).map_err(failed(&finds))?;
        let log = Path::new(FOLDER).join(format!("{name}.log"));
        let output = File::create(&log).map_err(failed(&log))?;
        let status = Command::new(program(self))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg("-timeout=20")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", finds.display()))
            .arg(corpus)
            .stdout(output.try_clone().map_err(failed(&log))?)
            .stderr(output)
            .status()
            .map_err(|error| format!("cannot run {name}: {error}"))?;
        let text = fs::read(&log).map_err(failed(&log))?;
        let text = String::from_utf8_lossy(&text);
        if status.success() {
            println!("{name}: {}", statistics(&text));
            return Ok(true);
        }
        println!("{name}: FOUND A FAULT\n{}", report(&text));
        if let Some(input) = after(&text, "Test unit written to ") {
            println!("{name}: to reproduce it: cargo xtask fuzz {name} --input {input}");
        }
        Ok(false)
    }

    /// The folder of inputs; writes the seeds into it.
    fn corpus(&self) -> Result<PathBuf, String> {
        let corpus = Path::new(FOLDER).join("corpus").join(self.name);
        fs::create_dir_all(&corpus).map_err(failed(&corpus))?;
        for (index, seed) in self.seeds.iter().enumerate() {
            let file = corpus.join(format!("seed-{index}"));
            fs::write(&file, seed).map_err(failed(&file))?;
        }
        Ok(corpus)
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// The rest of the line after the first `mark`.
fn after<'a>(log: &'a str, mark: &str) -> Option<&'a str> {
    let (_, rest) = log.split_once(mark)?;
    rest.lines().next().map(str::trim)
}

/// The statistics of a run, from libFuzzer's log.
fn statistics(log: &str) -> String {
    let coverage = log.lines().rev().find_map(|line| after(line, " cov: "));
    let coverage = coverage.and_then(|rest| rest.split(' ').next());
    format!(
        "{} inputs, {} a second, {} places covered",
        after(log, "stat::number_of_executed_units:").unwrap_or("?"),
        after(log, "stat::average_exec_per_sec:").unwrap_or("?"),
        coverage.unwrap_or("?"),
    )
}

/// The description of a fault in libFuzzer's log, without the progress lines before it.
fn report(log: &str) -> String {
    const LINES_MAX: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    let is_progress = |line: &&str| line.starts_with('#');
    let start = lines.iter().rposition(is_progress).map_or(0, |at| at + 1);
    let end = lines.len().min(start + LINES_MAX);
    lines[start..end].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_fuzz_package() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for target in TARGETS {
            let file = format!("fuzz_targets/{}.rs", target.name);
            assert!(folder.join(&file).is_file(), "{file}");
            assert!(manifest.contains(&format!("path = \"{file}\"")), "{file}");
            assert!(USAGE.contains(target.name), "{}", target.name);
        }
        let files = fs::read_dir(folder.join("fuzz_targets")).unwrap();
        assert_eq!(files.count(), TARGETS.len());
    }

    #[test]
    fn words_choose_targets_and_time() {
        let all = Options::parse(&[]).unwrap();
        assert_eq!((all.targets.len(), all.seconds), (TARGETS.len(), SECONDS));
        let one = Options::parse(&["commands", "--seconds", "5"]).unwrap();
        assert_eq!((one.targets, one.seconds), (vec![0], 5));
        let again = Options::parse(&["config", "--input", "x"]).unwrap();
        assert_eq!(again.input, Some("x"));
        for bad in [
            &["nosuch"][..],
            &["--input", "x"],
            &["--seconds", "x"],
            &["config", "x"],
        ] {
            assert_eq!(Options::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn logs_are_read() {
        let log = "INFO: Seed: 1\n#8\tINITED cov: 10 ft: 2\n#9\tDONE   cov: 12 ft: 3 corp: 2\n\
            stat::number_of_executed_units: 9\nstat::average_exec_per_sec:     4\n";
        assert_eq!(statistics(log), "9 inputs, 4 a second, 12 places covered");
        let log = "INFO: x\n#2 INITED\n\nthread panicked\nTest unit written to target/crash-1\n";
        assert_eq!(
            report(log),
            "\nthread panicked\nTest unit written to target/crash-1"
        );
        assert_eq!(after(log, "written to "), Some("target/crash-1"));
    }
}
