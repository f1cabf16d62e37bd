//! Entries as items of a table.
