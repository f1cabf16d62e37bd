//! Frees what scripts leave behind in an interpreter: arguments, garbage, compiled texts.

use super::Interpreter;
use crate::lua::Stack;
use crate::sandbox::slots;

/// Garbage up to this size plus the size of the live data stays: collecting less is not worth the time.
const GARBAGE_BYTES: usize = 1 << 20;

impl Interpreter {
    /// Frees the arguments and garbage of earlier scripts if they are large. Call this after a script has ended. Every
    /// script also does it when it starts, so that none runs short of memory because of an earlier one.
    ///
    /// Drops compiled texts, too, if they take too much of the limit. They are compiled again when they are next used.
    pub fn drop_leftovers(&mut self) {
        let limit = self.limits.memory_bytes;
        let left = limit.saturating_sub(self.live_bytes);
        let garbage_max = (self.live_bytes + GARBAGE_BYTES).min(left / 2);
        if self.used_bytes() <= self.live_bytes + garbage_max {
            return;
        }
        self.collect();
        if self.live_bytes > limit / 4 {
            self.release_scripts();
            self.collect();
        }
        if self.live_bytes > limit / 2 {
            self.retain_libraries(|_, _| false);
        }
    }

    /// Frees everything that is not needed to compile a text.
    #[cold]
    pub(super) fn drop_all(&mut self) {
        self.release_scripts();
        self.retain_libraries(|_, _| false);
        self.collect();
    }

    /// Frees the arguments of the last script, and all garbage.
    pub(super) fn collect(&mut self) {
        let mut stack = self.state.stack();
        stack.get_index(Stack::REGISTRY, slots::SCRIPT_GLOBALS);
        for name in ["KEYS", "ARGV"] {
            stack.push_nil();
            stack.set_field(-2, name);
        }
        stack.pop(1);
        // Each collection also halves those of Lua's internal tables that are too large.
        loop {
            let before = self.used_bytes();
            self.state.stack().collect_garbage();
            if self.used_bytes() + before / 8 >= before {
                break;
            }
        }
        self.live_bytes = self.used_bytes();
    }
}
