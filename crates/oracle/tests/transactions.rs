//! Concurrent transactions of many clients: money moves between accounts in different shards, and the sum never changes.
//!
//! Some clients move it with MULTI, some by reading under WATCH and then setting, some only read, all with EXPIRE, SWAPDB and the
//! like in between. `cargo xtask ci` also runs this with a server built with the planted bug `sections`, where other clients run in
//! the middle of an EXEC, and with the planted bug `watches`, where EXEC does not lock the watched keys; then tests of this file
//! must fail.
//!
//! `DAMSELFLY_TRANSACTIONS_S` is how many seconds each test runs. `DAMSELFLY_SEED` repeats the same commands; how the threads
//! interleave is still random.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::server::Server;
use damselfly_protocol::client::Value;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ACCOUNTS: usize = 8;
/// The initial balance of each account.
const BALANCE: i64 = 1000;
const CLIENTS: usize = 8;
const SECONDS: u64 = 2;

fn account(number: usize) -> String {
    format!("account:{number}")
}

fn integer(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        Value::Bulk(text) => std::str::from_utf8(text).unwrap().parse().unwrap(),
        other => panic!("{other:?} is not a number"),
    }
}

fn sum(values: &[Value]) -> i64 {
    values.iter().map(integer).sum()
}

/// A client and its state.
struct Client {
    connection: Connection,
    random: Random,
}

impl Client {
    fn call(&mut self, words: &[&str]) -> Value {
        self.connection.call(words).unwrap()
    }

    /// Runs a transaction, pipelined or command by command; `None` if a watched key was changed.
    fn transaction(&mut self, commands: &[Vec<String>]) -> Option<Vec<Value>> {
        let mut all = vec![vec!["MULTI".to_string()]];
        all.extend_from_slice(commands);
        all.push(vec!["EXEC".to_string()]);
        let at_once = self.random.one_in(2);
        let mut reply = Value::Integer(0);
        if at_once {
            let bytes: Vec<u8> = all.iter().flat_map(|words| request(words)).collect();
            self.connection.send(&bytes).unwrap();
        }
        for words in &all {
            reply = if at_once {
                self.connection.receive().unwrap()
            } else {
                self.connection.call(words).unwrap()
            };
        }
        match reply {
            Value::Array(replies) => {
                assert_eq!(replies.len(), commands.len());
                Some(replies)
            }
            Value::Null(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn two_accounts(&mut self) -> (usize, usize) {
        let first = self.random.below(ACCOUNTS);
        (
            first,
            (first + 1 + self.random.below(ACCOUNTS - 1)) % ACCOUNTS,
        )
    }

    /// Moves money in a transaction, which sometimes has further commands.
    fn transfer(&mut self) {
        let (from, to) = self.two_accounts();
        let amount = self.random.between(1, 50).to_string();
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut commands = vec![
            words(&["DECRBY", &account(from), &amount]),
            words(&["INCRBY", &account(to), &amount]),
        ];
        match self.random.below(8) {
            // An error does not stop the transaction.
            0 => commands.insert(1, words(&["LPUSH", &account(from), "x"])),
            1 => commands.insert(1, words(&["DBSIZE"])),
            2 => {
                commands.insert(1, words(&["RENAME", &account(to), "aside"]));
                commands.insert(2, words(&["RENAME", "aside", &account(to)]));
            }
            3 => {
                commands.insert(1, words(&["SWAPDB", "0", "1"]));
                commands.insert(2, words(&["SWAPDB", "1", "0"]));
            }
            4 => commands.push(words(&["SELECT", "0"])),
            _ => {}
        }
        self.transaction(&commands).unwrap();
    }

    /// Reads under WATCH and sets the accounts in a transaction. Returns true unless they were changed in between.
    fn compare_and_set(&mut self) -> bool {
        let (from, to) = self.two_accounts();
        let (from, to) = (account(from), account(to));
        self.call(&["WATCH", &from, &to]);
        let (had, gets) = match self.random.below(2) {
            0 => (
                integer(&self.call(&["GET", &from])),
                integer(&self.call(&["GET", &to])),
            ),
            _ => match self.call(&["MGET", &from, &to]) {
                Value::Array(both) => (integer(&both[0]), integer(&both[1])),
                other => panic!("{other:?}"),
            },
        };
        let amount = self.random.between(1, 50);
        let set = |name: &str, amount: i64| {
            ["SET", name, &amount.to_string()]
                .map(String::from)
                .to_vec()
        };
        let commands = [set(&from, had - amount), set(&to, gets + amount)];
        self.transaction(&commands).is_some()
    }

    /// Reads all accounts at one moment, in one of several ways.
    fn total(&mut self) -> i64 {
        let names: Vec<String> = (0..ACCOUNTS).map(account).collect();
        if self.random.one_in(2) {
            let gets: Vec<Vec<String>> = names
                .iter()
                .map(|name| vec!["GET".into(), name.clone()])
                .collect();
            return sum(&self.transaction(&gets).unwrap());
        }
        let mut words = vec!["MGET"];
        words.extend(names.iter().map(String::as_str));
        match self.call(&words) {
            Value::Array(values) => sum(&values),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs `work` with many clients until the time is over.
fn many_clients(server: &Server, work: impl Fn(usize, &mut Client) + Sync) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(now.subsec_nanos().into());
    println!("seed {seed}");
    let seconds = random::number_from("DAMSELFLY_TRANSACTIONS_S").unwrap_or(SECONDS);
    let (started, failed) = (Instant::now(), AtomicBool::new(false));
    let goes_on = || started.elapsed() < Duration::from_secs(seconds) && !failed.load(Relaxed);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (work, goes_on, failed) = (&work, &goes_on, &failed);
            let random = Random::new(seed.wrapping_add(number as u64));
            let connection = server.connect();
            scope.spawn(move || {
                let mut client = Client { connection, random };
                while goes_on() {
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        work(number, &mut client);
                    }));
                    if let Err(panic) = ran {
                        failed.store(true, Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

fn money_is_neither_created_nor_lost(threads: &str, shards: &str) {
    let server = Server::subject(threads, shards);
    let mut connection = server.connect();
    for number in 0..ACCOUNTS {
        let words = ["SET", &account(number), &BALANCE.to_string()];
        connection.call(&words).unwrap();
    }
    let (set, given_up, looks) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    many_clients(&server, |number, client| match number % 4 {
        0 => client.transfer(),
        1 | 2 => {
            let counter = if client.compare_and_set() {
                &set
            } else {
                &given_up
            };
            counter.fetch_add(1, Relaxed);
        }
        _ => {
            assert_eq!(client.total(), BALANCE * ACCOUNTS as i64);
            looks.fetch_add(1, Relaxed);
        }
    });
    println!("{set:?} set under WATCH, {given_up:?} given up, {looks:?} looks");
    assert!(set.into_inner() > 0 && given_up.into_inner() > 0 && looks.into_inner() > 0);
    let mut client = Client {
        connection,
        random: Random::new(1),
    };
    assert_eq!(client.total(), BALANCE * ACCOUNTS as i64);
}

#[test]
fn money_is_neither_created_nor_lost_with_two_threads() {
    money_is_neither_created_nor_lost("2", "4");
}

#[test]
fn money_is_neither_created_nor_lost_with_four_threads() {
    money_is_neither_created_nor_lost("4", "64");
}

/// Two switches must never both be on. Each client turns one on if it sees under WATCH that the other is off, which fails unless
/// EXEC also locks keys that are only watched.
#[test]
fn two_switches_are_never_both_on() {
    let server = Server::subject("4", "64");
    let turned_on = AtomicUsize::new(0);
    many_clients(&server, |number, client| {
        let (own, other) = match number % 2 {
            0 => ("left", "right"),
            _ => ("right", "left"),
        };
        client.call(&["WATCH", other]);
        let is_off = client.call(&["EXISTS", other]) == Value::Integer(0);
        if !is_off {
            client.call(&["UNWATCH"]);
            return;
        }
        let word = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        if client.transaction(&[word(&["SET", own, "on"])]).is_none() {
            return;
        }
        turned_on.fetch_add(1, Relaxed);
        let both = [word(&["EXISTS", own, other])];
        let seen = client.transaction(&both).unwrap();
        assert_ne!(seen, [Value::Integer(2)], "both are on");
        client.call(&["DEL", own]);
    });
    assert!(turned_on.into_inner() > 0);
}
