//! `cargo xtask tidy`: the project's own rules for code, where a tool can check them.
//!
//! Each check is a function from a file's text to its findings, so that tests can show that it
//! fails.

use std::path::Path;
use std::process::Command;

/// The layer of each crate: it may depend on lower layers only.
const LAYERS: &[(&str, u32)] = &[
    ("damselfly-base", 0),
    ("damselfly-acl", 1),
    ("damselfly-config", 1),
    ("damselfly-protocol", 1),
    ("damselfly-table", 1),
    ("damselfly-lock", 1),
    ("damselfly-tls", 2),
    ("damselfly-encodings", 1),
    ("damselfly-eviction", 1),
    ("damselfly-log", 2),
    ("damselfly-collections", 2),
    ("damselfly-value", 3),
    ("damselfly-rdb", 4),
    ("damselfly-script", 4),
    ("damselfly-engine", 5),
    ("damselfly-pubsub", 5),
    ("damselfly-commands", 6),
    ("damselfly-persistence", 7),
    ("damselfly-replication", 7),
    ("damselfly-server", 8),
    ("damselfly", 9),
    // Tools: they may use anything, and nothing may use them.
    ("damselfly-bench", 10),
    ("damselfly-oracle", 10),
    ("damselfly-fuzz", 10),
    ("xtask", 11),
];

/// Layers within a crate: code in a folder may name only these modules of its own crate, each by its path, so that none is
/// reached through a re-export.
const FOLDERS: &[(&str, &[&str])] = &[
    ("crates/engine/src/shard/", &["key", "shard"]),
    ("crates/engine/src/observers/", &["key", "observers"]),
];

/// The longest a file may be, in lines, without its tests.
const FILE_LINES_MAX: usize = 600;
/// Files that may be longer because they hold a table.
const TABLES: &[&str] = &["crates/config/src/options.rs"];

/// Where `unsafe` is allowed.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/table/",
    "crates/lock/",
    "crates/collections/",
    "crates/value/",
    "crates/engine/",
    "crates/base/src/heap",
    "crates/script/src/lua",
];

/// Forbidden code, where it is still allowed, and what to do instead.
const FORBIDDEN: &[(&str, Where, &str)] = &[
    (
        concat!(".unw", "rap()"),
        Where::Tests,
        "use `?`, or `expect` with the reason why it cannot fail",
    ),
    (
        concat!("#[ig", "nore"),
        Where::Nowhere,
        "a test that does not run proves nothing: repair or remove it",
    ),
    (
        concat!("to", "do!("),
        Where::Nowhere,
        "finish it, or return an error",
    ),
    (
        concat!("db", "g!("),
        Where::Nowhere,
        "remove this leftover of debugging",
    ),
];

/// Folders of build machines; in a file of the project they are a mistake.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Nowhere,
    Tests,
}

/// Checks all files that git tracks or would add.
///
/// # Errors
/// The list of findings.
pub fn run() -> Result<(), String> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git")
        .args(list)
        .output()
        .map_err(|error| format!("cannot run git: {error}"))?;
    let files = String::from_utf8_lossy(&output.stdout);
    let mut findings = Vec::new();
    let mut checked = 0;
    for path in files.lines().filter(|path| Path::new(path).is_file()) {
        // There are no rules for files that are not text.
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        findings.extend(
            check_file(path, &text)
                .into_iter()
                .map(|finding| format!("{path}: {finding}")),
        );
        checked += 1;
    }
    if checked == 0 {
        return Err("tidy found no file: is this a git checkout?".into());
    }
    if findings.is_empty() {
        println!("tidy: {checked} files are fine");
        return Ok(());
    }
    Err(format!(
        "{}\ntidy: {} findings",
        findings.join("\n"),
        findings.len()
    ))
}

/// All findings in one file.
fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = machine_paths(text);
    if path.ends_with("Cargo.toml") {
        findings.extend(layers(text));
    }
    if path.ends_with(".rs") {
        findings.extend(opening(text));
        findings.extend(length(path, text));
        findings.extend(forbidden(path, text));
        findings.extend(unsafe_code(path, text));
        findings.extend(folder_layers(path, text));
    }
    findings
}

fn machine_paths(text: &str) -> Vec<String> {
    let on = |line: &str| {
        MACHINE_PATHS
            .iter()
            .find(|path| line.contains(**path))
            .copied()
    };
    numbered(text)
        .filter_map(|(number, line)| {
            on(line).map(|path| format!("line {number}: {path} is a folder of a build machine"))
        })
        .collect()
}

/// Checks that a crate depends on lower layers only; `dev-dependencies` are exempt.
fn layers(manifest: &str) -> Vec<String> {
    let layer = |name: &str| {
        LAYERS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, layer)| *layer)
    };
    let value = |line: &str| line.split('"').nth(1).unwrap_or_default().to_string();
    let Some(name) = section(manifest, "[package]")
        .find(|line| line.starts_with("name"))
        .map(value)
    else {
        return Vec::new();
    };
    let Some(own) = layer(&name) else {
        return vec![format!(
            "{name} has no layer: give it one in LAYERS of xtask/src/tidy.rs"
        )];
    };
    let dependencies =
        section(manifest, "[dependencies]").chain(section(manifest, "[build-dependencies]"));
    let mut findings = Vec::new();
    for line in dependencies {
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if !dependency.starts_with("damselfly") && dependency != "xtask" {
            continue;
        }
        match layer(dependency) {
            Some(theirs) if theirs < own => {}
            Some(theirs) => findings.push(format!("{name} (layer {own}) depends on {dependency} (layer {theirs}); only lower layers may be used")),
            None => findings.push(format!("{dependency} has no layer")),
        }
    }
    findings
}

/// Uses of modules that a folder may not know. Tests may use anything.
fn folder_layers(path: &str, text: &str) -> Vec<String> {
    let Some((folder, allowed)) = FOLDERS.iter().find(|(folder, _)| path.starts_with(folder))
    else {
        return Vec::new();
    };
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut findings = Vec::new();
    for (index, line) in code(path, text).enumerate() {
        if without_comment(line).contains("super::") {
            findings.push(format!("line {}: name modules from crate:: on", index + 1));
        }
        for after in without_comment(line).split("crate::").skip(1) {
            let module = after.split(|letter| !is_name(letter)).next();
            let module = module.unwrap_or_default();
            if !allowed.contains(&module) {
                findings.push(format!(
                    "line {}: crate::{module} in {folder}, which may use {}",
                    index + 1,
                    allowed.join(" and ")
                ));
            }
        }
    }
    findings
}

/// The lines of one section of a manifest.
fn section<'a>(manifest: &'a str, header: &'a str) -> impl Iterator<Item = &'a str> {
    let after = manifest
        .lines()
        .skip_while(move |line| line.trim() != header)
        .skip(1);
    after
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty())
}

fn opening(text: &str) -> Option<String> {
    (!text.starts_with("//!"))
        .then(|| "does not open with //! and a description of the file".into())
}

fn length(path: &str, text: &str) -> Option<String> {
    let lines = code(path, text).count();
    (lines > FILE_LINES_MAX && !TABLES.contains(&path) && !is_test_file(path))
        .then(|| format!("{lines} lines without tests; a file may have at most {FILE_LINES_MAX}"))
}

fn forbidden(path: &str, text: &str) -> Vec<String> {
    let tests_start = if is_test_file(path) {
        0
    } else {
        code(path, text).count()
    };
    let mut findings = Vec::new();
    for (number, line) in numbered(text) {
        let line = without_comment(line);
        for (word, allowed, instead) in FORBIDDEN {
            let is_allowed = *allowed == Where::Tests && number > tests_start;
            if line.contains(word) && !is_allowed {
                findings.push(format!("line {number}: {word}: {instead}"));
            }
        }
    }
    findings
}

fn unsafe_code(path: &str, text: &str) -> Vec<String> {
    if UNSAFE_ALLOWED
        .iter()
        .any(|allowed| path.starts_with(allowed))
    {
        return Vec::new();
    }
    let keyword = |line: &str| {
        [
            "unsafe {",
            "unsafe fn",
            "unsafe impl",
            "unsafe trait",
            "unsafe extern",
            "unsafe(",
        ]
        .iter()
        .any(|form| line.contains(form))
    };
    numbered(text)
        .filter(|(_, line)| {
            keyword(without_comment(line)) && !without_comment(line).contains("\"unsafe")
        })
        .map(|(number, _)| format!("line {number}: unsafe outside the crates that exist for it"))
        .collect()
}

/// Lines with their numbers from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// The lines before the tests, which come last in a file; all lines of a test file.
fn code<'a>(path: &str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let whole = is_test_file(path);
    text.lines().take_while(move |line| {
        whole || !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test")
    })
}

/// Whether a file contains only tests.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// The line up to a comment; two slashes within quotes do not begin one.
fn without_comment(line: &str) -> &str {
    let comment = line
        .match_indices("//")
        .map(|(at, _)| at)
        .find(|&at| line[..at].matches('"').count().is_multiple_of(2));
    comment.map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &str = "//! A file.\nfn main() {}\n";

    fn findings(path: &str, text: &str) -> usize {
        check_file(path, text).len()
    }

    #[test]
    fn a_correct_file_has_no_findings() {
        assert_eq!(
            check_file("crates/server/src/lib.rs", FINE),
            Vec::<String>::new()
        );
    }

    #[test]
    fn files_open_with_a_description() {
        assert_eq!(findings("crates/server/src/lib.rs", "fn main() {}\n"), 1);
    }

    #[test]
    fn long_files_are_found_but_tests_do_not_count() {
        let code = "fn a() {}\n".repeat(FILE_LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(
            findings("crates/server/src/lib.rs", &format!("{FINE}{tests}")),
            0
        );
        assert_eq!(
            findings("crates/server/src/lib.rs", &format!("{FINE}{code}")),
            1
        );
        assert_eq!(
            findings("crates/server/tests/all.rs", &format!("{FINE}{code}")),
            0
        );
    }

    #[test]
    fn unwrap_is_allowed_only_in_tests() {
        let unwrap = FORBIDDEN[0].0;
        let text = format!("//! A file.\nfn a() {{ b(){unwrap}; }}\n");
        assert_eq!(findings("crates/server/src/lib.rs", &text), 1);
        assert_eq!(findings("crates/server/tests/all.rs", &text), 0);
        let in_tests = format!("{FINE}#[cfg(test)]\nmod tests {{ fn a() {{ b(){unwrap}; }} }}\n");
        assert_eq!(findings("crates/server/src/lib.rs", &in_tests), 0);
        assert_eq!(
            findings(
                "crates/server/src/lib.rs",
                &format!("{FINE}// never {unwrap}\n")
            ),
            0
        );
    }

    #[test]
    fn leftovers_are_found_in_tests_too() {
        for (word, _, _) in &FORBIDDEN[1..] {
            let text = format!("{FINE}#[cfg(test)]\nmod tests {{\n {word}\n}}\n");
            assert_eq!(findings("crates/server/src/lib.rs", &text), 1, "{word}");
            assert_eq!(findings("crates/server/tests/all.rs", &text), 1, "{word}");
        }
    }

    #[test]
    fn unsafe_is_allowed_only_in_some_crates() {
        let text = format!("{FINE}fn a() {{ {} {{ b() }} }}\n", "unsafe");
        assert_eq!(findings("crates/server/src/lib.rs", &text), 1);
        assert_eq!(findings("crates/table/src/lib.rs", &text), 0);
        assert_eq!(findings("crates/base/src/heap.rs", &text), 0);
        assert_eq!(findings("crates/base/src/lib.rs", &text), 1);
    }

    #[test]
    fn folders_of_build_machines_are_found_in_any_file() {
        assert_eq!(
            findings("docs/page.md", &format!("see {}main", MACHINE_PATHS[0])),
            1
        );
        assert_eq!(findings("docs/page.md", "see crates/main"), 0);
    }

    #[test]
    fn dependencies_point_downward() {
        let manifest = |name: &str, dependency: &str| {
            format!(
                "[package]\nname = \"{name}\"\n\n[dependencies]\n{dependency}.workspace = true\n\n[dev-dependencies]\ndamselfly-oracle.workspace = true\n"
            )
        };
        let count = |name, dependency| findings("crates/x/Cargo.toml", &manifest(name, dependency));
        assert_eq!(count("damselfly-value", "damselfly-base"), 0);
        assert_eq!(count("damselfly-value", "libc"), 0);
        assert_eq!(count("damselfly-table", "damselfly-value"), 1, "upward");
        assert_eq!(
            count("damselfly-table", "damselfly-protocol"),
            1,
            "sideways"
        );
        assert_eq!(
            count("damselfly", "damselfly-bench"),
            1,
            "no crate may depend on a tool"
        );
        assert_eq!(count("damselfly-new", "damselfly-base"), 1, "no layer");
        assert_eq!(
            count("damselfly", "damselfly-new"),
            1,
            "dependency without a layer"
        );
    }

    #[test]
    fn folders_name_only_the_modules_below_them() {
        let uses = |import: &str| format!("{FINE}use {import};\n");
        let shard = "crates/engine/src/shard/mod.rs";
        assert_eq!(
            findings(shard, &uses("crate::shard::database::Database")),
            0
        );
        assert_eq!(findings(shard, &uses("crate::key::Key")), 0);
        assert_eq!(findings(shard, &uses("crate::section::tx::Tx")), 1);
        assert_eq!(findings(shard, &uses("crate::{Key, Tx}")), 1, "a re-export");
        assert_eq!(findings(shard, &uses("crate::Tx")), 1, "a re-export");
        let observers = "crates/engine/src/observers/waiters.rs";
        assert_eq!(findings(observers, &uses("crate::shard::Busy")), 1);
        assert_eq!(findings(observers, &uses("crate::observers::waiters")), 0);
        let section = "crates/engine/src/section/tx.rs";
        assert_eq!(findings(section, &uses("crate::shard::Busy")), 0);
        assert_eq!(findings(shard, &uses("super::super::section")), 1);
        let comment = format!("{FINE}// See crate::section.\n");
        assert_eq!(findings(shard, &comment), 0);
        let tests = format!("{FINE}#[cfg(test)]\nmod tests {{\n    use crate::Tx;\n}}\n");
        assert_eq!(findings(shard, &tests), 0, "tests may use anything");
    }

    #[test]
    fn comments_end_a_line_but_not_inside_quotes() {
        assert_eq!(without_comment("a(); // b"), "a(); ");
        assert_eq!(
            without_comment("open(\"redis://host\"); // b"),
            "open(\"redis://host\"); "
        );
    }
}
