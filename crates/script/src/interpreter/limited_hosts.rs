//! Hosts that limit time: one for the compiler, one for a library while it loads.

use std::time::{Duration, Instant};

use damselfly_protocol::Version;

use crate::host::{CallOutcome, Host, LogLevel, Tick};

/// How long a library may take to register its functions, as in Redis.
const LOAD_TIME_MAX: Duration = Duration::from_millis(500);

/// The error of a text that takes too long to compile.
pub(super) const COMPILE_TIMEOUT: &str = "compilation took too long";

/// The host of a compilation that no other host can end.
pub(super) struct CompileHost {
    started: Instant,
    time_max: Duration,
}

impl CompileHost {
    /// A host that ends the compilation after `time_max`, counted from now.
    pub fn new(time_max: Duration) -> CompileHost {
        CompileHost {
            started: Instant::now(),
            time_max,
        }
    }
}

impl Host for CompileHost {
    fn call(&mut self, _: &[&[u8]], _: Version, _: &mut Vec<u8>) -> CallOutcome {
        unreachable!("the compiler calls no commands")
    }

    fn tick(&mut self) -> Tick {
        if self.started.elapsed() > self.time_max {
            return Tick::Kill(COMPILE_TIMEOUT);
        }
        Tick::Continue
    }

    fn log(&mut self, _: LogLevel, _: &[u8]) {}

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        None
    }

    fn set_replication(&mut self, _: u8) {}
}

/// The host of a library while it loads. It refuses commands and ends the library after [`LOAD_TIME_MAX`].
pub(super) struct LoadHost<'h> {
    host: &'h mut dyn Host,
    started: Instant,
}

impl<'h> LoadHost<'h> {
    /// A host that passes log lines on to `host`.
    pub fn new(host: &'h mut dyn Host) -> LoadHost<'h> {
        LoadHost {
            host,
            started: Instant::now(),
        }
    }
}

impl Host for LoadHost<'_> {
    fn call(&mut self, _: &[&[u8]], _: Version, reply: &mut Vec<u8>) -> CallOutcome {
        reply.extend_from_slice(
            b"-ERR redis.call/pcall can only be called inside a script invocation\r\n",
        );
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        if self.started.elapsed() > LOAD_TIME_MAX {
            return Tick::Kill("ERR FUNCTION LOAD timeout");
        }
        Tick::Continue
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        self.host.log(level, text);
    }

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        None
    }

    fn set_replication(&mut self, _: u8) {}
}
