//! The configuration: any file and any CONFIG SET is accepted or refused, and the file that CONFIG REWRITE then
//! writes loads as the same configuration.
#![no_main]

use damselfly_config::{Config, Files, Origin, Request, Section, load};
use std::io;
use std::path::Path;

/// A first byte below this chooses the option of a line; otherwise the line stays as it is.
const RAW: u8 = 200;

/// A file system with one file, in memory.
struct OneFile(Vec<u8>);

impl Files for OneFile {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new("file") {
            return Ok(self.0.clone());
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(vec![String::from("other")])
    }

    fn standard_input(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else {
        return;
    };
    let lines: Vec<(Option<&str>, &[u8])> = data
        .split(|&byte| byte == b'\n')
        .map(option_and_value)
        .collect();
    if mode & 1 == 0 {
        file(&lines);
    } else {
        set(&lines);
    }
});

fn option_and_value(line: &[u8]) -> (Option<&'static str>, &[u8]) {
    match line {
        [index @ 0..RAW, value @ ..] => {
            let mut options = Section::ALL.into_iter().flat_map(Section::options).cycle();
            let option = options.nth(usize::from(*index));
            (option.map(|option| option.name), value)
        }
        [_, value @ ..] => (None, value),
        [] => (None, line),
    }
}

fn file(lines: &[(Option<&str>, &[u8])]) {
    let text: Vec<u8> = lines
        .iter()
        .flat_map(|(option, value)| {
            [option.unwrap_or_default().as_bytes(), b" ", value, b"\n"].concat()
        })
        .collect();
    if let Some(config) = loaded(&text) {
        rewrite(&config, &text);
    }
}

fn set(pairs: &[(Option<&str>, &[u8])]) {
    let pairs: Vec<(&[u8], &[u8])> = pairs
        .iter()
        .map(|(option, value)| (option.unwrap_or("nosuch\r\noption").as_bytes(), *value))
        .collect();
    if let Ok(config) = Config::default().set(&pairs, Origin::Local) {
        rewrite(&config, b"");
        rewrite(&config, b"# A comment\nmaxmemory 5\nsave 1 1\nsave 2 2\n");
    }
}

fn loaded(text: &[u8]) -> Option<Config> {
    let files = OneFile(text.to_owned());
    match load([String::from("file")], [], &files) {
        Ok(Request::Run(loaded)) => Some(loaded.config),
        Ok(
            Request::Help
            | Request::Version
            | Request::CheckRdb(_)
            | Request::CheckAof { .. }
            | Request::RestoreTo { .. },
        )
        | Err(_) => None,
    }
}

/// Rewrites a file for `config` and checks that the new text loads as the same configuration.
fn rewrite(config: &Config, existing: &[u8]) {
    let text = config.rewrite(existing, &[]);
    let again = loaded(&text).expect("a rewritten file loads");
    assert_eq!(
        again.get(&[b"*"]),
        config.get(&[b"*"]),
        "{}",
        text.escape_ascii()
    );
    // Line endings may become plain newlines.
    let lines = |text: &[u8]| String::from_utf8_lossy(text).replace('\r', "");
    assert_eq!(
        lines(&config.rewrite(&text, &[])),
        lines(&text),
        "rewriting twice"
    );
}
