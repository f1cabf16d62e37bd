//! Lua 5.1 behind a safe interface. This is the only module tree of this crate with `unsafe`.
//!
//! Lua raises errors with `longjmp`. Jumping over a Rust frame that owns something is unsound, so no jump ever
//! crosses one:
//!
//! - A [`Function`] is plain Rust. It accesses Lua through [`Stack`], whose methods cannot raise: they read and
//!   write raw (no metamethods), keep the stack large enough, and while a function runs, the heap allocates
//!   beyond its limit ([`heap`]), so that Lua's own "not enough memory" cannot occur. To raise, a function
//!   *returns* [`Raise`]; the trampoline, which by then owns nothing, jumps. The trampoline also catches panics
//!   and turns them into an error that ends the script.
//! - Functions that call back into Lua (`pcall`, `gsub` with a function, coroutines, `sort`) are in [`calling`],
//!   [`coroutines`] and [`sorting`]. Their frames own nothing but numbers and pointers.
//! - The interpreter calls a script only through `lua_pcall`, which returns.

mod calling;
mod context;
mod coroutines;
mod guard;
mod heap;
mod loading;
mod sorting;
mod stack;
mod state;
mod trampoline;

pub(crate) use calling::{GSUB, PCALL, XPCALL};
pub(crate) use context::{Context, Stop};
pub(crate) use coroutines::{RESUME, WRAP};
pub(crate) use guard::{
    GETMETATABLE, GUARDED_READ, GUARDED_TEXTS, GUARDED_WRITE, PAIRS, PROXY_MARK,
};
pub(crate) use sorting::{FOREACH, FOREACHI, SORT};
pub(crate) use stack::{Kind, RawFunction, Stack, truncated};
pub(crate) use state::{Failure, State};
pub(crate) use trampoline::{Function, Outcome, Raise};
