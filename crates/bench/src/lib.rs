//! Damselfly: bench.
