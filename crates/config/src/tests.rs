//! Tests of all options together, compared with replies recorded from Redis 7.0.15.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::Path;

use damselfly_base::CommandError;

use super::*;

mod config_set;
mod rewriting;
mod starting;

/// CONFIG GET of a Redis that was started with only a socket configured: option, value.
const DEFAULTS_SEEN: &str = include_str!("seen/defaults.tsv");
/// `CONFIG SET option value`, then `CONFIG GET option`: option, value, reply, value afterwards.
const CONFIG_SET_SEEN: &str = include_str!("seen/config_set.tsv");

/// A configuration file with comments, old forms and several of a kind.
const SAMPLE: &str = r#"# A server for the tests.
include /etc/r.d/*.conf
include /etc/nothing/*.conf
bind 127.0.0.1 -::1
protected-mode yes
port 6379
    tcp-backlog 511
daemonize yes
pidfile /run/server.pid
loglevel notice
logfile ""
always-show-logo no
save 900 1
save 300 10
dbfilename dump.rdb
dir /var/lib/server
repl-diskless-sync yes
repl-diskless-sync no
appendonly no
appendfsync everysec
cluster-enabled no
cluster-node-timeout 15000
oom-score-adj no
io-threads 4
rename-command CONFIG ""
hash-max-ziplist-entries 100
list-max-listpack-size -2
client-output-buffer-limit normal 0 0 0
client-output-buffer-limit replica 256mb 64mb 60
client-output-buffer-limit pubsub 32mb 8mb 60
notify-keyspace-events ""
"#;

/// Files in memory.
struct Memory(HashMap<&'static str, &'static str>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = path.to_str().and_then(|path| self.0.get(path));
        text.map(|text| (*text).into())
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inside = |path: &&str| Path::new(*path).parent() == Some(folder);
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        Ok(self
            .0
            .keys()
            .copied()
            .filter(|path| inside(path))
            .map(name)
            .collect())
    }

    fn standard_input(&self) -> io::Result<Vec<u8>> {
        self.read(Path::new("-"))
    }
}

fn words(text: &str) -> Vec<String> {
    line::split(text).unwrap()
}

fn start(
    args: &str,
    environment: &[(&str, &str)],
    files: &[(&'static str, &'static str)],
) -> Result<Loaded, String> {
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let files = Memory(files.iter().copied().collect());
    match load(words(args), environment, &files) {
        Ok(Request::Run(loaded)) => Ok(*loaded),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn value(config: &Config, name: &str) -> String {
    let mut found = config.get(&[name.as_bytes()]);
    assert_eq!(found.len(), 1, "{name}");
    found.remove(0).1
}

fn set(config: &Config, text: &str) -> Result<Config, String> {
    let words = words(text);
    let pairs: Vec<(&[u8], &[u8])> = words
        .chunks(2)
        .map(|pair| (pair[0].as_bytes(), pair[1].as_bytes()))
        .collect();
    config.set(&pairs, Origin::Remote).map_err(shown)
}

fn shown(error: CommandError) -> String {
    String::from_utf8_lossy(&error.to_bytes()).into_owned()
}

#[test]
fn the_documentation_in_the_repository_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("DAMSELFLY_WRITE_DOCS").is_some() {
        std::fs::write(&path, docs()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == docs(),
        "run the tests with DAMSELFLY_WRITE_DOCS=1 to update {}",
        path.display()
    );
}

#[test]
fn help_names_every_option() {
    let help = help();
    for option in options::all() {
        assert!(
            help.contains(&format!("  --{} <", option.name)),
            "{}",
            option.name
        );
    }
}
