//! Changing the entries of keys.

use damselfly_base::CommandError;
use damselfly_value::{Attributes, Collection, Entry, NewValue, Type};

use crate::{Create, Deadline, Event, Key, Place, Tx};

/// How storing a value counts as a use of its key: as any use of the key.
const USE: u8 = 0;
/// Not at all: the command has used the key already.
const NO_USE: u8 = 1;
/// As a use of the key, but not of the new value.
pub(super) const USE_OF_ITEM: u8 = 2;

impl Tx<'_> {
    /// As [`Tx::changed`], for a change of so many elements, each of which counts.
    pub fn changed_elements(&mut self, key: Key<'_>, event: Event, elements: usize) {
        self.changed(key, event);
        self.changed_many(elements.saturating_sub(1));
    }

    /// Notes that so many more keys or elements were changed or removed.
    pub fn changed_many(&mut self, more: usize) {
        self.effects.changes += more as u64;
    }

    /// Changes the collection at a key and returns the result of `change`. Removes the key if its collection is then empty. If the
    /// key is absent, `create` says whether to create an empty collection first; if not, returns `None`. Updates the access bits
    /// of an existing key, even if it holds the wrong type.
    ///
    /// The caller must call [`Tx::changed`] if there was a change.
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    #[inline]
    pub fn change<C: Collection, R>(
        &mut self,
        key: Key<'_>,
        create: Create,
        change: impl FnOnce(&mut C::Mut<'_>) -> R,
    ) -> Result<Option<R>, CommandError> {
        self.change_with::<C, R, true>(key, create, change)
    }

    /// As [`Tx::change`], for a command that has used the key already ([`Tx::read`], [`Tx::access`]): does not count as another use.
    ///
    /// # Errors
    /// As [`Tx::change`].
    #[inline]
    pub fn change_used<C: Collection, R>(
        &mut self,
        key: Key<'_>,
        create: Create,
        change: impl FnOnce(&mut C::Mut<'_>) -> R,
    ) -> Result<Option<R>, CommandError> {
        self.change_with::<C, R, false>(key, create, change)
    }

    #[inline]
    fn change_with<C: Collection, R, const IS_USE: bool>(
        &mut self,
        key: Key<'_>,
        create: Create,
        change: impl FnOnce(&mut C::Mut<'_>) -> R,
    ) -> Result<Option<R>, CommandError> {
        let (usage, thresholds) = (self.usage_to_store(key), &self.engine().settings.thresholds);
        match self.place(key) {
            Place::Present(mut present) => {
                if IS_USE {
                    usage.note(present.view());
                }
                if C::view(present.view()).is_none() {
                    return Err(CommandError::WrongType);
                }
                let (result, empty) = present.update(|entry| {
                    let result = change(&mut C::edit(entry, thresholds));
                    (result, entry.view().is_empty_collection())
                });
                if empty {
                    present.remove();
                }
                Ok(Some(result))
            }
            Place::Absent(absent) => match create {
                Create::Never => Ok(None),
                Create::IfAbsent => {
                    let mut entry = Entry::new_collection(key.bytes, C::TYPE, None);
                    usage.note_new(entry.view());
                    let result = change(&mut C::edit(&mut entry, thresholds));
                    if !entry.view().is_empty_collection() {
                        absent.insert(entry);
                    }
                    Ok(Some(result))
                }
            },
        }
    }

    /// Stores a collection that `fill` builds, without a deadline, in place of whatever is at the key. An empty one removes the
    /// key. Notes the change if there was one.
    pub fn store_new<C: Collection, R>(
        &mut self,
        key: Key<'_>,
        event: Event,
        fill: impl FnOnce(&mut C::Mut<'_>) -> R,
    ) -> R {
        let (entry, result) = self.build::<C, R>(key, fill);
        self.store_built(key, entry, event);
        result
    }

    /// Creates an entry with this key and a collection that `fill` builds, for [`Tx::store_built`].
    pub fn build<C: Collection, R>(
        &self,
        key: Key<'_>,
        fill: impl FnOnce(&mut C::Mut<'_>) -> R,
    ) -> (Entry, R) {
        let mut entry = Entry::new_collection(key.bytes, C::TYPE, None);
        let thresholds = &self.engine().settings.thresholds;
        let result = fill(&mut C::edit(&mut entry, thresholds));
        (entry, result)
    }

    /// Creates an entry with this key and a string of `len` bytes for [`Tx::store_built`]. `fill` gets zeros.
    pub fn build_text(&self, key: Key<'_>, len: usize, fill: impl FnOnce(&mut [u8])) -> Entry {
        let mut entry = Entry::new(key.bytes, NewValue::Bytes(b""), None);
        fill(entry.edit(len));
        entry
    }

    /// Stores a new entry in place of whatever is at its key; one with an empty collection removes the key. Notes the change if there
    /// was one.
    pub fn store_built(&mut self, key: Key<'_>, entry: Entry, event: Event) {
        if entry.view().is_empty_collection() {
            self.remove_unread(key);
            return;
        }
        let usage = self.usage_to_store(key);
        match self.place(key) {
            Place::Present(mut present) => {
                usage.note(present.view());
                // The new entry keeps the access history of the key.
                entry.view().set_access(present.view().access());
                present.update(|old| *old = entry);
            }
            Place::Absent(absent) => {
                usage.note_new(entry.view());
                absent.insert(entry);
            }
        }
        self.changed(key, event);
    }

    /// Stores a value under a key, replacing any other, and notes the change. Updates the access bits of an existing key.
    #[inline]
    pub fn store(&mut self, key: Key<'_>, value: NewValue<'_>, deadline: Deadline) {
        self.store_with::<USE>(key, value, Attributes::NONE, deadline, Event::Set);
    }

    /// As [`Tx::store`], with another event than [`Event::Set`], for a command that has used the key already ([`Tx::access`]): does
    /// not count as another use.
    #[inline]
    pub fn store_used(
        &mut self,
        key: Key<'_>,
        value: NewValue<'_>,
        deadline: Deadline,
        event: Event,
    ) {
        self.store_with::<NO_USE>(key, value, Attributes::NONE, deadline, event);
    }

    #[inline]
    pub(super) fn store_with<const AS: u8>(
        &mut self,
        key: Key<'_>,
        value: NewValue<'_>,
        attributes: Attributes,
        deadline: Deadline,
        event: Event,
    ) {
        let usage = self.usage_to_store(key);
        match self.place(key) {
            Place::Present(mut present) => {
                match AS {
                    USE => usage.note(present.view()),
                    USE_OF_ITEM => usage.note_replaced(present.view()),
                    _ => {}
                }
                let keeps_deadline = match deadline {
                    Deadline::Keep => true,
                    Deadline::Clear => !present.view().has_deadline(),
                    Deadline::At(_) => false,
                };
                if !(keeps_deadline && present.overwrite(value, attributes)) {
                    present.update(|entry| {
                        match deadline {
                            Deadline::Keep => {}
                            Deadline::Clear => entry.set_deadline_ms(None),
                            Deadline::At(moment) => entry.set_deadline_ms(Some(moment)),
                        }
                        entry.set_with(value, attributes);
                    });
                }
            }
            Place::Absent(absent) => {
                let deadline_ms = match deadline {
                    Deadline::At(moment) => Some(moment),
                    Deadline::Clear | Deadline::Keep => None,
                };
                let entry = Entry::new_with(key.bytes, value, deadline_ms, attributes);
                usage.note_new(entry.view());
                absent.insert(entry);
            }
        }
        self.changed(key, event);
    }

    /// Changes the bytes of the string at a key, after extending it to `len` with zero bytes; an absent key counts as an empty
    /// string. Notes the change. The command has used the key already ([`Tx::access`]): does not count as another use.
    ///
    /// # Panics
    /// If the key holds something else, which the command has to check.
    pub fn edit_used(
        &mut self,
        key: Key<'_>,
        len: usize,
        event: Event,
        change: impl FnOnce(&mut [u8]),
    ) {
        self.change_used_text(key, b"", |entry, _| change(entry.edit(len)))
            .expect("the command has checked the type");
        self.changed(key, event);
    }

    /// Changes the entry of the string at a key and returns the result of `change`, which also learns whether the key is new: an absent
    /// key is created first, with the string `initial`. Updates the access bits of an existing key, even if it holds the wrong
    /// type.
    ///
    /// The caller must call [`Tx::changed`] if there was a change.
    ///
    /// # Errors
    /// `WRONGTYPE` if the key holds something else.
    pub fn change_text<R>(
        &mut self,
        key: Key<'_>,
        initial: &[u8],
        change: impl FnOnce(&mut Entry, bool) -> R,
    ) -> Result<R, CommandError> {
        self.change_text_with::<R, true>(key, initial, change)
    }

    /// As [`Tx::change_text`], for a command that has used the key already ([`Tx::read`], [`Tx::access`]): does not count as another
    /// use.
    ///
    /// # Errors
    /// As [`Tx::change_text`].
    pub fn change_used_text<R>(
        &mut self,
        key: Key<'_>,
        initial: &[u8],
        change: impl FnOnce(&mut Entry, bool) -> R,
    ) -> Result<R, CommandError> {
        self.change_text_with::<R, false>(key, initial, change)
    }

    #[inline]
    fn change_text_with<R, const IS_USE: bool>(
        &mut self,
        key: Key<'_>,
        initial: &[u8],
        change: impl FnOnce(&mut Entry, bool) -> R,
    ) -> Result<R, CommandError> {
        let usage = self.usage_to_store(key);
        match self.place(key) {
            Place::Present(mut present) => {
                if IS_USE {
                    usage.note(present.view());
                }
                if present.view().type_of() != Type::String {
                    return Err(CommandError::WrongType);
                }
                Ok(present.update(|entry| change(entry, false)))
            }
            Place::Absent(absent) => {
                let mut entry = Entry::new(key.bytes, NewValue::Bytes(initial), None);
                usage.note_new(entry.view());
                let result = change(&mut entry, true);
                absent.insert(entry);
                Ok(result)
            }
        }
    }

    /// As [`Tx::insert_in`], for a copy, whose access history starts now.
    pub fn insert_copy_in(&mut self, db: usize, key: Key<'_>, entry: Entry) {
        self.usage_to_store(key).note_new(entry.view());
        self.insert_in(db, key, entry);
    }

    /// Stores a finished entry, with its access bits, in a database and notes the change. Raises no event but [`Event::New`], also if
    /// the key existed, as if it had been removed before.
    pub fn insert_in(&mut self, db: usize, key: Key<'_>, mut entry: Entry) {
        entry.drop_cas();
        self.usage(key).note_moved(entry.view());
        match self.place_in(db, key) {
            Place::Present(mut present) => {
                present.update(|old| *old = entry);
                self.event_in(db, key, Event::New);
            }
            Place::Absent(absent) => absent.insert(entry),
        }
        self.note_change(db, key, None);
    }

    /// As [`Tx::insert_in`], in the selected database, but raises `event`, too. An expired entry at the key is replaced like any other: its
    /// expiry is neither counted nor announced.
    pub fn replace(&mut self, key: Key<'_>, entry: Entry, event: Event) {
        let db = self.db();
        if let Some(present) = self.present_in(db, key) {
            present.remove();
        }
        self.insert_in(db, key, entry);
        self.event(key, event);
    }

    /// Removes a key from the selected database and notes the change.
    pub fn remove(&mut self, key: Key<'_>) -> Option<Entry> {
        self.take_out(key, Some(Event::Del))
    }

    /// As [`Tx::remove`], but treats an expired entry like any other. False if there was none.
    pub fn remove_unread(&mut self, key: Key<'_>) -> bool {
        let Some(present) = self.present_in(self.db(), key) else {
            return false;
        };
        present.remove();
        self.changed(key, Event::Del);
        true
    }

    /// As [`Tx::remove`], but raises no event.
    pub fn take(&mut self, key: Key<'_>) -> Option<Entry> {
        self.take_out(key, None)
    }

    fn take_out(&mut self, key: Key<'_>, event: Option<Event>) -> Option<Entry> {
        match self.place(key) {
            Place::Present(present) => {
                let entry = present.remove();
                self.note_change(self.db(), key, event);
                Some(entry)
            }
            Place::Absent(_) => None,
        }
    }
}
