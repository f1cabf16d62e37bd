//! The interface between a script and the server that runs it.

use damselfly_protocol::Version;

/// The server's side of a running script.
pub trait Host {
    /// Runs a command and appends its reply to `reply`, in the given protocol version. Errors are replies, too,
    /// including those for a command that is unknown or not allowed in scripts.
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> CallOutcome;

    /// Called at intervals while Lua code, a library function or the compiler runs; never during [`Host::call`].
    fn tick(&mut self) -> Tick;

    /// `redis.log`: writes a line to the server's log.
    fn log(&mut self, level: LogLevel, text: &[u8]);

    /// `redis.acl_check_cmd`: whether the user who runs the script may run this command; `None` if the
    /// command does not exist.
    fn is_allowed(&mut self, arguments: &[&[u8]]) -> Option<bool>;

    /// `redis.set_repl`: where the effects of later commands go. Bit 0: to the append-only file; bit 1: to
    /// replicas.
    fn set_replication(&mut self, targets: u8);
}

/// How [`Host::call`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The command has a reply.
    Replied,
    /// The script must end now, without a reply: the host rolls it back and retries it.
    Abort,
    /// The script ends with this error, as with [`Tick::Kill`].
    Kill(&'static str),
}

/// Whether a script may continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// It may continue.
    Continue,
    /// It ends with this error, which includes the error code. Nothing in the script can catch it.
    Kill(&'static str),
}

/// The level of a log line of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `redis.LOG_DEBUG`
    Debug,
    /// `redis.LOG_VERBOSE`
    Verbose,
    /// `redis.LOG_NOTICE`
    Notice,
    /// `redis.LOG_WARNING`
    Warning,
}
