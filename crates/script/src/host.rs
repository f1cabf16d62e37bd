//! What a script wants of the server that runs it.

use damselfly_protocol::Version;

/// The server's side of a running script.
pub trait Host {
    /// Runs a command and appends its reply to `reply`, in the given version. Errors, also of a command
    /// that is unknown or not allowed in scripts, are replies.
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> Called;

    /// Called every so many instructions of the script, and during the work of its library functions; never during
    /// [`Host::call`].
    fn tick(&mut self) -> Tick;

    /// `redis.log`: a line for the server's log.
    fn log(&mut self, level: LogLevel, text: &[u8]);

    /// `redis.acl_check_cmd`: whether the user who runs the script may run this command; `None` if there
    /// is no such command.
    fn is_allowed(&mut self, arguments: &[&[u8]]) -> Option<bool>;

    /// `redis.set_repl`: where the effects of the following commands go: bit 0 to the log on disk, bit 1
    /// to replicas.
    fn set_replication(&mut self, targets: u8);
}

/// How [`Host::call`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// There is a reply.
    Replied,
    /// The script must end here, without a reply: the host undoes it and runs it again.
    Abort,
    /// The script ends with this error, as by [`Tick::Kill`].
    Kill(&'static str),
}

/// Whether a script may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// It may.
    Continue,
    /// It ends with this error, with its code word. Nothing in the script can catch it.
    Kill(&'static str),
}

/// The level of a line that a script logs.
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
