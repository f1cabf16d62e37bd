//! Which commands count as an access of a key: after every command of the table, OBJECT FREQ and OBJECT IDLETIME must reply as a
//! real `redis-server` does.

#[path = "access/examples.rs"]
mod examples;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_protocol::client::Value;
use examples::EXAMPLES;

/// The kinds of key in examples, and the commands that create them. An argument with such a name, perhaps followed by a digit, is
/// a key.
const HOLDINGS: &[(&str, &[&str])] = &[
    ("absent", &[]),
    ("string", &["SET KEY hello"]),
    ("number", &["SET KEY 10"]),
    ("timed", &["SET KEY hello EX 1000"]),
    ("list", &["RPUSH KEY a b c"]),
    ("set", &["SADD KEY a b c"]),
    ("hash", &["HSET KEY field 1 other 2"]),
    ("zset", &["ZADD KEY 1 a 2 b 3 c"]),
    (
        "stream",
        &[
            "XADD KEY 1-1 field value",
            "XADD KEY 2-1 field value",
            "XGROUP CREATE KEY group 0",
            "XREADGROUP GROUP group me COUNT 1 STREAMS KEY >",
        ],
    ),
];

/// A key that is older than all trials, and one that is younger than the keys prepared for them.
const OLD: &str = "old";
const NEW: &str = "new";
const INITIAL_COUNT: i64 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Each key of an example is also replaced by each of these.
const TRIED: &[&str] = &["absent", "string", "list", "set", "hash", "zset", "stream"];

fn holding(argument: &str) -> Option<&'static [&'static str]> {
    let word = argument.trim_end_matches(|last: char| last.is_ascii_digit());
    HOLDINGS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, commands)| *commands)
}

/// A command, with keys of its own.
struct Trial {
    arguments: Vec<String>,
    /// The indexes of its keys among the arguments.
    keys: Vec<usize>,
    number: usize,
    is_blocking: bool,
    /// True if the reference has the command, or one like it.
    is_known: bool,
}

impl Trial {
    /// The name of the key that an argument represents.
    fn key(&self, place: usize) -> String {
        format!("{}:{}", self.number, self.arguments[place])
    }

    fn names(&self) -> BTreeSet<String> {
        self.keys.iter().map(|&place| self.key(place)).collect()
    }

    fn preparations(&self) -> Vec<Vec<String>> {
        let words: BTreeSet<&str> = self
            .keys
            .iter()
            .map(|&place| self.arguments[place].as_str())
            .collect();
        let mut commands = Vec::new();
        for word in words {
            let key = format!("{}:{word}", self.number);
            for command in holding(word).unwrap() {
                let parts = command.split(' ');
                commands.push(
                    parts
                        .map(|part| if part == "KEY" { &key } else { part })
                        .map(str::to_owned)
                        .collect(),
                );
            }
        }
        commands
    }

    fn command(&self) -> Vec<String> {
        (0..self.arguments.len())
            .map(|place| match self.keys.contains(&place) {
                true => self.key(place),
                false => self.arguments[place].clone(),
            })
            .collect()
    }

    /// The command for the reference: if it lacks one, the command that uses keys alike.
    fn reference_command(&self) -> Vec<String> {
        let mut command = self.command();
        if self.arguments[0] == "MSETEX" {
            let is_for_absent = command.last().is_some_and(|last| last == "NX");
            let pairs = 2 * command[1].parse::<usize>().unwrap();
            command.truncate(2 + pairs);
            command[1] = String::from(if is_for_absent { "MSETNX" } else { "MSET" });
            command.remove(0);
        }
        command
    }

    fn text(&self) -> String {
        self.arguments.join(" ")
    }
}

/// The examples, and variants of them with other types at their keys.
fn trials(blocking: &BTreeSet<String>) -> Vec<Trial> {
    let mut seen = BTreeSet::new();
    let mut trials = Vec::new();
    for example in EXAMPLES {
        let arguments = split(example);
        let is_key = |place: &usize| holding(&arguments[*place]).is_some();
        let keys: Vec<usize> = (1..arguments.len()).filter(is_key).collect();
        let mut variants = vec![arguments.clone()];
        for (index, &place) in keys.iter().enumerate() {
            for tried in TRIED {
                let mut variant = arguments.clone();
                variant[place] = format!("{tried}{}", 5 + index);
                variants.push(variant);
            }
        }
        for arguments in variants {
            if seen.insert(arguments.clone()) {
                trials.push(Trial {
                    is_blocking: blocking.contains(&arguments[0]),
                    arguments,
                    keys: keys.clone(),
                    number: trials.len(),
                    is_known: true,
                });
            }
        }
    }
    trials
}

/// Splits a line into words; words in quotes may contain spaces.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

struct Subject {
    kind: Kind,
    _server: Server,
    connection: Connection,
}

impl Subject {
    fn start(program: &Program, policy: &str) -> Self {
        let mut arguments = vec!["--maxmemory-policy", policy, "--lfu-log-factor", "0"];
        arguments.extend(["--lfu-decay-time", "0", "--enable-debug-command", "yes"]);
        // With a limit, Redis does not share integer objects between keys, which would also share their counters.
        arguments.extend(["--maxmemory", "10gb"]);
        if program.kind() == Kind::Damselfly {
            arguments.extend(["--threads", "1"]);
        }
        let server = Server::start(program, &arguments).unwrap();
        let connection = server.connect();
        Self {
            kind: program.kind(),
            _server: server,
            connection,
        }
    }

    fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.connection.call(arguments).unwrap()
    }

    /// Sends many commands and reads as many replies.
    fn pipeline(&mut self, commands: &[Vec<String>]) -> Vec<Value> {
        let mut replies = Vec::new();
        for chunk in commands.chunks(100) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|command| request(command)).collect();
            self.connection.send(&bytes).unwrap();
            replies.extend(chunk.iter().map(|_| self.connection.receive().unwrap()));
        }
        replies
    }

    fn prepare(&mut self, trials: &[Trial]) {
        let commands: Vec<_> = trials.iter().flat_map(Trial::preparations).collect();
        for (command, reply) in commands.iter().zip(self.pipeline(&commands)) {
            assert!(!matches!(reply, Value::Error(_)), "{command:?}: {reply}");
        }
    }

    /// Runs a command; a blocking one in a transaction, where it does not block.
    fn run(&mut self, trial: &Trial) -> Value {
        let command = match self.kind {
            Kind::Damselfly => trial.command(),
            Kind::Redis => trial.reference_command(),
        };
        if !trial.is_blocking {
            return self.call(&command);
        }
        self.call(&["MULTI"]);
        self.call(&command);
        self.call(&["EXEC"])
    }

    fn idle(&mut self, key: &str) -> i64 {
        seconds(&self.call(&["OBJECT", "IDLETIME", key])).unwrap()
    }

    /// True if a key was accessed since [`NEW`] was created; `None` if it is absent. Both ages are read at the same moment.
    fn is_new(&mut self, key: &str) -> Option<bool> {
        self.call(&["MULTI"]);
        for key in [key, NEW] {
            self.call(&["OBJECT", "IDLETIME", key]);
        }
        let ages: Vec<_> = array(&self.call(&["EXEC"])).iter().map(seconds).collect();
        Some(ages[0]? <= ages[1].unwrap())
    }
}

fn seconds(age: &Value) -> Option<i64> {
    match age {
        Value::Integer(seconds) => Some(*seconds),
        Value::Null(_) => None,
        other => panic!("{other} is not an age"),
    }
}

/// The commands that COMMAND reports; subcommands as `name|subcommand`.
struct Table {
    /// The commands that name keys.
    with_keys: BTreeSet<String>,
    blocking: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Table {
    fn of(subject: &mut Subject) -> Self {
        let mut table = Self {
            with_keys: BTreeSet::new(),
            blocking: BTreeSet::new(),
            all: BTreeSet::new(),
        };
        table.add(&subject.call(&["COMMAND"]));
        table
    }

    fn add(&mut self, rows: &Value) {
        for row in array(rows) {
            let row = array(row);
            let name = row[0].to_string().trim_matches('"').to_uppercase();
            let flags = row[2].to_string();
            let has_keys = array(&row[8])
                .iter()
                .any(|spec| !spec.to_string().contains("not_key"));
            if has_keys {
                self.with_keys.insert(name.clone());
            }
            if flags.contains("blocking") {
                self.blocking.insert(name.clone());
            }
            self.all.insert(name);
            self.add(&row[9]);
        }
    }
}

fn array(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => panic!("{other} is not an array"),
    }
}

/// Starts both servers, ours first, and prepares the keys of all trials in both.
fn start(policy: &str) -> ([Subject; 2], Vec<Trial>) {
    let mut subjects =
        [Program::subject(), Program::reference()].map(|program| Subject::start(&program, policy));
    let tables = subjects.each_mut().map(Table::of);
    let exampled: BTreeSet<String> = EXAMPLES.iter().map(|example| name_of(example)).collect();
    for name in &tables[0].with_keys {
        assert!(exampled.contains(name), "no example for {name}");
    }
    let mut trials = trials(&tables[0].blocking);
    for trial in &mut trials {
        trial.is_known = tables[1].all.contains(&trial.reference_command()[0]);
    }
    for subject in &mut subjects {
        subject.prepare(&trials);
    }
    (subjects, trials)
}

/// The name of an example's command, as in [`Table`].
fn name_of(example: &str) -> String {
    let words = split(example);
    match words[0].as_str() {
        container @ ("OBJECT" | "DEBUG" | "MEMORY" | "XGROUP" | "XINFO") => {
            format!("{container}|{}", words[1])
        }
        name => name.to_owned(),
    }
}

/// The access count of each key of a trial; `None` for an absent key.
fn counts(subject: &mut Subject, trial: &Trial) -> Vec<Option<i64>> {
    let count = |name: &String| match subject.call(&["OBJECT", "FREQ", name]) {
        Value::Integer(count) => Some(count),
        Value::Null(_) => None,
        other => panic!("{name}: {other}"),
    };
    trial.names().iter().map(count).collect()
}

/// True if the count of a key is right. Redis counts each look-up in its code, so one command may count as two accesses; then we
/// may count one.
fn is_right(before: Option<i64>, ours: Option<i64>, theirs: Option<i64>) -> bool {
    match (before, ours, theirs) {
        (Some(before), Some(ours), Some(theirs)) if theirs == before + 2 => {
            (before + 1..=theirs).contains(&ours)
        }
        _ => ours == theirs,
    }
}

/// The expected count after a command that Redis 7.0 does not have: each key is accessed once.
fn accessed_once(before: Option<i64>) -> Option<i64> {
    Some(before.map_or(INITIAL_COUNT, |count| count + 1))
}

#[test]
fn every_command_counts_accesses_as_redis_does() {
    // Bug: APPEND, SETRANGE, EXPIRE, PERSIST, RENAME and every refused write did not count as an access, a copy inherited the count
    // of its original, and a value that replaced a collection lost the count. Cause: each function that accesses an entry had to
    // update the access bits, and many did not. Fix: the engine has one function for it, and a command's first look-up of a key says
    // whether it is an access.
    let ([mut ours, mut theirs], trials) = start("allkeys-lfu");
    let mut wrong = Vec::new();
    for trial in &trials {
        let before = counts(&mut ours, trial);
        if before != counts(&mut theirs, trial) {
            wrong.push(format!("{}: before: {before:?}", trial.text()));
        }
        ours.run(trial);
        theirs.run(trial);
        let found = counts(&mut ours, trial);
        let expected: Vec<_> = match trial.is_known {
            true => counts(&mut theirs, trial),
            false => before.iter().map(|&before| accessed_once(before)).collect(),
        };
        let is_fine = (0..before.len()).all(|at| {
            // A key that the command removes or does not create has no count to compare.
            (!trial.is_known && found[at].is_none())
                || is_right(before[at], found[at], expected[at])
        });
        if !is_fine {
            wrong.push(format!(
                "{}: {before:?} became {found:?} instead of {expected:?}",
                trial.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} trials", trials.len());
}

#[test]
fn every_command_resets_the_idle_time_of_keys_as_redis_does() {
    // The same bug; also, a key created by SETRANGE had an idle time of 194 days.
    let (mut subjects, trials) = start("allkeys-lru");
    for subject in &mut subjects {
        subject.call(&["SET", OLD, ""]);
    }
    let started = Instant::now();
    for subject in &mut subjects {
        while subject.idle(OLD) < 2 {
            assert!(started.elapsed() < PATIENCE, "the idle time does not grow");
            std::thread::sleep(Duration::from_millis(50));
        }
        subject.call(&["SET", NEW, ""]);
        for trial in &trials {
            subject.run(trial);
        }
    }
    let mut wrong = Vec::new();
    for trial in &trials {
        for name in trial.names() {
            let [ours, theirs] = subjects.each_mut().map(|subject| subject.is_new(&name));
            let is_fine = match trial.is_known {
                true => ours == theirs,
                false => ours != Some(false),
            };
            if !is_fine {
                let text = trial.text();
                wrong.push(format!("{text}: {name}: {ours:?} instead of {theirs:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
