//! `cargo xtask tcl`: Redis's own test suite against Damselfly.
//!
//! The suite comes from Debian's source package, is cached in `.tools/`, and runs against a server
//! that it did not start ("external"). Its tests that start their own servers, with options or
//! files, therefore do not run, except in some files (`OWN_SERVERS` and those of `integration`), which run against servers that the suite starts. Each other file
//! runs against a new server. `tests/tcl/skips.txt` lists
//! the skipped tests and the reasons.

use crate::steps::{Count, command, must};
use crate::{install, test};
use damselfly_oracle::server::{Kind, Program, Server, wait_for_end};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The files of the suite that cover what is built so far. Files in which every test needs its own
/// server are left out, unless they are in `OWN_SERVERS`: info, limits, obuf-limits, client-eviction, networking. So is
/// integration/aof-race: its second server expects the files of the first, which the suite removes, so it fails with Redis, too.
const FILES: &[&str] = &[
    "unit/type/string",
    "unit/type/incr",
    "unit/type/list",
    "unit/type/list-2",
    "unit/type/list-3",
    "unit/type/set",
    "unit/type/hash",
    "unit/type/zset",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/bitops",
    "unit/bitfield",
    "unit/hyperloglog",
    "unit/geo",
    "unit/keyspace",
    "unit/dump",
    "unit/expire",
    "unit/scan",
    "unit/sort",
    "unit/protocol",
    "unit/introspection",
    "unit/introspection-2",
    "unit/slowlog",
    "unit/latency-monitor",
    "unit/other",
    "unit/lazyfree",
    "unit/pause",
    "unit/multi",
    "unit/pubsub",
    "unit/pubsubshard",
    "unit/tracking",
    "unit/functions",
    "unit/scripting",
    "unit/maxmemory",
    "unit/auth",
    "unit/acl",
    "unit/acl-v2",
    "unit/aofrw",
    "unit/wait",
    "integration/aof",
    "integration/aof-multi-part",
    "integration/rdb",
    "integration/block-repl",
    "integration/failover",
    "integration/replication",
    "integration/replication-2",
    "integration/replication-3",
    "integration/replication-4",
    "integration/replication-buffer",
    "integration/replication-psync",
    "integration/psync2",
    "integration/psync2-master-restart",
    "integration/psync2-pingoff",
    "integration/psync2-reg",
    "integration/shutdown",
];

/// Files of `unit` whose servers the suite starts itself, with options and files of its own. Those of `integration` all are such.
const OWN_SERVERS: &[&str] = &[
    "unit/auth",
    "unit/acl",
    "unit/acl-v2",
    "unit/aofrw",
    "unit/wait",
    "unit/dump",
];

const SKIPS: &str = "tests/tcl/skips.txt";
const CACHE: &str = ".tools/redis-source";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// A file that takes longer has hung.
const FILE_LIMIT: Duration = Duration::from_secs(900);

/// Runs the suite, or one file of it.
///
/// # Errors
/// A test failed, or the suite cannot be fetched.
pub fn run(options: &[&str]) -> Result<(), String> {
    let mut files = FILES.to_vec();
    let mut program = None;
    let mut verbose = false;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .copied()
                .ok_or_else(|| format!("{word} needs a value"))
        };
        match *word {
            "--file" => files = vec![value()?],
            "--program" => program = Some(Program::new(value()?)),
            "--verbose" => verbose = true,
            _ => {
                return Err(format!(
                    "unknown option {word}; expected --file unit/x, --program PATH or --verbose"
                ));
            }
        }
    }
    install::everything()?;
    let program = match program {
        Some(program) => program,
        None => {
            test::build_subject()?;
            Program::new(test::subject())
        }
    };
    let start = Instant::now();
    let count = play(&program, &files, verbose)?;
    let summary = format!(
        "{} passed, {} failed, in {:.0} s",
        count.passed,
        count.failed,
        start.elapsed().as_secs_f64()
    );
    if count.failed > 0 {
        return Err(summary);
    }
    println!("{summary}");
    Ok(())
}

/// Runs files of the suite, prints one line for each file and all failures, and counts the tests.
///
/// # Errors
/// The suite cannot be fetched or the server does not start.
pub fn play(program: &Program, files: &[&str], verbose: bool) -> Result<Count, String> {
    let suite = fetch()?;
    let skips_text = fs::read_to_string(SKIPS).map_err(|error| format!("{SKIPS}: {error}"))?;
    let skips = parse_skips(&skips_text)?;
    adapt(&suite)?;
    let mut total = Count::default();
    for file in files {
        let start = Instant::now();
        let log = play_file(program, &suite, file, &skips)?;
        let outcome = read_log(&log);
        println!(
            "{file}: {} passed, {} failed, {} skipped, {:.1} s",
            outcome.count.passed,
            outcome.count.failed,
            outcome.skipped,
            start.elapsed().as_secs_f64()
        );
        if verbose {
            println!("{log}");
        } else {
            for failure in &outcome.failures {
                println!("{failure}");
            }
        }
        total.passed += outcome.count.passed;
        total.failed += outcome.count.failed;
    }
    Ok(total)
}

/// Names of tests and tags to skip.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skips {
    tests: Vec<String>,
    tags: Vec<String>,
}

/// Reads `name :: reason` and `tag:name :: reason`; a line without a reason is an error.
fn parse_skips(text: &str) -> Result<Skips, String> {
    let mut skips = Skips::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, reason) = line.split_once(" :: ").unwrap_or((line, ""));
        if reason.trim().is_empty() {
            return Err(format!(
                "{SKIPS}, line {}: expected `test name :: reason`",
                index + 1
            ));
        }
        match name.trim().strip_prefix("tag:") {
            Some(tag) => skips.tags.push(tag.into()),
            None => skips.tests.push(name.trim().into()),
        }
    }
    Ok(skips)
}

/// Runs one file against a new server; returns the output of the suite without colours.
fn play_file(program: &Program, suite: &Path, file: &str, skips: &Skips) -> Result<String, String> {
    let mut server = None;
    if file.starts_with("integration/") || OWN_SERVERS.contains(&file) {
        install_program(program, suite)?;
    } else {
        let started = Server::start(program, arguments(program));
        server = Some(started.map_err(|error| error.to_string())?);
    }
    let log_path = suite.join("damselfly-run.log");
    let log =
        fs::File::create(&log_path).map_err(|error| format!("{}: {error}", log_path.display()))?;
    let denied: Vec<String> = skips.tags.iter().map(|tag| format!("-{tag}")).collect();
    let mut runner = Command::new("tclsh");
    runner.current_dir(suite).stdin(Stdio::null());
    runner.args(["tests/test_helper.tcl", "--single", file]);
    if let Some(server) = &server {
        let port = server.address().port().to_string();
        runner.args(["--host", "127.0.0.1", "--port", &port]);
    }
    // Durable: an unexpected error fails its test, not the whole run.
    runner.args(["--durable", "--no-latency", "--tags", &denied.join(" ")]);
    if file.starts_with("unit/type/list") || file == "unit/sort" {
        // The suite is from Redis 7.0, where every list is a quicklist; since 7.2 a small list is a listpack.
        runner.arg("--ignore-encoding");
    }
    // Concurrent runs in different folders search for ports in different ranges.
    let ports = 11_000 + std::process::id() % 300 * 64;
    runner.args(["--baseport", &ports.to_string()]);
    for test in &skips.tests {
        runner.args(["--skiptest", test]);
    }
    // In its own process group, because the suite runs each file in a child process.
    let error_log = log.try_clone().map_err(|error| error.to_string())?;
    let spawned = runner
        .stdout(log)
        .stderr(error_log)
        .process_group(0)
        .spawn();
    let mut child = spawned.map_err(|error| format!("cannot run tclsh: {error}"))?;
    let status = wait_for_end(&mut child, FILE_LIMIT).map_err(|error| error.to_string())?;
    if status.is_none() {
        let group = format!("-{}", child.id());
        must(&mut command(&["kill", "-KILL", "--", &group]))?;
        child.wait().map_err(|error| error.to_string())?;
    }
    let bytes = fs::read(&log_path).map_err(|error| error.to_string())?;
    let mut text = without_colours(&String::from_utf8_lossy(&bytes));
    match status {
        Some(status) if status.success() => {}
        // The suite fails without naming a test if it cannot reach the server at all.
        Some(_) if text.contains("[err]: ") => {}
        Some(status) => text.push_str(&format!(
            "\n[err]: {file} ended with {status}; the server's log:\n{}\n",
            server.as_ref().map(Server::log).unwrap_or_default()
        )),
        None => text.push_str(&format!(
            "\n[err]: {file} did not end within {FILE_LIMIT:?}\n"
        )),
    }
    // With an unknown file name, the suite runs nothing and succeeds.
    let outcome = read_log(&text);
    if outcome.count == Count::default() && outcome.skipped == 0 {
        text.push_str(&format!(
            "\n[err]: {file} ran no tests; does the file exist?\n"
        ));
    }
    Ok(text)
}

/// Puts a program where the suite expects Redis's own.
fn install_program(program: &Program, suite: &Path) -> Result<(), String> {
    let folder = suite.join("src");
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    let words: Vec<String> = match program.kind() {
        Kind::Redis => Vec::new(),
        Kind::Damselfly => arguments(program)
            .iter()
            .map(|word| format!(" {word}"))
            .collect(),
    };
    let path = program.path();
    // A name without a folder is searched for.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // The options come last, since the suite may pass the path of a file.
    let script = format!(
        "#!/bin/sh\nexec '{}' \"$@\"{}\n",
        path.display(),
        words.concat()
    );
    for (name, text) in [
        ("redis-server", script.as_str()),
        ("redis-cli", "#!/bin/sh\nexec redis-cli \"$@\"\n"),
        // Redis's own, which has to accept our files.
        (
            "redis-check-aof",
            "#!/bin/sh\nexec redis-check-aof \"$@\"\n",
        ),
        (
            "redis-benchmark",
            "#!/bin/sh\nexec redis-benchmark \"$@\"\n",
        ),
    ] {
        let file = folder.join(name);
        // It may be a link to the system's own program, which must not be written over.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            Ok(()) | Err(_) => {}
        }
        fs::write(&file, text).map_err(fail)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    Ok(())
}

fn arguments(program: &Program) -> &'static [&'static str] {
    match program.kind() {
        // As in the suite's own configuration.
        Kind::Redis => &["--enable-debug-command", "yes"],
        Kind::Damselfly => &[
            "--enable-debug-command",
            "yes",
            "--threads",
            "2",
            // The suite is from Redis 7.0, which has no listpacks for sets, and checks the encodings of sets.
            "--set-max-listpack-entries",
            "0",
        ],
    }
}

struct Outcome {
    count: Count,
    skipped: usize,
    /// Each failure with the lines that explain it.
    failures: Vec<String>,
}

fn read_log(log: &str) -> Outcome {
    let mut outcome = Outcome {
        count: Count::default(),
        skipped: 0,
        failures: Vec::new(),
    };
    let mut in_failure = false;
    for line in log.lines() {
        // At the end the suite repeats every failure after `***`.
        if line.starts_with("*** ") || line.starts_with("!!! ") {
            break;
        }
        if line.starts_with('[') {
            in_failure = false;
        }
        if line.starts_with("[ok]: ") {
            outcome.count.passed += 1;
        } else if line.starts_with("[skip]: ") || line.starts_with("[ignore]: ") {
            outcome.skipped += 1;
        } else if line.starts_with("[err]: ") || line.starts_with("[exception]: ") {
            outcome.count.failed += 1;
            outcome.failures.push(line.into());
            in_failure = true;
        } else if in_failure && let Some(last) = outcome.failures.last_mut() {
            last.push_str("\n    ");
            last.push_str(line);
        }
    }
    outcome
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').map_or(part, |(_, rest)| rest)
    })
}

/// The folder of the suite, fetched and unpacked on first use.
fn fetch() -> Result<PathBuf, String> {
    let ready = Path::new(CACHE).join("suite");
    if ready.join("tests/test_helper.tcl").is_file() {
        return ready.canonicalize().map_err(|error| error.to_string());
    }
    println!("fetching Redis's test suite from Debian's source package");
    let fail = |error: std::io::Error| format!("{CACHE}: {error}");
    download(CACHE, "redis")?;
    let entries = fs::read_dir(CACHE).map_err(fail)?.flatten();
    let archive = entries
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".orig.tar.gz"));
    let archive = archive
        .ok_or("apt-get downloaded no redis_*.orig.tar.gz")?
        .display()
        .to_string();
    let unpacked = format!("{CACHE}/unpacked");
    must(&mut command(&[
        "tar",
        "--extract",
        "--strip-components=1",
        "--directory",
        &unpacked,
        "--file",
        &archive,
    ]))?;
    // Moved last, so that the folder exists only if it is complete.
    fs::rename(&unpacked, &ready).map_err(fail)?;
    ready.canonicalize().map_err(fail)
}

/// Downloads a source package to the folder `cache`, with lists and caches there; those of the system do not change.
///
/// # Errors
/// This system is not Debian, or the download failed.
pub fn download(cache: &str, package: &str) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{cache}: {error}");
    for folder in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(Path::new(cache).join(folder)).map_err(fail)?;
    }
    let release = fs::read_to_string("/etc/os-release")
        .map_err(|error| format!("/etc/os-release: {error}"))?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.ok_or(format!(
        "this system is not Debian: please unpack the source of {package} into {cache}/suite"
    ))?;
    let cache = Path::new(cache).canonicalize().map_err(fail)?;
    let sources = format!(
        "deb-src [signed-by={KEYRING}] http://deb.debian.org/debian {codename} main\n\
         deb-src [signed-by={KEYRING}] http://deb.debian.org/debian-security {codename}-security main\n"
    );
    let list = cache.join("deb-src.list");
    fs::write(&list, sources).map_err(|error| format!("{}: {error}", list.display()))?;
    let cache_text = cache.display();
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists={cache_text}/lists"),
        format!("Dir::Cache={cache_text}/cache"),
        "APT::Sandbox::User=root".into(),
    ];
    for words in [&["update"][..], &["source", "--download-only", package]] {
        let mut apt = Command::new("apt-get");
        apt.current_dir(&cache)
            .stdout(Stdio::null())
            .args(["--quiet"]);
        for option in &options {
            apt.args(["-o", option]);
        }
        must(apt.args(words))?;
    }
    Ok(())
}

/// Files, and the beginnings of blocks in them that are tagged `external:skip` but can run against an external server.
const NEEDLESSLY_SKIPPED: &[(&str, &str)] = &[
    (
        "unit/pubsubshard",
        "{tags {\"pubsubshard external:skip\"}} {\n    test",
    ),
    (
        "unit/maxmemory",
        "{tags {\"maxmemory external:skip\"}} {\n    test",
    ),
    (
        "unit/maxmemory",
        "{tags {\"maxmemory\" \"external:skip\"}} {\n    r config",
    ),
];

/// Files, and lines in them that block a client. The next line assumes that the client is blocked already, as is likely
/// with one thread.
const BLOCKING_LINES: &[(&str, &str)] = &[(
    "unit/type/stream-cgroups",
    "        $rd XREADGROUP GROUP mygroup Alice BLOCK 0 STREAMS mystream \">\"\n",
)];

/// Files, lines in them that expect something at once, and lines that wait for it.
const HASTY_LINES: &[(&str, &str, &str)] = &[
    // With `everysec`, changes are in the file some milliseconds after the reply.
    (
        "integration/aof",
        "            set before [file size $aof]\n",
        "            catch {r waitaof 1 0 0}\n",
    ),
    (
        "integration/aof",
        "            set after [file size $aof]\n",
        "            catch {r waitaof 1 0 0}\n",
    ),
    (
        "integration/psync2-master-restart",
        "        set digest [$master debug digest]\n",
        "        wait_for_ofs_sync $master $replica\n        wait_for_ofs_sync $master $sub_replica\n",
    ),
    // Before, it waits until links are up. What replicas have missed arrives after that.
    (
        "integration/failover",
        "        assert_equal [$n1 debug digest] [$n2 debug digest]\n",
        "        wait_for_ofs_sync $n1 $n2\n        wait_for_ofs_sync $n2 $n3\n",
    ),
];

/// Edits the suite: waits until clients are blocked, changes are in the file and replicas are up to date, and lets blocks run against an external server.
fn adapt(suite: &Path) -> Result<(), String> {
    for (file, beginning) in NEEDLESSLY_SKIPPED {
        let path = suite.join(format!("tests/{file}.tcl"));
        let fail = |error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(fail)?;
        let without = beginning.replace(" \"external:skip\"", "");
        let changed = text.replace(beginning, &without.replace(" external:skip", ""));
        if changed != text {
            fs::write(&path, changed).map_err(fail)?;
        }
    }
    for (file, line) in BLOCKING_LINES {
        let path = suite.join(format!("tests/{file}.tcl"));
        let fail = |error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(fail)?;
        let waiting = format!("{line}        wait_for_blocked_clients_count 1\n");
        if !text.contains(&waiting) {
            fs::write(&path, text.replace(line, &waiting)).map_err(fail)?;
        }
    }
    for (file, line, wait) in HASTY_LINES {
        let path = suite.join(format!("tests/{file}.tcl"));
        let fail = |error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(fail)?;
        let waiting = format!("{wait}{line}");
        if !text.contains(&waiting) {
            fs::write(&path, text.replace(line, &waiting)).map_err(fail)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_and_failures_explained() {
        let log = "Testing unit/x\n[ok]: a (1 ms)\n[err]: b in tests/x.tcl\nExpected 1\n[skip]: c\n[ignore]: d: tag\n[ok]: e (0 ms)\n*** [err]: b in tests/x.tcl\n";
        let outcome = read_log(log);
        assert_eq!(
            outcome.count,
            Count {
                passed: 2,
                failed: 1
            }
        );
        assert_eq!(outcome.skipped, 2);
        assert_eq!(
            outcome.failures,
            ["[err]: b in tests/x.tcl\n    Expected 1"]
        );
    }

    #[test]
    fn colours_are_removed() {
        assert_eq!(without_colours("\x1b[1;32;49m[ok]\x1b[0m: a"), "[ok]: a");
    }

    #[test]
    fn a_skip_needs_a_reason() {
        let skips =
            parse_skips("# why\ntag:needs:repl :: later\nA test, with [signs] :: later\n").unwrap();
        assert_eq!(
            skips,
            Skips {
                tests: vec!["A test, with [signs]".into()],
                tags: vec!["needs:repl".into()]
            }
        );
        assert!(parse_skips("A test").is_err());
        assert!(parse_skips("A test :: ").is_err());
    }
}
