//! Entries: one lookup of a key, then changes without another lookup.

use crate::{Item, Table, table::Place};

/// The result of [`Table::entry`].
pub enum Entry<'a, T: Item> {
    /// The table has an item with the key.
    Occupied(Occupied<'a, T>),
    /// The table has no item with the key.
    Vacant(Vacant<'a, T>),
}

/// An item in the table, ready to be changed.
pub struct Occupied<'a, T: Item> {
    table: &'a mut Table<T>,
    place: Place,
}

/// A key that is not in the table.
pub struct Vacant<'a, T: Item> {
    table: &'a mut Table<T>,
    hash: u64,
}

impl<T: Item> Table<T> {
    /// Looks up a key; its item can then be changed, inserted or removed without another lookup.
    #[inline]
    pub fn entry(&mut self, hash: u64, key: &[u8]) -> Entry<'_, T> {
        match self.search(hash, key) {
            Some((_, place)) => Entry::Occupied(Occupied { table: self, place }),
            None => Entry::Vacant(Vacant { table: self, hash }),
        }
    }
}

impl<'a, T: Item> Occupied<'a, T> {
    /// The entry of the item at `place`, which must be occupied.
    pub(crate) fn new(table: &'a mut Table<T>, place: Place) -> Self {
        Self { table, place }
    }

    /// The item.
    #[inline]
    pub fn get(&self) -> T::Ref<'_> {
        self.table
            .slot(self.place)
            .reference()
            .expect("an occupied entry's slot is occupied")
    }

    /// The item, for as long as the table is borrowed.
    #[inline]
    pub fn into_ref(self) -> T::Ref<'a> {
        self.table
            .slot(self.place)
            .reference()
            .expect("an occupied entry's slot is occupied")
    }

    /// Lets `change` modify the item, which may move it in memory. The key must not change.
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        /// Updates the count of marked items when dropped, even if `change` panics.
        struct MarkGuard<'a, T: Item> {
            table: &'a mut Table<T>,
            place: Place,
            before: bool,
        }
        impl<T: Item> Drop for MarkGuard<'_, T> {
            fn drop(&mut self) {
                let after = self.table.slot(self.place).is_marked();
                self.table.adjust_marked(self.before, after);
            }
        }
        let before = self.table.slot(self.place).is_marked();
        let guard = MarkGuard {
            table: self.table,
            place: self.place,
            before,
        };
        guard
            .table
            .slot_mut(guard.place)
            .update(change)
            .expect("an occupied entry's slot is occupied")
    }

    /// Replaces the item by another with the same key and returns the old one.
    #[inline]
    pub fn replace(&mut self, item: T) -> T {
        self.update(|old| std::mem::replace(old, item))
    }

    /// Removes the item from the table and returns it.
    #[inline]
    pub fn remove(self) -> T {
        let item = self.table.remove_at(self.place);
        self.table.tighten(self.place.entry);
        item
    }

    /// Removes the item, whose key has this hash, from the table; returns it and the entry that is vacant now.
    pub fn vacate(self, hash: u64) -> (T, Vacant<'a, T>) {
        let item = self.table.remove_at(self.place);
        self.table.tighten(self.place.entry);
        let table = self.table;
        (item, Vacant { table, hash })
    }
}

impl<'a, T: Item> Vacant<'a, T> {
    /// Whether [`insert`](Self::insert) would allocate memory for the table: the right time to sweep the segment.
    #[inline]
    pub fn would_grow(&self) -> bool {
        self.table.would_grow(self.hash)
    }

    /// Removes the marked items for which `dead` is true from the segment that [`insert`](Self::insert) would use.
    /// Passes each of them to `removed` and returns how many there were.
    pub fn sweep_segment(
        &mut self,
        dead: impl FnMut(T::Ref<'_>) -> bool,
        removed: impl FnMut(T),
    ) -> usize {
        self.table.sweep_segment_of(self.hash, dead, removed)
    }

    /// Inserts an item with this key.
    #[inline]
    pub fn insert(self, item: T) -> Occupied<'a, T> {
        let place = self.table.insert_absent(self.hash, item);
        Occupied {
            table: self.table,
            place,
        }
    }
}
