//! Compiles texts piece by piece, so that the compilation of a long one can be interrupted.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::Context;
use super::stack::Stack;
use super::trampoline::Raise;
use crate::c_format::up_to_zero;

impl Stack<'_> {
    /// Compiles `code`, which must be Lua text, and pushes the function. If it does not compile, pushes the error and
    /// returns false. `name` ends at its first zero byte.
    ///
    /// # Errors
    /// The host has ended the script or the compilation.
    pub fn load(&mut self, code: &[u8], name: &[u8]) -> Result<bool, Raise> {
        // This first byte marks bytecode, which could break any rule of the virtual machine. After a space, it is
        // text that does not parse.
        let as_text;
        let code = if code.first() == lua::LUA_SIGNATURE.first() {
            as_text = [b" ", code].concat();
            &as_text
        } else {
            code
        };
        let name = up_to_zero(name);
        // Lua's parser does not keep the name alive itself.
        self.push_bytes(name);
        // SAFETY: a string is on top.
        let name = unsafe { lua::lua_tostring(self.state(), -1) };
        let mut text = Text {
            rest: code,
            read: 0,
            context: self.context(),
        };
        let text = std::ptr::from_mut(&mut text).cast();
        assert!(self.reserve(1), "Lua's stack is full");
        let was_lenient = self.context().heap.set_lenient(false);
        // SAFETY: there is room; the parser catches its own errors; text and name outlive the call.
        let status = unsafe { lua::lua_load(self.state(), read_piece, text, name) };
        self.context().heap.set_lenient(was_lenient);
        self.remove(-2);
        if self.context().is_stopped() {
            return Err(Raise::Stopped);
        }
        Ok(status == lua::LUA_OK)
    }
}

/// A text that the parser reads.
struct Text<'t> {
    rest: &'t [u8],
    read: usize,
    context: &'t Context,
}

/// Returns the next piece of `text`, which is a [`Text`]. If the host ends the script, returns none, as at the end.
unsafe extern "C-unwind" fn read_piece(
    _: *mut lua_State,
    text: *mut std::ffi::c_void,
    len: *mut usize,
) -> *const std::ffi::c_char {
    /// The parser takes about this many nanoseconds per byte, or steps per piece.
    const PIECE_BYTES: usize = 256;
    // SAFETY: `Stack::load` passes it, and nothing else uses it during the call.
    let text = unsafe { &mut *text.cast::<Text<'_>>() };
    let piece;
    (piece, text.rest) = text.rest.split_at(text.rest.len().min(PIECE_BYTES));
    text.read += piece.len();
    // At each `elseif` and each `break`, the parser walks through all earlier ones.
    let steps = piece.len() + text.read / PIECE_BYTES;
    let piece = if text.context.is_due(steps) && !text.context.ask_without_panic() {
        text.rest = &[];
        &[]
    } else {
        piece
    };
    // SAFETY: the parser passes a place for the length.
    unsafe { len.write(piece.len()) };
    piece.as_ptr().cast()
}
