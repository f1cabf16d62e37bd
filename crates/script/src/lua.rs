//! Lua 5.1 behind a safe interface: the only file tree of this crate with `unsafe`.
//!
//! Lua raises an error by `longjmp`. Jumping over a Rust frame that owns something is not sound, so no
//! jump ever starts below one:
//!
//! - A [`Function`] is plain Rust. It sees Lua through [`Stack`], whose methods cannot raise: they read and
//!   write raw (no metamethod), keep the stack large enough, and while a function runs the heap gives
//!   memory beyond its limit ([`heap`]), so that Lua's own "not enough memory" cannot happen. To raise, a
//!   function *returns* [`Raise`]; the trampoline, which by then owns nothing, jumps. A panic is caught
//!   there and becomes an error of the script.
//! - What must call back into Lua (`pcall`, `load`, `gsub` with a function) is in [`calling`], in frames
//!   that own nothing but numbers and pointers.
//! - The interpreter calls a script only through `lua_pcall`, which returns.

mod calling;
mod context;
mod guard;
mod heap;
mod stack;
mod state;
mod trampoline;

pub(crate) use calling::{GSUB, PCALL};
pub(crate) use context::{Context, Stop};
pub(crate) use guard::{GETMETATABLE, GUARDED_READ, GUARDED_WRITE, PAIRS, PROXY_MARK};
pub(crate) use stack::{Kind, Stack, truncated};
pub(crate) use state::{Failure, State};
pub(crate) use trampoline::{Function, Outcome, Raise};
