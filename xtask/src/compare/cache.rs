//! `cargo xtask compare --cache`: hit ratios of caches that take the same resident memory.
//!
//! What a server makes of its limit differs: some count only data, some everything, none what is lost to fragmentation. So each
//! server is started with one limit after another until its resident memory at the end of the run is right.

use super::client::Client;
use super::peers::{Peer, Protocol, Server};
use super::{Figures, Run, tables};

/// How far the resident memory may be from the wanted one.
const TOLERANCE: f64 = 0.02;

/// The most limits that are tried for a server.
const TRIES_MAX: usize = 8;

/// Stands for Damselfly's `cache-mode` in the list of policies.
const CACHE_MODE: &str = "cache-mode";

/// The smallest limit.
const LIMIT_BYTES_MIN: f64 = (1 << 20) as f64;

/// The workload without a trace: see `damselfly-bench --help`.
const GENERATED: &[&str] = &[
    "--look-aside",
    "--distribution",
    "zipf:0.9",
    "--value-bytes",
    "100",
];

/// What is the same for all runs. Requests in flight are for different keys, so the order is kept.
const ALWAYS: &[&str] = &["--value-text", "binary", "--depth", "32"];

/// One line of the table.
struct Contender<'a> {
    peer: &'a Peer,
    protocol: Protocol,
    policy: Option<&'a str>,
}

/// The result of one run.
struct Trial {
    limit_bytes: f64,
    figures: Figures,
    keys: u64,
    /// How the server was started.
    command_line: String,
}

impl Trial {
    fn resident_bytes(&self) -> f64 {
        self.figures.number("server_resident_bytes")
    }

    /// How far the resident memory is from the wanted one, as a share of that.
    fn distance(&self, wanted_bytes: f64) -> f64 {
        (self.resident_bytes() / wanted_bytes - 1.0).abs()
    }
}

impl Run<'_> {
    /// Compares the servers that can be caches.
    pub(super) fn cache(&self, peers: &[Peer]) -> Result<(), String> {
        let (mut lines, mut others) = (vec![heading()], Vec::new());
        for contender in self.contenders(peers) {
            let trial = self.fit(&contender)?;
            println!("    {}", trial.command_line);
            lines.push(self.line(&contender, &trial));
            others.push(trial.figures.others_share);
        }
        println!("\n{}", lines.join("\n"));
        println!("\n{}", tables::others_line(&others));
        Ok(())
    }

    fn contenders<'a>(&'a self, peers: &'a [Peer]) -> Vec<Contender<'a>> {
        let mut contenders = Vec::new();
        for peer in peers.iter().filter(|peer| peer.kind.cache.is_some()) {
            for &protocol in peer.kind.protocols {
                let has_policies = peer
                    .kind
                    .cache
                    .is_some_and(|arguments| arguments.contains(&"{policy}"));
                let given = self
                    .options
                    .policies
                    .iter()
                    .map(|policy| Some(policy.as_str()));
                let has_cache_mode = peer.kind.name == "damselfly";
                let given = given.filter(|policy| has_cache_mode || *policy != Some(CACHE_MODE));
                let policies: Vec<Option<&str>> = match has_policies {
                    true => given.collect(),
                    false => vec![None],
                };
                contenders.extend(policies.into_iter().map(|policy| Contender {
                    peer,
                    protocol,
                    policy,
                }));
            }
        }
        contenders
    }

    /// The run with the limit whose resident memory is nearest to the wanted one.
    fn fit(&self, contender: &Contender<'_>) -> Result<Trial, String> {
        let wanted = self.options.resident_mb * (1 << 20) as f64;
        let mut best: Option<Trial> = None;
        let mut seen: Vec<(f64, f64)> = Vec::new();
        let mut limit = wanted * 0.75;
        for _ in 0..TRIES_MAX {
            limit = contender.possible(limit.max(LIMIT_BYTES_MIN));
            if seen.iter().any(|(tried, _)| *tried == limit) {
                break;
            }
            let trial = self.trial(contender, limit)?;
            seen.push((limit, trial.resident_bytes()));
            eprintln!(
                "{}, {}: limit {:.1} MiB, resident {:.1} MiB",
                contender.name(),
                contender.protocol.name(),
                limit / (1 << 20) as f64,
                trial.resident_bytes() / (1 << 20) as f64,
            );
            if best
                .as_ref()
                .is_none_or(|best| trial.distance(wanted) < best.distance(wanted))
            {
                best = Some(trial);
            }
            // A little more exact than needed, as long as tries are left.
            if best
                .as_ref()
                .is_some_and(|best| best.distance(wanted) < TOLERANCE / 2.0)
            {
                break;
            }
            limit = next_limit(&seen, wanted);
        }
        best.ok_or_else(|| format!("{}: no limit was tried", contender.peer.name))
    }

    fn trial(&self, contender: &Contender<'_>, limit_bytes: f64) -> Result<Trial, String> {
        let server = self.start_with(
            contender.peer,
            contender.protocol,
            &contender.arguments(limit_bytes),
        )?;
        let (warmup, requests) = (
            (self.options.requests / 2).to_string(),
            self.options.requests.to_string(),
        );
        let mut arguments = ALWAYS.to_vec();
        match &self.options.trace {
            Some(path) => arguments.extend(["--trace", path]),
            None => {
                arguments.extend(GENERATED);
                arguments.extend(["--warmup", &warmup, "--requests", &requests]);
            }
        }
        let figures = self.load(&server, &arguments, contender.protocol, self.options.keys)?;
        Ok(Trial {
            limit_bytes,
            keys: keys(&server, contender.protocol)
                .map_err(|error| format!("{}: {error}", server.name))?,
            command_line: server.command_line.clone(),
            figures,
        })
    }

    fn line(&self, contender: &Contender<'_>, trial: &Trial) -> String {
        let wanted = self.options.resident_mb * (1 << 20) as f64;
        let note = match trial.distance(wanted) <= TOLERANCE {
            true => "",
            false => " (no limit comes nearer)",
        };
        format!(
            "| {} | {} | {:.1} MiB | {:.1} MiB{note} | {} | {:.4} | {:.4} | {:.3} |",
            contender.name(),
            contender.protocol.name(),
            trial.limit_bytes / (1 << 20) as f64,
            trial.resident_bytes() / (1 << 20) as f64,
            tables::thousands(trial.keys as f64),
            trial.figures.number("hit_ratio"),
            trial.figures.number("byte_hit_ratio"),
            trial.figures.number("server_cpu_us"),
        )
    }
}

impl Contender<'_> {
    /// The server, and its policy if it has one.
    fn name(&self) -> String {
        match self.policy {
            Some(policy) => format!("{} {policy}", self.peer.name),
            None => self.peer.name.clone(),
        }
    }

    /// The arguments for a limit, besides those that the server always gets.
    fn arguments(&self, limit_bytes: f64) -> Vec<String> {
        let bytes = format!("{limit_bytes:.0}");
        let mb = format!("{:.0}", limit_bytes / (1 << 20) as f64);
        let (policy, mode): (_, &[&str]) = match self.policy {
            Some(CACHE_MODE) => ("noeviction", &["--cache-mode", "yes"]),
            policy => (policy.unwrap_or_default(), &[]),
        };
        let replace = |text: &&str| {
            text.replace("{limit-bytes}", &bytes)
                .replace("{limit-mb}", &mb)
                .replace("{policy}", policy)
        };
        let cache = self.peer.kind.cache.unwrap_or_default();
        cache.iter().chain(mode).map(replace).collect()
    }

    /// The nearest limit that the server can be given.
    fn possible(&self, limit_bytes: f64) -> f64 {
        let mb = (1 << 20) as f64;
        match self
            .peer
            .kind
            .cache
            .is_some_and(|all| all.contains(&"{limit-mb}"))
        {
            true => (limit_bytes / mb).round() * mb,
            false => limit_bytes.round(),
        }
    }
}

/// The next limit to try, from the limits tried so far and the resident memory of each. The two that are nearest give the slope.
fn next_limit(seen: &[(f64, f64)], wanted: f64) -> f64 {
    let mut nearest = seen.to_vec();
    nearest.sort_by(|(_, one), (_, other)| (one - wanted).abs().total_cmp(&(other - wanted).abs()));
    let (limit, resident) = nearest[0];
    // Memory that does not grow with the limit, or seems to fall, is noise.
    let slope = nearest.get(1).map_or(1.0, |(other_limit, other_resident)| {
        ((resident - other_resident) / (limit - other_limit)).clamp(0.5, 2.0)
    });
    limit + (wanted - resident) / slope
}

fn heading() -> String {
    "| server | protocol | limit | resident | keys | hit ratio | byte hit ratio | server CPU µs/request |\n\
     |---|---|--:|--:|--:|--:|--:|--:|"
        .to_owned()
}

/// How many keys a server has.
fn keys(server: &Server, protocol: Protocol) -> std::io::Result<u64> {
    let mut client = Client::connect(server.port)?;
    let number = match protocol {
        Protocol::Resp => client.run("DBSIZE")?,
        Protocol::Memcached => client.statistic("curr_items")?,
    };
    let digits = number.trim().trim_start_matches(':');
    digits.parse().map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_found_from_what_was_seen() {
        // A server that takes 5 and a tenth more than its limit.
        let resident = |limit: f64| 5.0 + 1.1 * limit;
        let mut seen = vec![(75.0, resident(75.0))];
        for _ in 0..3 {
            let limit = next_limit(&seen, 100.0);
            seen.push((limit, resident(limit)));
        }
        let (_, last) = seen[3];
        assert!((last - 100.0).abs() < 0.01, "{seen:?}");
    }
}
