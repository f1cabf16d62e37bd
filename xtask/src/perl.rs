//! `cargo xtask memcached`: memcached's own tests in Perl against Damselfly.
//!
//! They come from Debian's source package and are cached in `.tools/`. Each starts the program `memcached-debug` next to them, for which
//! `tests/memcached/suite/memcached-debug` takes its place. `tests/memcached/suite/skips.txt` lists the files that do not run, and the tests
//! in other files that may fail, with the reasons.

use crate::steps::{Count, command, must};
use crate::{install, tcl, test};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CACHE: &str = ".tools/memcached-source";
const SKIPS: &str = "tests/memcached/suite/skips.txt";
const STARTER: &str = "tests/memcached/suite/memcached-debug";
/// What stands in for memcached's `timedrun`, which limits the time of a server.
const TIMED_RUN: &str = "#!/bin/sh\nshift\nexec \"$@\"\n";
/// Moving the clock is a feature of memcached's debug build. Sleeping has the same effect.
const MOVE_TIME: (&str, &str) = (
    "    print $sock \"debugtime $move\\r\\n\";\n    <$sock>;\n",
    "    sleep $move;\n",
);
/// A file that takes longer has hung.
const FILE_LIMIT_S: &str = "300";

/// What is skipped: whole files, or single tests by file and number.
type Skips = HashMap<(String, Option<u32>), String>;

/// Runs all files, or one of them.
///
/// # Errors
/// A test failed, or the tests cannot be fetched.
pub fn run(options: &[&str]) -> Result<(), String> {
    install::find("perl").ok_or("memcached's tests need perl")?;
    test::build_subject()?;
    let count = play(match options {
        [] => &[],
        ["--file", file] => std::slice::from_ref(file),
        _ => return Err("Usage: cargo xtask memcached [--file NAME.t]".into()),
    })?;
    println!("{} passed, {} failed", count.passed, count.failed);
    match count.failed {
        0 => Ok(()),
        _ => Err("memcached's tests failed".into()),
    }
}

/// Runs these files, or all of them, without building anything.
///
/// # Errors
/// As [`run`].
pub fn play(only: &[&str]) -> Result<Count, String> {
    let suite = fetch()?;
    let skips = parse_skips(&fs::read_to_string(SKIPS).map_err(|why| format!("{SKIPS}: {why}"))?)?;
    let folder = suite.join("t");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .map_err(|why| format!("{}: {why}", folder.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".t") && (only.is_empty() || only.contains(&name.as_str())))
        .filter(|name| !skips.contains_key(&(name.clone(), None)))
        .collect();
    files.sort();
    let mut count = Count::default();
    for file in files {
        let of_file = play_file(&suite, &file, &skips)?;
        println!(
            "{file}: {} passed, {} failed",
            of_file.passed, of_file.failed
        );
        count.passed += of_file.passed;
        count.failed += of_file.failed;
    }
    Ok(count)
}

fn play_file(suite: &Path, file: &str, skips: &Skips) -> Result<Count, String> {
    let path = format!("t/{file}");
    let output = command(&["timeout", FILE_LIMIT_S, "perl", "-It/lib", &path])
        .current_dir(suite)
        .env("DAMSELFLY_BIN", test::subject())
        .output()
        .map_err(|why| format!("perl: {why}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut count = Count::default();
    let mut planned = None;
    for line in text.lines() {
        if let Some(plan) = line.strip_prefix("1..") {
            planned = plan
                .split(' ')
                .next()
                .and_then(|number| number.parse::<usize>().ok());
        } else if line.starts_with("ok ") {
            count.passed += 1;
        } else if let Some(failed) = line.strip_prefix("not ok ") {
            let number = failed
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            if !skips.contains_key(&(file.to_owned(), number)) {
                println!("{file}: {line}");
                count.failed += 1;
            }
        }
    }
    // Without a plan, the file decided that it can't run here.
    let ran = text
        .lines()
        .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "));
    if planned.is_some_and(|planned| planned != ran.count()) {
        println!("{file}: {}", String::from_utf8_lossy(&output.stderr));
        count.failed += 1;
    }
    Ok(count)
}

/// Reads `file.t :: reason` and `file.t NUMBER :: reason`.
fn parse_skips(text: &str) -> Result<Skips, String> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (what, reason) = line
                .split_once(" :: ")
                .filter(|(_, reason)| !reason.trim().is_empty())
                .ok_or(format!("{SKIPS}: no reason in '{line}'"))?;
            let (file, number) = match what.split_once(' ') {
                None => (what, None),
                Some((file, number)) => {
                    let number = number.parse().map_err(|_| format!("{SKIPS}: '{line}'"))?;
                    (file, Some(number))
                }
            };
            Ok(((file.to_owned(), number), reason.to_owned()))
        })
        .collect()
}

/// The folder of the source, fetched, unpacked and prepared.
fn fetch() -> Result<PathBuf, String> {
    let ready = Path::new(CACHE).join("suite");
    let fail = |why: std::io::Error| format!("{CACHE}: {why}");
    if !ready.join("t/lib/MemcachedTest.pm").is_file() {
        println!("fetching memcached's tests from Debian's source package");
        tcl::download(CACHE, "memcached")?;
        let entries = fs::read_dir(CACHE).map_err(fail)?.flatten();
        let archive = entries
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains(".orig.tar."))
            .ok_or("apt-get downloaded no memcached_*.orig.tar.*")?;
        let unpacked = Path::new(CACHE).join("unpacked");
        let mut tar = command(&["tar", "--extract", "--strip-components=1", "--directory"]);
        must(tar.arg(&unpacked).arg("--file").arg(&archive))?;
        // Moved last, so that the folder exists only if it is complete.
        fs::rename(&unpacked, &ready).map_err(fail)?;
    }
    let library = ready.join("t/lib/MemcachedTest.pm");
    let text = fs::read_to_string(&library).map_err(fail)?;
    fs::write(&library, text.replace(MOVE_TIME.0, MOVE_TIME.1)).map_err(fail)?;
    let starter = fs::read_to_string(STARTER).map_err(|why| format!("{STARTER}: {why}"))?;
    for (name, text) in [
        ("memcached-debug", starter.as_str()),
        ("timedrun", TIMED_RUN),
    ] {
        let path = ready.join(name);
        fs::write(&path, text).map_err(fail)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    ready.canonicalize().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_names_a_file_or_a_test_and_has_a_reason() {
        let skips = parse_skips("# comment\n\na.t :: other\nb.t 5 :: reason\n").unwrap();
        assert_eq!(skips[&("a.t".into(), None)], "other");
        assert_eq!(skips[&("b.t".into(), Some(5))], "reason");
        for wrong in ["a.t", "a.t :: ", "a.t x :: reason"] {
            assert!(parse_skips(wrong).is_err(), "{wrong}");
        }
    }
}
