//! CPU time and memory of a process, from `/proc`.

use std::fs;
use std::io;

/// CPU time and memory of a process at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds in user mode, of all threads, including those that have ended.
    pub user_s: f64,
    /// Seconds in the kernel.
    pub system_s: f64,
    /// Bytes of resident memory.
    pub resident_bytes: u64,
}

impl Usage {
    /// Reads the usage of the process `pid`.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user_s, system_s) = parse_stat(&stat, rustix::param::clock_ticks_per_second() as f64)
            .ok_or_else(|| unreadable("stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident_bytes = parse_status(&status).ok_or_else(|| unreadable("status"))?;
        Ok(Self {
            user_s,
            system_s,
            resident_bytes,
        })
    }

    /// Seconds of CPU time since `earlier`.
    pub fn cpu_s_since(&self, earlier: &Usage) -> f64 {
        self.user_s + self.system_s - earlier.user_s - earlier.system_s
    }
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/PID/{file} does not have the format of proc(5)"),
    )
}

/// Fields 14 and 15 of proc(5)'s `stat`. The name in field 2 may contain anything, so count from its last parenthesis.
fn parse_stat(stat: &str, ticks_per_s: f64) -> Option<(f64, f64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user / ticks_per_s, system / ticks_per_s))
}

fn parse_status(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_after_an_unusual_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(parse_stat(stat, 100.0), Some((2.5, 0.5)));
    }

    #[test]
    fn usage_of_this_process_includes_its_memory() {
        assert!(Usage::of(std::process::id()).unwrap().resident_bytes > 100_000);
    }
}
