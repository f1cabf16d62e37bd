//! Lua for EVAL and FUNCTION: the interpreter, its sandbox and its libraries, equal to those of Redis 7.0.
//!
//! This crate knows no connections, shards or commands: `redis.call` goes through [`Host`].
//!
//! - [`Script`]: a text with its SHA-1 and flags. [`ScriptCache`]: the scripts that EVALSHA finds.
//! - [`Library`]: a text that registers functions. [`Libraries`]: all loaded libraries, and the payload
//!   of FUNCTION DUMP.
//! - [`Interpreter`]: runs both. There is one per thread; it compiles a text when it first runs it.
//!
//! Scripts are confined by `sandbox` (what they can access), `lua` (memory, errors, time) and `patterns`
//! (interruptible pattern matching).

mod basic;
mod bits;
mod bounded_buffer;
mod c_format;
mod cjson;
mod cmsgpack;
mod from_reply;
mod function_registration;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod interpreter;
mod libraries;
mod lrand48;
mod lua;
mod mathematics;
mod os;
mod patterns;
mod redis_library;
mod sandbox;
mod script;
mod script_cache;
mod structs;
mod tables;
mod to_reply;

pub use function_registration::{Function, Library};
pub use host::{CallOutcome, Host, LogLevel, Tick};
pub use interpreter::{Interpreter, Limits, ScriptOutcome};
pub use libraries::{Libraries, RestorePolicy};
pub use script::{Flags, Script, parse_digest};
pub use script_cache::{CachedScript, ScriptCache};
