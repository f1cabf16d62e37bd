//! How busy the machine is with other work, which makes figures less reliable.

use std::fs;
use std::time::Instant;

/// The kernel reports CPU time to programs in hundredths of a second (proc(5), `USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// The CPU time that all programs have used up to a moment.
#[derive(Debug)]
pub(super) struct Busy {
    at: Instant,
    seconds: Option<f64>,
}

impl Busy {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").ok();
        Self {
            at: Instant::now(),
            seconds: stat.as_deref().and_then(busy_s),
        }
    }

    /// The share of one core used since then, without the `own_s` seconds of CPU time that the caller knows of; NaN if
    /// the kernel does not report it.
    pub fn others_share(&self, own_s: f64) -> f64 {
        let now = Self::now();
        let spent = self
            .seconds
            .zip(now.seconds)
            .map_or(f64::NAN, |(before, after)| after - before);
        (spent - own_s).max(0.0) / now.at.duration_since(self.at).as_secs_f64()
    }
}

/// Busy seconds of all cores: the first eight columns of proc(5) except `idle` and `iowait`. Time that other virtual
/// machines took (`steal`) counts, too.
fn busy_s(stat: &str) -> Option<f64> {
    let columns = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .take(8);
    let ticks: Vec<f64> = columns
        .map(|column| column.parse().ok())
        .collect::<Option<_>>()?;
    let busy = ticks
        .iter()
        .enumerate()
        .filter(|(index, _)| ![3, 4].contains(index));
    Some(busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy_and_a_guest_is_not_counted_twice() {
        assert_eq!(
            busy_s("cpu  100 0 50 9999 9999 0 25 25 77 0\ncpu0 1 2\n"),
            Some(2.0)
        );
    }
}
