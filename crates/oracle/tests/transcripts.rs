//! Plays every transcript of `tests/transcripts/` against the real server, which verifies the
//! expected replies, and against ours with several thread counts.

use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_oracle::transcript::{Mismatch, Transcript};
use std::path::{Path, PathBuf};

/// Thread counts of the server: replies must not depend on them.
const THREAD_COUNTS: [&str; 3] = ["1", "2", "4"];

fn transcripts() -> Vec<(PathBuf, Transcript)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/transcripts");
    let entries = std::fs::read_dir(&folder).expect("tests/transcripts is part of the project");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no transcript in {}", folder.display());
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let transcript =
                Transcript::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            (path, transcript)
        })
        .collect()
}

/// Plays all transcripts, each against a fresh server, and fails with a list of all mismatches.
fn play_all(program: &Program, arguments: &[&str]) {
    play_those(program, arguments, |_| true);
}

/// The same for those with the right names.
fn play_those(program: &Program, arguments: &[&str], is_wanted: impl Fn(&str) -> bool) {
    let mut wrong = String::new();
    for (path, transcript) in transcripts() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !is_wanted(&name) {
            continue;
        }
        let server = Server::start(program, arguments).unwrap();
        match transcript.play(server.address(), program.kind()) {
            Ok(mismatches) => {
                for mismatch in mismatches {
                    wrong.push_str(&format!("{name}: {mismatch}\n"));
                }
            }
            Err(error) => wrong.push_str(&format!("{name}: {error}\n")),
        }
    }
    assert!(wrong.is_empty(), "with {arguments:?}:\n{wrong}");
}

#[test]
fn the_real_server_replies_as_written() {
    play_all(&Program::reference(), &[]);
}

#[test]
fn our_server_replies_as_written_with_any_thread_count() {
    let program = Program::subject();
    for threads in THREAD_COUNTS {
        match program.kind() {
            Kind::Damselfly => play_all(&program, &["--threads", threads]),
            Kind::Redis => play_all(&program, &[]),
        }
    }
}

/// Thresholds between small and large encodings: everything in its large encoding, and everything in its small one.
const ENCODINGS: [&[(&str, &str)]; 2] = [
    &[
        ("--list-max-listpack-size", "1"),
        ("--list-compress-depth", "1"),
        ("--set-max-intset-entries", "0"),
        ("--set-max-listpack-entries", "0"),
        ("--hash-max-listpack-entries", "0"),
        ("--zset-max-listpack-entries", "0"),
    ],
    &[
        ("--list-max-listpack-size", "-5"),
        ("--set-max-intset-entries", "100000"),
        ("--set-max-listpack-entries", "100000"),
        ("--set-max-listpack-value", "100000"),
        ("--hash-max-listpack-entries", "100000"),
        ("--hash-max-listpack-value", "100000"),
        ("--zset-max-listpack-entries", "100000"),
        ("--zset-max-listpack-value", "100000"),
    ],
];

/// The elements of a reply, sorted.
fn elements(reply: &str) -> Vec<&str> {
    let mark = |c: char| c.is_ascii_digit() || " )#~>".contains(c);
    let mut elements: Vec<_> = reply
        .lines()
        .map(|line| line.trim_start_matches(mark))
        .collect();
    elements.sort_unstable();
    elements
}

/// True if a reply may differ: its order (or, for a scan, its extent) follows a hash table, or it names an encoding.
fn may_differ(mismatch: &Mismatch) -> bool {
    let command = mismatch.command.to_uppercase();
    let is_one_of = |names: &[&str]| names.iter().any(|name| command.contains(name));
    let has_own_order = is_one_of(&[
        "SMEMBERS", "SINTER", "SUNION", "SDIFF", "HGETALL", "HKEYS", "HVALS", "NOSORT",
    ]);
    is_one_of(&["> SSCAN", "> HSCAN", "> ZSCAN", "OBJECT ENCODING"])
        || has_own_order && elements(&mismatch.expected) == elements(&mismatch.actual)
}

/// Replies may depend on the encoding (only a large sorted set keeps `-0`), so the expected replies come from the real server with
/// the same thresholds. Redis 7.0 has no options for packed sets.
#[test]
fn our_server_replies_as_the_real_server_in_all_encodings() {
    let mut wrong = String::new();
    for encoding in ENCODINGS {
        let both: Vec<&str> = encoding
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .collect();
        let has_option = |name: &str| !name.starts_with("--set-max-listpack");
        let known = encoding.iter().filter(|(name, _)| has_option(name));
        let reference: Vec<&str> = known.flat_map(|(name, value)| [*name, *value]).collect();
        for (path, transcript) in transcripts() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let real = Server::start(&Program::reference(), &reference).unwrap();
            let recorded = Transcript::parse(&transcript.record(real.address()).unwrap()).unwrap();
            let ours = Server::start(&Program::subject(), &both).unwrap();
            let mismatches = recorded
                .play(ours.address(), Program::subject().kind())
                .unwrap();
            for mismatch in mismatches.iter().filter(|m| !may_differ(m)) {
                wrong.push_str(&format!("{name}: {mismatch}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_command_of_the_random_table_occurs_in_a_transcript() {
    let known: Vec<String> = transcripts()
        .iter()
        .flat_map(|(_, transcript)| transcript.command_names())
        .collect();
    let names = damselfly_oracle::rows::ROWS
        .iter()
        .filter_map(|row| row.grammar.split_whitespace().next());
    let missing: Vec<&str> = names
        .filter(|name| *name != "(" && *name != "NOSUCHCOMMAND" && !known.iter().any(|k| k == name))
        .collect();
    assert!(missing.is_empty(), "no transcript uses {missing:?}");
}

/// A user who may do everything without being known to: every request is checked.
#[test]
fn a_user_whose_requests_are_checked_gets_the_same_replies() {
    let program = Program::subject();
    if program.kind() == Kind::Redis {
        return;
    }
    // As in Redis, `*` does not match the empty key.
    let rules = "default on nopass %RW~* %RW~ &* +@all -debug +debug";
    let words = rules.split(' ');
    let arguments: Vec<&str> = ["--threads", "2", "--user"]
        .into_iter()
        .chain(words)
        .collect();
    // One of them lists the rules of this user, the other has to see clients block within 20 ms, and this test runs beside others that play it.
    let left_out = ["users.txt", "blocking.txt"];
    play_those(&program, &arguments, |name| !left_out.contains(&name));
}
