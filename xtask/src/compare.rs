//! `cargo xtask compare`: measures Damselfly and its peers on this machine, in one run.
//!
//! Figures from different machines or times can hardly be compared; ratios within one run can. So all servers of a
//! table run at the same time, idle except for the one being measured, and take turns round by round. The printed
//! figures are medians over the rounds.

mod machine;
mod peers;
mod saving;
mod tables;
mod workloads;

use crate::certificates::Certificates;
use peers::{Peer, Protocol, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use workloads::{MEMORY_SHAPES, MemoryShape, WORKLOADS, Workload};

const USAGE: &str = "\
cargo xtask compare [--memory | --big | --snapshot] [OPTIONS]

  (no mode)           CPU time per request, throughput and latency for each workload
  --memory            resident bytes per entry for each shape of entry
  --snapshot          latency, throughput and memory of servers that save a million values of 1 KiB
  --big               'mixed P30 c50' of the first mode with ten million keys

  --tls               with TLS 1.3 and AES-256-GCM, on the servers that have Redis's options for TLS

  --servers A,B       only these servers [default: damselfly and every peer found on PATH]
  --peer NAME=PATH    another server; NAME or the program's file name must be that of a known server
  --rows TEXT,TEXT    only rows whose name contains one of the texts
  --threads N         threads of the servers: 1 pins the server to core 0 and the load to core 1,
                      with more, both share the cores 0 to N-1 [default: 1]
  --server-cores SET  cores of the server in taskset's syntax, instead of the above
  --client-cores SET  cores of the load in taskset's syntax, instead of the above
  --keys N            keys or entries [default: 1000000; with --big 10000000]
  --rounds N          rounds per row [default: 5]
  --rate N            with --snapshot: requests per second for the latencies [default: 20000]
  --seconds N         seconds per round and server [default: 3]
  --quick             3 rounds of 1 second, 100000 keys";

/// The options of the command line.
#[derive(Debug)]
struct Options {
    mode: Mode,
    servers: Option<Vec<String>>,
    peers: Vec<(String, PathBuf)>,
    rows: Vec<String>,
    threads: usize,
    server_cores: Option<String>,
    client_cores: Option<String>,
    keys: u64,
    rounds: usize,
    seconds: f64,
    rate: u64,
    tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Requests,
    Memory,
    Big,
    Snapshot,
}

/// How many keys are inserted before the first reading of a memory shape, so that what a server allocates only once is
/// not attributed to the entries.
const MEMORY_KEYS_BEFORE: u64 = 1000;

/// Runs the command with the arguments after `compare` and prints Markdown tables.
pub fn compare(arguments: &[String]) -> Result<(), String> {
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        println!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let bench = build("damselfly-bench")?;
    let peers = options.find_peers()?;
    let folder = root().join("target").join("compare");
    let certificates = match options.tls {
        true => Some(Certificates::create(&folder)?),
        false => None,
    };
    let run = Run {
        options: &options,
        bench,
        certificates,
    };
    match options.mode {
        Mode::Requests | Mode::Big => run.requests(&peers),
        Mode::Memory => run.memory(&peers),
        Mode::Snapshot => run.snapshot(&peers),
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            mode: Mode::Requests,
            servers: None,
            peers: Vec::new(),
            rows: Vec::new(),
            threads: 1,
            server_cores: None,
            client_cores: None,
            keys: 0,
            rounds: 0,
            seconds: 0.0,
            rate: 20_000,
            tls: false,
        };
        let mut quick = false;
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .map(String::as_str)
                    .ok_or(format!("{name} needs a value\n\n{USAGE}"))
            };
            match name.as_str() {
                "--memory" => options.mode = Mode::Memory,
                "--big" => options.mode = Mode::Big,
                "--snapshot" => options.mode = Mode::Snapshot,
                "--rate" => options.rate = positive(name, value()?)? as u64,
                "--tls" => options.tls = true,
                "--quick" => quick = true,
                "--servers" => options.servers = Some(list(value()?)),
                "--peer" => {
                    let (name, path) = value()?.split_once('=').ok_or("--peer needs NAME=PATH")?;
                    options.peers.push((name.to_owned(), path.into()));
                }
                "--rows" => options.rows = list(value()?),
                "--threads" => options.threads = positive(name, value()?)? as usize,
                "--server-cores" => options.server_cores = Some(value()?.to_owned()),
                "--client-cores" => options.client_cores = Some(value()?.to_owned()),
                "--keys" => options.keys = positive(name, value()?)? as u64,
                "--rounds" => options.rounds = positive(name, value()?)? as usize,
                "--seconds" => options.seconds = positive(name, value()?)?,
                unknown => return Err(format!("unknown option {unknown}\n\n{USAGE}")),
            }
        }
        options.set_defaults(quick);
        Ok(options)
    }

    fn set_defaults(&mut self, quick: bool) {
        let (keys, rounds, seconds) = if quick {
            (100_000, 3, 1.0)
        } else {
            (1_000_000, 5, 3.0)
        };
        if self.keys == 0 {
            self.keys = if self.mode == Mode::Big {
                10 * keys
            } else {
                keys
            };
        }
        if self.rounds == 0 {
            self.rounds = rounds;
        }
        if self.seconds == 0.0 {
            self.seconds = seconds;
        }
    }

    /// The servers to compare, in the order of [`peers::KINDS`], those named by `--peer` last.
    fn find_peers(&self) -> Result<Vec<Peer>, String> {
        let mut found = Vec::new();
        let has_tls = |kind: &peers::Kind| kind.has_tls || !self.tls;
        let wanted = |name: &str| {
            self.servers
                .as_ref()
                .is_none_or(|names| names.iter().any(|wanted| wanted == name))
        };
        for kind in peers::KINDS {
            if !wanted(kind.name)
                || !has_tls(kind)
                || self.peers.iter().any(|(name, _)| name == kind.name)
            {
                continue;
            }
            let program = if kind.name == "damselfly" {
                Some(build("damselfly")?)
            } else {
                find_on_path(kind.program)
            };
            found.extend(program.map(|program| Peer {
                name: kind.name.to_owned(),
                kind,
                program,
            }));
        }
        for (name, path) in self.peers.iter().filter(|(name, _)| wanted(name)) {
            let kind = peers::kind_of(name, path).ok_or_else(|| {
                format!("neither {name} nor {} is a known server", path.display())
            })?;
            found.push(Peer {
                name: name.clone(),
                kind,
                program: path.clone(),
            });
        }
        for name in self.servers.iter().flatten() {
            if !found.iter().any(|peer| peer.name == *name) {
                return Err(format!("the server {name} is not installed"));
            }
        }
        Ok(found)
    }

    fn wants_row(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|text| name.contains(text.as_str()))
    }

    fn server_cores(&self) -> String {
        self.server_cores
            .clone()
            .unwrap_or_else(|| self.shared_cores("0"))
    }

    fn client_cores(&self) -> String {
        self.client_cores
            .clone()
            .unwrap_or_else(|| self.shared_cores("1"))
    }

    fn shared_cores(&self, alone: &str) -> String {
        if self.threads == 1 {
            alone.to_owned()
        } else {
            format!("0-{}", self.threads - 1)
        }
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn positive(name: &str, text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|&number| number > 0.0)
        .ok_or_else(|| format!("{name} {text} is not a positive number"))
}

/// Builds a package's program in release mode and returns its path.
fn build(package: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", package])
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    if status.success() {
        Ok(target.join("release").join(package))
    } else {
        Err(format!("cannot build {package}"))
    }
}

/// The folder of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace's folder")
}

fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A comparison in progress.
struct Run<'a> {
    options: &'a Options,
    bench: PathBuf,
    certificates: Option<Certificates>,
}

impl Run<'_> {
    fn requests(&self, peers: &[Peer]) -> Result<(), String> {
        let all = [Protocol::Resp, Protocol::Memcached];
        // memcached's own TLS has other options.
        for protocol in all.into_iter().take(if self.options.tls { 1 } else { 2 }) {
            let rows: Vec<&Workload> = WORKLOADS
                .iter()
                .filter(|row| self.wants(row, protocol))
                .collect();
            let peers: Vec<&Peer> = peers
                .iter()
                .filter(|peer| peer.kind.protocols.contains(&protocol))
                .collect();
            if rows.is_empty() || peers.is_empty() {
                continue;
            }
            let mut servers = Vec::new();
            for peer in peers {
                let server = self.start(peer, protocol)?;
                println!("    {}", server.command_line);
                self.load(
                    &server,
                    &["--fill", "set", "--requests", "0", "--depth", "100"],
                    protocol,
                    self.options.keys,
                )?;
                servers.push(server);
            }
            let base = servers
                .iter()
                .position(|server| server.name == protocol.base());
            println!(
                "\n{}",
                tables::requests_heading(base.map(|index| servers[index].name.as_str()))
            );
            let mut others = Vec::new();
            for row in rows {
                others.extend(self.workload(row, &servers, base)?);
            }
            let share = others.iter().sum::<f64>() / others.len() as f64;
            println!(
                "\nOther programs took {:.0} % of a core meanwhile.\n",
                100.0 * share
            );
        }
        Ok(())
    }

    fn wants(&self, row: &Workload, protocol: Protocol) -> bool {
        let in_mode = self.options.mode != Mode::Big || row.is_in_big;
        row.protocol == protocol && in_mode && self.options.wants_row(row.name)
    }

    /// Measures the servers in turn and prints a line for each; returns the share of a core that other programs used in
    /// each round.
    fn workload(
        &self,
        row: &Workload,
        servers: &[Server],
        base: Option<usize>,
    ) -> Result<Vec<f64>, String> {
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); servers.len()];
        let (depth, connections) = (row.depth.to_string(), row.connections.to_string());
        let subscribers = row.subscribers.to_string();
        let keys = self.options.keys.min(row.keys_max);
        let length = match row.requests_per_second {
            None => ("--duration", self.options.seconds.to_string()),
            Some(count) => {
                let requests = (count as f64 * self.options.seconds) as u64;
                ("--requests", requests.to_string())
            }
        };
        let arguments = [
            "--mix",
            row.mix,
            "--depth",
            &depth,
            "--connections",
            &connections,
            "--subscribers",
            &subscribers,
            length.0,
            &length.1,
        ];
        for round in 1..=self.options.rounds {
            let seed = round.to_string();
            let arguments = [&arguments[..], &["--seed", &seed]].concat();
            for (server, figures) in servers.iter().zip(&mut rounds) {
                let measured = self.load(server, &arguments, row.protocol, keys)?;
                if measured.number("errors") > 0.0 {
                    return Err(format!("{}, {}: {}", server.name, row.name, measured.json));
                }
                figures.push(measured);
            }
        }
        for (index, server) in servers.iter().enumerate() {
            println!(
                "{}",
                tables::requests_line(
                    row.name,
                    &server.name,
                    &rounds[index],
                    base.map(|base| &*rounds[base])
                )
            );
        }
        Ok(rounds
            .iter()
            .flatten()
            .map(|figures| figures.others_share)
            .collect())
    }

    fn memory(&self, peers: &[Peer]) -> Result<(), String> {
        let mut lines = Vec::new();
        let mut command_lines = BTreeMap::new();
        for shape in MEMORY_SHAPES
            .iter()
            .filter(|shape| self.options.wants_row(shape.name))
        {
            let mut cells = Vec::new();
            for peer in peers {
                let protocol = peer.kind.protocols[0];
                let server = self.start(peer, protocol)?;
                command_lines.insert(server.name.clone(), server.command_line.clone());
                // The cell stays empty if the server or the protocol lacks the command.
                let bytes = self.bytes_per_entry(shape, &server, protocol);
                if let Err(reason) = &bytes {
                    eprintln!("{}, {}: {reason}", peer.name, shape.name);
                }
                cells.push(bytes.ok());
            }
            lines.push(tables::memory_line(shape, &cells));
        }
        for line in command_lines.values() {
            println!("    {line}");
        }
        println!(
            "\n{}",
            tables::memory_heading(peers.iter().map(|peer| peer.name.as_str()))
        );
        for line in lines {
            println!("{line}");
        }
        Ok(())
    }

    fn snapshot(&self, peers: &[Peer]) -> Result<(), String> {
        let mut all = Vec::new();
        for peer in peers {
            if !peer.kind.protocols.contains(&Protocol::Resp) {
                continue;
            }
            // One after the other, since each has a file of its own and much memory.
            let folder = root().join("target").join("compare").join(&peer.name);
            let cores = self.options.server_cores();
            let threads = self.options.threads;
            let certificates = self.certificates.as_ref();
            let server =
                Server::start(peer, Protocol::Resp, threads, &cores, &folder, certificates)?;
            println!("    {}", server.command_line);
            all.push(self.saving(&server, self.options.rate)?);
            let _ = std::fs::remove_file(folder.join("dump.rdb"));
        }
        let table = saving::table(&all, self.options.keys, self.options.rate);
        println!("\n{table}");
        Ok(())
    }

    /// Growth of the server's resident memory from 1,000 entries to all, divided by the entries added.
    fn bytes_per_entry(
        &self,
        shape: &MemoryShape,
        server: &Server,
        protocol: Protocol,
    ) -> Result<f64, String> {
        let (key_bytes, value_bytes) = (shape.key_bytes.to_string(), shape.value_bytes.to_string());
        let fill = |keys: u64| -> Result<f64, String> {
            let arguments = [
                "--fill",
                shape.operation,
                "--requests",
                "0",
                "--connections",
                "4",
                "--depth",
                "50",
            ];
            let sizes = [
                "--key-bytes",
                &key_bytes,
                "--value-bytes",
                &value_bytes,
                "--value-text",
                shape.value_text,
            ];
            self.load(
                server,
                &[arguments.as_slice(), &sizes].concat(),
                protocol,
                keys,
            )?;
            server.settled_resident_bytes().map(|bytes| bytes as f64)
        };
        let keys_before = MEMORY_KEYS_BEFORE.min(self.options.keys / 10);
        let before = fill(keys_before)?;
        let after = fill(self.options.keys)?;
        Ok((after - before) / (self.options.keys - keys_before) as f64)
    }

    fn start(&self, peer: &Peer, protocol: Protocol) -> Result<Server, String> {
        let folder = root().join("target").join("compare");
        Server::start(
            peer,
            protocol,
            self.options.threads,
            &self.options.server_cores(),
            &folder,
            self.certificates.as_ref(),
        )
    }

    /// Runs the load generator against a server.
    fn load(
        &self,
        server: &Server,
        arguments: &[&str],
        protocol: Protocol,
        keys: u64,
    ) -> Result<Figures, String> {
        let before = machine::Busy::now();
        let encryption = self.certificates.iter();
        let encryption = encryption.flat_map(Certificates::bench_options);
        let output = Command::new("taskset")
            .args(["-c", &self.options.client_cores()])
            .arg(&self.bench)
            .args([
                "--json",
                "--protocol",
                protocol.name(),
                "--keys",
                &keys.to_string(),
            ])
            .args([
                "--port",
                &server.port.to_string(),
                "--server-pid",
                &server.pid().to_string(),
            ])
            .args(encryption)
            .args(arguments)
            .output()
            .map_err(|error| format!("cannot start taskset: {error}"))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", server.name, reason.trim()));
        }
        let mut figures = Figures {
            json: String::from_utf8_lossy(&output.stdout).into_owned(),
            others_share: 0.0,
        };
        let own_us = figures.number("server_cpu_us") + figures.number("client_cpu_us");
        figures.others_share = before.others_share(own_us * figures.number("requests") / 1e6);
        Ok(figures)
    }
}

/// The results of one run of the load generator.
#[derive(Debug, Clone)]
struct Figures {
    /// Its output: one flat object of numbers.
    json: String,
    /// The share of one core that other programs used meanwhile.
    others_share: f64,
}

impl Figures {
    /// The number with this name; NaN if there is none.
    fn number(&self, name: &str) -> f64 {
        let label = format!("\"{name}\":");
        let number = self.json.find(&label).and_then(|at| {
            let rest = &self.json[at + label.len()..];
            rest[..rest.find([',', '}'])?].parse().ok()
        });
        number.unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &str) -> Result<Options, String> {
        Options::parse(
            &arguments
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn figures_are_found_by_name() {
        let figures = Figures {
            json: "{\"p99_us\":12.5,\"errors\":0}\n".to_owned(),
            others_share: 0.0,
        };
        assert_eq!(
            (figures.number("p99_us"), figures.number("errors")),
            (12.5, 0.0)
        );
        assert!(figures.number("us").is_nan());
    }

    #[test]
    fn big_and_quick_change_the_defaults() {
        assert_eq!(options("--big").unwrap().keys, 10_000_000);
        assert_eq!(options("--quick --rounds 2").unwrap().rounds, 2);
        assert_eq!(options("--quick --big").unwrap().keys, 1_000_000);
    }

    #[test]
    fn more_threads_share_their_cores_with_the_load() {
        let one = options("").unwrap();
        assert_eq!(
            (one.server_cores(), one.client_cores()),
            ("0".to_owned(), "1".to_owned())
        );
        let two = options("--threads 2").unwrap();
        assert_eq!(
            (two.server_cores(), two.client_cores()),
            ("0-1".to_owned(), "0-1".to_owned())
        );
    }

    #[test]
    fn unknown_options_and_missing_values_are_rejected() {
        for arguments in ["--frob", "--rounds", "--rounds 0", "--peer redis"] {
            assert!(options(arguments).is_err(), "{arguments}");
        }
    }
}
