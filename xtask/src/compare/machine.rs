//! How busy the machine is with everything else: figures taken beside other work deserve a warning.

use std::fs;
use std::time::Instant;

/// The kernel counts CPU time in hundredths of a second wherever it shows it to programs (proc(5), `USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// The CPU time spent by all programs up to one moment.
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

    /// The share of one core spent since then on other things than the `own_s` seconds of CPU time the caller
    /// knows of; not a number where the kernel does not tell.
    pub fn others_share(&self, own_s: f64) -> f64 {
        let now = Self::now();
        let spent = self
            .seconds
            .zip(now.seconds)
            .map_or(f64::NAN, |(before, after)| after - before);
        (spent - own_s).max(0.0) / now.at.duration_since(self.at).as_secs_f64()
    }
}

/// Seconds on all cores that were not idle: of proc(5)'s first eight columns all but `idle` and `iowait`. The time
/// other virtual machines took (`steal`) counts as well.
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
