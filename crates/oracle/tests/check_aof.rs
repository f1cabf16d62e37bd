//! `damselfly --check-aof`, with and without `--fix`, on files that are intact and damaged.

use std::fs;
use std::path::Path;

use damselfly_oracle::server::{Program, ScratchFolder};

const SET: &str = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
const MULTI: &str = "*1\r\n$5\r\nMULTI\r\n";
const EXEC: &str = "*1\r\n$4\r\nEXEC\r\n";

/// Whether the program is content, and all that it prints.
fn check(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Program::subject().command(folder, arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

/// Writes a file, and checks it.
fn check_text(folder: &Path, text: &str) -> (bool, String) {
    fs::write(folder.join("a.aof"), text).unwrap();
    check(folder, &["--check-aof", "a.aof"])
}

#[test]
fn a_whole_file_has_no_fault() {
    let scratch = ScratchFolder::create().unwrap();
    for (text, commands) in [
        (String::new(), 0),
        (SET.repeat(3), 3),
        (format!("#TS:17\r\n{MULTI}{SET}{SET}{EXEC}#TS:18\r\n"), 4),
    ] {
        let (is_good, report) = check_text(scratch.path(), &text);
        let expected = format!(
            "a.aof: {} bytes, {commands} commands, whole up to offset {}",
            text.len(),
            text.len()
        );
        assert!(is_good && report.contains(&expected), "{report}");
    }
}

#[test]
fn the_first_fault_is_named_and_everything_behind_it_cut_off() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    for (rest, fault) in [
        (
            SET[..SET.len() - 1].to_owned(),
            "the file ends within a command",
        ),
        (format!("!!!{SET}"), "expected '*', found '!'"),
        ("\0".repeat(100), "expected '*', found '\\x00'"),
        (
            "*1\r\n$x\r\n".to_owned(),
            "the length of an argument is 'x'",
        ),
        (format!("{MULTI}{SET}"), "the file ends within MULTI"),
        (
            format!("{MULTI}{SET}{}", &EXEC[..5]),
            "the file ends within a command",
        ),
    ] {
        let (is_good, report) = check_text(folder, &format!("{SET}{SET}{rest}"));
        let good = 2 * SET.len();
        assert!(!is_good && report.contains(fault), "{rest:?}: {report}");
        let expected = format!("whole up to offset {good}");
        assert!(report.contains(&expected), "{rest:?}: {report}");
        let (is_good, report) = check(folder, &["--check-aof", "--fix", "a.aof"]);
        let expected = format!("truncated by {} bytes to {good}", rest.len());
        assert!(is_good && report.contains(&expected), "{rest:?}: {report}");
        assert_eq!(fs::read(folder.join("a.aof")).unwrap().len(), good);
        assert!(check(folder, &["--check-aof", "a.aof"]).0);
    }
}

#[test]
fn of_several_files_only_the_last_is_cut() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    let manifest = "file a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n";
    fs::write(folder.join("a.manifest"), manifest).unwrap();
    let write = |number: u32, text: &str| {
        fs::write(folder.join(format!("a.{number}.incr.aof")), text).unwrap();
    };
    write(1, SET);
    write(2, &format!("{SET}!!!"));
    assert!(!check(folder, &["--check-aof", "a.manifest"]).0);
    let (is_good, report) = check(folder, &["--check-aof", "--fix", "a.manifest"]);
    assert!(is_good, "{report}");
    assert_eq!(
        fs::read(folder.join("a.2.incr.aof")).unwrap(),
        SET.as_bytes()
    );
    write(1, &format!("{SET}!!!"));
    let (is_good, report) = check(folder, &["--check-aof", "--fix", "a.manifest"]);
    let expected = "Failed to truncate AOF a.1.incr.aof because it is not the last file";
    assert!(!is_good && report.contains(expected), "{report}");
    assert_eq!(
        fs::read(folder.join("a.1.incr.aof")).unwrap().len(),
        SET.len() + 3
    );
}

#[test]
fn files_that_can_not_be_read_are_an_error() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    let (is_good, text) = check(folder, &["--check-aof", "absent"]);
    assert!(!is_good && text.contains("can't read absent"), "{text}");
    fs::write(folder.join("a.manifest"), "file b seq 1 type i\n").unwrap();
    let (is_good, text) = check(folder, &["--check-aof", "a.manifest"]);
    assert!(!is_good && text.contains("can't read"), "{text}");
    fs::write(folder.join("a.manifest"), "nonsense\n").unwrap();
    let (is_good, text) = check(folder, &["--check-aof", "a.manifest"]);
    assert!(
        !is_good && text.contains("Invalid AOF manifest file format"),
        "{text}"
    );
}

/// Bug: `--fix` cut a base to nothing, because of a bit of its checksum.
#[test]
fn a_broken_base_is_not_cut() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    let (base, manifest) = ("a.1.base.rdb", "a.manifest");
    let rdb = b"REDIS0010\xff\0\0\0\0\0\0\0\x01";
    fs::write(folder.join(base), rdb).unwrap();
    fs::write(folder.join(manifest), format!("file {base} seq 1 type b\n")).unwrap();
    for path in [base, manifest] {
        let (is_good, report) = check(folder, &["--check-aof", "--fix", path]);
        assert!(!is_good && report.contains("nothing was cut"), "{report}");
        assert_eq!(fs::read(folder.join(base)).unwrap(), rdb);
    }
}

#[test]
fn a_manifest_without_files_is_an_error() {
    let scratch = ScratchFolder::create().unwrap();
    fs::write(scratch.path().join("a.manifest"), "").unwrap();
    let (is_good, text) = check(scratch.path(), &["--check-aof", "a.manifest"]);
    assert!(!is_good && text.contains("it names no files"), "{text}");
}
