//! Damselfly: value.
