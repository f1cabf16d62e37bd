//! `cargo xtask compare --log`: what the append-only file costs, and how much it can lose.
//!
//! Servers with and without it run at the same time and take turns. The CPU time of the threads that serve clients is counted apart from
//! that of the threads that merge and write the log, as Linux counts it in `/proc/PID/task`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::client::Client;
use super::peers::{Peer, Protocol, Server};
use super::{Run, root, tables};

/// How many clients send.
pub(super) const CONNECTIONS: u32 = 50;

/// A server that takes longer for its first append-only file has failed.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// How often a client asks when its last write is on disk.
const WAITS: u32 = 20;

/// How long the disk itself is measured.
const DISK_MEASURE: Duration = Duration::from_secs(2);

/// Where servers have their files.
fn folder() -> PathBuf {
    root().join("target").join("compare")
}

/// The servers that have an append-only file.
pub(super) fn with_file(peers: &[Peer]) -> Vec<&Peer> {
    let has_file = |peer: &&Peer| peer.kind.arguments.contains(&"--save");
    peers.iter().filter(has_file).collect()
}

/// How the file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    Off,
    EverySecond,
    Always,
}

impl Setting {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::EverySecond => "everysec",
            Self::Always => "always",
        }
    }

    fn arguments(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Off => &[],
            Self::EverySecond => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::Always => &["--appendonly", "yes", "--appendfsync", "always"],
        };
        // Rewrites come at different times.
        let fixed = ["--auto-aof-rewrite-percentage", "0"];
        words
            .iter()
            .chain(&fixed)
            .map(|word| (*word).to_owned())
            .collect()
    }
}

/// CPU time in nanoseconds, by kind of thread.
#[derive(Clone, Copy, Debug, Default)]
struct CpuTime {
    /// The threads that serve clients.
    data: f64,
    merge: f64,
    file: f64,
}

impl CpuTime {
    fn of(server: &Server) -> Self {
        let mut time = Self::default();
        let pid = server.pid();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let ns = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let ns: f64 = ns
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or(0.0);
            let is_main = task.file_name().to_string_lossy() == pid.to_string();
            match name.trim() {
                "log" => time.merge += ns,
                "aof" => time.file += ns,
                name if name.starts_with("worker-") || is_main => time.data += ns,
                _ => {}
            }
        }
        time
    }

    /// Since `before`, in microseconds for each of so many requests.
    fn per_request(self, before: Self, requests: f64) -> Self {
        let us = |now: f64, before: f64| (now - before) / requests / 1e3;
        Self {
            data: us(self.data, before.data),
            merge: us(self.merge, before.merge),
            file: us(self.file, before.file),
        }
    }
}

/// The rounds of one server with one setting.
struct Rounds {
    name: String,
    setting: Setting,
    server: Server,
    times: Vec<CpuTime>,
    speeds: Vec<f64>,
}

impl Rounds {
    fn median(&self, of: impl Fn(&CpuTime) -> f64) -> f64 {
        tables::median(self.times.iter().map(of))
    }

    fn speed(&self) -> f64 {
        tables::median(self.speeds.iter().copied())
    }
}

impl Run<'_> {
    /// Measures all servers that have an append-only file.
    pub(super) fn log(&self, peers: &[Peer]) -> Result<(), String> {
        let peers = with_file(peers);
        println!("SET, pipelined 30 deep, {CONNECTIONS} connections:\n");
        println!(
            "| server | data threads µs/SET, off | everysec | × | merge µs/record | file µs/record | requests/s, off | everysec |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|"
        );
        let everysec = self.rounds_of(
            &peers,
            &[Setting::Off, Setting::EverySecond],
            &folder(),
            &["--depth", "30"],
        )?;
        for pair in everysec.chunks(2) {
            let [off, on] = pair else { continue };
            let data = |rounds: &Rounds| rounds.median(|time| time.data);
            println!(
                "| {} | {:.3} | {:.3} | {:.2} | {:.3} | {:.3} | {} | {} |",
                off.name,
                data(off),
                data(on),
                data(on) / data(off),
                on.median(|time| time.merge),
                on.median(|time| time.file),
                tables::thousands(off.speed()),
                tables::thousands(on.speed()),
            );
        }
        for rounds in everysec
            .iter()
            .filter(|rounds| rounds.setting == Setting::EverySecond)
        {
            match window(&rounds.server) {
                Ok((median, most)) => println!(
                    "\n{}: with everysec, a write was on disk {median:.2} s after its reply (median), at most {most:.2} s.",
                    rounds.name
                ),
                Err(why) => println!(
                    "\n{}: how long a write may be lost was not measured: {why}",
                    rounds.name
                ),
            }
        }
        drop(everysec);
        let folder = folder();
        self.always(&peers, &folder)?;
        let syncs =
            disk_syncs(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        println!(
            "\nThe disk completes {} calls of fdatasync per second, each after 64 bytes were appended.",
            tables::thousands(syncs)
        );
        Ok(())
    }

    /// Prints the throughput with `appendfsync always` of servers whose files are in `folder`.
    pub(super) fn always(&self, peers: &[&Peer], folder: &Path) -> Result<(), String> {
        println!(
            "\nSET, one at a time on each of {CONNECTIONS} connections, appendfsync always:\n"
        );
        println!("| server | requests/s |\n|---|--:|");
        for rounds in self.rounds_of(peers, &[Setting::Always], folder, &["--depth", "1"])? {
            println!(
                "| {} | {} |",
                rounds.name,
                tables::thousands(rounds.speed())
            );
        }
        Ok(())
    }

    /// Runs each server with each setting, in turns. Their files are in `folder`.
    fn rounds_of(
        &self,
        peers: &[&Peer],
        settings: &[Setting],
        folder: &Path,
        load: &[&str],
    ) -> Result<Vec<Rounds>, String> {
        let mut all = Vec::new();
        for peer in peers {
            for &setting in settings {
                let folder = folder.join(format!("{}-{}", peer.name, setting.name()));
                let _ = fs::remove_dir_all(&folder);
                let cores = self.options.server_cores();
                let server = Server::start(
                    peer,
                    Protocol::Resp,
                    self.options.threads,
                    &cores,
                    &folder,
                    &setting.arguments(),
                    None,
                )?;
                wait_until_loaded(&server)?;
                all.push(Rounds {
                    name: peer.name.clone(),
                    setting,
                    server,
                    times: Vec::new(),
                    speeds: Vec::new(),
                });
            }
        }
        let seconds = self.options.seconds.to_string();
        let connections = CONNECTIONS.to_string();
        let fixed = [
            "--mix",
            "set:1",
            "--connections",
            &connections,
            "--duration",
            &seconds,
        ];
        for round in 0..=self.options.rounds {
            for rounds in &mut all {
                let before = CpuTime::of(&rounds.server);
                let arguments = [&fixed, load].concat();
                let keys = self.options.keys;
                let figures = self.load(&rounds.server, &arguments, Protocol::Resp, keys)?;
                let after = CpuTime::of(&rounds.server);
                if figures.number("errors") > 0.0 {
                    return Err(format!("{}: {}", rounds.name, figures.json));
                }
                // The first one fills the server.
                if round > 0 {
                    let requests = figures.number("requests");
                    rounds.times.push(after.per_request(before, requests));
                    rounds.speeds.push(figures.number("requests_per_s"));
                }
            }
        }
        Ok(all)
    }
}

/// Waits until a server has its first append-only file, which takes some fsyncs.
fn wait_until_loaded(server: &Server) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", server.name);
    let mut client = Client::connect(server.port).map_err(failed)?;
    let started = Instant::now();
    while let Err(error) = client.run("PING") {
        if started.elapsed() > LOAD_MAX {
            return Err(failed(error));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// How long after its reply a write is on disk, in seconds: the median and the most.
fn window(server: &Server) -> Result<(f64, f64), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut client = Client::connect(server.port).map_err(failed)?;
    let mut waits = Vec::new();
    for number in 0..WAITS {
        // At different moments of the second.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 37 % 500));
        client
            .run(&format!("SET window {number}"))
            .map_err(failed)?;
        let started = Instant::now();
        let reply = client.run("WAITAOF 1 0 0").map_err(failed)?;
        client
            .skip_lines(reply.trim().trim_start_matches('*'))
            .map_err(failed)?;
        waits.push(started.elapsed().as_secs_f64());
    }
    let most = waits.iter().copied().fold(0.0, f64::max);
    Ok((tables::median(waits.into_iter()), most))
}

/// How many times per second the disk of a folder appends and completes an fsync.
fn disk_syncs(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("fsync.tmp");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < DISK_MEASURE {
        file.write_all(&[b'x'; 64])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}
