//! Plays every transcript of `tests/transcripts/` against the real server, which proves the
//! expectations right, and against ours with several thread counts.

use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_oracle::transcript::Transcript;
use std::path::{Path, PathBuf};

/// Results must not depend on how many threads share the work.
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

/// Plays all transcripts, each against a fresh server, and fails with all that is wrong.
fn play_all(program: &Program, arguments: &[&str]) {
    let mut wrong = String::new();
    for (path, transcript) in transcripts() {
        let server = Server::start(program, arguments).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
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
fn the_real_server_answers_as_written() {
    play_all(&Program::reference(), &[]);
}

#[test]
fn ours_answers_as_written_with_any_thread_count() {
    let program = Program::subject();
    for threads in THREAD_COUNTS {
        match program.kind() {
            Kind::Damselfly => play_all(&program, &["--threads", threads]),
            Kind::Redis => play_all(&program, &[]),
        }
    }
}

#[test]
fn every_command_of_the_random_table_is_in_a_transcript() {
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
