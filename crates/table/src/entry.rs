//! Find once, then change: a key's place in the table.

use crate::{Item, Table, table::Place};

/// What [`Table::entry`] found.
pub enum Entry<'a, T: Item> {
    /// There is an item with the key.
    Occupied(Occupied<'a, T>),
    /// There is none.
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
    /// Looks a key up, to change, insert or remove its item without looking again.
    #[inline]
    pub fn entry(&mut self, hash: u64, key: &[u8]) -> Entry<'_, T> {
        match self.search(hash, key) {
            Some((_, place)) => Entry::Occupied(Occupied { table: self, place }),
            None => Entry::Vacant(Vacant { table: self, hash }),
        }
    }
}

impl<'a, T: Item> Occupied<'a, T> {
    /// The item at a place that has one.
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

    /// Lets `change` alter the item, even move it elsewhere in memory. Its key must stay as it is.
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        /// Corrects the count of marked items when it goes out of scope, also by a panic in `change`.
        struct NoteMark<'a, T: Item> {
            table: &'a mut Table<T>,
            place: Place,
            before: bool,
        }
        impl<T: Item> Drop for NoteMark<'_, T> {
            fn drop(&mut self) {
                let after = self.table.slot(self.place).is_marked();
                self.table.note_mark(self.before, after);
            }
        }
        let before = self.table.slot(self.place).is_marked();
        let note = NoteMark {
            table: self.table,
            place: self.place,
            before,
        };
        note.table
            .slot_mut(note.place)
            .update(change)
            .expect("an occupied entry's slot is occupied")
    }

    /// Puts another item with the same key in its place and returns the old one.
    #[inline]
    pub fn replace(&mut self, item: T) -> T {
        self.update(|old| std::mem::replace(old, item))
    }

    /// Takes the item out of the table.
    #[inline]
    pub fn remove(self) -> T {
        let item = self.table.remove_at(self.place);
        self.table.tighten(self.place.entry);
        item
    }

    /// Takes the item, whose key has this hash, out of the table, and returns also where it would be.
    pub fn vacate(self, hash: u64) -> (T, Vacant<'a, T>) {
        let item = self.table.remove_at(self.place);
        self.table.tighten(self.place.entry);
        let table = self.table;
        (item, Vacant { table, hash })
    }
}

impl<'a, T: Item> Vacant<'a, T> {
    /// Whether [`insert`](Self::insert) would allocate memory for the table: the moment to sweep the segment.
    #[inline]
    pub fn would_grow(&self) -> bool {
        self.table.would_grow(self.hash)
    }

    /// Removes the marked items for which `dead` is true from the segment that [`insert`](Self::insert) would use, and
    /// returns how many they were.
    pub fn sweep_segment(
        &mut self,
        dead: impl FnMut(T::Ref<'_>) -> bool,
        removed: impl FnMut(T),
    ) -> usize {
        self.table.sweep_segment_of(self.hash, dead, removed)
    }

    /// Inserts the item of this key.
    #[inline]
    pub fn insert(self, item: T) -> Occupied<'a, T> {
        let place = self.table.insert_absent(self.hash, item);
        Occupied {
            table: self.table,
            place,
        }
    }
}
