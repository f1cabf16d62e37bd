//! Damselfly: base.
