//! Damselfly: engine.
