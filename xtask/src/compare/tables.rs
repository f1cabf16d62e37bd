//! Medians, and the Markdown tables that show them.

use super::Figures;
use super::workloads::MemoryShape;
use std::fmt::Write;

/// The head of the first table; `base` is the baseline server, which names the column `÷`.
pub(super) fn requests_heading(base: Option<&str>) -> String {
    format!(
        "| workload | server | requests/s | server CPU µs/request | ÷ {} | client CPU µs/request | p50 ms | p99 ms | p99.9 ms |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|",
        base.unwrap_or("–")
    )
}

/// One server's medians over its rounds; `base` holds the rounds of the server to compare with.
pub(super) fn requests_line(
    row: &str,
    server: &str,
    rounds: &[Figures],
    base: Option<&[Figures]>,
) -> String {
    let of = |name: &str| median(rounds.iter().map(|figures| figures.number(name)));
    // The median of the ratios within each round: a temporary slowdown of the machine affects both servers.
    let ratio = base.map(|base| {
        median(
            rounds
                .iter()
                .zip(base)
                .map(|(own, base)| own.number("server_cpu_us") / base.number("server_cpu_us")),
        )
    });
    format!(
        "| {row} | {server} | {} | {:.3} | {} | {:.3} | {:.3} | {:.3} | {:.3} |",
        thousands(of("requests_per_s")),
        of("server_cpu_us"),
        ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        of("client_cpu_us"),
        of("p50_us") / 1e3,
        of("p99_us") / 1e3,
        of("p999_us") / 1e3,
    )
}

/// The head of the memory table.
pub(super) fn memory_heading<'a>(servers: impl Iterator<Item = &'a str>) -> String {
    let (mut names, mut rule) = ("| shape | raw bytes |".to_owned(), "|---|--:|".to_owned());
    for server in servers {
        let _ = write!(names, " {server} |");
        rule.push_str("--:|");
    }
    format!("{names}\n{rule}")
}

/// One shape's bytes per entry on each server.
pub(super) fn memory_line(shape: &MemoryShape, cells: &[Option<f64>]) -> String {
    let mut line = format!("| {} | {} |", shape.name, shape.raw_bytes);
    for cell in cells {
        let _ = match cell {
            Some(bytes) => write!(line, " {bytes:.1} |"),
            None => write!(line, " – |"),
        };
    }
    line
}

/// How much of a core other programs used, from the share of a core in each run.
pub(super) fn others_line(shares: &[f64]) -> String {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    format!(
        "Other programs took {:.0} % of a core meanwhile.",
        100.0 * mean
    )
}

/// The middle value, or the mean of the two middle ones; NaN if there are no values.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// A whole number with a comma between groups of three digits.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(
            [thousands(1.0), thousands(1234.0), thousands(123456.0)],
            ["1", "1,234", "123,456"]
        );
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let figures = |us: f64| Figures {
            json: format!("{{\"server_cpu_us\":{us}}}"),
            others_share: 0.0,
        };
        let line = requests_line(
            "row",
            "own",
            &[figures(1.0), figures(4.0)],
            Some(&[figures(2.0), figures(8.0)]),
        );
        assert!(line.contains("| 2.500 | 0.50 |"), "{line}");
    }
}
