//! Damselfly: lock.
