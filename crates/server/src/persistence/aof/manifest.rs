//! The manifest: which files make up the append-only file, in Redis 7's format.
//!
//! ```text
//! file appendonly.aof.1.base.rdb seq 1 type b
//! file appendonly.aof.1.incr.aof seq 1 type i
//! ```
//!
//! `b` is the base, `i` an increment, `h` a file of the past that may be deleted.

use std::fmt::Write;

use damselfly_config::{quoted_word, split_words};

/// A manifest with more files than this is not believed.
const FILES_MAX: usize = 100_000;

/// The longest line, as in Redis.
const LINE_BYTES_MAX: usize = 1024;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name in the folder.
    pub name: String,
    /// Its number among files of its type.
    pub number: u64,
}

/// The files of the append-only file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The state with which the increments begin.
    pub base: Option<FileEntry>,
    /// What happened since, in order.
    pub increments: Vec<FileEntry>,
    /// Files that are not needed any more.
    pub history: Vec<FileEntry>,
}

impl Manifest {
    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// The line that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (index, line) in text.lines().enumerate().take(FILES_MAX) {
            if line.starts_with('#') {
                continue;
            }
            if line.len() > LINE_BYTES_MAX {
                let why = "The AOF manifest file contains too long line";
                return Err(format!("line {}: {why}", index + 1));
            }
            let wrong = |why: &str| format!("line {}: {why}: {line}", index + 1);
            let malformed = || wrong("Invalid AOF manifest file format");
            let (mut name, mut number, mut kind) = (None, None, None);
            let mut words = split_words(line).map_err(|_| malformed())?.into_iter();
            while let Some(word) = words.next() {
                let value = words.next().ok_or_else(malformed)?;
                match word.as_str() {
                    "file" => name = Some(value),
                    "seq" => number = value.parse().ok(),
                    "type" => kind = Some(value),
                    // A later version may add words.
                    _ => {}
                }
            }
            let (Some(name), Some(number), Some(kind)) = (name, number, kind) else {
                return Err(malformed());
            };
            if name.is_empty() || name.contains('/') {
                return Err(wrong("the file must be in the same folder"));
            }
            let entry = FileEntry { name, number };
            match kind.as_str() {
                "b" if manifest.base.is_some() => {
                    return Err(wrong("Found duplicate base file information"));
                }
                "b" => manifest.base = Some(entry),
                "h" => manifest.history.push(entry),
                "i" => {
                    let last = manifest.increments.last();
                    if last.is_some_and(|last| last.number >= entry.number) {
                        return Err(wrong("Found a non-monotonic sequence number"));
                    }
                    manifest.increments.push(entry);
                }
                _ => return Err(wrong("Unknown AOF file type")),
            }
        }
        Ok(manifest)
    }

    /// The text of the manifest.
    pub fn to_text(&self) -> String {
        let base = self.base.iter().map(|entry| (entry, 'b'));
        let history = self.history.iter().map(|entry| (entry, 'h'));
        let increments = self.increments.iter().map(|entry| (entry, 'i'));
        let mut text = String::new();
        for (entry, kind) in base.chain(history).chain(increments) {
            let (name, number) = (quoted_word(&entry.name), entry.number);
            // Writing to a string does not fail.
            let _ = writeln!(text, "file {name} seq {number} type {kind}");
        }
        text
    }

    /// True if it names no data.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.increments.is_empty()
    }

    /// The files with data, in the order in which they are loaded.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        self.base.iter().chain(&self.increments)
    }

    /// The number of the next base.
    pub fn next_base(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.number) + 1
    }

    /// The number of the next increment.
    pub fn next_increment(&self) -> u64 {
        self.increments.last().map_or(0, |last| last.number) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let entry = |name: &str, number| FileEntry {
            name: name.to_owned(),
            number,
        };
        let manifest = Manifest {
            base: Some(entry("a b\"\n\\.2.base.rdb", 2)),
            increments: vec![entry("a.4.incr.aof", 4), entry("a.5.incr.aof", 5)],
            history: vec![entry("a.1.base.rdb", 1)],
        };
        assert_eq!(Manifest::parse(&manifest.to_text()), Ok(manifest.clone()));
        assert_eq!(manifest.to_text().lines().count(), 4);
        assert_eq!((manifest.next_base(), manifest.next_increment()), (3, 6));
    }

    #[test]
    fn a_broken_manifest_is_refused_with_its_line() {
        for text in [
            "file a seq 1",
            "file a seq x type b",
            "file ../a seq 1 type b",
            "file a seq 1 type z",
            "file a seq 1 type b\nfile b seq 2 type b",
            "file a seq 2 type i\nfile b seq 2 type i",
            "file \"a seq 1 type b",
            "file a seq 1 type b\n\nfile b seq 1 type i",
        ] {
            assert!(Manifest::parse(text).is_err(), "{text}");
        }
    }
}
