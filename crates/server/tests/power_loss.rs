//! A server whose disk loses power while clients write: what was promised must be there after a restart, wherever it happened, rewrites
//! and the switch of the manifest included.
//!
//! `DAMSELFLY_POWER_LOSSES` sets how many moments of each run are tried.

mod common;
#[path = "common/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use damselfly_config::{AppendFsync, Config};
use damselfly_server::persistence::aof::check::{check, truncate};
use damselfly_server::persistence::aof::manifest::Manifest;

use common::{Client, TestServer, until};
use disk::{Damage, Random, SimulatedDisk, State, Step};

const CLIENTS: usize = 3;

/// With `everysec`, changes may be lost that are not older than this: a second, and time for a busy machine.
const WINDOW: Duration = Duration::from_secs(2);

const SCRIPT: &str =
    "redis.call('DECR', KEYS[1]); redis.call('INCR', KEYS[2]); return redis.call('INCR', KEYS[3])";

/// The kinds of writes, each with the command that counts those that are there.
const KINDS: [(&str, &str); 4] = [
    ("counter", "GET"),
    ("list", "LLEN"),
    ("moved", "GET"),
    ("scripted", "GET"),
];

fn moments() -> usize {
    let number = std::env::var("DAMSELFLY_POWER_LOSSES").ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(40)
}

/// A write that was acknowledged: it is the `count`-th of its client and kind.
struct Acknowledged {
    client: usize,
    kind: usize,
    count: i64,
    /// How many steps the disk had made.
    steps: usize,
    at: Instant,
}

/// Writes one change of a kind. False if it was refused.
fn write_one(client: &mut Client, number: usize, kind: usize) -> bool {
    let key = format!("{}:{number}", KINDS[kind].0);
    let reply = match kind {
        0 => client.run(&format!("INCR {key}")),
        1 => client.run(&format!("RPUSH {key} x")),
        2 => {
            let stream = format!("XADD stream:{number} * f v");
            let queued = ["DECRBY a 3", "INCRBY b 3", &format!("INCR {key}"), &stream];
            client.send("MULTI");
            queued.iter().for_each(|command| client.send(command));
            client.send("EXEC");
            (0..=queued.len()).for_each(|_| drop(client.receive()));
            client.receive()
        }
        _ => client.run_words(&["EVAL", SCRIPT, "3", "a", "b", &key]),
    };
    assert_ne!(reply, "(closed)");
    !reply.contains("(error)")
}

/// Writes until `stop`.
fn write(
    server: &TestServer,
    disk: &SimulatedDisk,
    number: usize,
    pause: Duration,
    stop: &AtomicBool,
) -> Vec<Acknowledged> {
    let (mut client, mut all, mut counts) = (server.client(), Vec::new(), [0; KINDS.len()]);
    while !stop.load(Relaxed) {
        for (kind, count) in counts.iter_mut().enumerate() {
            if write_one(&mut client, number, kind) {
                *count += 1;
                all.push(Acknowledged {
                    client: number,
                    kind,
                    count: *count,
                    steps: disk.steps(),
                    at: Instant::now(),
                });
            }
            thread::sleep(pause);
        }
    }
    all
}

/// A run of a server, and all that is known of it.
struct Run {
    disk: SimulatedDisk,
    acknowledged: Vec<Acknowledged>,
}

/// Runs a server under writes and rewrites.
fn run(fsync: AppendFsync, duration: Duration, pause: Duration, faults: Option<u64>) -> Run {
    let disk = SimulatedDisk::default();
    let server = TestServer::try_prepared(
        |config: &mut Config| {
            config.threads = 2;
            config.appendonly = true;
            config.appendfsync = fsync;
        },
        |server| server.shared().aof.use_storage(Arc::new(disk.clone())),
    )
    .unwrap();
    if let Some(seed) = faults {
        let mut random = Random(seed);
        let mut left = 12;
        disk.set_faults(Some(Box::new(move |step| {
            let share = match step {
                Step::Append(..) => 40,
                Step::Sync(_) => 60,
                _ => 10,
            };
            let fails = left > 0 && random.below(share) == 0;
            left -= i32::from(fails);
            fails
        })));
    }
    let (stop, started) = (AtomicBool::new(false), Instant::now());
    let acknowledged = thread::scope(|scope| {
        let writers: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (server, disk, stop) = (&server, &disk, &stop);
                scope.spawn(move || write(server, disk, number, pause, stop))
            })
            .collect();
        let mut client = server.client();
        while started.elapsed() < duration {
            client.run("BGREWRITEAOF");
            thread::sleep(duration / 5);
        }
        stop.store(true, Relaxed);
        let all = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap());
        all.collect()
    });
    disk.set_faults(None);
    until("the disk works again", || {
        server
            .client()
            .run("INFO persistence")
            .contains("aof_last_write_status:ok")
    });
    drop(server);
    Run { disk, acknowledged }
}

/// Starts a server with what is left of the files.
fn restart(files: &BTreeMap<String, Vec<u8>>) -> Result<TestServer, String> {
    TestServer::try_with(|config| {
        config.threads = 1;
        config.appendonly = true;
        let folder = Path::new(&config.dir).join(&config.appenddirname);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        mend(&folder, &format!("{}.manifest", config.appendfilename));
    })
}

/// Does what an operator does whose server refuses to start: cuts the first broken increment behind its last whole command. Increments
/// that follow it, after an fsync that failed, hold nothing that was acknowledged.
fn mend(folder: &Path, manifest_name: &str) {
    let Ok(text) = std::fs::read_to_string(folder.join(manifest_name)) else {
        return;
    };
    let mut manifest = Manifest::parse(&text).unwrap();
    let broken = manifest.increments.iter().position(|entry| {
        let path = folder.join(&entry.name);
        let report = check(&path).unwrap();
        if report.fault.is_some() {
            truncate(&path, report.good).unwrap();
        }
        report.fault.is_some()
    });
    if let Some(index) = broken {
        manifest.increments.truncate(index + 1);
        std::fs::write(folder.join(manifest_name), manifest.to_text()).unwrap();
    }
}

fn integer(client: &mut Client, command: &str) -> i64 {
    let reply = client.run(command);
    let digits = reply.trim_start_matches("(integer) ").trim_matches('"');
    match digits {
        "(nil)" => 0,
        digits => digits
            .parse()
            .unwrap_or_else(|_| panic!("{command}: {reply}")),
    }
}

impl Run {
    /// How many writes of each client and kind were acknowledged among those for which `counts` holds.
    fn count(&self, counts: impl Fn(&Acknowledged) -> bool) -> BTreeMap<(usize, usize), i64> {
        let mut most = BTreeMap::new();
        for write in self.acknowledged.iter().filter(|write| counts(write)) {
            most.insert((write.client, write.kind), write.count);
        }
        most
    }

    /// Restarts with what a power failure after `steps` steps leaves, and checks it. `is_promised` tells which writes must be there.
    fn check_after(
        &self,
        (state, steps): (&State, usize),
        random: &mut Random,
        is_promised: &dyn Fn(&Acknowledged) -> bool,
    ) {
        let damage = Damage::any(random);
        let files = state.lose_power(damage, random);
        let what = format!("{damage:?} after step {steps}, {:?}", files.keys());
        let server = restart(&files).unwrap_or_else(|error| {
            for (index, (step, _)) in self.disk.journal_from(0)[..steps].iter().enumerate() {
                if !matches!(step, Step::Append(..) | Step::Sync(_)) {
                    println!("{index}: {step:?}");
                }
            }
            panic!("{what}: {error}")
        });
        let client = &mut server.client();
        let (a, b) = (integer(client, "GET a"), integer(client, "GET b"));
        assert_eq!(a + b, 0, "{what}: half of a transfer is there");
        for ((number, kind), promised) in self.count(is_promised) {
            let (name, command) = KINDS[kind];
            let found = integer(client, &format!("{command} {name}:{number}"));
            assert!(
                found >= promised,
                "{what}: {found} of {promised} writes of kind {name} are left"
            );
        }
        for number in 0..CLIENTS {
            let entries = integer(client, &format!("XLEN stream:{number}"));
            let moved = integer(client, &format!("GET moved:{number}"));
            assert_eq!(entries, moved, "{what}: half of a transaction is there");
        }
    }

    /// Loses power at many moments: around each step that is no usual write, and at random ones.
    fn check_everywhere(
        &self,
        seed: u64,
        is_promised: impl Fn(&Acknowledged, usize, Instant) -> bool,
    ) {
        let (mut random, mut state) = (Random(seed), State::default());
        let journal = self.disk.journal_from(0);
        assert!(journal.len() > 50, "the server has written little");
        let share = (journal.len() / moments()).max(1) as u64;
        let mut renames = 0;
        for (index, (step, at)) in journal.iter().enumerate() {
            let is_usual = matches!(step, Step::Append(..) | Step::Sync(_));
            if (!is_usual && random.below(2) == 0) || random.below(share) == 0 {
                let promised = |write: &Acknowledged| is_promised(write, index, *at);
                self.check_after((&state, index), &mut random, &promised);
            }
            renames += usize::from(matches!(step, Step::Rename(..)));
            state.apply(step);
        }
        assert!(renames > 4, "there were no rewrites");
    }
}

/// A seed, which is printed.
fn seed() -> u64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |elapsed| elapsed.as_nanos() as u64);
    let given = std::env::var("DAMSELFLY_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(nanos);
    println!("DAMSELFLY_SEED={seed}");
    seed | 1
}

/// An fsync that does not end while clients write thousands of changes.
#[test]
fn with_everysec_a_slow_fsync_holds_up_no_client() {
    let (disk, is_slow) = (SimulatedDisk::default(), Arc::new(AtomicBool::new(true)));
    let waiting = Arc::new(AtomicBool::new(false));
    let (slow, seen) = (is_slow.clone(), waiting.clone());
    let server = TestServer::try_prepared(
        |config: &mut Config| {
            config.threads = 2;
            config.appendonly = true;
        },
        |server| server.shared().aof.use_storage(Arc::new(disk.clone())),
    )
    .unwrap();
    disk.set_delay(Arc::new(move |_| {
        while slow.load(Relaxed) {
            seen.store(true, Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
    }));
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    until("an fsync has begun", || {
        clients[0].run("INCR n");
        waiting.load(Relaxed)
    });
    for number in 0..2000 {
        let client = &mut clients[number % 4];
        assert!(client.run("INCR m").starts_with("(integer)"));
        assert_eq!(client.run("PING"), "PONG");
    }
    // It has lasted all the time.
    assert!(is_slow.load(Relaxed));
    clients[0].send("WAITAOF 1 0 0");
    is_slow.store(false, Relaxed);
    assert_eq!(clients[0].receive(), "1) (integer) 1\n2) (integer) 0");
}

#[test]
fn with_always_no_acknowledged_write_is_lost_with_the_power() {
    let run = run(
        AppendFsync::Always,
        Duration::from_millis(400),
        Duration::from_micros(500),
        None,
    );
    run.check_everywhere(seed(), |write, steps, _| write.steps <= steps);
}

#[test]
fn with_always_a_failing_disk_that_loses_power_loses_no_acknowledged_write() {
    let seed = seed();
    let run = run(
        AppendFsync::Always,
        Duration::from_millis(600),
        Duration::from_micros(500),
        Some(seed),
    );
    run.check_everywhere(seed, |write, steps, _| write.steps <= steps);
}

#[test]
fn with_everysec_nothing_is_lost_that_is_older_than_the_window() {
    let run = run(
        AppendFsync::EverySecond,
        Duration::from_millis(3500),
        Duration::from_millis(4),
        None,
    );
    run.check_everywhere(seed(), |write, steps, at| {
        write.steps <= steps && write.at + WINDOW < at
    });
}
