//! The command line of `cargo xtask compare`.

use std::path::PathBuf;

pub(super) const USAGE: &str = "\
cargo xtask compare [--memory | --big | --snapshot | --cache | --log] [OPTIONS]

  (no mode)           CPU time per request, throughput and latency for each workload
  --memory            resident bytes per entry for each shape of entry
  --snapshot          latency, throughput and memory of servers that save a million values of 1 KiB
  --cache             hit ratio and CPU time per request of caches with the same resident memory
  --log               CPU time and throughput of SET with the append-only file, and how long a write may be lost
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
  --resident-mb N     with --cache: resident memory in MiB [default: 64]
  --policies A,B      with --cache: maxmemory-policy of the servers that have it, or Damselfly's cache-mode
                      [default: cache-mode,allkeys-lru,allkeys-lfu]
  --trace FILE        with --cache: the requests, instead of generated ones
  --requests N        with --cache: generated requests, after half as many to fill the cache [default: 2000000]
  --fsync-ms N        with --log: instead, throughput with appendfsync always on a simulated disk whose fsyncs take so long;
                      needs strace
  --rate N            with --snapshot: requests per second for the latencies [default: 20000]
  --seconds N         seconds per round and server [default: 3]
  --quick             3 rounds of 1 second, 100000 keys, 200000 requests";

/// The options of the command line.
#[derive(Debug)]
pub(super) struct Options {
    pub mode: Mode,
    pub servers: Option<Vec<String>>,
    pub peers: Vec<(String, PathBuf)>,
    pub rows: Vec<String>,
    pub threads: usize,
    pub server_cores: Option<String>,
    pub client_cores: Option<String>,
    pub keys: u64,
    pub rounds: usize,
    pub seconds: f64,
    pub rate: u64,
    pub resident_mb: f64,
    pub policies: Vec<String>,
    pub trace: Option<String>,
    pub requests: u64,
    pub fsync_ms: Option<f64>,
    pub tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Requests,
    Memory,
    Big,
    Snapshot,
    Cache,
    Log,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
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
            resident_mb: 64.0,
            policies: list("cache-mode,allkeys-lru,allkeys-lfu"),
            trace: None,
            requests: 0,
            fsync_ms: None,
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
                "--cache" => options.mode = Mode::Cache,
                "--log" => options.mode = Mode::Log,
                "--resident-mb" => options.resident_mb = positive(name, value()?)?,
                "--policies" => options.policies = list(value()?),
                "--trace" => options.trace = Some(absolute(value()?)?),
                "--requests" => options.requests = positive(name, value()?)? as u64,
                "--rate" => options.rate = positive(name, value()?)? as u64,
                "--fsync-ms" => options.fsync_ms = Some(positive(name, value()?)?),
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
        let (keys, rounds, seconds, requests) = if quick {
            (100_000, 3, 1.0, 200_000)
        } else {
            (1_000_000, 5, 3.0, 2_000_000)
        };
        if self.requests == 0 {
            self.requests = requests;
        }
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

    pub fn wants_row(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|text| name.contains(text.as_str()))
    }

    pub fn server_cores(&self) -> String {
        self.server_cores
            .clone()
            .unwrap_or_else(|| self.shared_cores("0"))
    }

    pub fn client_cores(&self) -> String {
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

/// A path that is valid in any folder.
fn absolute(path: &str) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(absolute.to_string_lossy().into_owned())
}

fn positive(name: &str, text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|&number| number > 0.0)
        .ok_or_else(|| format!("{name} {text} is not a positive number"))
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
    fn big_and_quick_change_the_defaults() {
        assert_eq!(options("--big").unwrap().keys, 10_000_000);
        assert_eq!(options("--quick --rounds 2").unwrap().rounds, 2);
        assert_eq!(options("--quick --big").unwrap().keys, 1_000_000);
        assert_eq!(options("--quick --cache").unwrap().requests, 200_000);
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
        for arguments in [
            "--frob",
            "--rounds",
            "--rounds 0",
            "--peer redis",
            "--resident-mb x",
        ] {
            assert!(options(arguments).is_err(), "{arguments}");
        }
    }
}
