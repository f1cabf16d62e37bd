//! Damselfly: protocol.
