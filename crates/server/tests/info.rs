//! The server's reports about itself: INFO, MEMORY, LATENCY and SLOWLOG, through a socket.

mod common;

use std::collections::BTreeMap;

use common::{Client, TestServer};
use damselfly_protocol::client::Value;
use damselfly_server::admin::info::{FIELDS, Section};

#[global_allocator]
static HEAP: damselfly_base::heap::Heap = damselfly_base::heap::Heap;

/// Sends a command and returns its reply.
fn call(client: &mut Client, command: &str) -> Value {
    client.send(command);
    client.receive_value().expect("a reply")
}

/// Runs INFO.
fn ask_info(client: &mut Client, sections: &str) -> Info {
    let command = format!("INFO {sections}");
    Info::parse(&client.text(command.trim_end()))
}

/// The headings and fields of INFO, in order.
struct Info {
    sections: Vec<String>,
    fields: Vec<(String, String, String)>,
}

impl Info {
    fn parse(text: &str) -> Self {
        let (mut sections, mut fields) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(title) = line.strip_prefix("# ") {
                sections.push(title.to_owned());
            } else {
                let (name, value) = line.split_once(':').expect("name:value");
                let section = sections.last().cloned().expect("a heading comes first");
                fields.push((section, name.to_owned(), value.to_owned()));
            }
        }
        Self { sections, fields }
    }

    fn value(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(_, field, _)| field == name);
        found.map_or_else(|| panic!("no field {name}"), |(_, _, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        let value = self.value(name);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value}"))
    }

    fn names(&self) -> Vec<&str> {
        self.fields
            .iter()
            .map(|(_, name, _)| name.as_str())
            .collect()
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Simple(bytes)
        | Value::Error(bytes)
        | Value::Bulk(bytes)
        | Value::Verbatim { text: bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
        Value::Integer(number) => number.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        other => panic!("no integer: {other:?}"),
    }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => panic!("no array: {other:?}"),
    }
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

#[test]
fn every_default_field_of_redis_is_shown() {
    // Recorded from Redis 7.0.15 without keys.
    let recorded = include_str!("info_redis_7_0_15.txt");
    let server = TestServer::start();
    let info = ask_info(&mut server.client(), "");
    let mut section = "";
    let mut titles = Vec::new();
    for line in recorded.lines() {
        if let Some(title) = line.strip_prefix("# ") {
            section = title;
            titles.push(title);
            continue;
        }
        let found = info
            .fields
            .iter()
            .any(|(title, name, _)| title == section && name == line);
        assert!(found, "{section}: {line} is missing");
    }
    // Behind those of Redis come Valkey's section about certificates and our own about cache mode.
    titles.extend(["TLS", "Cache"]);
    assert_eq!(info.sections, titles);
}

#[test]
fn every_row_is_shown_once_with_a_value() {
    /// The field is empty without a configuration file.
    const MAY_BE_EMPTY: &[&str] = &["config_file"];
    let server = TestServer::start();
    let info = ask_info(&mut server.client(), "");
    for field in FIELDS {
        let found: Vec<_> = info
            .fields
            .iter()
            .filter(|(_, name, _)| name == field.name)
            .collect();
        assert_eq!(found.len(), 1, "{}", field.name);
        assert_eq!(found[0].0, field.section.title());
        assert!(
            !found[0].2.is_empty() || MAY_BE_EMPTY.contains(&field.name),
            "{} is empty",
            field.name
        );
    }
}

#[test]
fn arguments_choose_sections() {
    let server = TestServer::start();
    let mut client = server.client();
    assert_eq!(client.text("INFO nosuch"), "");
    let all: Vec<_> = Section::ALL.iter().map(|section| section.title()).collect();
    let default: Vec<_> = Section::ALL
        .iter()
        .filter(|section| section.is_default())
        .map(|section| section.title())
        .collect();
    for (args, titles) in [
        ("", &default[..]),
        ("default", &default),
        ("all", &all),
        ("EVERYTHING", &all),
        ("errorstats everything", &all),
        ("keyspace server", &["Server", "Keyspace"]),
        ("SERVER Cpu nosuch", &["Server", "CPU"]),
        ("module_list", &["Modules"]),
        ("modules modules", &["Modules"]),
    ] {
        assert_eq!(ask_info(&mut client, args).sections, titles, "INFO {args}");
    }
    assert_eq!(
        text(&call(&mut client, "INFO keyspace cluster")),
        "# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n"
    );
    call(&mut client, "HELLO 3");
    assert_eq!(
        call(&mut client, "INFO keyspace"),
        Value::Verbatim {
            format: *b"txt",
            text: b"# Keyspace\r\n".to_vec()
        }
    );
}

#[test]
fn figures_follow_the_commands_that_run() {
    let server = TestServer::start();
    let (mut client, _other) = (server.client(), server.client());
    call(&mut client, "PING");
    let before = ask_info(&mut client, "");
    call(&mut client, &format!("SET large {}", "x".repeat(1 << 20)));
    call(&mut client, "GET large");
    call(&mut client, "GET none");
    let after = ask_info(&mut client, "");
    let grown = |name| after.number(name) as i64 - before.number(name) as i64;
    // The thread of the second connection may not have added it yet.
    assert!((1..=2).contains(&after.number("connected_clients")));
    assert_eq!(after.value("threads"), "4");
    assert_eq!(grown("total_commands_processed"), 4);
    assert_eq!(grown("keyspace_hits"), 1);
    assert_eq!(grown("keyspace_misses"), 1);
    assert_eq!(grown("rdb_changes_since_last_save"), 1);
    // Not `used_memory`, which includes the memory of other tests in this process.
    assert!(grown("used_memory_dataset") >= 1 << 20);
    assert!(grown("total_net_input_bytes") > 1 << 20);
    assert!(grown("total_net_output_bytes") > 1 << 20);
    assert!(after.number("used_memory_peak") >= after.number("used_memory"));
    assert_eq!(
        after.number("used_memory_dataset") + after.number("used_memory_overhead"),
        after.number("used_memory")
    );
    assert!(after.number("used_memory_rss") > 0);
    assert!(after.number("total_system_memory") > after.number("used_memory_rss"));
}

#[test]
fn keyspace_shows_databases_with_keys() {
    let server = TestServer::start();
    let mut client = server.client();
    call(&mut client, "MSET a 1 b 2");
    call(&mut client, "SET c 3 PX 100000");
    call(&mut client, "SELECT 5");
    call(&mut client, "SET d 4");
    let info = ask_info(&mut client, "keyspace");
    assert_eq!(info.names(), ["db0", "db5"]);
    assert_eq!(info.value("db5"), "keys=1,expires=0,avg_ttl=0,subexpiry=0");
    let ttl_ms = info.value("db0").strip_prefix("keys=3,expires=1,avg_ttl=");
    let ttl_ms = ttl_ms.and_then(|rest| rest.strip_suffix(",subexpiry=0"));
    let ttl_ms: u32 = ttl_ms.and_then(|ttl| ttl.parse().ok()).expect("a TTL");
    assert!((90_000..=100_000).contains(&ttl_ms), "{ttl_ms}");
}

#[test]
fn errors_and_calls_are_counted_as_in_redis() {
    let server = TestServer::with(|config| config.requirepass = String::from("secret"));
    let mut client = server.client();
    for command in ["GET a", "GET", "NOSUCH", "SLOWLOG NOSUCH", "AUTH wrong"] {
        call(&mut client, command);
    }
    assert_eq!(call(&mut client, "AUTH secret"), ok());
    for command in ["PING a b", "SLOWLOG", "SLOWLOG GET x", "HELLO 9", "GET a"] {
        call(&mut client, command);
    }
    let mut malformed = server.client();
    malformed.send_bytes(b"*1\r\n$x\r\n");
    malformed.receive();
    let info = ask_info(&mut client, "commandstats errorstats stats");
    let errors: BTreeMap<_, _> = info
        .fields
        .iter()
        .filter(|(section, ..)| section == "Errorstats")
        .map(|(_, name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("errorstat_ERR", "count=7"),
        ("errorstat_NOAUTH", "count=1"),
        ("errorstat_NOPROTO", "count=1"),
        ("errorstat_WRONGPASS", "count=1"),
    ];
    assert_eq!(errors, BTreeMap::from(expected));
    assert_eq!(info.value("total_error_replies"), "10");
    for (command, counts) in [
        ("get", [1, 2, 0]),
        ("auth", [2, 0, 1]),
        ("ping", [1, 0, 1]),
        ("slowlog", [0, 1, 0]),
        ("slowlog|get", [1, 0, 1]),
        ("hello", [1, 0, 1]),
    ] {
        let value = info.value(&format!("cmdstat_{command}"));
        let [calls, rejected, failed] = counts;
        assert!(
            value.starts_with(&format!("calls={calls},usec=")),
            "{command}: {value}"
        );
        assert!(
            value.ends_with(&format!("rejected_calls={rejected},failed_calls={failed}")),
            "{command}: {value}"
        );
    }
}

#[test]
fn percentiles_are_those_of_the_configuration() {
    let server = TestServer::start();
    let mut client = server.client();
    call(&mut client, "GET a");
    let info = ask_info(&mut client, "latencystats");
    assert_eq!(info.names(), ["latency_percentiles_usec_get"]);
    let value = info.value("latency_percentiles_usec_get");
    let names: Vec<_> = value
        .split(',')
        .filter_map(|part| part.split('=').next())
        .collect();
    assert_eq!(names, ["p50", "p99", "p99.9"]);
    server.change(|config| config.latency_tracking = false);
    assert!(
        ask_info(&mut server.client(), "latencystats")
            .fields
            .is_empty()
    );
}

#[test]
fn memory_commands_report_figures_and_texts() {
    let server = TestServer::start();
    let mut client = server.client();
    call(&mut client, "SET key value");
    assert!(integer(&call(&mut client, "MEMORY USAGE key")) > 10);
    assert_eq!(
        call(&mut client, "MEMORY USAGE key"),
        call(&mut client, "MEMORY USAGE key SAMPLES 0 samples 5")
    );
    let syntax = error("ERR syntax error");
    assert_eq!(call(&mut client, "MEMORY USAGE key SAMPLES -1"), syntax);
    assert_eq!(call(&mut client, "MEMORY USAGE key SAMPLES"), syntax);
    assert_eq!(call(&mut client, "MEMORY USAGE key other 1"), syntax);
    assert_eq!(call(&mut client, "MEMORY PURGE"), ok());
    assert!(text(&call(&mut client, "MEMORY DOCTOR")).ends_with('\n'));
    assert!(text(&call(&mut client, "MEMORY MALLOC-STATS")).contains("bytes in use"));
    // The names in Redis 7.4.1, in its order.
    let names = "peak.allocated total.allocated startup.allocated replication.backlog clients.slaves \
        clients.normal cluster.links aof.buffer lua.caches functions.caches db.0 \
        overhead.db.hashtable.lut overhead.db.hashtable.rehashing db.dict.rehashing.count \
        overhead.total keys.count keys.bytes-per-key dataset.bytes dataset.percentage \
        peak.percentage allocator.allocated allocator.active allocator.resident allocator.muzzy \
        allocator-fragmentation.ratio allocator-fragmentation.bytes allocator-rss.ratio allocator-rss.bytes rss-overhead.ratio \
        rss-overhead.bytes fragmentation fragmentation.bytes";
    call(&mut client, "HELLO 3");
    let Value::Map(pairs) = call(&mut client, "MEMORY STATS") else {
        panic!("no map");
    };
    let shown: Vec<_> = pairs.iter().map(|(name, _)| text(name)).collect();
    assert_eq!(
        shown.join(" "),
        names.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    let keys = pairs.iter().find(|(name, _)| text(name) == "keys.count");
    assert_eq!(keys.map(|(_, value)| integer(value)), Some(1));
}

#[test]
fn latency_events_are_shown_and_reset() {
    let server = TestServer::with(|config| config.latency_monitor_threshold_ms = 100);
    let mut client = server.client();
    assert_eq!(
        call(&mut client, "LATENCY LATEST"),
        Value::Array(Vec::new())
    );
    assert_eq!(
        call(&mut client, "LATENCY GRAPH command"),
        error("ERR No samples available for event 'command'")
    );
    let latency = &server.shared().latency;
    for (at_s, ms) in [(1000, 300), (1001, 500), (1002, 400)] {
        latency.add("command", at_s, ms);
    }
    latency.add("expire-cycle", 1000, 200);
    let latest = call(&mut client, "LATENCY LATEST");
    let latest: Vec<Vec<String>> = items(&latest)
        .iter()
        .map(|event| items(event).iter().map(text).collect())
        .collect();
    assert_eq!(
        latest,
        [
            ["command", "1002", "400", "500"],
            ["expire-cycle", "1000", "200", "200"]
        ]
    );
    let history = call(&mut client, "LATENCY HISTORY command");
    assert_eq!(items(&history).len(), 3);
    assert_eq!(
        items(&history)[1],
        Value::Array(vec![Value::Integer(1001), Value::Integer(500)])
    );
    assert_eq!(
        call(&mut client, "LATENCY HISTORY COMMAND"),
        Value::Array(Vec::new())
    );
    let graph = text(&call(&mut client, "LATENCY GRAPH command"));
    assert!(graph.starts_with("command - high 500 ms, low 300 ms (all time high 500 ms)\n-----"));
    assert!(text(&call(&mut client, "LATENCY DOCTOR")).contains("3 latency spikes (average 400ms"));
    assert_eq!(
        call(&mut client, "LATENCY RESET none command command"),
        Value::Integer(1)
    );
    assert_eq!(call(&mut client, "LATENCY RESET"), Value::Integer(1));
    assert_eq!(call(&mut client, "LATENCY RESET"), Value::Integer(0));
}

#[test]
fn histograms_are_shown_for_commands_and_subcommands() {
    let server = TestServer::start();
    let mut client = server.client();
    for command in [
        "SET a 1",
        "SET a 2",
        "MEMORY PURGE",
        "OBJECT ENCODING a",
        "HELLO 3",
    ] {
        call(&mut client, command);
    }
    let mut names = |command: &str| {
        let Value::Map(pairs) = call(&mut client, command) else {
            panic!("no map");
        };
        pairs.iter().map(|(name, _)| text(name)).collect::<Vec<_>>()
    };
    assert_eq!(names("LATENCY HISTOGRAM nosuch get"), Vec::<String>::new());
    assert_eq!(
        names("LATENCY HISTOGRAM memory SET"),
        ["memory|purge", "set"]
    );
    assert_eq!(
        names("LATENCY HISTOGRAM Object|Encoding"),
        ["object|encoding"]
    );
    assert!(names("LATENCY HISTOGRAM").contains(&String::from("set")));
    let Value::Map(pairs) = call(&mut client, "LATENCY HISTOGRAM set") else {
        panic!("no map");
    };
    let Value::Map(set) = &pairs[0].1 else {
        panic!("no map");
    };
    assert_eq!(
        (text(&set[0].0).as_str(), &set[0].1),
        ("calls", &Value::Integer(2))
    );
    let Value::Map(counts) = &set[1].1 else {
        panic!("no map");
    };
    assert_eq!(counts.last().map(|(_, calls)| integer(calls)), Some(2));
}

/// The arguments of the entries of SLOWLOG GET, newest first, each joined with spaces.
fn slow_commands(client: &mut Client, get: &str) -> Vec<String> {
    let entries = call(client, get);
    items(&entries)
        .iter()
        .map(|entry| {
            let args: Vec<_> = items(&items(entry)[3]).iter().map(text).collect();
            args.join(" ")
        })
        .collect()
}

#[test]
fn the_slow_log_has_a_maximum_length() {
    let server = TestServer::with(|config| config.slowlog_log_slower_than_us = 0);
    let mut client = server.client();
    call(&mut client, "SLOWLOG RESET");
    for number in 0..12 {
        call(&mut client, &format!("ECHO {number}"));
    }
    assert_eq!(call(&mut client, "SLOWLOG LEN"), Value::Integer(13));
    assert_eq!(slow_commands(&mut client, "SLOWLOG GET").len(), 10);
    assert_eq!(slow_commands(&mut client, "SLOWLOG GET 0").len(), 0);
    assert_eq!(
        slow_commands(&mut client, "SLOWLOG GET 3"),
        ["SLOWLOG GET 0", "SLOWLOG GET", "SLOWLOG LEN"]
    );
    assert_eq!(slow_commands(&mut client, "SLOWLOG GET -1").len(), 17);
    for count in ["-2", "x", "99999999999999999999"] {
        assert_eq!(
            call(&mut client, &format!("SLOWLOG GET {count}")),
            error("ERR count should be greater than or equal to -1")
        );
    }
    server.change(|config| {
        config.slowlog_max_len = 2;
        config.slowlog_log_slower_than_us = -1;
    });
    assert_eq!(call(&mut server.client(), "SLOWLOG LEN"), Value::Integer(2));
    assert_eq!(call(&mut client, "SLOWLOG RESET"), ok());
    assert_eq!(call(&mut client, "SLOWLOG LEN"), Value::Integer(0));
}

#[test]
fn the_slow_log_shortens_arguments_and_hides_secrets() {
    let server = TestServer::with(|config| config.slowlog_log_slower_than_us = 0);
    let mut client = server.client();
    call(&mut client, &format!("ECHO {}", "x".repeat(128)));
    call(&mut client, &format!("ECHO {}", "x".repeat(130)));
    call(&mut client, &format!("DEL{}", " k".repeat(31)));
    call(&mut client, &format!("DEL{}", " k".repeat(32)));
    call(&mut client, "AUTH default secret");
    call(&mut client, "HELLO 3 SETNAME auth AUTH default secret");
    call(&mut client, "HELLO 2 SETNAME SETNAME AUTH default secret");
    call(&mut client, "CONFIG SET timeout 5 requirepass secret");
    let mut shown = slow_commands(&mut client, "SLOWLOG GET");
    shown.reverse();
    assert_eq!(
        shown,
        [
            format!("ECHO {}", "x".repeat(128)),
            format!("ECHO {}... (2 more bytes)", "x".repeat(128)),
            format!("DEL{}", " k".repeat(31)),
            format!("DEL{} ... (2 more arguments)", " k".repeat(30)),
            String::from("AUTH (redacted) (redacted)"),
            String::from("HELLO 3 SETNAME auth AUTH (redacted) (redacted)"),
            String::from("HELLO 2 SETNAME SETNAME AUTH (redacted) (redacted)"),
            String::from("CONFIG SET timeout 5 requirepass (redacted)"),
        ]
    );
}

/// Bug: a HyperLogLog that had become dense kept room to double in size, which it never does.
#[test]
fn a_dense_hyperloglog_has_no_spare_room() {
    let server = TestServer::start();
    let mut client = server.client();
    for first in (0..20_000).step_by(100) {
        let elements = first..first + 100;
        let words = elements.map(|number| format!(" {number}"));
        client.run(&format!("PFADD a{}", words.collect::<String>()));
    }
    client.run("PFMERGE b a");
    for key in ["a", "b"] {
        assert_eq!(client.run(&format!("STRLEN {key}")), "(integer) 12304");
        let bytes = client.number(&format!("MEMORY USAGE {key}"));
        assert!(bytes < 15_000, "{bytes}");
    }
}
