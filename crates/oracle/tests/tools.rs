//! Redis's own tools work with our server: the modes of `redis-cli`, and `redis-benchmark` with all its default tests. The modes
//! `--rdb`, `--functions-rdb` and `--replica` need SYNC, which does not exist yet.
//!
//! With `DAMSELFLY_BIN=redis-server` the tests run against Redis, which shows that they demand nothing that Redis does not do.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{call, say, text};
use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Kind, Program, Server, wait_for_end};
use damselfly_protocol::client::Value as Reply;

/// A tool that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const STRINGS: usize = 500;

/// A server with keys of all types.
fn server() -> Server {
    let program = Program::subject();
    let mut options = vec!["--enable-debug-command", "yes"];
    if program.kind() == Kind::Damselfly {
        options.extend(["--threads", "2"]);
    }
    let server = Server::start(&program, &options).unwrap();
    let mut connection = server.connect();
    say(
        &mut connection,
        &format!("DEBUG POPULATE {STRINGS} string 30"),
    );
    for command in [
        "SET longest 0123456789012345678901234567890123456789012345678901234567890123456789",
        "RPUSH list a b c",
        "SADD set a b c d",
        "HSET hash f v g w",
        "ZADD zset 1 a 2 b 3 c 4 d 5 e",
        "XADD stream * f v",
        "PFADD hyperloglog a",
    ] {
        say(&mut connection, command);
    }
    server
}

fn tool(name: &str, server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    let port = server.address().port().to_string();
    command
        .args(["-h", "127.0.0.1", "-p", &port])
        .args(arguments)
        .current_dir(server.folder())
        .env_remove("REDISCLI_AUTH")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a tool wrote to its standard output. It must exit with code 0, and write nothing to its standard error.
fn output_of(mut command: Command, input: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut written, mut complaints) = (Vec::new(), String::new());
    let status = std::thread::scope(|scope| {
        scope.spawn(move || {
            stdin.write_all(input).unwrap();
        });
        scope.spawn(|| stdout.read_to_end(&mut written).unwrap());
        scope.spawn(|| stderr.read_to_string(&mut complaints).unwrap());
        let status = wait_for_end(&mut child, PATIENCE).unwrap();
        if status.is_none() {
            child.kill().unwrap();
        }
        status
    });
    let written = String::from_utf8_lossy(&written).into_owned();
    assert!(
        status.is_some_and(|status| status.success()) && complaints.is_empty(),
        "{command:?}: {status:?}\n{written}\n{complaints}"
    );
    written
}

fn redis_cli(server: &Server, arguments: &[&str]) -> String {
    output_of(tool("redis-cli", server, arguments), b"")
}

/// A tool that runs until it is killed, which happens when this is dropped.
struct Endless {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Endless {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let mut child = tool("redis-cli", server, arguments).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// The output up to and including `end`.
    fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        let last = *end.as_bytes().last().unwrap();
        while !read.ends_with(end.as_bytes()) {
            let count = self.stdout.read_until(last, &mut read).unwrap();
            let so_far = String::from_utf8_lossy(&read);
            assert!(count > 0, "the tool ended before {end:?}: {so_far}");
        }
        String::from_utf8_lossy(&read).into_owned()
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_has(output: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(output.contains(line), "no {line:?} in:\n{output}");
    }
}

#[test]
fn key_samplers_find_the_largest_keys_of_each_type() {
    let server = server();
    let keys = STRINGS + 7;
    let largest = redis_cli(&server, &["--bigkeys"]);
    assert_has(
        &largest,
        &[
            &format!("Sampled {keys} keys in the keyspace!"),
            "Biggest string found '\"longest\"' has 70 bytes",
            "Biggest   list found '\"list\"' has 3 items",
            "Biggest    set found '\"set\"' has 4 members",
            "Biggest   hash found '\"hash\"' has 2 fields",
            "Biggest   zset found '\"zset\"' has 5 members",
            "Biggest stream found '\"stream\"' has 1 entries",
            &format!("{} strings with ", STRINGS + 2),
        ],
    );
    for arguments in [&["--memkeys"][..], &["--memkeys-samples", "0"]] {
        let output = redis_cli(&server, arguments);
        let sampled = format!("Sampled {keys} keys in the keyspace!");
        assert_has(&output, &[&sampled, "found '\"stream\"' has "]);
        let total = output.lines().find(|line| line.contains(" strings with "));
        let words: Vec<&str> = total.unwrap().split(' ').collect();
        let bytes: usize = words[3].parse().unwrap();
        // Each string has 30 bytes, and its key has at least eight.
        assert!(bytes > STRINGS * 38, "{output}");
    }
}

#[test]
fn hot_keys_are_found_with_an_lfu_policy_only() {
    let server = server();
    let mut connection = server.connect();
    let refused = output_of_failure(tool("redis-cli", &server, &["--hotkeys"]));
    assert_has(
        &refused,
        &["ERR An LFU maxmemory policy is not selected, access frequency not tracked."],
    );
    say(
        &mut connection,
        "CONFIG SET maxmemory-policy allkeys-lfu lfu-log-factor 0",
    );
    for _ in 0..20 {
        say(&mut connection, "GET longest");
    }
    let found = redis_cli(&server, &["--hotkeys"]);
    assert_has(
        &found,
        &["hot key found with counter: ", "keyname: \"longest\""],
    );
}

/// What a tool wrote to both its outputs. It must fail.
fn output_of_failure(mut command: Command) -> String {
    let output = command.output().unwrap();
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{written}{complaints}");
    format!("{written}{complaints}")
}

#[test]
fn latency_modes_show_latencies() {
    let server = server();
    let once = redis_cli(&server, &["--latency", "-i", "0.2"]);
    let figures: Vec<f64> = once
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let [least, most, average, samples] = figures[..] else {
        panic!("{once}");
    };
    assert!(
        least <= average && average <= most && samples > 0.0,
        "{once}"
    );

    let mut history = Endless::start(&server, &["--latency-history", "-i", "0.2", "--no-raw"]);
    let rounds = history.read_until("seconds range\n") + &history.read_until("seconds range\n");
    assert_has(&rounds, &["min: ", "max: ", "avg: ", " samples) -- 0.2"]);

    let mut spectrum = Endless::start(&server, &["--latency-dist", "-i", "0.2"]);
    // The legend, and one line of the spectrum: each ends in the sequence that resets colors.
    let shown = spectrum.read_until("\u{1b}[0m") + &spectrum.read_until("\u{1b}[0m");
    assert_has(
        &shown,
        &["milliseconds", "From 0 to 100%", "\u{1b}[38;5;0m"],
    );

    let intrinsic = redis_cli(&server, &["--intrinsic-latency", "1"]);
    assert_has(
        &intrinsic,
        &["total runs (avg latency: ", "Worst run took "],
    );
}

#[test]
fn rolling_statistics_show_keys_memory_clients_and_requests() {
    let server = server();
    let mut shown = Endless::start(&server, &["--stat", "-i", "0.1"]);
    let heading = shown.read_until("connections          \n");
    assert_has(&heading, &["keys       mem      clients blocked requests"]);
    let mut requests_before = 0;
    for _ in 0..3 {
        let line = shown.read_until("\n");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            keys,
            memory,
            clients,
            blocked,
            requests,
            new_requests,
            connections,
        ] = words[..]
        else {
            panic!("{line}");
        };
        assert_eq!(keys, (STRINGS + 7).to_string());
        assert!(memory.ends_with(['K', 'M']), "{line}");
        assert_eq!((clients, blocked), ("1", "0"), "{line}");
        let requests: u64 = requests.parse().unwrap();
        assert!(
            requests > requests_before && new_requests.starts_with("(+"),
            "{line}"
        );
        requests_before = requests;
        assert!(connections.parse::<u64>().unwrap() >= 3, "{line}");
    }
}

#[test]
fn piped_requests_run_and_are_counted() {
    const COUNT: usize = 20_000;
    let server = server();
    let mut requests = Vec::new();
    for number in 0..COUNT {
        requests.extend(request(&["RPUSH", "piped", &number.to_string()]));
    }
    let told = output_of(tool("redis-cli", &server, &["--pipe"]), &requests);
    assert_has(&told, &[&format!("errors: 0, replies: {COUNT}")]);
    let mut connection = server.connect();
    assert_eq!(
        say(&mut connection, "LLEN piped"),
        Reply::Integer(COUNT as i64)
    );
    assert_eq!(
        text(&say(&mut connection, "LINDEX piped -1")),
        (COUNT - 1).to_string()
    );
    // Errors are counted, and cause the exit code 1.
    let mut command = tool("redis-cli", &server, &["--pipe"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let wrong = [request(&["GET", "list"]), request(&["GET", "longest"])].concat();
    child.stdin.take().unwrap().write_all(&wrong).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_has(
        &String::from_utf8_lossy(&output.stdout),
        &["errors: 1, replies: 2"],
    );
}

#[test]
fn scans_and_scripts_from_files_run() {
    let server = server();
    let keys = redis_cli(&server, &["--scan", "--pattern", "*s*t"]);
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["list", "longest", "set", "zset"]);

    std::fs::write(
        server.folder().join("script.lua"),
        "return {KEYS[1], ARGV[1]}",
    )
    .unwrap();
    let returned = redis_cli(&server, &["--eval", "script.lua", "key", ",", "argument"]);
    assert_eq!(returned, "key\nargument\n");
}

#[test]
fn replies_are_shown_in_all_formats() {
    let server = server();
    let list = ["LRANGE", "list", "0", "-1"];
    for (format, shown) in [
        ("--raw", "a\nb\nc\n"),
        ("--no-raw", "1) \"a\"\n2) \"b\"\n3) \"c\"\n"),
        ("--csv", "\"a\",\"b\",\"c\"\n"),
        ("--json", "[\"a\",\"b\",\"c\"]\n"),
        ("-3", "a\nb\nc\n"),
    ] {
        assert_eq!(redis_cli(&server, &[&[format][..], &list].concat()), shown);
    }
    let hash = redis_cli(&server, &["--json", "HGETALL", "hash"]);
    assert_eq!(hash, "{\"f\":\"v\",\"g\":\"w\"}\n");
    let repeated = redis_cli(&server, &["-r", "3", "-i", "0.01", "-n", "1", "INCR", "n"]);
    assert_eq!(repeated, "1\n2\n3\n");
    let from_input = tool("redis-cli", &server, &["-x", "SET", "input"]);
    assert_eq!(output_of(from_input, b"bytes"), "OK\n");
    // Commands from the standard input, as in an interactive session.
    let session = tool("redis-cli", &server, &[]);
    assert_eq!(
        output_of(session, b"SELECT 1\nGET n\nDBSIZE\n"),
        "OK\n3\n1\n"
    );
    let failed = output_of_failure(tool("redis-cli", &server, &["-e", "GET", "list"]));
    assert_has(&failed, &["WRONGTYPE"]);
}

/// The names of `redis-benchmark`'s default tests.
const BENCHMARKS: &[&str] = &[
    "PING_INLINE",
    "PING_MBULK",
    "SET",
    "GET",
    "INCR",
    "LPUSH",
    "RPUSH",
    "LPOP",
    "RPOP",
    "SADD",
    "HSET",
    "SPOP",
    "ZADD",
    "ZPOPMIN",
    "LPUSH (needed to benchmark LRANGE)",
    "LRANGE_100 (first 100 elements)",
    "LRANGE_300 (first 300 elements)",
    "LRANGE_500 (first 500 elements)",
    "LRANGE_600 (first 600 elements)",
    "MSET (10 keys)",
];

/// The rows of a table in CSV: each test with its requests per second.
fn benchmark(server: &Server, arguments: &[&str]) -> Vec<(String, f64)> {
    let all = [&["--csv", "-n", "1000"][..], arguments].concat();
    let table = output_of(tool("redis-benchmark", server, &all), b"");
    let mut lines = table.lines();
    let heading = lines.next().unwrap();
    assert!(
        heading.starts_with("\"test\",\"rps\",\"avg_latency_ms\""),
        "{table}"
    );
    let row = |line: &str| {
        let mut cells = line.trim_matches('"').split("\",\"");
        let name = cells.next().unwrap().to_owned();
        (name, cells.next().unwrap().parse().unwrap())
    };
    lines.map(row).collect()
}

#[test]
fn the_benchmark_runs_all_its_tests() {
    let server = server();
    for arguments in [
        &[][..],
        &["-P", "16", "-c", "7", "-r", "100", "-d", "100"],
        &["--threads", "2", "-3", "-t", "ping,set,get,mset"],
    ] {
        let rows = benchmark(&server, arguments);
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        match arguments.contains(&"-t") {
            false => assert_eq!(names, BENCHMARKS),
            true => assert_eq!(
                names,
                ["PING_INLINE", "PING_MBULK", "SET", "GET", "MSET (10 keys)"]
            ),
        }
        assert!(rows.iter().all(|(_, rate)| *rate > 0.0), "{rows:?}");
    }
    let mut connection = server.connect();
    // One after the other, each test left what it should.
    assert_eq!(
        text(&say(&mut connection, "GET counter:__rand_int__")),
        "1000"
    );
    assert_eq!(
        call(&mut connection, &["TYPE", "mylist"]),
        Reply::Simple(b"list".to_vec())
    );
    no_errors(&mut connection);
    // A command of the user's own.
    let own = [
        "-q",
        "-n",
        "1000",
        "-r",
        "50",
        "SADD",
        "drawn",
        "__rand_int__",
    ];
    let shown = output_of(tool("redis-benchmark", &server, &own), b"");
    assert_has(&shown, &["requests per second"]);
    assert_eq!(say(&mut connection, "SCARD drawn"), Reply::Integer(50));
}

/// Asserts that no command has failed so far.
fn no_errors(connection: &mut Connection) {
    let statistics = text(&say(connection, "INFO errorstats"));
    assert_eq!(statistics.trim(), "# Errorstats");
}

/// Latencies and counts that monitoring tools read.
#[test]
fn latency_histograms_and_memory_samples_are_there() {
    let server = server();
    let started = Instant::now();
    benchmark(&server, &["-t", "set"]);
    let histogram = redis_cli(&server, &["LATENCY", "HISTOGRAM", "set"]);
    let words: Vec<&str> = histogram.lines().collect();
    assert_eq!(words[..4], ["set", "calls", "1001", "histogram_usec"]);
    let buckets: Vec<u64> = words[4..]
        .iter()
        .map(|word| word.parse().unwrap())
        .collect();
    // Pairs of a limit in microseconds and how many calls took no longer.
    assert_eq!(buckets.last(), Some(&1001));
    assert!(buckets.chunks(2).all(|pair| pair.len() == 2), "{buckets:?}");
    let slowest = u128::from(buckets[buckets.len() - 2]);
    assert!(slowest <= started.elapsed().as_micros() * 2, "{buckets:?}");
    for samples in ["0", "1", "5"] {
        let usage = redis_cli(&server, &["MEMORY", "USAGE", "zset", "SAMPLES", samples]);
        assert!(usage.trim().parse::<u64>().unwrap() > 10, "{usage}");
    }
}
