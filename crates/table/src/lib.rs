//! Damselfly: table.
