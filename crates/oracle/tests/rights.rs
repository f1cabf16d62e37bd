//! Users and their rights, where it takes a whole program to see them: renamed commands, files, the log. Wherever `redis-server` has the same,
//! it must behave the same.

#[path = "common/until.rs"]
mod until;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server, free_port};
use damselfly_oracle::text::render;
use until::until;

fn run(connection: &mut Connection, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    render(&connection.call(&words).expect("a reply"))
}

/// A connection that has logged in as `name`, whose rules are set before.
fn user(server: &Server, name: &str, rules: &str) -> Connection {
    let set = format!("ACL SETUSER {name} reset on nopass {rules}");
    assert_eq!(run(&mut server.connect(), &set), "OK");
    let mut connection = server.connect();
    assert_eq!(run(&mut connection, &format!("AUTH {name} x")), "OK");
    connection
}

/// What a connection receives until the server closes it, or until a text that contains `last`.
fn received(connection: &mut Connection, last: &str) -> String {
    let mut all = String::new();
    loop {
        match connection.receive() {
            Ok(value) => all += &format!("{}\n", render(&value)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return all,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}; received before: {all}"),
        }
        if all.contains(last) {
            return all;
        }
    }
}

/// Rules name commands as they are called without `rename-command`, also if another command now has the name.
#[test]
fn renamed_commands_keep_their_rights() {
    const RENAMED: &[&str] = &[
        "--rename-command",
        "MONITOR",
        "watch-all",
        "--rename-command",
        "GET",
        "MONITOR",
        "--rename-command",
        "SYNC",
        "",
    ];
    for program in [Program::reference(), Program::subject()] {
        let server = Server::start(&program, RENAMED).unwrap();
        let mut admin = server.connect();
        assert_eq!(run(&mut admin, "SET k v"), "OK");
        // The name alone gives no right: that of GET is now another command's.
        let mut reader = user(&server, "reader", "+get ~*");
        assert_eq!(run(&mut reader, "MONITOR k"), "\"v\"");
        let refused = "(error) NOPERM this user has no permissions to run the 'monitor' command";
        assert_eq!(run(&mut reader, "watch-all"), refused);
        let unknown = run(&mut reader, "GET k");
        assert!(unknown.contains("unknown command"), "{unknown}");
        let unknown = run(&mut admin, "SYNC");
        assert!(unknown.contains("unknown command"), "{unknown}");
        let mut watcher = user(&server, "watcher", "+monitor ~*");
        let refused = "(error) NOPERM this user has no permissions to run the 'get' command";
        assert_eq!(run(&mut watcher, "MONITOR k"), refused);
        // It works, and shows commands by the names that clients used.
        assert_eq!(run(&mut watcher, "WATCH-ALL"), "OK");
        assert_eq!(run(&mut admin, "MONITOR k"), "\"v\"");
        assert_eq!(run(&mut admin, "ECHO end"), "\"end\"");
        let shown = received(&mut watcher, "\"end\"");
        assert!(shown.contains("\"MONITOR\" \"k\""), "{shown}");
    }
}

/// Redis lets a MONITOR client that has lost the right to it go on.
#[test]
fn a_renamed_monitor_is_closed_when_its_user_loses_the_right() {
    let renamed = ["--rename-command", "MONITOR", "watch-all"];
    let server = Server::start(&Program::subject(), &renamed).unwrap();
    if server.is_redis() {
        return;
    }
    let mut admin = server.connect();
    for change in [
        "ACL SETUSER watcher -monitor",
        "ACL SETUSER watcher -@all",
        "ACL DELUSER watcher",
    ] {
        let mut watcher = user(&server, "watcher", "+monitor");
        assert_eq!(run(&mut watcher, "watch-all"), "OK");
        // Other changes leave it open.
        run(&mut admin, "ACL SETUSER watcher +get");
        run(&mut admin, "ECHO before");
        received(&mut watcher, "\"before\"");
        run(&mut admin, change);
        run(&mut admin, "SET secret 1");
        let shown = received(&mut watcher, "secret");
        assert!(!shown.contains("secret"), "{change}: {shown}");
    }
}

#[test]
fn cross_protocol_requests_are_logged() {
    for program in [Program::reference(), Program::subject()] {
        let server = Server::start(&program, &[]).unwrap();
        let mut browser = server.connect();
        let address = browser.stream().local_addr().unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k v\r\n";
        browser.send(request).unwrap();
        assert!(browser.closed_by_server());
        // Redis 7.0 does not yet name the client.
        let end = match server.is_redis() {
            true => String::from("Connection aborted."),
            false => format!("Connection from {address} aborted."),
        };
        until("the log names the attack", || {
            let log = server.log();
            let mut lines = log.lines();
            lines.any(|line| line.contains("Possible SECURITY ATTACK") && line.ends_with(&end))
        });
        assert_eq!(run(&mut server.connect(), "EXISTS k"), "(integer) 0");
    }
}

/// A server that runs with the file `server.conf` in its folder. It is killed when dropped.
struct Configured {
    child: Child,
    address: SocketAddr,
}

impl Configured {
    fn start(program: &Program, folder: &Path) -> Self {
        let port = free_port().unwrap();
        let child = Command::new(program.path())
            .current_dir(folder)
            .args(["server.conf", "--port", &port.to_string(), "--save", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Self { child, address };
        until("it starts", || Connection::open(address).is_ok());
        server
    }

    fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rules in a reply to ACL LIST, line by line. Redis's order is that of a hash table. A user of a file begins with a reset, which sets a flag.
fn sorted_rules(listed: &str) -> Vec<Vec<&str>> {
    let lines = listed.lines().map(|line| {
        let rules = line.split([' ', '"']);
        let mut rules: Vec<&str> = rules.filter(|rule| *rule != "sanitize-payload").collect();
        rules.sort_unstable();
        rules
    });
    lines.collect()
}

/// Users stay what they are over a restart, by `user` lines and by an ACL file.
#[test]
fn users_survive_a_restart() {
    let rules = [
        "ACL SETUSER alice on >secret ~app:* %R~shared:* &news +@read -@dangerous +config|get (+set %W~log:*)",
        "ACL SETUSER bob off nopass allkeys allchannels +@all -debug",
        "ACL SETUSER default >pass",
    ];
    for program in [Program::reference(), Program::subject()] {
        for has_file in [false, true] {
            let folder = ScratchFolder::create().unwrap();
            let path = |name: &str| folder.path().join(name).display().to_string();
            std::fs::write(path("users.acl"), "").unwrap();
            let aclfile = format!("aclfile {}\n", path("users.acl"));
            let configuration = if has_file { &aclfile } else { "# mine\n" };
            std::fs::write(path("server.conf"), configuration).unwrap();
            let server = Configured::start(&program, folder.path());
            let mut admin = server.connect();
            for rule in rules {
                assert_eq!(run(&mut admin, rule), "OK");
            }
            let listed = run(&mut admin, "ACL LIST");
            let save = if has_file {
                "ACL SAVE"
            } else {
                "CONFIG REWRITE"
            };
            assert_eq!(run(&mut admin, save), "OK");
            drop((admin, server));
            for name in ["server.conf", "users.acl"] {
                let text = std::fs::read_to_string(path(name)).unwrap();
                assert!(!text.contains("secret"), "{text}");
            }
            let server = Configured::start(&program, folder.path());
            let mut admin = server.connect();
            assert!(run(&mut admin, "PING").contains("NOAUTH"));
            assert_eq!(run(&mut admin, "AUTH pass"), "OK");
            assert_eq!(
                sorted_rules(&run(&mut admin, "ACL LIST")),
                sorted_rules(&listed)
            );
            let mut alice = server.connect();
            assert_eq!(run(&mut alice, "AUTH alice secret"), "OK");
            assert_eq!(run(&mut alice, "SET log:1 x"), "OK");
            assert!(run(&mut alice, "GET log:1").contains("NOPERM"));
        }
    }
}
