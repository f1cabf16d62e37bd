//! What belongs to one interpreter beside Lua's own state; Lua carries the pointer to it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use damselfly_protocol::Version;
use mlua_sys::lua_State;

use super::heap::Heap;
use crate::functions::Registration;
use crate::host::{Host, Tick};
use crate::random::Random;

/// Whether a script must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    No,
    /// With this error.
    Killed(&'static str),
    /// Without a reply: the host will run it again.
    Aborted,
}

/// The state of one interpreter that functions share.
pub(crate) struct Context {
    pub heap: Heap,
    /// The main coroutine; null until it exists.
    pub main: Cell<*mut lua_State>,
    /// Whether the host wants the script to end.
    pub stop: Cell<Stop>,
    /// The generator behind `math.random`.
    pub random: RefCell<Random>,
    /// The protocol in which the script wants replies (`redis.setresp`).
    pub version: Cell<Version>,
    /// What the library that is being loaded has registered; `None` while none is.
    pub registration: RefCell<Option<Registration>>,
    /// A reusable buffer for the replies of commands.
    pub reply: RefCell<Vec<u8>>,
    /// What a function panicked with; the script is stopped then, and the panic goes on when it ended.
    pub panic: RefCell<Option<Box<dyn Any + Send>>>,
    host: Cell<Option<NonNull<dyn Host>>>,
}

impl Context {
    pub fn new(limit_bytes: usize) -> Context {
        Context {
            heap: Heap::new(limit_bytes),
            main: Cell::new(std::ptr::null_mut()),
            stop: Cell::new(Stop::No),
            random: RefCell::new(Random::START),
            version: Cell::new(Version::Resp2),
            registration: RefCell::new(None),
            reply: RefCell::new(Vec::new()),
            panic: RefCell::new(None),
            host: Cell::new(None),
        }
    }

    /// Runs `body`; until it returns, [`Context::with_host`] finds `host`.
    pub fn enter<'h, R>(&self, host: &'h mut (dyn Host + 'h), body: impl FnOnce() -> R) -> R {
        /// Forgets the host also if `body` panics.
        struct Leave<'c>(&'c Context);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.host.set(None);
            }
        }
        let host: NonNull<dyn Host + 'h> = NonNull::from(host);
        // SAFETY: only the lifetime changes. The pointer is used only by `with_host`, and `Leave` removes
        // it before `'h` ends.
        let host =
            unsafe { std::mem::transmute::<NonNull<dyn Host + 'h>, NonNull<dyn Host>>(host) };
        self.host.set(Some(host));
        let _leave = Leave(self);
        body()
    }

    /// Calls `body` with the host; `None` if no script runs or the host is already in use.
    pub fn with_host<R>(&self, body: impl FnOnce(&mut dyn Host) -> R) -> Option<R> {
        /// Puts the host back, also if `body` panics.
        struct Return<'c>(&'c Context, NonNull<dyn Host>);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                self.0.host.set(Some(self.1));
            }
        }
        let mut host = self.host.take()?;
        let _return = Return(self, host);
        // SAFETY: `enter` holds the exclusive borrow behind this pointer, and taking it out of the cell
        // makes this the only use.
        Some(body(unsafe { host.as_mut() }))
    }

    /// Asks the host whether the script may go on, and remembers if not.
    pub fn may_go_on(&self) -> bool {
        match self.with_host(|host| host.tick()) {
            Some(Tick::Kill(text)) => {
                self.stop.set(Stop::Killed(text));
                false
            }
            Some(Tick::Continue) | None => true,
        }
    }
}
