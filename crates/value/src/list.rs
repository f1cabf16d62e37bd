//! Lists: the choice between their forms.

use damselfly_collections::Chain;

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Value};

/// The type itself.
#[derive(Debug)]
pub enum List {}

/// A list, to read.
#[derive(Clone, Copy, Debug)]
pub enum ListRef<'a> {
    /// A listpack.
    Packed(&'a [u8]),
    /// A large one.
    Large(&'a Chain),
}

/// A list, to change.
#[derive(Debug)]
pub struct ListMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for List {
    const TYPE: Type = Type::List;
    type Ref<'a> = ListRef<'a>;
    type Mut<'a> = ListMut<'a>;

    fn view(entry: EntryRef<'_>) -> Option<ListRef<'_>> {
        match entry.value() {
            Value::List(list) => Some(list),
            Value::Text(_) | Value::Set(_) | Value::Hash(_) | Value::SortedSet(_) => None,
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> ListMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        ListMut { entry, thresholds }
    }
}
