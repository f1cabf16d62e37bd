//! `cargo xtask compare --snapshot`: what a background save costs the clients of each server, in latency, throughput and memory.
//!
//! Each server runs alone and is filled. One-second runs of the load are measured while it is idle otherwise, and again while it
//! saves; a run counts as one while saving only if the save has not ended when the run ends.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::client::Client;
use super::peers::{Protocol, Server};
use super::{Figures, Run, tables};

/// How often memory is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// A save that takes longer has failed.
const SAVE_MAX: Duration = Duration::from_secs(600);

/// The arguments of all runs of the load.
const LOAD: &[&str] = &[
    "--value-bytes",
    "1024",
    "--value-text",
    "hex",
    "--connections",
    "50",
    "--duration",
    "1",
];

/// What was seen of one server.
pub(super) struct Seen {
    name: String,
    /// One-second runs at a fixed rate, and at full speed.
    offered: Phases,
    full: Phases,
    /// How long a save takes without load, at the fixed rate, and at full speed; in seconds.
    took_s: [f64; 3],
    file_bytes: u64,
    /// Memory before the save at the fixed rate, and the most during it, with that of child processes.
    before_bytes: u64,
    most_bytes: u64,
}

#[derive(Default)]
struct Phases {
    idle: Vec<Figures>,
    saving: Vec<Figures>,
}

impl Run<'_> {
    /// Measures one server.
    pub(super) fn saving(&self, server: &Server, rate: u64) -> Result<Seen, String> {
        let fill = ["--fill", "set", "--requests", "0", "--depth", "100"];
        self.saving_load(server, &fill)?;
        let rate = rate.to_string();
        let offered = ["--mix", "set:1,get:1", "--rate", &rate];
        let full = ["--mix", "set:1,get:1"];
        let mut seen = Seen {
            name: server.name.clone(),
            offered: Phases::default(),
            full: Phases::default(),
            took_s: [0.0; 3],
            file_bytes: 0,
            before_bytes: 0,
            most_bytes: 0,
        };
        seen.took_s[0] = self.save(server, || Ok(()))?.0;
        for _ in 0..self.options.rounds {
            seen.offered.idle.push(self.saving_load(server, &offered)?);
            seen.full.idle.push(self.saving_load(server, &full)?);
        }
        seen.before_bytes = memory_bytes(server);
        let (most, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let (took, runs) = std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    most.fetch_max(memory_bytes(server), Relaxed);
                    std::thread::sleep(SAMPLE_INTERVAL);
                }
            });
            let saved = self.save(server, || self.saving_load(server, &offered));
            is_over.store(true, Relaxed);
            let _ = sampler.join();
            saved
        })?;
        (seen.took_s[1], seen.offered.saving) = (took, runs);
        seen.most_bytes = most.into_inner();
        (seen.took_s[2], seen.full.saving) =
            self.save(server, || self.saving_load(server, &full))?;
        seen.file_bytes = fs::metadata(server.folder.join("dump.rdb"))
            .map_err(|error| format!("{}: cannot find its file: {error}", server.name))?
            .len();
        Ok(seen)
    }

    fn saving_load(&self, server: &Server, arguments: &[&str]) -> Result<Figures, String> {
        let arguments = [LOAD, arguments].concat();
        // A fill has a number of requests instead of a duration.
        let fills = arguments.contains(&"--fill");
        let arguments: Vec<&str> = match fills {
            true => [&LOAD[..LOAD.len() - 2], &arguments[LOAD.len()..]].concat(),
            false => arguments,
        };
        self.load(server, &arguments, Protocol::Resp, self.options.keys)
    }

    /// Starts a save and calls `work` until it has ended. Returns how long it took, in seconds, and what the calls returned that ended
    /// before it did.
    fn save<T>(
        &self,
        server: &Server,
        work: impl Fn() -> Result<T, String>,
    ) -> Result<(f64, Vec<T>), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", server.name);
        let mut client = Client::connect(server.port).map_err(failed)?;
        let started = Instant::now();
        client.run("BGSAVE").map_err(failed)?;
        let (mut done, took) = (Vec::new(), std::sync::OnceLock::new());
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while started.elapsed() < SAVE_MAX {
                    let info = client.run("INFO persistence").map_err(failed)?;
                    if info.contains("rdb_bgsave_in_progress:0") {
                        let _ = took.set(started.elapsed().as_secs_f64());
                        return match info.contains("rdb_last_bgsave_status:ok") {
                            true => Ok(()),
                            false => Err(format!("{}: the save failed", server.name)),
                        };
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(format!("{}: the save does not end", server.name))
            });
            while !watcher.is_finished() {
                let result = work()?;
                match took.get() {
                    None => done.push(result),
                    Some(_) => break,
                }
                // Work that does nothing must not take up a core.
                std::thread::sleep(Duration::from_millis(1));
            }
            watcher
                .join()
                .unwrap_or_else(|_| Err(String::from("a thread panicked")))
        })?;
        Ok((took.into_inner().unwrap_or(f64::NAN), done))
    }
}

/// The memory of a server and of its child processes, each page counted once.
fn memory_bytes(server: &Server) -> u64 {
    let pid = server.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace().map(str::to_owned);
    std::iter::once(pid.to_string())
        .chain(pids)
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
        .sum::<u64>()
        << 10
}

/// The table of all servers.
pub(super) fn table(all: &[Seen], keys: u64, rate: u64) -> String {
    let mut text = format!(
        "{keys} values of 1 KiB, half of the requests write. At {} requests/s, then at full speed:\n\n\
         | server | p99.9 idle ms | p99.9 saving ms | × | memory × | requests/s idle | saving | × | save alone s | at rate s | at full s | file MB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        tables::thousands(rate as f64)
    );
    for seen in all {
        let median = |figures: &[Figures], name: &str| {
            tables::median(figures.iter().map(|figures| figures.number(name)))
        };
        let p999 = |figures: &[Figures]| median(figures, "p999_us") / 1e3;
        let speed = |figures: &[Figures]| median(figures, "requests_per_s");
        let (idle, saving) = (p999(&seen.offered.idle), p999(&seen.offered.saving));
        let (fast, slower) = (speed(&seen.full.idle), speed(&seen.full.saving));
        text += &format!(
            "| {} | {idle:.2} | {saving:.2} | {:.2} | {:.3} | {} | {} | {:.2} | {:.1} | {:.1} | {:.1} | {} |\n",
            seen.name,
            saving / idle,
            seen.most_bytes as f64 / seen.before_bytes as f64,
            tables::thousands(fast),
            tables::thousands(slower),
            slower / fast,
            seen.took_s[0],
            seen.took_s[1],
            seen.took_s[2],
            seen.file_bytes / 1_000_000,
        );
    }
    text
}
