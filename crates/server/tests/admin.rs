//! CONFIG, DEBUG, COMMAND, SHUTDOWN and related commands, on a server in the test's process.

mod common;

use damselfly_server::signals::Signals;
use std::fs;
use std::time::{Duration, Instant};

use common::{Client, TestServer};
use damselfly_commands::Run;
use damselfly_config::{Allow, Config, SavePoints};
use damselfly_server::admin::command::{docs, facts};
use damselfly_server::registry::{Handler, REGISTRY, Row};
use damselfly_server::start::Server;

fn with_debug() -> TestServer {
    TestServer::with(|config| config.enable_debug_command = Allow::Yes)
}

/// The lines of a reply, without the numbers and quotes that `redis-cli` shows.
fn items(client: &mut Client, command: &str) -> Vec<String> {
    client
        .run(command)
        .lines()
        .map(|line| {
            let line = line.trim_start();
            let line = line.split_once(") ").map_or(line, |(_, item)| item);
            line.trim_matches('"').to_owned()
        })
        .collect()
}

#[test]
fn options_change_together_or_not_at_all() {
    let server = TestServer::start();
    let mut client = server.client();
    assert_eq!(
        client.run("CONFIG SET maxmemory 1gb slowlog-max-len 7"),
        "OK"
    );
    assert_eq!(
        items(&mut client, "CONFIG GET MAXMEMORY slowlog-max-l*"),
        ["MAXMEMORY", "1073741824", "slowlog-max-len", "7"]
    );
    for (command, error) in [
        (
            "CONFIG SET maxmemory 2gb slowlog-max-len x",
            "(error) ERR CONFIG SET failed (possibly related to argument 'slowlog-max-len') - argument couldn't be parsed into an integer",
        ),
        ("CONFIG SET maxmemory 1 foo", "(error) ERR syntax error"),
        (
            // An address reserved for documentation, which no machine has.
            "CONFIG SET maxmemory 3gb bind 192.0.2.1 port 1",
            "(error) ERR CONFIG SET failed (possibly related to argument 'bind') - Failed to bind to specified addresses.",
        ),
        (
            "CONFIG SET maxmemory 3gb dir /nonexistent",
            "(error) ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config",
        ),
    ] {
        assert_eq!(client.run(command), error, "{command}");
    }
    assert_eq!(
        items(&mut client, "CONFIG GET maxmemory"),
        ["maxmemory", "1073741824"]
    );
    assert_eq!(client.run("CONFIG SET port 0"), "OK");
}

#[test]
fn maxclients_beyond_the_limit_of_open_files_is_refused() {
    let server = TestServer::start();
    let mut client = server.client();
    let refused = client.run("CONFIG SET maxclients 4000000000");
    assert!(
        refused.starts_with("(error) ERR CONFIG SET failed (possibly related to argument 'maxclients') - The operating system is not able to handle the specified number of clients, try with "),
        "{refused}"
    );
    assert_eq!(
        items(&mut client, "CONFIG GET maxclients"),
        ["maxclients", "10000"]
    );
}

#[test]
fn a_folder_that_does_not_exist_is_refused() {
    let server = TestServer::with(|config| config.enable_protected_configs = Allow::Yes);
    let mut client = server.client();
    assert_eq!(
        client.run("CONFIG SET maxmemory 1gb dir /nonexistent"),
        "(error) ERR CONFIG SET failed (possibly related to argument 'dir') - No such file or directory"
    );
    assert_eq!(
        items(&mut client, "CONFIG GET maxmemory"),
        ["maxmemory", "0"]
    );
    assert_eq!(client.run("CONFIG SET dir /"), "OK");
    assert_eq!(items(&mut client, "CONFIG GET dir"), ["dir", "/"]);
}

#[test]
fn an_option_applies_to_the_next_command_of_the_same_pipeline() {
    let server = TestServer::start();
    let mut client = server.client();
    client.send_bytes(b"CONFIG SET slowlog-log-slower-than 0\r\nPING\r\nSLOWLOG LEN\r\n");
    assert_eq!([client.receive(), client.receive()], ["OK", "PONG"]);
    assert_ne!(client.receive(), "(integer) 0");
}

#[test]
fn a_new_password_applies_to_new_connections_only() {
    let server = TestServer::start();
    let mut old = server.client();
    assert_eq!(old.run("CONFIG SET requirepass secret"), "OK");
    let mut new = server.client();
    assert_eq!(new.run("PING"), "(error) NOAUTH Authentication required.");
    assert_eq!(old.run("PING"), "PONG");
    assert_eq!(old.run("CONFIG SET requirepass "), "OK");
    assert_eq!(new.run("PING"), "PONG");
}

#[test]
fn rewrite_keeps_the_comments_of_the_file() {
    let folder = std::env::temp_dir().join(format!("damselfly-rewrite-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("server.conf");
    fs::write(&file, "# mine\nslowlog-max-len 5\n").unwrap();
    let socket = folder.join("socket");
    let config = Config {
        port: 0,
        threads: 1,
        unixsocket: socket.display().to_string(),
        slowlog_max_len: 5,
        save: SavePoints(Vec::new()),
        ..Config::default()
    };
    let server = Server::start(config, Some(file.clone())).unwrap();
    let mut client = Client::connect(&socket);
    assert_eq!(client.run("CONFIG SET slowlog-max-len 9 hz 33"), "OK");
    assert_eq!(client.run("CONFIG REWRITE"), "OK");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# mine\nslowlog-max-len 9\n"), "{text}");
    assert!(text.contains("\nhz 33\n"), "{text}");
    let names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("tmp")),
        "{names:?}"
    );
    client.send("SHUTDOWN NOSAVE");
    assert_eq!(client.receive_value(), None);
    server.wait(&Signals::default());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn rewrite_needs_a_file() {
    let server = TestServer::start();
    assert_eq!(
        server.client().run("CONFIG REWRITE"),
        "(error) ERR The server is running without a config file"
    );
}

#[test]
fn resetstat_resets_the_counters() {
    let server = TestServer::start();
    let mut client = server.client();
    client.run("GET a");
    assert_eq!(server.shared().total(|counters| counters.misses.read()), 1);
    assert_eq!(client.run("CONFIG RESETSTAT"), "OK");
    assert_eq!(server.shared().total(|counters| counters.misses.read()), 0);
}

#[test]
fn debug_needs_permission() {
    let server = TestServer::start();
    let refused = server.client().run("DEBUG SLEEP 0");
    assert!(
        refused.starts_with("(error) ERR DEBUG command not allowed."),
        "{refused}"
    );
}

#[test]
fn the_digest_equals_that_of_redis() {
    let server = with_debug();
    let mut client = server.client();
    let nothing = "0".repeat(40);
    assert_eq!(client.run("DEBUG DIGEST"), nothing);
    client.run("SET a hello");
    client.run("SET b 12");
    // Recorded from Redis 7.0.15 with the same two keys.
    assert_eq!(
        client.run("DEBUG DIGEST"),
        "bfe194f8ec22fd65dda6d54e8c6493326ccf206d"
    );
    assert_eq!(
        items(&mut client, "DEBUG DIGEST-VALUE a b nokey"),
        [
            "36b23a1456b2dce2c3ed252c456761301dba8060",
            "655ac46b180ad2f61a3cee25f0b1780fa2ec879a",
            &nothing
        ]
    );
    client.run("EXPIRE a 100");
    let with_deadline = client.run("DEBUG DIGEST");
    client.run("EXPIRE a 200");
    assert_eq!(client.run("DEBUG DIGEST"), with_deadline);
    client.run("PERSIST a");
    assert_ne!(client.run("DEBUG DIGEST"), with_deadline);
}

#[test]
fn sleep_delays_one_connection_only() {
    let server = TestServer::with(|config| {
        config.enable_debug_command = Allow::Yes;
        config.threads = 1;
    });
    let (mut sleeper, mut other) = (server.client(), server.client());
    let started = Instant::now();
    sleeper.send("DEBUG SLEEP 0.3");
    sleeper.send("PING");
    // The same thread serves this, so the sleep has started before the reply, and still lasts.
    assert_eq!(other.run("PING"), "PONG");
    assert_eq!(sleeper.receive(), "OK");
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(sleeper.receive(), "PONG");
}

#[test]
fn populate_stores_only_absent_keys() {
    let server = with_debug();
    let mut client = server.client();
    client.run("SET key:1 mine");
    assert_eq!(client.run("DEBUG POPULATE 3"), "OK");
    assert_eq!(client.text("GET key:0"), "value:0");
    assert_eq!(client.text("GET key:1"), "mine");
    assert_eq!(client.run("DEBUG POPULATE 2 big 10"), "OK");
    assert_eq!(client.text("GET big:1"), "value:1\0\0\0");
    assert_eq!(client.run("DEBUG POPULATE 1 small 3"), "OK");
    assert_eq!(client.text("GET small:0"), "val");
    assert_eq!(client.number("DBSIZE"), 6);
    let refused = "(error) ERR value is out of range, must be positive";
    assert_eq!(client.run("DEBUG POPULATE -1"), refused);
    assert_eq!(client.run("DEBUG POPULATE 1 a x"), refused);
    let table = client.text("DEBUG TABLE");
    assert!(
        table.contains("\"databases\":{\"0\":{\"items\":6,"),
        "{table}"
    );
}

#[test]
fn debug_shows_examples_of_every_type_of_reply() {
    let server = with_debug();
    let mut client = server.client();
    client.run("HELLO 3");
    for kind in [
        "string", "integer", "double", "null", "array", "set", "map", "attrib", "push", "verbatim",
        "true", "false", "bignum",
    ] {
        let reply = client.run(&format!("DEBUG PROTOCOL {kind}"));
        assert!(!reply.starts_with("(error)"), "{kind}: {reply}");
        if kind == "push" {
            let after = client.receive();
            assert!(after.contains("Some real reply"), "{after}");
        }
    }
    assert_eq!(client.run("DEBUG ERROR FOO"), "(error) FOO");
    assert_eq!(
        client.run("DEBUG NOSUCH"),
        "(error) ERR unknown subcommand or wrong number of arguments for 'NOSUCH'. Try DEBUG HELP."
    );
}

#[test]
fn expired_keys_stay_while_the_sweep_is_paused() {
    let server = with_debug();
    let mut client = server.client();
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    client.run("SET a b PX 1");
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2) {
        std::thread::yield_now();
    }
    assert_eq!(client.number("DBSIZE"), 1);
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 1"), "OK");
    common::until("the sweep removes it", || client.number("DBSIZE") == 0);
}

#[test]
fn command_getkeys_returns_the_keys_of_a_command() {
    let server = TestServer::start();
    let mut client = server.client();
    for (command, expected) in [
        ("MSET a 1 b 2", &["a", "b"][..]),
        ("object encoding a", &["a"]),
        (
            "GET",
            &["ERR Invalid number of arguments specified for command"],
        ),
        (
            "GET a b",
            &["ERR Invalid number of arguments specified for command"],
        ),
        ("NOSUCH a", &["ERR Invalid command specified"]),
        ("KEYS *", &["ERR The command has no key arguments"]),
    ] {
        let found = items(&mut client, &format!("COMMAND GETKEYS {command}"));
        assert_eq!(found, expected, "{command}");
    }
    for (command, expected) in [
        ("SET a b", "OW update"),
        ("SET a b EX 1 GET", "RW access update"),
        ("GET a", "RO access"),
    ] {
        client.send(&format!("COMMAND GETKEYSANDFLAGS {command}"));
        let reply = client.receive_value().unwrap().to_string();
        let words: Vec<&str> = reply
            .split(|c: char| !c.is_ascii_alphabetic())
            .filter(|word| word.len() > 1)
            .collect();
        assert_eq!(words.join(" "), expected, "{command}: {reply}");
    }
}

#[test]
fn commands_are_listed_and_filtered() {
    let server = TestServer::start();
    let mut client = server.client();
    let count = client.number("COMMAND COUNT") as usize;
    let all = items(&mut client, "COMMAND LIST");
    assert_eq!(all.iter().filter(|name| !name.contains('|')).count(), count);
    assert!(all.contains(&String::from("client|list")));
    let filtered = items(&mut client, "COMMAND LIST FILTERBY PATTERN CONFIG|RE*");
    assert_eq!(filtered, ["config|resetstat", "config|rewrite"]);
    let filtered = items(&mut client, "COMMAND LIST FILTERBY ACLCAT keyspace");
    assert!(filtered.contains(&String::from("object|encoding")));
    assert!(!filtered.contains(&String::from("object")));
    assert_eq!(
        client.run("COMMAND LIST FILTERBY NOSUCH x"),
        "(error) ERR syntax error"
    );
    assert_eq!(client.run("COMMAND INFO nosuch"), "1) (nil)");
    assert_eq!(client.run("COMMAND DOCS nosuch"), "(empty array)");
    let documented = client.run("COMMAND DOCS set");
    assert!(documented.contains("KEEPTTL"), "{documented}");
}

#[test]
fn shutdown_stops_the_server_unless_the_save_that_it_asks_for_fails() {
    let server = TestServer::with(|config| config.dbfilename = String::from("no/such/folder"));
    let mut client = server.client();
    for (command, error) in [
        (
            "SHUTDOWN SAVE",
            "ERR Errors trying to SHUTDOWN. Check logs.",
        ),
        ("SHUTDOWN SAVE NOSAVE", "ERR syntax error"),
        ("SHUTDOWN NOW ABORT", "ERR syntax error"),
        ("SHUTDOWN ABORT", "ERR No shutdown in progress."),
        ("SHUTDOWN NOSUCH", "ERR syntax error"),
    ] {
        assert_eq!(client.run(command), format!("(error) {error}"));
    }
    client.send("SHUTDOWN NOSAVE NOW");
    assert_eq!(client.receive_value(), None);
}

#[test]
fn time_and_lolwut() {
    let server = TestServer::start();
    let mut client = server.client();
    let time = items(&mut client, "TIME");
    assert!(time[0].parse::<u64>().unwrap() > 1_700_000_000);
    assert!(time[1].parse::<u64>().unwrap() < 1_000_000);
    assert!(client.text("LOLWUT VERSION 5").contains("Redis ver. "));
}

#[test]
fn the_documentation_of_commands_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
    if std::env::var_os("DAMSELFLY_WRITE_DOCS").is_some() {
        fs::write(&path, docs()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == docs(),
        "run the tests with DAMSELFLY_WRITE_DOCS=1 to renew {}",
        path.display()
    );
}

/// The properties of each command of Redis, recorded from COMMAND and COMMAND DOCS of version 7.4.1.
const REDIS: &str = include_str!("data/redis-7.4.1-commands.tsv");

/// Commands that Redis 7.4.1 does not have: newer ones, and our own.
const NEWER: &[&str] = &[
    "client|capa",
    "client|durable",
    "delex",
    "delifeq",
    "digest",
    "hgetdel",
    "hgetex",
    "hsetex",
    "msetex",
    "prepend",
    "xackdel",
    "xdelex",
];

/// Flags of ours that Redis does not have: MIGRATE must not hold locks while it waits for another server.
const STRICTER: &[(&str, &str)] = &[("migrate", "noscript,no_multi,")];

/// The columns of [`REDIS`] for one of our rows, without those that may differ: the version that deprecated the command (newer
/// versions deprecate more), and the version that added HELP to a container.
fn columns(row: &Row) -> Vec<String> {
    let command = &row.command;
    let (first, last, step) = facts::range(command);
    let specs: Vec<String> = facts::key_specs(command)
        .iter()
        .map(|spec| {
            let flags = spec.access.flags().join(",");
            match spec.place {
                facts::Place::Range { first, last, step } => {
                    format!("index:{first}:range:{last}:{step}:0:{flags}")
                }
                facts::Place::Counted { count_at, step } => {
                    format!("index:{count_at}:keynum:0:1:{step}:{flags}")
                }
                facts::Place::HalfBehind { word, from } => {
                    format!("keyword:{word}:{from}:range:-1:1:2:{flags}")
                }
                facts::Place::Behind { word, from } => {
                    format!("keyword:{word}:{from}:range:0:1:0:{flags}")
                }
                facts::Place::AllBehind { word, from } => {
                    format!("keyword:{word}:{from}:range:-1:1:0:{flags}")
                }
                facts::Place::Unknown => format!("unknown:unknown:{flags}"),
            }
        })
        .collect();
    let is_help = matches!(command.run, Run::Run(Handler::Help));
    let since = if is_help { "" } else { command.since };
    vec![
        command.group.name().to_owned(),
        since.to_owned(),
        command.arity.signed().to_string(),
        facts::flags(command).join(","),
        format!("{first},{last},{step}"),
        facts::categories(command).join(","),
        sorted(&facts::tips(command).join(",")),
        specs.join(" "),
    ]
}

fn sorted(list: &str) -> String {
    let mut words: Vec<&str> = list.split(',').collect();
    words.sort_unstable();
    words.join(",")
}

#[test]
fn rows_agree_with_the_commands_of_redis() {
    let redis: std::collections::HashMap<&str, Vec<&str>> = REDIS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            (columns[0], columns)
        })
        .collect();
    let mut wrong = Vec::new();
    for row in REGISTRY.rows() {
        let Some(known) = redis.get(&*row.name) else {
            if !NEWER.contains(&&*row.name) {
                wrong.push(format!("{}: Redis has no such command", row.name));
            }
            continue;
        };
        let is_help = matches!(row.command.run, Run::Run(Handler::Help));
        let since = if is_help { "" } else { known[2] };
        let stricter = STRICTER.iter().find(|(name, _)| *name == row.name);
        let flags = stricter.map_or(known[5].to_owned(), |(_, more)| {
            known[5].replace("movablekeys", &format!("{more}movablekeys"))
        });
        let expected = [
            known[1],
            since,
            known[4],
            &flags,
            known[6],
            known[7],
            &sorted(known[8]),
            known[9],
        ];
        let ours = columns(row);
        if ours != expected {
            wrong.push(format!(
                "{}\n  ours  {ours:?}\n  Redis {expected:?}",
                row.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A bug in a command closes the connection that ran it. It affects no other connection and leaves no shard locked.
#[test]
fn a_panic_closes_only_its_connection() {
    let server = TestServer::with(|config| config.enable_debug_command = Allow::Yes);
    let (mut unlucky, mut other) = (server.client(), server.client());
    assert_eq!(other.run("SET key value"), "OK");
    unlucky.send("DEBUG PANIC");
    assert!(unlucky.until_closed().is_empty());
    assert_eq!(other.text("GET key"), "value");
    assert_eq!(other.number("DBSIZE"), 1);
    assert_eq!(server.client().text("GET key"), "value");
}
