//! The state of an interpreter that is not Lua's. Lua stores a pointer to it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use damselfly_protocol::Version;
use mlua_sys as lua;
use mlua_sys::lua_State;

use super::heap::Heap;
use super::state::set_hook;
use super::trampoline::Raise;
use crate::function_registration::Registration;
use crate::host::{Host, Tick};
use crate::lrand48::Lrand48;

/// Reading or writing this many bytes counts as one step.
const BYTES_PER_STEP: usize = 64;

/// Whether a script must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    No,
    /// With this error.
    Killed(&'static str),
    /// Without a reply: the host will retry it.
    Aborted,
}

/// The state of an interpreter that its functions share.
pub(crate) struct Context {
    pub heap: Heap,
    /// The main coroutine; null until it exists.
    pub main: Cell<*mut lua_State>,
    /// The coroutine whose code runs; null until there is one.
    pub running: Cell<*mut lua_State>,
    /// The steps that functions may still take before the host is asked.
    left: Cell<usize>,
    /// Whether the script must end.
    pub stop: Cell<Stop>,
    /// The generator behind `math.random`.
    pub random: RefCell<Lrand48>,
    /// The protocol version of replies to the script (`redis.setresp`).
    pub version: Cell<Version>,
    /// The functions registered by the library that is loading; `None` while none is.
    pub registration: RefCell<Option<Registration>>,
    /// A reusable buffer for the replies of commands.
    pub reply: RefCell<Vec<u8>>,
    /// The panic of a function. It ends the script, and resumes after that.
    pub panic: RefCell<Option<Box<dyn Any + Send>>>,
    host: Cell<Option<NonNull<dyn Host>>>,
}

impl Context {
    pub fn new(limit_bytes: usize, interval_max: usize) -> Context {
        Context {
            heap: Heap::new(limit_bytes, interval_max),
            main: Cell::new(std::ptr::null_mut()),
            running: Cell::new(std::ptr::null_mut()),
            left: Cell::new(0),
            stop: Cell::new(Stop::No),
            random: RefCell::new(Lrand48::START),
            version: Cell::new(Version::Resp2),
            registration: RefCell::new(None),
            reply: RefCell::new(Vec::new()),
            panic: RefCell::new(None),
            host: Cell::new(None),
        }
    }

    /// Runs `body`. Until it returns, [`Context::with_host`] uses `host`.
    pub fn enter<'h, R>(&self, host: &'h mut (dyn Host + 'h), body: impl FnOnce() -> R) -> R {
        /// Removes the host, even if `body` panics.
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
        /// Puts the host back, even if `body` panics.
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

    /// The context of a state.
    ///
    /// # Safety
    /// `state` is a live coroutine of a [`super::State`].
    pub(super) unsafe fn of<'c>(state: *mut lua_State) -> &'c Context {
        let mut context = std::ptr::null_mut();
        // SAFETY: `state` is live.
        unsafe { lua::lua_getallocf(state, &mut context) };
        // SAFETY: every state of this crate is made with a context, which outlives it.
        unsafe { &*context.cast::<Context>() }
    }

    /// Whether the script must end.
    pub fn is_stopped(&self) -> bool {
        self.stop.get() != Stop::No
    }

    /// How many steps may pass before the host is asked. A step is an instruction, or a piece of a function's work
    /// that takes as long; see [`super::heap`].
    pub fn interval(&self) -> usize {
        match self.stop.get() {
            Stop::No => self.heap.interval(),
            Stop::Killed(_) | Stop::Aborted => 1,
        }
    }

    /// Counts steps of a function. Returns true if the host must be asked now.
    pub(super) fn is_due(&self, steps: usize) -> bool {
        match self.left.get().checked_sub(steps) {
            Some(left) => {
                self.left.set(left);
                false
            }
            None => true,
        }
    }

    /// Counts steps of a function, and asks the host when the interval has passed.
    ///
    /// # Errors
    /// The script must end.
    pub fn spend(&self, steps: usize) -> Result<(), Raise> {
        if self.is_due(steps) {
            return self.ask();
        }
        Ok(())
    }

    /// Like [`Context::spend`], for `bytes` that are read or written once.
    ///
    /// # Errors
    /// The script must end.
    pub fn spend_bytes(&self, bytes: usize) -> Result<(), Raise> {
        self.spend(1 + bytes / BYTES_PER_STEP)
    }

    /// Asks the host whether the script may continue.
    ///
    /// # Errors
    /// The script must end.
    #[cold]
    pub fn ask(&self) -> Result<(), Raise> {
        self.heap.adjust_interval();
        self.left.set(self.interval());
        if !self.is_stopped() && self.host_continues() {
            return Ok(());
        }
        Err(Raise::Stopped)
    }

    /// Like [`Context::ask`], where no panic may pass through. Returns true if the script may continue.
    #[cold]
    pub(super) fn ask_without_panic(&self) -> bool {
        let answer = catch_unwind(AssertUnwindSafe(|| self.ask().is_ok()));
        answer.unwrap_or_else(|panic| {
            self.stop.set(Stop::Aborted);
            self.panic.replace(Some(panic));
            false
        })
    }

    /// Makes the running code ask the host sooner, since its steps may take longer from now on.
    #[cold]
    pub(super) fn ask_sooner(&self) {
        self.heap.adjust_interval();
        let interval = self.interval();
        self.left.set(self.left.get().min(interval));
        let running = self.running.get();
        if !running.is_null() {
            // SAFETY: a coroutine that runs is live.
            unsafe { set_hook(running, interval) };
        }
    }

    /// Calls [`Host::tick`], and stores its decision to kill.
    fn host_continues(&self) -> bool {
        match self.with_host(|host| host.tick()) {
            Some(Tick::Kill(text)) => {
                self.stop.set(Stop::Killed(text));
                false
            }
            Some(Tick::Continue) | None => true,
        }
    }
}
