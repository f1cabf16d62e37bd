//! A clock that advances only while the server can run, so that limits hold on a busy machine.
//!
//! A thread of the server gets credit for the time in which it slept, and for the CPU time that it used. It gets none while it
//! was stopped or waited for a processor. The time since a moment is the credit of the thread that got the least since then,
//! because the others may have waited for that one. So an idle server that answers no request and a server that uses CPU time
//! without answering both reach a limit soon; a server that gets no CPU time does not.

use crate::connection::{Connection, request};
use damselfly_protocol::client::Value;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The time between two samples of the server's threads.
const TICK: Duration = Duration::from_millis(20);
/// The most credit for one tick: if the sample is later than this, the whole machine was busy or suspended.
const CREDIT_MAX: Duration = Duration::from_millis(40);

/// What the kernel reports about a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// It waits for an event, not for a processor.
    is_asleep: bool,
    /// The CPU time that it has used.
    cpu: Duration,
    /// How long it has waited for a processor. The kernel adds a wait only when it ends.
    delay: Duration,
}

/// The credit of each thread, by its id.
type Credits = HashMap<u32, Duration>;

/// A moment on a [`ServerClock`].
#[derive(Debug, Clone)]
pub struct Mark {
    real: Instant,
    credits: Arc<Credits>,
}

/// The clock of one server process.
pub struct ServerClock {
    credits: Arc<Mutex<Arc<Credits>>>,
    is_stopped: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl ServerClock {
    /// Starts the clock of the process with this id.
    #[must_use]
    pub fn start(process: u32) -> Self {
        let tasks = PathBuf::from(format!("/proc/{process}/task"));
        let mut samples = sample_all(&tasks);
        let start: Credits = samples.keys().map(|id| (*id, Duration::ZERO)).collect();
        let credits = Arc::new(Mutex::new(Arc::new(start)));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (Arc::clone(&credits), Arc::clone(&is_stopped));
        let ticker = thread::spawn(move || {
            let mut last = Instant::now();
            while !ends.load(Relaxed) {
                thread::sleep(TICK);
                let now = Instant::now();
                let later = sample_all(&tasks);
                let next = advance(&latest(&shared), &samples, &later, now - last);
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                (samples, last) = (later, now);
            }
        });
        Self {
            credits,
            is_stopped,
            ticker: Some(ticker),
        }
    }

    /// The current moment.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            real: Instant::now(),
            credits: latest(&self.credits),
        }
    }

    /// How long every thread of the server could run since `mark`.
    #[must_use]
    pub fn since(&self, mark: &Mark) -> Duration {
        let now = latest(&self.credits);
        let growth = now.iter().filter_map(|(id, credit)| {
            let before = mark.credits.get(id)?;
            Some(credit.saturating_sub(*before))
        });
        let real = mark.real.elapsed();
        growth.min().map_or(real, |least| least.min(real))
    }

    /// Reads the next reply, and waits for it until this clock has advanced by `limit` since `mark`.
    ///
    /// # Errors
    /// There is no reply by then (`TimedOut`), or the server closed the connection.
    pub fn receive(
        &self,
        connection: &mut Connection,
        mark: &Mark,
        limit: Duration,
    ) -> io::Result<Value> {
        connection.stream().set_read_timeout(Some(TICK))?;
        loop {
            match connection.receive() {
                Err(error) if is_timeout(&error) => {}
                outcome => return outcome,
            }
            let waited = self.since(mark);
            if waited > limit {
                let real = mark.real.elapsed();
                let text = format!(
                    "no reply, although every thread of the server could run for {waited:.2?} of {real:.2?}"
                );
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
        }
    }

    /// Sends a command and reads its reply, as [`Self::receive`] does.
    ///
    /// # Errors
    /// Those of [`Self::receive`].
    pub fn call<A: AsRef<[u8]>>(
        &self,
        connection: &mut Connection,
        arguments: &[A],
        limit: Duration,
    ) -> io::Result<Value> {
        let mark = self.mark();
        connection.send(&request(arguments))?;
        self.receive(connection, &mark, limit)
    }
}

impl Drop for ServerClock {
    fn drop(&mut self) {
        self.is_stopped.store(true, Relaxed);
        if let Some(ticker) = self.ticker.take() {
            // It fails only if the ticker panicked.
            let _ = ticker.join();
        }
    }
}

/// True if a read or write only timed out.
pub fn is_timeout(error: &io::Error) -> bool {
    let kinds = [
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ];
    kinds.contains(&error.kind())
}

fn latest(credits: &Mutex<Arc<Credits>>) -> Arc<Credits> {
    Arc::clone(&credits.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The credits after the time `real` between two samples.
fn advance(
    credits: &Credits,
    before: &HashMap<u32, Sample>,
    after: &HashMap<u32, Sample>,
    real: Duration,
) -> Credits {
    let grown = after.iter().map(|(id, sample)| {
        let old = credits.get(id).copied().unwrap_or_default();
        let growth = before.get(id).map(|before| credit(*before, *sample, real));
        (*id, old + growth.unwrap_or_default())
    });
    grown.collect()
}

/// A thread's credit for the time `real` between two samples.
fn credit(before: Sample, after: Sample, real: Duration) -> Duration {
    let credit = if before.is_asleep && after.is_asleep {
        real.saturating_sub(after.delay.saturating_sub(before.delay))
    } else {
        after.cpu.saturating_sub(before.cpu)
    };
    credit.min(CREDIT_MAX)
}

/// Samples all threads of a process.
fn sample_all(tasks: &Path) -> HashMap<u32, Sample> {
    let threads = fs::read_dir(tasks).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let id = thread.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(thread.path().join("stat")).ok()?;
            let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((id, parse(&status, &times)?))
        })
        .collect()
}

/// Parses `stat` and `schedstat` of a thread; `None` for one that has ended.
fn parse(status: &str, times: &str) -> Option<Sample> {
    // The name in parentheses may contain anything; the state follows it.
    let state = status.rsplit_once(") ")?.1.chars().next()?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let mut times = times.split_ascii_whitespace().map(str::parse);
    Some(Sample {
        is_asleep: state == 'S',
        cpu: Duration::from_nanos(times.next()?.ok()?),
        delay: Duration::from_nanos(times.next()?.ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};
    use std::process::{Child, Command};

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn sample(is_asleep: bool, cpu_ms: u64, delay_ms: u64) -> Sample {
        Sample {
            is_asleep,
            cpu: ms(cpu_ms),
            delay: ms(delay_ms),
        }
    }

    #[test]
    fn a_sleeping_thread_gets_credit_except_for_its_waits_for_a_processor() {
        let before = sample(true, 5, 7);
        assert_eq!(credit(before, before, ms(20)), ms(20));
        assert_eq!(credit(before, sample(true, 9, 22), ms(20)), ms(5));
        assert_eq!(credit(before, sample(true, 9, 90), ms(20)), ms(0));
    }

    #[test]
    fn a_thread_that_does_not_sleep_gets_credit_for_its_cpu_time() {
        let (asleep, awake) = (sample(true, 5, 7), sample(false, 11, 7));
        assert_eq!(credit(asleep, awake, ms(20)), ms(6));
        assert_eq!(credit(awake, sample(true, 12, 20), ms(20)), ms(1));
        assert_eq!(credit(awake, awake, ms(20)), ms(0));
    }

    #[test]
    fn a_late_sample_gives_little_credit() {
        let before = sample(true, 5, 7);
        assert_eq!(credit(before, before, ms(60_000)), CREDIT_MAX);
    }

    #[test]
    fn the_state_of_a_thread_follows_its_name() {
        let parsed = |state| parse(&format!("7 (a) R (b) {state} 1 2"), "5000000 7000000 3\n");
        assert_eq!(parsed('S'), Some(sample(true, 5, 7)));
        assert_eq!(parsed('T'), Some(sample(false, 5, 7)));
        assert_eq!(parsed('Z'), None);
        assert_eq!(parse("", ""), None);
    }

    /// A process that sleeps, killed when dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().expect("sleep"))
        }

        fn signal(&self, signal: Signal) {
            let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
            kill_process(id.expect("an id"), signal).expect("the process runs");
        }

        fn wait_for_state(&self, wanted: char) {
            let path = format!("/proc/{}/stat", self.0.id());
            let is_wanted = |text: String| text.contains(&format!(") {wanted} "));
            while !fs::read_to_string(&path).is_ok_and(is_wanted) {
                thread::sleep(ms(1));
            }
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Waits until the clock has taken `count` more samples.
    fn wait_for_ticks(clock: &ServerClock, count: usize) {
        for _ in 0..count {
            let before = clock.mark();
            while Arc::ptr_eq(&before.credits, &clock.mark().credits) {
                thread::sleep(ms(1));
            }
        }
    }

    #[test]
    fn the_clock_of_a_stopped_process_stands_still() {
        let sleeper = Sleeper::start();
        sleeper.signal(Signal::STOP);
        sleeper.wait_for_state('T');
        let clock = ServerClock::start(sleeper.0.id());
        let mark = clock.mark();
        wait_for_ticks(&clock, 5);
        assert_eq!(clock.since(&mark), Duration::ZERO);

        sleeper.signal(Signal::CONT);
        // It advances now: this ends.
        while clock.since(&mark) < ms(50) {
            thread::sleep(ms(1));
        }
    }

    #[test]
    fn time_passes_after_the_process_has_ended() {
        let sleeper = Sleeper::start();
        let clock = ServerClock::start(sleeper.0.id());
        let mark = clock.mark();
        drop(sleeper);
        while clock.since(&mark) < ms(50) {
            thread::sleep(ms(1));
        }
    }
}
