//! Three `redis-sentinel` processes watch a primary of ours with two replicas. The primary is killed while clients write; they go on,
//! and the old primary comes back as a replica. Acknowledged writes that were lost are counted.

mod common {
    pub mod replicas;
}

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::replicas::{
    PATIENCE, POLL_INTERVAL, follow, info, ours, wait_for_agreement, wait_for_link, wait_until,
};
use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server, free_port};
use damselfly_protocol::client::Value;

const NAME: &str = "mymaster";

/// Sentinel calls a server down after this long.
const DOWN_AFTER_MS: u64 = 1500;

/// A running sentinel.
struct Sentinel {
    child: Child,
    port: u16,
    folder: ScratchFolder,
}

impl Sentinel {
    fn start(primary: SocketAddr) -> Self {
        let (folder, port) = (ScratchFolder::create().unwrap(), free_port().unwrap());
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nsentinel monitor {NAME} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {NAME} 6000\nsentinel parallel-syncs {NAME} 2\n",
            primary.port()
        );
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            folder,
        }
    }

    fn ask(&self, words: &[&str]) -> Option<Value> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        Connection::open(address).ok()?.call(words).ok()
    }

    /// What it knows and what it logged, for the report of a failed test.
    fn state(&self) -> String {
        let known: Vec<_> = ["MASTER", "SENTINELS", "REPLICAS"]
            .into_iter()
            .map(|what| match self.ask(&["SENTINEL", what, NAME]) {
                Some(reply) => reply.to_string(),
                None => "no reply".to_owned(),
            })
            .collect();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        format!(
            "sentinel at port {}:\n{}\n{log}",
            self.port,
            known.join("\n")
        )
    }

    /// The port of the primary, as this sentinel knows it.
    fn primary(&self) -> Option<u16> {
        let reply = self.ask(&["SENTINEL", "get-master-addr-by-name", NAME])?;
        let Value::Array(words) = reply else {
            return None;
        };
        match words.get(1)? {
            Value::Bulk(port) => String::from_utf8_lossy(port).parse().ok(),
            _ => None,
        }
    }

    /// True if it knows two replicas and two other sentinels.
    fn is_complete(&self) -> bool {
        let Some(reply) = self.ask(&["SENTINEL", "MASTER", NAME]) else {
            return false;
        };
        let text = reply.to_string();
        let has = |field: &str| {
            let mut lines = text
                .lines()
                .skip_while(|line| !line.contains(field))
                .skip(1);
            lines.next().is_some_and(|line| line.contains("\"2\""))
        };
        has("num-slaves") && has("num-other-sentinels")
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes numbers, each under a key of its own, to whatever is the primary. Returns those that were acknowledged.
fn write(
    sentinels: &[Sentinel],
    (writer, waits): (usize, bool),
    acknowledged_in_all: &AtomicU64,
    ends: &AtomicBool,
) -> Vec<u64> {
    let (mut acknowledged, mut number) = (Vec::new(), 0);
    let mut connection: Option<Connection> = None;
    while !ends.load(SeqCst) {
        if connection.is_none() {
            let port = sentinels.iter().find_map(Sentinel::primary);
            let address = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            connection = address.and_then(|address| Connection::open(address).ok());
        }
        let Some(open) = &mut connection else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        number += 1;
        let key = format!("w{writer}:{number}");
        let stored = open.call(&["SET", &key, "v"]);
        let is_stored = stored.is_ok_and(|reply| reply.to_string().contains("OK"));
        let is_safe = is_stored
            && (!waits
                || open
                    .call(&["WAIT", "1", "1000"])
                    .is_ok_and(|reply| matches!(reply, Value::Integer(1..))));
        match is_safe {
            true => {
                acknowledged.push(number);
                acknowledged_in_all.fetch_add(1, SeqCst);
            }
            false => {
                connection = None;
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    acknowledged
}

/// A client program that writes, and the numbers that it has printed: those of the writes that were acknowledged.
struct ClientProgram {
    child: Child,
    prefix: String,
    acknowledged: Arc<Mutex<Vec<u64>>>,
}

impl ClientProgram {
    fn start(line: &str, sentinels: &[Sentinel]) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let mut child = Command::new(words[1])
            .args(&words[2..])
            .args(sentinels.iter().map(|sentinel| sentinel.port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (lines, numbers) = (child.stdout.take().unwrap(), acknowledged.clone());
        thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                numbers.lock().unwrap().push(line.parse().unwrap());
            }
        });
        Self {
            child,
            prefix: words[0].to_owned(),
            acknowledged,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

impl Drop for ClientProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Client programs that write, too: `DAMSELFLY_SENTINEL_CLIENTS` has their command lines, separated by semicolons; before each is the
/// prefix of its keys. The tasks of the project set it.
fn programs(sentinels: &[Sentinel]) -> Vec<ClientProgram> {
    let lines = std::env::var("DAMSELFLY_SENTINEL_CLIENTS").unwrap_or_default();
    let lines = lines.split(';').filter(|line| !line.is_empty());
    lines
        .map(|line| ClientProgram::start(line, sentinels))
        .collect()
}

/// Kills the primary under writes and returns how many writes were acknowledged, and how many of those were lost.
fn fail_over(waits: bool, options: &[&str]) -> (usize, usize) {
    const WRITERS: usize = 4;
    let mut primary = Some(ours(options));
    let first = primary.as_ref().unwrap();
    let (old_address, old_folder) = (first.address(), first.folder().to_path_buf());
    let replicas = [ours(options), ours(options)];
    for replica in &replicas {
        follow(replica, old_address);
        wait_for_link(replica);
    }
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(old_address)).collect();
    let started = Instant::now();
    while !sentinels.iter().all(Sentinel::is_complete) {
        if started.elapsed() > PATIENCE {
            let states: Vec<String> = sentinels.iter().map(Sentinel::state).collect();
            panic!(
                "the sentinels do not know each other and the replicas:\n{}",
                states.join("\n")
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
    let (ends, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let programs = programs(&sentinels);
    let written: Vec<Vec<u64>> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (sentinels, ends, count) = (&sentinels, &ends, &count);
                scope.spawn(move || write(sentinels, (writer, waits), count, ends))
            })
            .collect();
        let before = Instant::now();
        while count.load(SeqCst) < 2000 && before.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(5));
        }
        wait_until("the client programs write", || {
            programs.iter().all(|program| program.count() > 50)
        });
        // SIGKILL.
        drop(primary.take());
        wait_until("a replica is promoted", || {
            let ports: Vec<_> = sentinels.iter().map(Sentinel::primary).collect();
            let promoted = |port: &Option<u16>| port.is_some_and(|port| port != old_address.port());
            ports.iter().all(promoted)
        });
        let (promoted_at, so_far) = (Instant::now(), count.load(SeqCst));
        while count.load(SeqCst) < so_far + 500 {
            assert!(
                promoted_at.elapsed() < Duration::from_secs(40),
                "the clients go on"
            );
            thread::sleep(Duration::from_millis(5));
        }
        let before: Vec<usize> = programs.iter().map(ClientProgram::count).collect();
        wait_until("the client programs go on", || {
            let pairs = programs.iter().zip(&before);
            pairs
                .into_iter()
                .all(|(program, before)| program.count() > before + 50)
        });
        ends.store(true, SeqCst);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    let port = sentinels[0].primary().unwrap();
    let new = replicas
        .iter()
        .find(|replica| replica.address().port() == port)
        .unwrap();
    assert_eq!(info(new, "role"), "master");
    let mut connection = new.connect();
    let mut lost = 0;
    for mut program in programs {
        // Its end is that of its standard input.
        drop(program.child.stdin.take());
        assert!(program.child.wait().unwrap().success());
        let numbers = program.acknowledged.lock().unwrap().clone();
        let mut missing = 0;
        for number in &numbers {
            let key = format!("{}:{number}", program.prefix);
            let found = connection.call(&["EXISTS", &key]).unwrap();
            missing += usize::from(found != Value::Integer(1));
        }
        println!(
            "{}: {missing} of {} were lost",
            program.prefix,
            numbers.len()
        );
    }
    for (writer, numbers) in written.iter().enumerate() {
        for number in numbers {
            let key = format!("w{writer}:{number}");
            let found = connection.call(&["EXISTS", &key]).unwrap();
            lost += usize::from(found != Value::Integer(1));
        }
    }
    // The old primary comes back, and does not know what has happened.
    fs::create_dir_all(&old_folder).unwrap();
    let (port, dir) = (old_address.port().to_string(), old_folder.to_str().unwrap());
    let again = Program::subject()
        .command(
            &old_folder,
            &[
                "--port",
                &port,
                "--dir",
                dir,
                "--save",
                "",
                "--enable-debug-command",
                "yes",
            ],
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut again = Again(again);
    wait_until("it is a replica of the new primary", || {
        let connection = Connection::open(old_address).ok();
        let text = connection.and_then(|mut open| open.call(&["INFO", "replication"]).ok());
        text.is_some_and(|text| {
            let text = text.to_string();
            text.contains("role:slave") && text.contains("master_link_status:up")
        })
    });
    wait_until("it has the data of the new primary", || {
        let digest = |mut open: Connection| open.call(&["DEBUG", "DIGEST"]).unwrap().to_string();
        let theirs = Connection::open(old_address).map(digest);
        theirs.is_ok_and(|theirs| theirs == digest(new.connect()))
    });
    let both: Vec<&Server> = replicas.iter().collect();
    wait_for_agreement("the replicas", &both);
    let _ = again.0.kill();
    (written.iter().map(Vec::len).sum(), lost)
}

/// Ends with the test.
struct Again(Child);

impl Drop for Again {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_go_on_after_the_primary_was_killed() {
    let (acknowledged, lost) = fail_over(false, &[]);
    println!("without WAIT: {lost} of {acknowledged} acknowledged writes were lost");
    // At most what was on its way when the primary died.
    assert!(lost * 20 < acknowledged, "{lost} of {acknowledged}");
}

#[test]
fn writes_that_replicas_have_acknowledged_are_not_lost() {
    let (acknowledged, lost) = fail_over(true, &[]);
    println!("with WAIT 1: {lost} of {acknowledged} acknowledged writes were lost");
    // Sentinel promotes the replica with the highest offset.
    assert_eq!(lost, 0, "of {acknowledged}");
}

#[test]
fn a_primary_without_replicas_refuses_writes() {
    let options = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
    ];
    let (acknowledged, lost) = fail_over(false, &options);
    println!(
        "with min-replicas-to-write 1: {lost} of {acknowledged} acknowledged writes were lost"
    );
    assert!(lost * 20 < acknowledged, "{lost} of {acknowledged}");
}
