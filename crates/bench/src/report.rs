//! The results of a run, as a table for people and as JSON for programs.

use crate::process::Usage;
use crate::replies::Tally;
use hdrhistogram::Histogram;
use std::fmt::Write;

/// What a cache had, in the look-aside mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Requests that were hits.
    pub count: u64,
    /// The bytes of their values.
    pub bytes: u64,
    /// The bytes of the values of all requests.
    pub requested_bytes: u64,
}

/// The figures of one run.
#[derive(Debug)]
pub struct Report {
    /// How long the measurement took.
    pub seconds: f64,
    /// Messages that subscribers read.
    pub messages: u64,
    /// Latencies of the connections of `--handshakes`, in nanoseconds: from when each was due to its reply.
    pub handshakes: Option<Histogram<u64>>,
    /// Counts of replies, errors and misses.
    pub tally: Tally,
    /// Latencies in nanoseconds.
    pub latencies: Histogram<u64>,
    /// CPU time of this process.
    pub client_cpu_s: f64,
    /// The hits of the look-aside mode.
    pub hits: Option<Hits>,
    /// The server's usage before and after, if its process is known.
    pub server: Option<(Usage, Usage)>,
}

impl Report {
    /// Replies per second.
    pub fn throughput(&self) -> f64 {
        self.tally.replies as f64 / self.seconds
    }

    /// CPU time per request in microseconds, user and system together; 0 without requests.
    fn per_request_us(&self, cpu_s: f64) -> f64 {
        if self.tally.replies == 0 {
            0.0
        } else {
            cpu_s * 1e6 / self.tally.replies as f64
        }
    }

    fn latency_us(&self, quantile: f64) -> f64 {
        microseconds(&self.latencies, quantile)
    }

    /// The named figures, in the order they are printed. Names end in their unit.
    fn figures(&self) -> Vec<(&'static str, f64, usize)> {
        let mut figures = vec![
            ("requests", self.tally.replies as f64, 0),
            ("seconds", self.seconds, 3),
            ("requests_per_s", self.throughput(), 0),
        ];
        if let Some((before, after)) = &self.server {
            figures.extend([
                (
                    "server_cpu_us",
                    self.per_request_us(after.cpu_s_since(before)),
                    4,
                ),
                (
                    "server_user_us",
                    self.per_request_us(after.user_s - before.user_s),
                    4,
                ),
                (
                    "server_system_us",
                    self.per_request_us(after.system_s - before.system_s),
                    4,
                ),
                ("server_resident_bytes", after.resident_bytes as f64, 0),
            ]);
        }
        figures.extend([
            ("client_cpu_us", self.per_request_us(self.client_cpu_s), 4),
            ("client_cpu_share", self.client_cpu_s / self.seconds, 3),
            ("p50_us", self.latency_us(0.5), 1),
            ("p99_us", self.latency_us(0.99), 1),
            ("p999_us", self.latency_us(0.999), 1),
            ("max_us", self.latency_us(1.0), 1),
            ("errors", self.tally.errors as f64, 0),
            ("misses", self.tally.misses as f64, 0),
            ("messages", self.messages as f64, 0),
        ]);
        if let Some(handshakes) = &self.handshakes {
            let per_s = handshakes.len() as f64 / self.seconds;
            figures.extend([
                ("handshakes", handshakes.len() as f64, 0),
                ("handshakes_per_s", per_s, 0),
                ("handshake_p50_us", microseconds(handshakes, 0.5), 1),
                ("handshake_p99_us", microseconds(handshakes, 0.99), 1),
            ]);
        }
        if let Some(hits) = &self.hits {
            figures.extend([
                ("hits", hits.count as f64, 0),
                ("hit_ratio", ratio(hits.count, self.tally.replies), 5),
                ("byte_hit_ratio", ratio(hits.bytes, hits.requested_bytes), 5),
            ]);
        }
        figures
    }

    /// One line of JSON: an object of numbers, and the first error as text or null.
    pub fn json(&self) -> String {
        let mut json = String::from("{");
        for (name, value, decimals) in self.figures() {
            let _ = write!(json, "\"{name}\":{value:.decimals$},");
        }
        match &self.tally.first_error {
            Some(text) => drop(write!(json, "\"first_error\":{}}}", quoted(text))),
            None => json.push_str("\"first_error\":null}"),
        }
        json
    }

    /// A table of two columns.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (name, value, decimals) in self.figures() {
            let _ = writeln!(table, "{name:<22} {value:>14.decimals$}");
        }
        if let Some(text) = &self.tally.first_error {
            let _ = writeln!(table, "{:<22} {text}", "first_error");
        }
        table
    }
}

/// A quantile of latencies in nanoseconds, in microseconds; 0 without latencies.
fn microseconds(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    if latencies.is_empty() {
        0.0
    } else {
        latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// 0 if there is nothing to divide.
fn ratio(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_quotes_the_texts_of_errors() {
        assert_eq!(quoted("a \"b\" \\ \n"), "\"a \\\"b\\\" \\\\ \\u000a\"");
    }

    #[test]
    fn cpu_time_is_divided_by_the_requests() {
        let report = Report {
            seconds: 2.0,
            messages: 0,
            handshakes: None,
            tally: Tally {
                replies: 1000,
                ..Tally::default()
            },
            latencies: Histogram::new(3).unwrap(),
            client_cpu_s: 0.001,
            hits: None,
            server: Some((
                Usage::default(),
                Usage {
                    user_s: 0.002,
                    system_s: 0.001,
                    resident_bytes: 7,
                },
            )),
        };
        let json = report.json();
        assert!(
            json.contains("\"server_cpu_us\":3.0000,")
                && json.contains("\"client_cpu_us\":1.0000,"),
            "{json}"
        );
        assert!(json.contains("\"requests_per_s\":500,"), "{json}");
    }
}
