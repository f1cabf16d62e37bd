//! `cargo xtask compare`: measures Damselfly and its peers on this machine, in one run.
//!
//! Figures from different machines or times can hardly be compared; ratios within one run can. So all servers of a
//! table run at the same time, idle except for the one being measured, and take turns round by round. The printed
//! figures are medians over the rounds.

mod cache;
mod client;
mod log;
mod machine;
mod options;
mod peers;
mod saving;
mod slow_disk;
mod tables;
mod workloads;

use crate::certificates::Certificates;
use options::{Mode, Options, USAGE};
use peers::{Peer, Protocol, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use workloads::{MEMORY_SHAPES, MemoryShape, WORKLOADS, Workload};

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
        Mode::Cache => run.cache(&peers),
        Mode::Log => match options.fsync_ms {
            None => run.log(&peers),
            Some(fsync_ms) => run.slow_disk(&peers, fsync_ms),
        },
    }
}

impl Options {
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
                launcher: Vec::new(),
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
                launcher: Vec::new(),
            });
        }
        for name in self.servers.iter().flatten() {
            if !found.iter().any(|peer| peer.name == *name) {
                return Err(format!("the server {name} is not installed"));
            }
        }
        Ok(found)
    }
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
            println!("\n{}\n", tables::others_line(&others));
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
            let server = Server::start(
                peer,
                Protocol::Resp,
                self.options.threads,
                &cores,
                &folder,
                &[],
                self.certificates.as_ref(),
            )?;
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
        self.start_with(peer, protocol, &[])
    }

    fn start_with(
        &self,
        peer: &Peer,
        protocol: Protocol,
        extra: &[String],
    ) -> Result<Server, String> {
        let folder = root().join("target").join("compare");
        Server::start(
            peer,
            protocol,
            self.options.threads,
            &self.options.server_cores(),
            &folder,
            extra,
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
}
