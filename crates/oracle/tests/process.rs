//! The process: signals, running in the background, service managers, and changing ports and addresses while it runs.
//!
//! Each test starts its own server. With `DAMSELFLY_BIN=redis-server`, they run against Redis, except those that Redis can't pass.

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Kind, Program, ScratchFolder, Server, free_port, wait_for_end};
use damselfly_protocol::client::Value;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest that a test waits for any event.
const PATIENCE: Duration = Duration::from_secs(30);

fn start(arguments: &[&str]) -> Server {
    Server::start(&Program::subject(), arguments).unwrap()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Kills a process when the test is over, if it is still running.
struct KilledOnDrop(u32);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = kill_process(pid(self.0), Signal::KILL);
    }
}

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

fn ping(connection: &mut Connection) {
    assert_eq!(
        connection.call(&["PING"]).unwrap(),
        Value::Simple(b"PONG".to_vec())
    );
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Bug: SIGHUP, which a terminal sends when it closes, killed the server. Redis ignores it.
#[test]
fn sighup_is_ignored() {
    let mut server = start(&[]);
    kill_process(pid(server.id()), Signal::HUP).unwrap();
    let status = server
        .terminate(PATIENCE)
        .unwrap()
        .expect("the server exits promptly");
    assert!(status.success(), "{status}; its log:\n{}", server.log());
}

/// Bug: SIGTERM did not end the process while a command computed a long reply, even if its client had left.
#[test]
fn a_command_that_only_reads_does_not_hold_up_the_end() {
    const MEMBERS: usize = 50_000;
    if Program::subject().kind() == Kind::Redis {
        return;
    }
    let mut server = start(&["--enable-debug-command", "yes"]);
    let mut connection = server.connect();
    let members: Vec<String> = (0..MEMBERS).map(|number| number.to_string()).collect();
    let add = [String::from("SADD"), String::from("set")];
    connection.call(&[&add[..], &members].concat()).unwrap();
    // This takes minutes.
    let endless = [vec!["SINTER"], vec!["set"; 100_000]].concat();
    let mut other = server.connect();
    other
        .send(&damselfly_oracle::connection::request(&endless))
        .unwrap();
    let threads = format!("/proc/{}/task", server.id());
    until("the command runs", || {
        let mut threads = fs::read_dir(&threads).unwrap().flatten();
        threads.any(|thread| {
            let name = fs::read_to_string(thread.path().join("comm"));
            name.is_ok_and(|name| name.starts_with("long-"))
                && state_and_ticks(&thread.path()).1 > 5
        })
    });
    drop(other);
    let status = server.terminate(PATIENCE).unwrap();
    let status = status.unwrap_or_else(|| panic!("it goes on; its log:\n{}", server.log()));
    assert!(status.success(), "{status}; its log:\n{}", server.log());
    assert!(server.log().contains("It is given up."), "{}", server.log());
}

/// Bug: while a thread was stuck, only SIGKILL could stop the process. Here the main thread is stuck: it writes its log to a pipe
/// that nobody reads any more.
#[test]
fn a_second_signal_stops_the_process_even_if_a_thread_is_stuck() {
    if Program::subject().kind() == Kind::Redis {
        // Redis logs from the signal handler, and only a second SIGINT stops it.
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let folder = ScratchFolder::create().unwrap();
        let log = folder.path().join("log");
        let made = Command::new("mkfifo").arg(&log).status().unwrap();
        assert!(made.success());
        let mut child = Program::subject()
            .command(
                folder.path(),
                &["--port", "0", "--unixsocket", "socket", "--logfile"],
            )
            .arg(&log)
            .spawn()
            .unwrap();
        let _killed = KilledOnDrop(child.id());
        // The server opens the pipe for each line. This reader is a writer, too, so that there is no end between the lines.
        let pipe = File::options().read(true).write(true).open(&log).unwrap();
        let (mut reader, mut line) = (BufReader::new(pipe), String::new());
        while !line.contains("Ready to accept connections") {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        drop(reader);
        let mut status = None;
        until("the process exits", || {
            kill_process(pid(child.id()), signal).unwrap();
            status = wait_for_end(&mut child, Duration::from_millis(20)).unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(1));
    }
}

/// The state of a process or thread, by its folder in /proc, and the CPU time that it has used itself, in ticks. Both are known until its
/// parent has waited for it.
fn state_and_ticks(folder: &Path) -> (String, u64) {
    let status = fs::read_to_string(folder.join("stat")).unwrap();
    // The name in parentheses may contain anything.
    let (_, fields) = status.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    (fields[0].to_owned(), fields[11].parse().unwrap())
}

/// Bug: SIGTERM took seconds if there were millions of keys. Cause: the server freed them one by one before it exited. Fix: it leaves
/// that to the system.
#[test]
fn a_shutdown_does_not_free_the_keys_one_by_one() {
    const KEYS: &str = "2000000";
    let server = start(&["--enable-debug-command", "yes", "--save", ""]);
    let folder = PathBuf::from(format!("/proc/{}", server.id()));
    let ticks = || state_and_ticks(&folder).1;
    let before = ticks();
    let populate = ["DEBUG", "POPULATE", KEYS];
    assert_eq!(server.connect().call(&populate).unwrap(), ok());
    let filled = ticks();
    kill_process(pid(server.id()), Signal::TERM).unwrap();
    until("the process has exited", || {
        state_and_ticks(&folder).0 == "Z"
    });
    let (filling, ending) = (filled - before, ticks() - filled);
    assert!(
        ending * 20 < filling,
        "{ending} ticks to shut down, {filling} to fill the server"
    );
}

#[test]
fn another_port_takes_new_connections_and_old_ones_stay() {
    let server = start(&[]);
    let mut old = server.connect();
    let port = free_port().unwrap();
    assert_eq!(
        old.call(&["CONFIG", "SET", "port", &port.to_string()])
            .unwrap(),
        ok()
    );
    let mut new = Connection::open(local(port)).unwrap();
    ping(&mut new);
    ping(&mut old);
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(new.call(&["CONFIG", "SET", "port", "0"]).unwrap(), ok());
    assert!(TcpStream::connect(local(port)).is_err());
    ping(&mut new);
    let first = server.address().port().to_string();
    assert_eq!(new.call(&["CONFIG", "SET", "port", &first]).unwrap(), ok());
    ping(&mut server.connect());
}

#[test]
fn a_port_in_use_is_refused_and_changes_nothing() {
    let server = start(&["--bind", "127.0.0.1"]);
    let mut connection = server.connect();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = other.local_addr().unwrap().port().to_string();
    assert_eq!(
        connection
            .call(&["CONFIG", "SET", "loglevel", "verbose", "port", &taken])
            .unwrap(),
        error(
            "ERR CONFIG SET failed (possibly related to argument 'port') - Unable to listen on this port. Check server logs."
        )
    );
    for (option, value) in [
        ("port", server.address().port().to_string()),
        ("loglevel", "notice".to_owned()),
    ] {
        let shown = [option.as_bytes(), value.as_bytes()].map(|text| Value::Bulk(text.to_vec()));
        assert_eq!(
            connection.call(&["CONFIG", "GET", option]).unwrap(),
            Value::Array(shown.to_vec())
        );
    }
    ping(&mut server.connect());
}

#[test]
fn other_addresses_take_new_connections() {
    let server = start(&["--bind", "127.0.0.1"]);
    let port = server.address().port();
    let second = SocketAddr::from(([127, 0, 0, 2], port));
    let mut connection = server.connect();
    let mut bind = |addresses: &str| {
        connection
            .call(&["CONFIG", "SET", "bind", addresses])
            .unwrap()
    };
    let refused = error(
        "ERR CONFIG SET failed (possibly related to argument 'bind') - Failed to bind to specified addresses.",
    );
    assert!(TcpStream::connect(second).is_err());
    assert_eq!(bind("127.0.0.1 127.0.0.2"), ok());
    ping(&mut Connection::open(second).unwrap());
    ping(&mut server.connect());
    // A server can't listen on the same port on one address and on all addresses at once.
    assert_eq!(bind("*"), ok());
    ping(&mut Connection::open(second).unwrap());
    assert_eq!(bind("127.0.0.2"), ok());
    ping(&mut Connection::open(second).unwrap());
    assert!(TcpStream::connect(server.address()).is_err());
    // An address reserved for documentation, which no machine has.
    assert_eq!(bind("127.0.0.1 192.0.2.1"), refused);
    assert_eq!(bind("* 192.0.2.1"), refused);
    assert_eq!(bind("127.0.0.1 127.0.0.1"), refused);
    ping(&mut Connection::open(second).unwrap());
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(bind("127.0.0.1 -192.0.2.1"), ok());
    ping(&mut server.connect());
    assert!(TcpStream::connect(second).is_err());
}

/// Starts the server in the background; returns whether that succeeded, and the output.
fn daemonize(folder: &Path, port: u16) -> (bool, String) {
    let output = Program::subject()
        .command(folder, &["--port", &port.to_string()])
        .args(["--daemonize", "yes", "--pidfile", "server.pid"])
        .args(["--logfile", "log", "--dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn a_server_in_the_background_answers_and_writes_its_process_id() {
    let folder = ScratchFolder::create().unwrap();
    let file = folder.path().join("server.pid");
    let port = free_port().unwrap();
    let (success, said) = daemonize(folder.path(), port);
    assert!(success, "{said}");
    if Program::subject().kind() == Kind::Redis {
        // The command exits before the server has started.
        until("the server answers", || {
            Connection::open(local(port)).is_ok()
        });
    }
    let mut connection = Connection::open(local(port)).unwrap();
    ping(&mut connection);
    let number: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let _killed = KilledOnDrop(number);
    let Value::Bulk(info) = connection.call(&["INFO", "server"]).unwrap() else {
        panic!("INFO did not return text")
    };
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains(&format!("process_id:{number}\r\n")), "{info}");
    for stream in 0..3 {
        let link = fs::read_link(format!("/proc/{number}/fd/{stream}")).unwrap();
        assert_eq!(link, Path::new("/dev/null"));
    }
    let session = rustix::process::getsid(Some(pid(number))).unwrap();
    assert_eq!(
        session,
        pid(number),
        "the server is not the leader of its session"
    );
    kill_process(pid(number), Signal::TERM).unwrap();
    assert!(connection.closed_by_server());
    until("the pid file is removed", || !file.exists());
}

#[test]
fn a_failed_start_in_the_background_is_an_error() {
    if Program::subject().kind() == Kind::Redis {
        // Redis exits with success before it has tried to listen.
        return;
    }
    let server = start(&[]);
    let folder = ScratchFolder::create().unwrap();
    let port = server.address().port();
    let (success, said) = daemonize(folder.path(), port);
    assert!(!success);
    assert_eq!(said.lines().count(), 1, "not one line: {said:?}");
    assert!(
        said.contains(&port.to_string()),
        "the port is missing: {said}"
    );
    assert!(!folder.path().join("server.pid").exists());
}

/// Bug: with the configuration file of Debian's package, the server did not start where `/run/redis` was missing. Redis does.
#[test]
fn a_pidfile_that_cant_be_written_is_no_reason_not_to_start() {
    let server = start(&["--pidfile", "/nonexistent/server.pid"]);
    ping(&mut server.connect());
    if Program::subject().kind() != Kind::Redis {
        assert!(server.log().contains("/nonexistent/server.pid"));
    }
}

/// Bug: each closed connection left a kilobyte behind, so after a burst of connections a full cache had less room for keys, for good. Cause:
/// their places were kept for new ones. Fix: a place is small, and most free ones are given back.
#[test]
fn closed_connections_leave_no_memory_behind() {
    const CONNECTIONS: usize = 600;
    const LEFT_MAX: i64 = 100 << 10;
    let server = start(&[]);
    let mut observer = server.connect();
    let mut used = || {
        let Value::Bulk(info) = observer.call(&["INFO", "memory"]).unwrap() else {
            panic!("INFO did not return text")
        };
        let info = String::from_utf8(info).unwrap();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().parse::<i64>().unwrap()
    };
    let before = used();
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    connections.iter_mut().for_each(ping);
    drop(connections);
    until("the memory is free", || used() < before + LEFT_MAX);
}

/// Bug: `TZ=America/New_York` was ignored, so the times in the log were those of UTC, which the lines do not say.
#[test]
fn the_log_has_the_time_of_the_named_time_zone() {
    let folder = ScratchFolder::create().unwrap();
    let zones = folder.path().join("Nowhere");
    fs::create_dir(&zones).unwrap();
    // A file of the time zone database: twice a header and one local time type, and then the rule.
    let offset = -(3 * 3600 + 15 * 60_i32);
    let mut block = b"TZif2".to_vec();
    block.extend([0; 15]);
    for count in [0, 0, 0, 0, 1, 4_u32] {
        block.extend(count.to_be_bytes());
    }
    block.extend(offset.to_be_bytes());
    block.extend(b"\0\0XYZ\0");
    fs::write(
        zones.join("Isle"),
        [&block, &block, &b"\nXYZ3:15\n"[..]].concat(),
    )
    .unwrap();
    let output = Program::subject()
        .command(
            folder.path(),
            &["--port", "0", "--unixsocket", "/nonexistent/socket"],
        )
        .env("TZDIR", folder.path())
        .env("TZ", "Nowhere/Isle")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    // "123:M 30 Nov 2026 16:35:31.113 * ...": the minute of the hour is that of UTC, less 15.
    let utc = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let line = log
        .lines()
        .find(|line| line.contains(":M "))
        .expect("a line of the log");
    let time = line.split(' ').nth(4).unwrap();
    let seconds: u64 = time
        .split([':', '.'])
        .take(3)
        .fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
    let expected = (utc as i64 + i64::from(offset)).rem_euclid(86_400) as u64;
    let late = (expected + 86_400 - seconds) % 86_400;
    assert!(late < 60, "{line} at {utc}");
}

/// Checks the messages that systemd gets on `socket`, named `name` in the environment.
fn supervised(socket: &UnixDatagram, name: &Path, option: &str) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let folder = ScratchFolder::create().unwrap();
    let port = free_port().unwrap();
    let mut child = Program::subject()
        .command(folder.path(), &["--port", &port.to_string()])
        .args(["--supervised", option, "--daemonize", "yes"])
        .env("NOTIFY_SOCKET", name)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _killed = KilledOnDrop(child.id());
    let mut said = next();
    assert!(said.starts_with("STATUS="), "{said}");
    while !said.contains("READY=1\n") {
        said = next();
    }
    let mut connection = Connection::open(local(port)).unwrap();
    let Value::Bulk(info) = connection.call(&["INFO", "server"]).unwrap() else {
        panic!("INFO did not return text")
    };
    let info = String::from_utf8(info).unwrap();
    assert!(info.contains("process_supervised:systemd\r\n"), "{info}");
    // The server is the process that was started, not a child of it.
    kill_process(pid(child.id()), Signal::TERM).unwrap();
    while !said.contains("STOPPING=1\n") {
        said = next();
    }
    let status = wait_for_end(&mut child, PATIENCE).unwrap();
    assert!(status.expect("the server exits promptly").success());
}

#[test]
fn systemd_is_notified_when_the_server_is_ready_and_when_it_stops() {
    let folder = ScratchFolder::create().unwrap();
    let path = folder.path().join("notify");
    supervised(&UnixDatagram::bind(&path).unwrap(), &path, "systemd");
    let name = format!("damselfly-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    supervised(&socket, Path::new(&format!("@{name}")), "auto");
}

#[test]
fn a_missing_supervisor_is_not_an_error() {
    let folder = ScratchFolder::create().unwrap();
    let port = free_port().unwrap();
    let mut child = Program::subject()
        .command(folder.path(), &["--port", &port.to_string()])
        .args(["--supervised", "systemd"])
        .env_remove("NOTIFY_SOCKET")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _killed = KilledOnDrop(child.id());
    until("the server answers", || {
        Connection::open(local(port)).is_ok()
    });
    ping(&mut Connection::open(local(port)).unwrap());
    kill_process(pid(child.id()), Signal::TERM).unwrap();
    let status = wait_for_end(&mut child, PATIENCE).unwrap();
    assert!(status.expect("the server exits promptly").success());
}
