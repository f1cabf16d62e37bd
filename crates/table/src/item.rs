//! The items of a table: thin owned pointers, one allocation each.

use std::ptr::NonNull;

/// An owned item that a [`Table`](crate::Table) can hold as one pointer.
///
/// The table stores the pointer together with 16 bits of the hash. It asks the item for its key to compare it, and for
/// its whole hash when a segment splits.
///
/// # Safety
///
/// The implementer promises that
/// - `into_raw` returns a pointer aligned to 8 bytes, below 2^48, not shared with any other item, and gives up ownership
///   to it; `from_raw` takes that ownership back;
/// - `reference`, `key`, `hash` and `marked` only read, and their results stay valid until `from_raw` is called;
/// - moving an item to another thread through the pointer is as sound as moving the item itself, and likewise for
///   sharing.
///
/// For the table to *find* items (not for memory safety), `key` and `hash` must not change while the table holds the
/// item, and `hash` must be the hash that callers pass with an equal key.
pub unsafe trait Item: Sized {
    /// A shared view of an item that lives in the table.
    type Ref<'a>: Copy;

    /// Gives up ownership to a pointer, aligned to 8 bytes and below 2^48.
    fn into_raw(self) -> NonNull<u8>;

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` comes from [`into_raw`](Item::into_raw) and ownership has not been taken back since.
    unsafe fn from_raw(raw: NonNull<u8>) -> Self;

    /// A shared view of the item.
    ///
    /// # Safety
    /// `raw` comes from [`into_raw`](Item::into_raw), and ownership is not taken back during `'a`.
    unsafe fn reference<'a>(raw: NonNull<u8>) -> Self::Ref<'a>;

    /// The key's bytes.
    ///
    /// # Safety
    /// As for [`reference`](Item::reference).
    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8];

    /// The 64-bit hash of the key, computed from the key.
    ///
    /// # Safety
    /// As for [`reference`](Item::reference).
    unsafe fn hash(raw: NonNull<u8>) -> u64;

    /// Whether sweeps should check this item, since it has a deadline.
    ///
    /// # Safety
    /// As for [`reference`](Item::reference).
    unsafe fn marked(raw: NonNull<u8>) -> bool;
}
