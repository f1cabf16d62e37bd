//! Steps of a task: programs that run one after another, timed and counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The test results of a task or a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

impl Count {
    /// One test.
    pub fn one(passed: bool) -> Self {
        Self {
            passed: usize::from(passed),
            failed: usize::from(!passed),
        }
    }
}

/// The steps so far.
pub struct Steps {
    start: Instant,
    total: Count,
    failures: Vec<String>,
}

impl Steps {
    /// An empty list of steps.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            total: Count::default(),
            failures: Vec::new(),
        }
    }

    /// Runs one step. A failure is recorded, and later steps still run.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Count, String>) {
        println!("\n── {name}");
        let start = Instant::now();
        let outcome = work();
        let seconds = start.elapsed().as_secs_f64();
        let count = outcome.as_ref().map_or(Count::one(false), |count| *count);
        self.total.passed += count.passed;
        self.total.failed += count.failed;
        if let Err(why) = &outcome {
            println!("{why}");
        }
        let word = if count.failed == 0 { "ok" } else { "FAILED" };
        if count.failed > 0 {
            self.failures.push(name.into());
        }
        println!(
            "── {name}: {word}, {} passed, {} failed, {seconds:.1} s",
            count.passed, count.failed
        );
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// The summary, if anything failed.
    pub fn finish(self) -> Result<Count, String> {
        let Count { passed, failed } = self.total;
        let summary = format!(
            "{passed} passed, {failed} failed, in {:.0} s",
            self.start.elapsed().as_secs_f64()
        );
        if failed > 0 {
            return Err(format!("\nfailed: {}\n{summary}", self.failures.join(", ")));
        }
        println!("\n{summary}");
        Ok(self.total)
    }
}

/// A command from its words.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Runs a program that must succeed; it counts as one test.
///
/// # Errors
/// The program cannot be started.
pub fn check(command: &mut Command) -> Result<Count, String> {
    let name = describe(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    Ok(Count::one(status.success()))
}

/// Runs a program without which a task cannot continue.
///
/// # Errors
/// The program cannot be started, or it fails.
pub fn must(command: &mut Command) -> Result<(), String> {
    match check(command)?.failed {
        0 => Ok(()),
        _ => Err(format!("failed: {}", describe(command))),
    }
}

/// Runs `cargo test` or a similar program and counts the tests that it reports.
///
/// Prints its output without the lines of passing tests.
///
/// # Errors
/// The program cannot be started.
pub fn cargo_test(command: &mut Command) -> Result<Count, String> {
    let name = describe(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    let output = child.stdout.take().expect("the output is piped");
    let mut count = Count::default();
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("{name}: {error}"))?;
        if let Some(here) = test_result(&line) {
            count.passed += here.passed;
            count.failed += here.failed;
            if here.failed == 0 {
                continue;
            }
        }
        let is_noise =
            line.trim().is_empty() || line.ends_with("... ok") || line.starts_with("running ");
        if !is_noise {
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    // A failed build reports no tests.
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// Reads `test result: ok. 17 passed; 0 failed; ...`.
pub fn test_result(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        rest.split(['.', ';'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_parsed() {
        let line = "test result: FAILED. 17 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(
            test_result(line),
            Some(Count {
                passed: 17,
                failed: 2
            })
        );
        assert_eq!(test_result("running 3 tests"), None);
    }

    #[test]
    fn a_program_that_fails_is_a_failure() {
        assert_eq!(
            check(&mut command(&["false"])),
            Ok(Count {
                passed: 0,
                failed: 1
            })
        );
        assert!(must(&mut command(&["false"])).is_err());
        assert!(check(&mut command(&["no-such-program-anywhere"])).is_err());
        assert_eq!(
            cargo_test(&mut command(&["false"])),
            Ok(Count {
                passed: 0,
                failed: 1
            })
        );
    }

    #[test]
    fn one_failure_fails_the_task_and_later_steps_still_run() {
        let mut steps = Steps::new();
        steps.step("bad", || Err("why".into()));
        steps.step("good", || {
            Ok(Count {
                passed: 2,
                failed: 0,
            })
        });
        let message = steps.finish().unwrap_err();
        assert!(
            message.contains("failed: bad") && message.contains("2 passed, 1 failed"),
            "{message}"
        );
    }
}
